"""Attention of every token to those inside the photograph."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from sret_jax.models.platform import on_cpu
from sret_jax.models.shapes import known


def attend(
    q: Float[Array, "b n h d"],
    k: Float[Array, "b n h d"],
    v: Float[Array, "b n h d"],
    inside: Bool[Array, "b n"],
    by_head: bool | None = None,
) -> Float[Array, "b n h d"]:
    """softmax(q k^T / sqrt(d)) v of each head, over the tokens that are `inside`.

    `by_head` computes one head of one photograph after the other, so that its n x n weights stay in the cache: on a CPU
    3.5 times as fast as all at once with 785 tokens, 1.7 times with 197. None chooses by platform; a network that is
    exported for all sizes computes all at once.

    Reference: Vaswani et al., Attention is all you need, NeurIPS 2017, equation 1.
    """
    if by_head is None:
        by_head = known(*q.shape) and on_cpu()
    if not by_head:
        return jax.nn.dot_product_attention(q, k, v, mask=inside[:, None, None])
    b, n, h, d = q.shape

    def apart(x: Array) -> Array:
        return x.transpose(0, 2, 1, 3).reshape(b * h, n, d)

    def of_head(one: tuple[Array, Array, Array, Array]) -> Array:
        q, k, v, inside = one
        scores = jnp.matmul(q, k.T, preferred_element_type=jnp.float32) / jnp.sqrt(jnp.float32(d))
        scores = jnp.where(inside[None], scores, jnp.finfo(jnp.float32).min)
        weights = jnp.exp(scores - lax.stop_gradient(scores.max(-1, keepdims=True)))
        found = jnp.matmul(weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
        return (found / weights.sum(-1, keepdims=True)).astype(v.dtype)

    found = lax.map(of_head, (apart(q), apart(k), apart(v), jnp.repeat(inside, h, axis=0)))
    return found.reshape(b, h, n, d).transpose(0, 2, 1, 3)
