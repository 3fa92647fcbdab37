"""Layouts of ConvNeXt.

layout                 a block's keys
convnext               stages.0.1.dwconv, .norm, .pwconv1, .gamma         (Meta's)
timm-convnext          stages.0.blocks.1.conv_dw, .norm, .mlp.fc1, .gamma
transformers-convnext  stages.0.layers.1.depthwise_conv, .layer_norm, .pointwise_conv1, .gamma
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from sret_jax.errors import UserError
from sret_jax.models.backbones import convnext
from sret_jax.models.weights.layouts.base import Layout, Leaf, State


class Naming(NamedTuple):
    """Keys without ".weight" and ".bias"; {s} is the stage and {n} the block. First of each pair: before stage 0."""

    convolution: tuple[str, str]  # that reduces the map
    norm: tuple[str, str]  # beside it
    block: str
    depthwise: str
    block_norm: str
    fc1: str
    fc2: str
    final: str
    prefixes: tuple[str, ...] = ("",)
    beside: tuple[str, ...] = ()  # beginnings of keys that are not used


NAMINGS = {
    "convnext": Naming(
        ("downsample_layers.0.0", "downsample_layers.{s}.1"),
        ("downsample_layers.0.1", "downsample_layers.{s}.0"),
        "stages.{s}.{n}.",
        "dwconv",
        "norm",
        "pwconv1",
        "pwconv2",
        "norm",
        beside=("norms.", "head."),  # the first: the final norm by another name
    ),
    "timm-convnext": Naming(
        ("stem.0", "stages.{s}.downsample.1"),
        ("stem.1", "stages.{s}.downsample.0"),
        "stages.{s}.blocks.{n}.",
        "conv_dw",
        "norm",
        "mlp.fc1",
        "mlp.fc2",
        "head.norm",
        beside=("head.fc.",),
    ),
    "transformers-convnext": Naming(
        ("stages.0.downsample_layers.0", "stages.{s}.downsample_layers.1"),
        ("stages.0.downsample_layers.1", "stages.{s}.downsample_layers.0"),
        "stages.{s}.layers.{n}.",
        "depthwise_conv",
        "layer_norm",
        "pointwise_conv1",
        "pointwise_conv2",
        "layer_norm",
        prefixes=("", "model."),
    ),
}


def _marked(name: str) -> Callable[[State], bool]:
    naming = NAMINGS[name]
    key = naming.block.format(s=0, n=0) + naming.depthwise + ".weight"
    return lambda state: any(prefix + key in state for prefix in naming.prefixes)


MARKS = {name: _marked(name) for name in NAMINGS}


def convnext_layout(name: str, state: State, source: Any) -> Layout:
    """The layout of this name for the ConvNeXt whose blocks and channels the file has; `UserError` for another."""
    naming = NAMINGS[name]
    prefix = next((p for p in naming.prefixes if any(k.startswith(f"{p}stages.") for k in state)), "")

    def blocks(s: int) -> int:
        n = 0
        while f"{prefix}{naming.block.format(s=s, n=n)}gamma" in state:
            n += 1
        return n

    depths = tuple(blocks(s) for s in range(4))
    gammas = [f"{prefix}{naming.block.format(s=s, n=0)}gamma" for s in range(4)]
    widths = tuple(np.size(state[k]) if k in state else 0 for k in gammas)
    fits = [known for known, size in convnext.SIZES.items() if (size.depths, size.widths) == (depths, widths)]
    if not fits:
        raise UserError(f"{source}: no ConvNeXt known here has {depths} blocks of {widths} channels")
    leaves: dict[str, Leaf] = {}

    def affine(key: str, path: tuple[str, ...], weight: str, shape: tuple[int, ...], form: str = "vector") -> None:
        leaves[f"{key}.weight"] = Leaf("params", ("backbone", *path, weight), shape, form)
        leaves[f"{key}.bias"] = Leaf("params", ("backbone", *path, "bias"), shape[-1:])

    for s, (depth, c) in enumerate(zip(depths, widths, strict=True)):
        later, before = int(s > 0), widths[s - 1] if s else 3
        side, ours = (2, f"reduce{s}") if s else (4, "stem")
        affine(prefix + naming.convolution[later].format(s=s), (ours,), "kernel", (side, side, before, c), "kernel")
        norm = prefix + naming.norm[later].format(s=s)
        affine(norm, (f"{ours}_norm",), "scale", (before if s else c,))
        for n in range(depth):
            block, path = prefix + naming.block.format(s=s, n=n), f"stage{s}_block{n}"
            affine(block + naming.depthwise, (path,), "kernel", (7, 7, 1, c), "kernel")
            affine(block + naming.block_norm, (path, "norm"), "scale", (c,))
            affine(block + naming.fc1, (path, "fc1"), "kernel", (c, 4 * c), "matrix")
            affine(block + naming.fc2, (path, "fc2"), "kernel", (4 * c, c), "matrix")
            leaves[f"{block}gamma"] = Leaf("params", ("backbone", path, "gamma"), (c,))
    affine(naming.final, ("norm",), "scale", (widths[-1],))
    left_out = frozenset(k for k in state if k.startswith(naming.beside)) if naming.beside else frozenset[str]()
    return Layout(name, fits[0], "cls", leaves, left_out)
