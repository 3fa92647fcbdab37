"""Vision transformers: DINOv2, DINOv3, LingBot-Vision, Perception Encoder and the image towers of SigLIP.

    x = patches(image) [+ learned positions];   x += gamma1 * attention(norm(x));   x += gamma2 * mlp(norm(x))

What distinguishes them is in `vit_specs.ViTSpec`; where a patch lies is told as in `positions`.

Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021; Oquab et al., "DINOv2", TMLR 2024; registers: Darcet et
al., "Vision Transformers Need Registers", ICLR 2024; Siméoni et al., "DINOv3", 2025; Bolya et al., "Perception
Encoder", 2025; Zhai et al., "Sigmoid Loss for Language Image Pre-Training", ICCV 2023.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from sret_jax.errors import UserError
from sret_jax.models.backbones.attention import attend
from sret_jax.models.backbones.base import ATTENTION_POOL, CLASS_TOKEN, STAGES, Backbone, Maps
from sret_jax.models.backbones.layers import erase, strided
from sret_jax.models.backbones.positions import (
    RESAMPLING,
    centred_angles,
    counted_angles,
    learned_positions,
    rotated,
)
from sret_jax.models.backbones.vit_specs import SPECS, ViTSpec

Activation = Callable[[Array], Array]
_small = nn.initializers.truncated_normal(0.02)
_exact_gelu = partial(nn.gelu, approximate=False)


def stages(name: str) -> dict[str, int]:
    """Stride of every map that a variant has; 0 where the map has one position."""
    spec = SPECS[name]
    found = dict.fromkeys(("c4", "c5", "last", "keys"), spec.patch)
    return found | ({CLASS_TOKEN: 0} if spec.class_token else {}) | ({ATTENTION_POOL: 0} if spec.pool_heads else {})


def channels(name: str) -> dict[str, int]:
    """Of every map that a variant has."""
    spec = SPECS[name]
    return {s: spec.projection if s == ATTENTION_POOL and spec.projection else spec.width for s in stages(name)}


class TransformerBlock(nn.Module):
    """Attention, then a perceptron of two layers, each with a norm before it and perhaps a learned scale behind."""

    spec: ViTSpec
    dtype: Any

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n c"],
        inside: Bool[Array, "b n"],
        turn: tuple[Array, Array] | None,
        activation: Activation,
    ) -> tuple[Array, Array]:
        """The tokens, and the keys `[b, n, c]` of the attention, before they are rotated.

        Nothing attends to tokens that are not `inside`. `turn`: cosines and sines of the rotary positions.
        """
        b, n, c = x.shape
        spec = self.spec

        def dense(features: int, name: str) -> nn.Dense:
            return nn.Dense(features, dtype=self.dtype, name=name)

        def scaled(y: Array, name: str) -> Array:
            if not spec.layer_scale:
                return y
            gamma = self.param(name, nn.initializers.constant(1e-5), (c,), jnp.float32)
            return y * gamma.astype(self.dtype)[None, None]

        y = _norm(spec, self.dtype, "norm1")(x)
        qkv = dense(3 * c, "qkv")(y).reshape(b, n, 3, spec.heads, spec.head_width)
        q, k, v = (qkv[:, :, i] for i in range(3))
        keys = k.reshape(b, n, c)
        if turn is not None:
            q, k = (rotated(part, turn, halves=spec.rotary == "centred") for part in (q, k))
        y = attend(q, k, v, inside)
        x = x + scaled(dense(c, "proj")(y.reshape(b, n, c)), "gamma1")
        y = _norm(spec, self.dtype, "norm2")(x)
        if spec.gated:
            y = nn.silu(dense(spec.perceptron, "gate")(y)) * dense(spec.perceptron, "fc1")(y)
        else:
            y = activation(dense(spec.perceptron, "fc1")(y))
        return x + scaled(dense(c, "fc2")(y), "gamma2"), keys


class AttentionPool(nn.Module):
    """One learned query, the probe, attends to all tokens; a perceptron and perhaps a projection follow.

    Zhai et al., "Scaling Vision Transformers", CVPR 2022 ("MAP head").
    """

    spec: ViTSpec
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n c"], inside: Bool[Array, "b n"], activation: Activation
    ) -> Float[Array, "b d"]:
        b, n, c = x.shape
        spec, heads = self.spec, self.spec.pool_heads
        probe = self.param("probe", _small, (1, c), jnp.float32)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (c, 3 * c), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (3 * c,), jnp.float32)
        probe, kernel, bias = (part.astype(self.dtype) for part in (probe, kernel, bias))
        q = probe @ kernel[:, :c] + bias[None, :c]
        k, v = jnp.split(x @ kernel[:, c:] + bias[None, None, c:], 2, axis=-1)
        q = jnp.tile(q.reshape(1, 1, heads, c // heads), (b, 1, 1, 1))
        k, v = (part.reshape(b, n, heads, c // heads) for part in (k, v))
        y = jax.nn.dot_product_attention(q, k, v, mask=inside[:, None, None]).reshape(b, c)
        y = nn.Dense(c, dtype=self.dtype, name="proj")(y)
        z = activation(nn.Dense(spec.perceptron, dtype=self.dtype, name="fc1")(_norm(spec, self.dtype, "norm")(y)))
        y = y + nn.Dense(c, dtype=self.dtype, name="fc2")(z)
        return nn.Dense(spec.projection, dtype=self.dtype, name="projection")(y) if spec.projection else y


def _norm(spec: ViTSpec, dtype: Any, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=spec.epsilon, use_fast_variance=False, dtype=dtype, name=name)


class VisionTransformer(Backbone):
    """Height and width are multiples of the patch. Returns, beside the stages, what object discovery and pooling need.

    c4: patch tokens after the middle block; c5, last: after the last one; both through the final norm. keys: keys of
    the last block's attention, all heads side by side. cls: the class token. attention_pool: what the network's own
    attention pooling makes of all tokens, computed where it is asked for as `last_stage`. These two are maps of one
    position. To train from c4 or before is to train all, from c5 or last to train the second half of the blocks.

    What belongs to the weights more than to the variant are statistics, with the variant's value where they are not
    there: "resampling" of learned positions, "periods" and "rotary_reference" of rotary ones, "gelu_tanh".
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
        spec = SPECS[self.variant]
        patch = spec.patch
        if given:
            raise UserError(f"{self.variant}: a transformer cannot go on from the map of a stage")
        if images.shape[1] % patch or images.shape[2] % patch:
            size = f"{images.shape[1]}x{images.shape[2]}"
            raise UserError(f"{self.variant}: {size} images; resize to multiples of {patch}")
        mask = strided(mask, patch)
        x = self.normalized(images, spec.mean, spec.deviation).astype(self.dtype)
        x = nn.Conv(
            spec.width,
            (patch, patch),
            (patch, patch),
            padding="VALID",
            use_bias=spec.patch_bias,
            dtype=self.dtype,
            name="patches",
        )(x)
        b, h, w, c = x.shape

        x, special = self._tokens(spec, x, mask)
        inside = jnp.pad(mask.reshape(b, h * w), ((0, 0), (special, 0)), constant_values=True)
        turn = self._turn(spec, mask, special)
        activation = self._activation(spec)
        final = _norm(spec, self.dtype, "norm")

        def as_map(tokens: Array) -> tuple[Array, Array]:
            return erase(tokens[:, special:].reshape(b, h, w, c), mask), mask

        maps = {}
        for i in range(spec.depth):
            x, keys = TransformerBlock(spec, self.dtype, name=f"block{i}")(x, inside, turn, activation)
            if i == spec.depth // 2 - 1:
                middle = final(x)
                if not self.trains(STAGES.index("c4")):
                    x, middle = lax.stop_gradient((x, middle))
                maps["c4"] = as_map(middle)
                if last_stage == "c4":
                    return maps
        x = final(x)
        trains = self.trains(STAGES.index("last"))
        if not trains:
            x, keys = lax.stop_gradient((x, keys))
        maps |= {"c5": as_map(x), "last": as_map(x), "keys": as_map(keys)}
        one = jnp.ones((b, 1, 1), bool)
        if spec.class_token:
            maps[CLASS_TOKEN] = x[:, :1, None], one
        if spec.pool_heads and last_stage == ATTENTION_POOL:
            pooled = AttentionPool(spec, self.dtype, name=ATTENTION_POOL)(x, inside, activation)
            maps[ATTENTION_POOL] = (pooled if trains else lax.stop_gradient(pooled))[:, None, None], one
        return maps

    def _tokens(self, spec: ViTSpec, x: Array, mask: Array) -> tuple[Array, int]:
        """Class token, registers and patches side by side, with learned positions; and how many are not patches."""
        b, h, w, c = x.shape
        first = int(spec.class_token)
        special = []
        if spec.class_token:
            special.append(self.param("class_token", _small, (1, c), jnp.float32))
        if spec.grid:
            # One row for the class token, then the grid: as the files have it. How large it is they say.
            rows = first + spec.grid**2
            if self.has_variable("params", "positions"):
                rows = len(self.get_variable("params", "positions"))
            stored = self.param("positions", _small, (rows, c), jnp.float32)
            side = math.isqrt(rows - first)
            default = self._statistic("antialias", RESAMPLING.index(spec.resampling))  # its name in older files
            kind = self._statistic("resampling", default)
            grid = learned_positions(stored[first:].reshape(side, side, c), mask, kind=kind)
            x = x + grid.astype(self.dtype)
            special = [token + stored[:1] for token in special]
        if spec.registers:
            special.append(self.param("registers", _small, (spec.registers, c), jnp.float32))
        x = x.reshape(b, h * w, c)
        if special:
            front = jnp.concatenate(special).astype(self.dtype)
            x = jnp.concatenate([jnp.tile(front[None], (b, 1, 1)), x], axis=1)
        if spec.norm_before:
            x = _norm(spec, self.dtype, "norm_before")(x)
        return x, first + spec.registers

    def _turn(self, spec: ViTSpec, mask: Array, special: int) -> tuple[Array, Array] | None:
        """Cosines and sines of the rotary positions, angle 0 for the `special` tokens before the patches."""
        if not spec.rotary:
            return None
        bands = spec.head_width // 4
        if spec.rotary == "centred":
            angles = centred_angles(mask, self._statistic("periods", 100.0 ** (jnp.arange(bands) / bands)))
        else:
            angles = counted_angles(mask, bands, self._statistic("rotary_reference", 0.0))
        angles = jnp.pad(
            angles.reshape(mask.shape[0], mask.shape[1] * mask.shape[2], 2 * bands), ((0, 0), (special, 0), (0, 0))
        )
        return jnp.cos(angles), jnp.sin(angles)

    def _activation(self, spec: ViTSpec) -> Activation:
        if not spec.either_gelu:
            return _exact_gelu
        by_tanh = self._statistic("gelu_tanh", 1.0) > 0
        return lambda x: lax.cond(by_tanh, nn.gelu, _exact_gelu, x)

    def _statistic(self, name: str, default: Any) -> Array:
        return jnp.asarray(self.get_variable("batch_stats", name, default), jnp.float32)
