"""Local features beside the descriptor: averaged with their neighbours, whitened, shortened, each with a strength."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from sret_jax.models.attention import l2_attention
from sret_jax.models.backbones.layers import erase
from sret_jax.models.fixed_smoothing import average


class LocalFeatureHead(nn.Module):
    """Local features of dimension `dim` and their strengths.

        feature = average(x) @ kernel + bias,    strength = l2_attention(map)

    Args:
        dim: dimension of a feature.
        window: of the average, 1 for none.

    Kernel and bias are a PCA-whitening of the averaged local features of the training photographs, which
    `training.local_features` learns before the first step. They are frozen.

    Reference: Tolias, Jenicek, Chum, Learning and aggregating deep local descriptors for instance-level recognition,
    ECCV 2020.
    """

    dim: int
    window: int = 3

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"], strength_of: Float[Array, "b h w c"]
    ) -> dict[str, Array]:
        """{"features" [b h w dim], "strength" [b h w], "mask"}, zero outside the mask.

        `x`: the map, smoothed and refined where the network does so. `strength_of`: the map before that, which the
        strengths are read from.
        """
        kernel = self.param("kernel", nn.initializers.orthogonal(), (x.shape[-1], self.dim), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.dim,), jnp.float32)
        kernel, bias = jax.lax.stop_gradient((kernel, bias))
        x = x.astype(jnp.float32)
        if self.window > 1:
            x = average(x, self.window, mask=mask)
        features = jnp.matmul(x, kernel, precision="highest") + bias[None, None, None]
        strength = jnp.where(mask, l2_attention(strength_of), 0)
        return {"features": erase(features, mask), "strength": strength, "mask": mask}
