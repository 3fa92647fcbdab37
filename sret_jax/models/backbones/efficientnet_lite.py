"""EfficientNet-Lite: MBConv blocks without squeeze-and-excitation, ReLU6, TensorFlow's "SAME" padding.

Tan and Le, "EfficientNet", ICML 2019; the Lite variants keep stem and head unscaled (TensorFlow's
`efficientnet_lite_builder.py`). The names of the parameters in the published torch files are in `torch_units`.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from sret_jax.errors import UserError
from sret_jax.models.backbones.base import STAGES, Backbone, Maps
from sret_jax.models.backbones.layers import ConvNorm, relu6

SCALES = {"efficientnet_lite0": (1.0, 1.0), "efficientnet_lite1": (1.0, 1.1), "efficientnet_lite2": (1.1, 1.2)}
CENTRE, SPREAD = 127.0, 128.0  # of the pixels, 0 to 255: (x - 127) / 128
HEAD = 1280  # channels of the map "last"
# repeats, kernel, stride, expansion, input channels, output channels, stage that the group ends (or "")
_GROUPS = (
    (1, 3, 1, 1, 32, 16, "c1"),
    (2, 3, 2, 6, 16, 24, "c2"),
    (2, 5, 2, 6, 24, 40, "c3"),
    (3, 3, 2, 6, 40, 80, ""),
    (3, 5, 1, 6, 80, 112, "c4"),
    (4, 5, 2, 6, 112, 192, ""),
    (1, 3, 1, 6, 192, 320, "c5"),
)


class BlockSpec(NamedTuple):
    """One MBConv block; `ends` is the stage whose map it completes, or ""."""

    kernel: int
    stride: int
    expansion: int
    inputs: int
    outputs: int
    ends: str


def blocks(name: str) -> list[BlockSpec]:
    """The blocks of a variant, in order. Channels are rounded to multiples of 8, repeats up."""
    width, depth = SCALES[name]
    out = []
    for i, (repeats, kernel, stride, expansion, inputs, outputs, stage) in enumerate(_GROUPS):
        inputs = inputs if i == 0 else _round_channels(inputs * width)
        outputs = _round_channels(outputs * width)
        repeats = repeats if i in (0, len(_GROUPS) - 1) else math.ceil(repeats * depth)
        for r in range(repeats):
            ends = stage if r == repeats - 1 else ""
            out.append(BlockSpec(kernel, 1 if r else stride, expansion, outputs if r else inputs, outputs, ends))
    return out


def _round_channels(channels: float) -> int:
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def torch_units(name: str) -> dict[tuple[str, ...], tuple[str, str]]:
    """Flax path of every `ConvNorm` -> torch names of its convolution and of its BatchNorm."""
    units: dict[tuple[str, ...], tuple[str, str]] = {("stem",): ("_conv_stem", "_bn0")}
    for i, block in enumerate(blocks(name)):
        torch_block = f"_blocks.{i}."
        if block.expansion != 1:
            units[f"block{i}", "expand"] = (torch_block + "_expand_conv", torch_block + "_bn0")
        units[f"block{i}", "depthwise"] = (torch_block + "_depthwise_conv", torch_block + "_bn1")
        units[f"block{i}", "project"] = (torch_block + "_project_conv", torch_block + "_bn2")
    units["head",] = ("_conv_head", "_bn1")
    return units


class MBConv(nn.Module):
    """Expand (1x1), depthwise (k x k), project (1x1); the input is added when the shapes agree."""

    block: BlockSpec
    conv: Any  # ConvNorm with the settings that all convolutions of the network share

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"]) -> tuple[Array, Array]:
        kernel, stride, expansion, inputs, outputs, _ = self.block
        wide = inputs * expansion
        y = x
        if expansion != 1:
            y, mask = self.conv(wide, activation=relu6, name="expand")(y, mask)
        y, mask = self.conv(wide, kernel, stride, is_depthwise=True, activation=relu6, name="depthwise")(y, mask)
        y, mask = self.conv(outputs, name="project")(y, mask)
        return (y + x if stride == 1 and inputs == outputs else y), mask


class EfficientNetLite(Backbone):
    """Height and width are multiples of 32.

    The padding rule sees whether a size is even, so that only at multiples of 32 a padded photograph and the
    photograph alone agree at every stride.
    """

    attends = ("c4", "c5", "last")

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
        maps: Maps = {}
        stage = STAGES.index(given) + 1 if given else 0  # that is being computed

        def conv() -> Any:
            trains = self.trains(stage)
            update = self.update_stats and train and trains
            return partial(
                ConvNorm, epsilon=1e-3, momentum=0.99, dtype=self.dtype, update_stats=update, frozen=not trains
            )

        def end(stage: str) -> None:
            self.end(maps, stage, x, mask, attention=attention, train=train)

        specs = list(enumerate(blocks(self.variant)))
        if given:
            x, first = images.astype(self.dtype), 1 + next(i for i, block in specs if block.ends == given)
        else:
            x, first = ((images.astype(jnp.float32) - CENTRE) / SPREAD).astype(self.dtype), 0
            x, mask = conv()(32, 3, 2, activation=relu6, name="stem")(x, mask)
        for i, block in specs[first:]:
            x, mask = MBConv(block, conv(), name=f"block{i}")(x, mask)
            if block.ends:
                end(block.ends)
                if block.ends == last_stage:
                    return maps
                x, stage = maps[block.ends][0], stage + 1
        x, mask = conv()(HEAD, activation=relu6, name="head")(x, mask)
        end("last")
        return maps
