"""ResNet as torchvision builds it: stride in the 3x3 convolution, explicit padding, ReLU.

He et al., "Deep Residual Learning", CVPR 2016, with the stride of a bottleneck in its middle convolution ("V1.5").
Padding is (1, 1) and (3, 3) on both sides, not "SAME": at stride 2 and even sizes these differ.
"""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
from jaxtyping import Array, Bool, Float

from sret_jax.models.backbones.base import STAGES, Backbone, Maps
from sret_jax.models.backbones.layers import ConvNorm, max_pool, relu, relup, strided

LAYERS = {
    "resnet18": (2, 2, 2, 2),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
}
WIDTHS = (64, 128, 256, 512)


def expansion(name: str) -> int:
    """Output channels of a block per width: basic blocks 1, bottlenecks 4."""
    return 1 if name == "resnet18" else 4


class BlockSpec(NamedTuple):
    """One residual block. `projects`: the shortcut has a convolution, because the shape changes."""

    width: int
    stride: int
    projects: bool
    bottleneck: bool


def _layers(name: str) -> list[list[BlockSpec]]:
    """The blocks of torchvision's layer1 to layer4."""
    layers = []
    for layer, (repeats, width) in enumerate(zip(LAYERS[name], WIDTHS, strict=True)):
        bottleneck, stride = expansion(name) > 1, 2 if layer else 1
        first = BlockSpec(width, stride, bool(layer) or bottleneck, bottleneck)
        layers.append([first] + [BlockSpec(width, 1, False, bottleneck)] * (repeats - 1))
    return layers


def torch_units(name: str) -> dict[tuple[str, ...], tuple[str, str]]:
    """Flax path of every `ConvNorm` -> torchvision's names of its convolution and of its BatchNorm."""
    units: dict[tuple[str, ...], tuple[str, str]] = {("stem",): ("conv1", "bn1")}
    for layer, blocks in enumerate(_layers(name), 1):
        for i, block in enumerate(blocks):
            flax_block, torch_block = f"layer{layer}_{i}", f"layer{layer}.{i}."
            for n in range(1, 4 if block.bottleneck else 3):
                units[flax_block, f"conv{n}"] = (f"{torch_block}conv{n}", f"{torch_block}bn{n}")
            if block.projects:
                units[flax_block, "shortcut"] = (f"{torch_block}downsample.0", f"{torch_block}downsample.1")
    return units


class Residual(nn.Module):
    """Two 3x3 convolutions, or as a bottleneck 1x1, 3x3 and 1x1 with four times the width; plus the input."""

    block: BlockSpec
    conv: Any  # ConvNorm with the settings that all convolutions of the network share
    floor: float = 0.0  # least value of the result
    floor_inside: float = 0.0  # least value between the convolutions

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"]) -> tuple[Array, Array]:
        w, s, projects, bottleneck = self.block
        spatial = partial(self.conv, w, 3, padding=1)
        activation = partial(relup, floor=self.floor_inside)
        if bottleneck:
            y, inside = self.conv(w, activation=activation, name="conv1")(x, mask)
            y, inside = spatial(stride=s, activation=activation, name="conv2")(y, inside)
            y, inside = self.conv(4 * w, name="conv3")(y, inside)
        else:
            y, inside = spatial(stride=s, activation=activation, name="conv1")(x, mask)
            y, inside = spatial(name="conv2")(y, inside)
        if projects:
            x, _ = self.conv(y.shape[-1], 1, s, name="shortcut")(x, mask)
        return relup(x + y, self.floor), inside


class ResNet(Backbone):
    """Any size. The stage "last" is "c5", and to train from "last" is to train from "c5".

    `floor` is SuperGlobal's ReLUP, as its authors' code applies it: to the results of the blocks of the first three
    layers, and between the convolutions of the first.
    """

    attends = ("c4", "c5")
    floor: float = 0.0

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
        maps: Maps = {}
        stage = STAGES.index(given) + 1 if given else 0  # that is being computed

        def conv() -> Any:
            trains = self.trains(stage)
            update = self.update_stats and train and trains
            return partial(ConvNorm, dtype=self.dtype, update_stats=update, frozen=not trains)

        def end(stage: str) -> None:
            self.end(maps, stage, x, mask, attention=attention, train=train)

        if given:
            x = images.astype(self.dtype)
        else:
            x, mask = conv()(64, 7, 2, padding=3, activation=relu, name="stem")(self.normalized(images), mask)
            end("c1")
            x, stage = maps["c1"][0], 1
        for layer, blocks in list(enumerate(_layers(self.variant), 1))[stage - 1 :]:
            if last_stage in maps:
                return maps
            if layer == 1:
                x, mask = max_pool(x), strided(mask, 2)
            floors = self.floor if layer <= 3 else 0.0, self.floor if layer == 1 else 0.0
            for i, block in enumerate(blocks):
                x, mask = Residual(block, conv(), *floors, name=f"layer{layer}_{i}")(x, mask)
            end(STAGES[layer])
            x, stage = maps[STAGES[layer]][0], layer + 1
        return maps if last_stage == "c5" else maps | {"last": (x, mask)}

    def trains(self, stage: int) -> bool:
        last = STAGES.index("c5")
        return super().trains(stage) or (stage == last and self.train_from == "last")
