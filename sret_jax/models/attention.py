"""Attention over the positions of a map: SOLAR's between all pairs, HOW's by the strength of each."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32

from sret_jax.models.backbones.layers import ConvNorm, erase, relu

# Stage of the backbone -> k: its attention works on 1/k of the channels of the map. As published for conv4 and conv5.
FACTORS = {"c4": 4, "c5": 2, "last": 2}


def l2_attention(x: Float[Array, "b h w c"]) -> Float32[Array, "b h w"]:
    """Strength of every local feature: sqrt(sum_c x[c]^2 + 1e-10).

    Reference: Tolias, Jenicek, Chum, Learning and aggregating deep local descriptors for instance-level recognition,
    ECCV 2020.
    """
    return jnp.sqrt(jnp.sum(jnp.square(x.astype(jnp.float32)), axis=-1) + 1e-10)


def second_order_attention(
    f: Float[Array, "b h w m"], g: Float[Array, "b h w m"], h: Float[Array, "b h w m"], *, mask: Bool[Array, "b h w"]
) -> Float[Array, "b h w m"]:
    """Average of h over all positions of the mask, weighted by how well they go with each position.

        z[i] = sum_j a[i,j] h[j],    a[i,:] = softmax_j( f[i] . g[j] / sqrt(m) )

    i and j are positions (row, column). Outside the mask the result is an average too, and of no use.

    Reference: Ng, Balntas, Tian, Mikolajczyk, SOLAR: second-order loss and attention for image retrieval, ECCV 2020.
    """
    b, rows, columns, m = f.shape
    queries, keys, values = (x.reshape(b, rows * columns, 1, m) for x in (f, g, h))  # one head
    z = jax.nn.dot_product_attention(queries, keys, values, mask=mask.reshape(b, 1, 1, -1))
    return z.reshape(f.shape)


class SOABlock(nn.Module):
    """`second_order_attention` of a map, projected and added to the map: y = x + v(z).

    f and g are 1x1 convolutions with BatchNorm and ReLU, h and v without, all to or from 1/k of the channels. v starts
    at zero: before training the block is the identity. BatchNorm has no bias before it: it would only move its mean.
    """

    k: int
    update_stats: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"], *, train: bool = False
    ) -> Float[Array, "b h w c"]:
        """The map, zero outside the mask. `train` updates the BatchNorm statistics of a block built with
        `update_stats`, over the pmap axis "batch".
        """
        channels = x.shape[-1]
        m = channels // self.k
        unit = partial(ConvNorm, m, activation=relu, update_stats=self.update_stats and train, dtype=self.dtype)
        f, _ = unit(name="f")(x, mask)
        g, _ = unit(name="g")(x, mask)
        h = nn.Dense(m, kernel_init=nn.initializers.he_normal(), dtype=self.dtype, name="h")(x)
        z = second_order_attention(f, g, h, mask=mask)
        v = nn.Dense(channels, kernel_init=nn.initializers.zeros, dtype=self.dtype, name="v")
        return erase(x + v(z), mask)


class StageAttention(nn.Module):
    """A `SOABlock` after each of these stages of a backbone, between it and the next stage."""

    stages: tuple[str, ...]
    update_stats: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, stage: str, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"], *, train: bool = False
    ) -> Float[Array, "b h w c"]:
        return SOABlock(FACTORS[stage], self.update_stats, self.dtype, name=stage)(x, mask, train=train)
