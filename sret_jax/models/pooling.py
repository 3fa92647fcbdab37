"""Pooling over all positions, or over scales, and L2 normalisation: a map becomes one vector."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32


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
    """`gem` with a learned exponent per channel, or with `shared` one for all, `p_init` at the start."""

    p_init: float = 3.0
    shared: bool = False
    eps: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"]) -> Float[Array, "b c"]:
        shape = () if self.shared else (x.shape[-1],)
        p = self.param("p", nn.initializers.constant(self.p_init), shape, jnp.float32)
        return gem(x, p, mask=mask, eps=self.eps)


def mac(x: Float[Array, "b h w c"], *, mask: Bool[Array, "b h w"]) -> Float32[Array, "b c"]:
    """Maximum of every channel over the positions of the mask; 0 for a photo without any.

    Reference: Tolias, Sicre, Jegou, Particular object retrieval with integral max-pooling of CNN activations, ICLR
    2016.
    """
    greatest = jnp.max(x.astype(jnp.float32), (1, 2), where=mask[..., None], initial=jnp.finfo(jnp.float32).min)
    return jnp.where(mask.any((1, 2))[:, None], greatest, 0)


class MAC(nn.Module):
    def __call__(self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"]) -> Float32[Array, "b c"]:
        return mac(x, mask=mask)


def spoc(x: Float[Array, "b h w c"], *, mask: Bool[Array, "b h w"]) -> Float32[Array, "b c"]:
    """Mean of every channel over the positions of the mask; 0 for a photo without any.

    Reference: Babenko, Lempitsky, Aggregating deep convolutional features for image retrieval, ICCV 2015,
    without their centring prior.
    """
    total = jnp.sum(jnp.where(mask[..., None], x.astype(jnp.float32), 0), (1, 2))
    return total / jnp.maximum(mask.sum((1, 2)), 1)[:, None]


class SPoC(nn.Module):
    def __call__(self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"]) -> Float32[Array, "b c"]:
        return spoc(x, mask=mask)


def weighted_sum(
    features: Float[Array, "b h w c"], strength: Float[Array, "b h w"], mask: Bool[Array, "b h w"]
) -> Float32[Array, "b c"]:
    """sum_xy strength[xy] features[xy] over the positions of the mask.

    Reference: Tolias, Jenicek, Chum, Learning and aggregating deep local descriptors for instance-level recognition,
    ECCV 2020: what HOW is trained with, in place of matching the local features.
    """
    return jnp.einsum("bhw,bhwc->bc", jnp.where(mask, strength, 0), features.astype(jnp.float32), precision="highest")


class WeightedSum(nn.Module):
    def __call__(
        self, features: Float[Array, "b h w c"], strength: Float[Array, "b h w"], mask: Bool[Array, "b h w"]
    ) -> Float32[Array, "b c"]:
        return weighted_sum(features, strength, mask)


class BackbonePool(nn.Module):
    """The vector that the backbone itself makes of a photograph: its map `stage`, which has one position."""

    stage: str

    def __call__(self, x: Float[Array, "b 1 1 c"], mask: Bool[Array, "b 1 1"]) -> Float[Array, "b c"]:
        return x[:, 0, 0]


def scale_gem(x: Float[Array, "s b d"], p: float = math.inf) -> Float[Array, "b d"]:
    """Generalised mean over the descriptors of one photo at s scales.

        p = inf:   max_s x[s] / |x[s]|
        else:      ( mean_s (x[s] - m)^p )^(1 / p) + m,    m = min of x over scales and components

    The result is not normalised.

    Reference: Shao, Chen, Karpur, Cui, Araujo, Cao, Global features are all you need for image retrieval and
    reranking, ICCV 2023 (Scale-GeM).
    """
    if math.isinf(p):
        return jnp.max(l2_normalize(x), axis=0)
    least = jnp.min(x, axis=(0, 2), keepdims=True)
    return jnp.mean((x - least) ** p, axis=0) ** (1 / p) + least[0]


def root_mean_square(x: Float[Array, "*b c"]) -> Float32[Array, "*b 1"]:
    """Of every feature: what is learned of x divided by it is free of the scale of a backbone's map."""
    return jnp.sqrt(jnp.mean(jnp.square(x.astype(jnp.float32)), axis=-1, keepdims=True) + 1e-12)


def l2_normalize(x: Float[Array, "*b d"], eps: float = 1e-12, *, added: bool = False) -> Float[Array, "*b d"]:
    """x / max(|x|, eps) over the last axis, or with `added` x / (|x| + eps).

    The zero vector stays zero and has a finite gradient. cirtorch and the code that grew from it (SOLAR, HOW) add an
    eps of 1e-6: their networks were trained with descriptors shorter than 1 by that.
    """
    squares = jnp.sum(x * x, axis=-1, keepdims=True)
    if not added:
        return x * jax.lax.rsqrt(jnp.maximum(squares, eps * eps))
    norm = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)
    return x / (norm + eps)
