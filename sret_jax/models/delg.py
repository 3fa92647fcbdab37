"""DELG's local features: an attention that learns which places tell instances apart, and short features by autoencoder.

Reference: Cao, Araujo, Sim, Unifying deep local and global features for image search, ECCV 2020. Details as
in the authors' code.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32

from sret_jax.models.backbones.layers import ConvNorm, erase, relu
from sret_jax.models.pooling import l2_normalize

STAGE = "c4"  # of the backbone, whose map the head reads


def attended_mean(
    x: Float[Array, "b h w c"], strength: Float[Array, "b h w"], *, mask: Bool[Array, "b h w"]
) -> Float32[Array, "b c"]:
    """mean_xy strength[xy] x[xy] / |x[xy]| over the positions of the mask; without any, 0."""
    unit = l2_normalize(x.astype(jnp.float32), 1e-6)
    total = jnp.sum(erase(unit * strength[..., None], mask), axis=(1, 2))
    return total / jnp.maximum(mask.sum((1, 2)), 1)[:, None]


def reconstruction_error(
    x: Float[Array, "b h w c"], again: Float[Array, "b h w c"], *, mask: Bool[Array, "b h w"]
) -> Float32[Array, "b"]:
    """The mean of (x - again)^2 over the positions of the mask and the channels; without any, 0."""
    squared = jnp.square(x.astype(jnp.float32) - again.astype(jnp.float32)).mean(-1)
    return jnp.sum(jnp.where(mask, squared, 0), axis=(1, 2)) / jnp.maximum(mask.sum((1, 2)), 1)


class DelgHead(nn.Module):
    """Local features of dimension `dim` and unit length, with their strengths, from the map x of an intermediate stage.

        short    = W_1 x + b_1,    again = relu(W_2 short + b_2)
        feature  = short / |short|
        strength = softplus(w_4 . relu(norm(W_3 again)) + b_4)

    No gradient passes on to x. What the losses of `training/delg_loss.py` need comes with the features:

        attended = mean_xy strength x / |x|,    error = mean_xy (x - again)^2

    `train` normalises by the batch and updates the statistics of the BatchNorm, over the pmap axis "batch".
    """

    dim: int = 128
    hidden: int = 512
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"], *, train: bool = False
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """{"features" [b h w dim], "strength" [b h w], "mask"}, zero outside; {"attended" [b c], "error" [b]}."""
        x = jax.lax.stop_gradient(x)
        short = nn.Dense(self.dim, dtype=self.dtype, name="reduce")(x)
        again = relu(nn.Dense(x.shape[-1], dtype=self.dtype, name="expand")(short))
        unit = ConvNorm(
            self.hidden,
            activation=relu,
            epsilon=1e-3,
            momentum=0.99,
            update_stats=train,
            dtype=self.dtype,
            name="attention",
        )
        hidden, _ = unit(again, mask)
        score = nn.Dense(1, dtype=self.dtype, name="score")(hidden)[..., 0].astype(jnp.float32)
        strength = jnp.where(mask, nn.softplus(score), 0)
        local = {"features": erase(l2_normalize(short.astype(jnp.float32)), mask), "strength": strength, "mask": mask}
        for_losses = {
            "attended": attended_mean(x, strength, mask=mask),
            "error": reconstruction_error(x, again, mask=mask),
        }
        return local, for_losses
