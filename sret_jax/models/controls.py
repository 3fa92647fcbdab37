"""Controls for experiments: what takes the place of smoothing or refinement to show what their gain comes from.

A gain that a control has too is not one of spatial context.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from sret_jax.models.pooling import root_mean_square


class PositionLayer(nn.Module):
    """A residual perceptron on every position alone: parameters without neighbours. It starts as the identity.

    `hidden` is as wide as to have about as many parameters as a generator of `KernelGenerator`.
    """

    hidden: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"]
    ) -> tuple[Float[Array, "b h w c"], dict[str, Array]]:
        scale = root_mean_square(x)
        hidden = nn.relu(nn.Dense(self.hidden, name="reduce")(x / scale))
        change = nn.Dense(x.shape[-1], kernel_init=nn.initializers.zeros, name="restore")(hidden)
        return jnp.where(mask[..., None], x + change * scale, 0).astype(x.dtype), {}


class PositionWeight(nn.Module):
    """A learned weight, 0..2, for every position from its own feature: attention without neighbours. Starts at 1."""

    hidden: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"]
    ) -> tuple[Float[Array, "b h w c"], dict[str, Array]]:
        hidden = nn.relu(nn.Dense(self.hidden, name="reduce")(x / root_mean_square(x)))
        weight = 2 * nn.sigmoid(nn.Dense(1, kernel_init=nn.initializers.zeros, name="weight")(hidden))
        return (x * weight).astype(x.dtype), {"weight": jnp.where(mask, weight[..., 0], 0)}


class Shuffled(nn.Module):
    """Another layer that sees the positions of the map in a fixed random order: neighbours that are none."""

    layer: nn.Module

    def __call__(
        self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"]
    ) -> tuple[Float[Array, "b h w c"], dict[str, Array]]:
        order = shuffled_order(x.shape[1] * x.shape[2])

        def moved(z: Array, to: np.ndarray) -> Array:
            return z.reshape(len(z), -1, *z.shape[3:])[:, to].reshape(z.shape)

        out, seen = self.layer(moved(x, order), moved(mask, order))
        back = np.argsort(order)
        return moved(out, back), jax.tree.map(lambda z: moved(z, back), seen)


def shuffled_order(n: int) -> Int[np.ndarray, "{n}"]:
    """The same random permutation of n positions every time."""
    return np.random.default_rng(n).permutation(n)
