"""Vision transformer as DINOv2 builds it: 14 x 14 patches, LayerScale, an optional set of register tokens.

    x = patches(image) + positions;   x += gamma1 * attention(norm(x));   x += gamma2 * mlp(norm(x));   out = norm(x)

Oquab et al., "DINOv2", TMLR 2024; registers: Darcet et al., "Vision Transformers Need Registers", ICLR 2024. The
positional embedding is stored for 37 x 37 patches and resampled, bicubically, to the grid of each photograph.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from sret_jax.errors import UserError
from sret_jax.models.backbones.base import STAGES, Backbone, Maps
from sret_jax.models.backbones.layers import erase

PATCH = 14  # pixels
GRID = 37  # patches per side of the stored positional embedding
REGISTERS = 4


class ViTSize(NamedTuple):
    width: int
    depth: int
    heads: int
    registers: int


_SIZES = {"s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16)}
SIZES = {f"dinov2_vit{k}14": ViTSize(*v, 0) for k, v in _SIZES.items()} | {
    f"dinov2_vit{k}14_reg": ViTSize(*v, REGISTERS) for k, v in _SIZES.items()
}


def resampling(count: Int[Array, "b"], length: int, *, antialias: bool) -> Float[Array, "b {length} 37"]:
    """Weights with which the 37 stored positions of one axis become the first `count` of `length` positions.

    Bicubic. `antialias` False: position i lies at 37 (i + 1/2) / (count + 0.1) - 1/2, four taps, a = -3/4, the border
    repeated; the 0.1 is part of the published networks. True: at 37 (i + 1/2) / count - 1/2, a = -1/2, the kernel as
    wide as the step where that is larger than 1, its weights inside the border scaled to sum to 1. These are torch's
    two bicubic interpolations, the one of DINOv2's networks without registers and the one of those with; timm's
    networks have the second one, with registers and without.
    """
    n = count.astype(jnp.float32)[:, None, None]
    step = GRID / (n if antialias else n + 0.1)
    centre = step * (jnp.arange(length, dtype=jnp.float32)[None, :, None] + 0.5) - 0.5
    if antialias:
        stored = jnp.arange(GRID, dtype=jnp.float32)[None, None]
        weights = _cubic((centre - stored) / jnp.maximum(step, 1), -0.5)
        return weights / weights.sum(2, keepdims=True)
    stored = jnp.arange(-2, GRID + 2, dtype=jnp.float32)[None, None]
    weights = _cubic(centre - stored, -0.75)
    first, last = weights[..., :3].sum(2, keepdims=True), weights[..., -3:].sum(2, keepdims=True)
    return jnp.concatenate([first, weights[..., 3:-3], last], axis=2)


def _cubic(t: Array, a: float) -> Array:
    """Keys' cubic convolution kernel; zero from |t| = 2 on."""
    t = jnp.abs(t)
    near, far = ((a + 2) * t - (a + 3)) * t * t + 1, ((t - 5) * t + 8) * a * t - 4 * a
    return jnp.where(t <= 1, near, jnp.where(t < 2, far, 0))


def positions(
    stored: Float[Array, "37 37 c"], mask: Bool[Array, "b h w"], *, antialias: bool | Bool[Array, ""]
) -> Float[Array, "b h w c"]:
    """The positional embedding of each photograph's own grid, which is the rectangle that the mask holds."""
    rows, columns = mask.any(2).sum(1), mask.any(1).sum(1)
    as_stored = ((rows == GRID) & (columns == GRID))[:, None, None]  # then as it is stored, without the 0.1

    def along(count: Int[Array, "b"], length: int) -> Float[Array, "b n 37"]:
        plain, wide = (resampling(jnp.maximum(count, 1), length, antialias=a) for a in (False, True))
        return jnp.where(as_stored, jnp.eye(length, GRID)[None], jnp.where(antialias, wide, plain))

    down, across = along(rows, mask.shape[1]), along(columns, mask.shape[2])
    return jnp.einsum("bim,mnc,bjn->bijc", down, stored, across, precision=lax.Precision.HIGHEST)


class TransformerBlock(nn.Module):
    """Attention, then a two-layer perceptron, each with a norm before it and a learned scale behind."""

    heads: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"], inside: Bool[Array, "b n"]) -> tuple[Array, Array]:
        """The tokens, and the keys `[b, n, c]` of the attention; nothing attends to tokens that are not `inside`."""
        b, n, c = x.shape

        def dense(features: int, name: str) -> nn.Dense:
            return nn.Dense(features, dtype=self.dtype, name=name)

        def scaled(y: Array, name: str) -> Array:
            gamma = self.param(name, nn.initializers.constant(1e-5), (c,), jnp.float32)
            return y * gamma.astype(self.dtype)[None, None]

        y = norm(self.dtype, "norm1")(x)
        qkv = dense(3 * c, "qkv")(y).reshape(b, n, 3, self.heads, c // self.heads)
        q, k, v = (qkv[:, :, i] for i in range(3))
        y = jax.nn.dot_product_attention(q, k, v, mask=inside[:, None, None])
        x = x + scaled(dense(c, "proj")(y.reshape(b, n, c)), "gamma1")
        y = nn.gelu(dense(4 * c, "fc1")(norm(self.dtype, "norm2")(x)), approximate=False)
        return x + scaled(dense(c, "fc2")(y), "gamma2"), k.reshape(b, n, c)


def norm(dtype: Any, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=1e-6, use_fast_variance=False, dtype=dtype, name=name)


class VisionTransformer(Backbone):
    """Height and width are multiples of 14. Returns, beside the stages, what object discovery and pooling need.

    c4: patch tokens after the middle block; c5, last: after the last one; both through the final norm. keys: keys of
    the last block's attention, all heads side by side. cls: the class token, a map of one position. To train from c4
    or before is to train all, from c5 or last to train the second half of the blocks.
    """

    goes_on = False

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
        if given:
            raise UserError(f"{self.variant}: a transformer cannot go on from the map of a stage")
        if images.shape[1] % PATCH or images.shape[2] % PATCH:
            size = f"{images.shape[1]}x{images.shape[2]}"
            raise UserError(f"{self.variant}: {size} images; resize to multiples of {PATCH}")
        width, depth, heads, registers = SIZES[self.variant]
        mask = mask[:, ::PATCH, ::PATCH]
        x = self.normalized(images).astype(self.dtype)
        patch = (PATCH, PATCH)
        x = nn.Conv(width, patch, patch, padding="VALID", dtype=self.dtype, name="patches")(x)
        b, h, w, c = x.shape

        small = nn.initializers.truncated_normal(0.02)
        # One row for the class token, then the grid: as the files have it.
        stored = self.param("positions", small, (1 + GRID * GRID, c), jnp.float32)
        grid = stored[1:].reshape(GRID, GRID, c)
        # Weights of timm bring it along, because there the networks without registers have it too.
        antialias = self.get_variable("batch_stats", "antialias", jnp.float32(registers > 0))
        x = x + positions(grid, mask, antialias=antialias > 0).astype(self.dtype)
        special = [self.param("class_token", small, (1, c), jnp.float32) + stored[:1]]
        if registers:
            special.append(self.param("registers", small, (registers, c), jnp.float32))
        front = jnp.concatenate(special).astype(self.dtype)
        x = jnp.concatenate([jnp.tile(front[None], (b, 1, 1)), x.reshape(b, h * w, c)], axis=1)
        inside = jnp.pad(mask.reshape(b, h * w), ((0, 0), (1 + registers, 0)), constant_values=True)

        final = norm(self.dtype, "norm")

        def as_map(tokens: Array) -> tuple[Array, Array]:
            return erase(tokens[:, 1 + registers :].reshape(b, h, w, c), mask), mask

        maps = {}
        for i in range(depth):
            x, keys = TransformerBlock(heads, self.dtype, name=f"block{i}")(x, inside)
            if i == depth // 2 - 1:
                middle = final(x)
                if not self.trains(STAGES.index("c4")):
                    x, middle = lax.stop_gradient((x, middle))
                maps["c4"] = as_map(middle)
                if last_stage == "c4":
                    return maps
        x = final(x)
        if not self.trains(STAGES.index("last")):
            x, keys = lax.stop_gradient((x, keys))
        one = jnp.ones((b, 1, 1), bool)
        return maps | {"c5": as_map(x), "last": as_map(x), "keys": as_map(keys), "cls": (x[:, :1, None], one)}
