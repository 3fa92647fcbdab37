"""Generalised-mean pooling and L2 normalisation: a map becomes one vector."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def gem(
    x: Float[Array, "b h w c"],
    p: Float[Array, "c"] | Float[Array, ""],
    *,
    mask: Bool[Array, "b h w"],
    eps: float = 1e-6,
) -> Float[Array, "b c"]:
    """Generalised mean over the positions of the mask, with one exponent per channel or one for all.

        gem(x)[c] = ( mean_xy max(x[xy, c], eps)^p[c] )^(1 / p[c])

    p = 1 is the mean and p -> inf the maximum. The power is taken as a logsumexp of p log x: x^p itself leaves
    float32 below x = 1e-4 already for p = 10. A photo without any position gives eps, and values below eps have no
    gradient. The result is float32 whatever the type of x.

    Reference: Radenovic, Tolias, Chum, Fine-tuning CNN Image Retrieval with No Human Annotation, TPAMI 2019, eq. 3-5.
    """
    p = jnp.broadcast_to(p, x.shape[-1:]).astype(jnp.float32)
    empty = ~mask.any((1, 2), keepdims=True)
    where = (mask | empty)[..., None]
    log_x = jnp.log(jnp.maximum(jnp.where(empty[..., None], 0, x.astype(jnp.float32)), eps))
    log_sum = jax.nn.logsumexp(p[None, None, None] * log_x, axis=(1, 2), where=where)
    log_count = jnp.log(where.sum((1, 2), dtype=jnp.float32))
    return jnp.exp((log_sum - log_count) / p[None])


class GeM(nn.Module):
    """`gem` with a learned exponent per channel, every one of them `p_init` at the start."""

    p_init: float = 3.0

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"]) -> Float[Array, "b c"]:
        p = self.param("p", nn.initializers.constant(self.p_init), (x.shape[-1],), jnp.float32)
        return gem(x, p, mask=mask)


def l2_normalize(x: Float[Array, "*b d"], eps: float = 1e-12) -> Float[Array, "*b d"]:
    """x / max(|x|, eps) over the last axis. The zero vector stays zero and has a finite gradient."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), eps * eps))
