"""ConvNeXt as DINOv3 distils it: patchify stem, 7x7 depthwise blocks with LayerNorm and LayerScale, no BatchNorm.

    x += gamma * W2 gelu(W1 norm(depthwise(x)));   between stages:  x = convolution2x2/2(norm(x))

Liu et al., "A ConvNet for the 2020s", CVPR 2022; Siméoni et al., "DINOv3", 2025. The norm behind the last stage is of
every position, and once more of their mean, which stands in for a class token.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from sret_jax.errors import UserError
from sret_jax.models.backbones.base import CLASS_TOKEN, STAGES, Backbone, Maps
from sret_jax.models.backbones.layers import depthwise, erase, strided
from sret_jax.models.pooling import spoc


class ConvNeXtSize(NamedTuple):
    """Blocks and channels of the four stages c2 to c5."""

    depths: tuple[int, int, int, int]
    widths: tuple[int, int, int, int]


SIZES = {
    "dinov3_convnext_tiny": ConvNeXtSize((3, 3, 9, 3), (96, 192, 384, 768)),
    "dinov3_convnext_small": ConvNeXtSize((3, 3, 27, 3), (96, 192, 384, 768)),
    "dinov3_convnext_base": ConvNeXtSize((3, 3, 27, 3), (128, 256, 512, 1024)),
    "dinov3_convnext_large": ConvNeXtSize((3, 3, 27, 3), (192, 384, 768, 1536)),
}


def _norm(dtype: Any, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=1e-6, use_fast_variance=False, dtype=dtype, name=name)


class ConvNeXtBlock(nn.Module):
    """A residual block; padding is zero for its 7x7 convolution, as beyond the border."""

    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"]) -> Float[Array, "b h w c"]:
        c = x.shape[-1]
        kernel = self.param("kernel", nn.initializers.he_normal(), (7, 7, 1, c), jnp.float32).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (c,), jnp.float32).astype(self.dtype)
        gamma = self.param("gamma", nn.initializers.constant(1e-6), (c,), jnp.float32).astype(self.dtype)
        y = depthwise(erase(x, mask), kernel, stride=1, padding=((3, 3), (3, 3))) + bias[None, None, None]
        y = _norm(self.dtype, "norm")(y)
        y = nn.gelu(nn.Dense(4 * c, dtype=self.dtype, name="fc1")(y), approximate=False)
        return x + nn.Dense(c, dtype=self.dtype, name="fc2")(y) * gamma[None, None, None]


class ConvNeXt(Backbone):
    """Height and width are multiples of 32. c2 to c5 are the maps of the four stages; last is c5 through the norm.

    cls: the mean of c5 through the norm, a map of one position. To train from last is to train the norm alone.
    """

    @nn.compact
    def maps(
        self,
        images: Array,
        mask: Array,
        train: bool,
        last_stage: str,
        attention: nn.Module | None = None,
        given: str = "",
    ) -> Maps:
        if not given and (images.shape[1] % 32 or images.shape[2] % 32):
            raise UserError(f"{self.variant}: {images.shape[1]}x{images.shape[2]} images; resize to multiples of 32")
        size = SIZES[self.variant]
        maps: Maps = {}

        def reduced(x: Array, width: int, step: int, name: str) -> Array:
            return nn.Conv(width, (step, step), (step, step), padding="VALID", dtype=self.dtype, name=name)(x)

        if given:
            x, first = images.astype(self.dtype), STAGES.index(given)
        else:
            x, first = self.normalized(images).astype(self.dtype), 0
        for i, (depth, width) in list(enumerate(zip(size.depths, size.widths, strict=True)))[first:]:
            if i == 0:
                x, mask = reduced(x, width, 4, "stem"), strided(mask, 4)
                x = _norm(self.dtype, "stem_norm")(x)
            else:
                x, mask = reduced(_norm(self.dtype, f"reduce{i}_norm")(x), width, 2, f"reduce{i}"), strided(mask, 2)
            for n in range(depth):
                x = ConvNeXtBlock(self.dtype, name=f"stage{i}_block{n}")(x, mask)
            stage = STAGES[1 + i]
            self.end(maps, stage, x, mask)
            if stage == last_stage:
                return maps
            x = maps[stage][0]
        final = _norm(self.dtype, "norm")
        self.end(maps, "last", final(x), mask)
        mean = final(spoc(x, mask=mask).astype(self.dtype))
        if not self.trains(STAGES.index("last")):
            mean = jax.lax.stop_gradient(mean)
        return maps | {CLASS_TOKEN: (mean[:, None, None], jnp.ones((x.shape[0], 1, 1), bool))}
