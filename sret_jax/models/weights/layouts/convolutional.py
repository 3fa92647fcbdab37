"""Layouts of convolutional networks with BatchNorm: ResNets in six namings, and EfficientNet-Lite.

All ResNets have torchvision's graph, the Caffe-converted ones included: the stride of a bottleneck is in its 3x3
convolution, and they take RGB.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from sret_jax.errors import UserError
from sret_jax.models.attention import FACTORS
from sret_jax.models.backbones import BACKBONES, build_backbone, efficientnet_lite, resnet
from sret_jax.models.weights.layouts.base import Layout, Leaf, Shape, State, length

Sizes = Callable[[str, int, int], int]  # of an entry: key, axis and number of axes -> `length`

_SEQUENTIAL = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
_SOLAR = {
    "conv1": "conv1.0",
    "bn1": "conv1.1",
    "layer1": "conv2_x.2",
    "layer2": "conv3_x",
    "layer3": "conv4_x",
    "layer4": "conv5_x",
}
_RENAMED = {  # prefix, then names of torchvision's children
    "cirtorch": ("features.", _SEQUENTIAL),
    "cirtorch-imagenet": ("", _SEQUENTIAL),
    "how": ("features.", _SEQUENTIAL),
    "solar": ("features.", _SOLAR),
}


def _shapes(backbone: str, stage: str) -> dict[str, Any]:
    multiple = BACKBONES[backbone].size_multiple
    side = 2 * (multiple if multiple > 1 else 32)
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    mask = jax.ShapeDtypeStruct((1, side, side), jnp.bool_)
    init = build_backbone(backbone).init
    return jax.eval_shape(lambda *args: init(*args, last_stage=stage), jax.random.key(0), image, mask)


def _conv_norm(path: tuple[str, ...], convolution: str, norm: str, kernel: Shape) -> dict[str, Leaf]:
    """Leaves of one `ConvNorm`, from the names of its convolution and of its BatchNorm."""
    channels = kernel[-1:]
    return {
        f"{convolution}.weight": Leaf("params", (*path, "kernel"), kernel, "kernel"),
        f"{norm}.weight": Leaf("params", (*path, "scale"), channels),
        f"{norm}.bias": Leaf("params", (*path, "bias"), channels),
        f"{norm}.running_mean": Leaf("batch_stats", (*path, "mean"), channels),
        f"{norm}.running_var": Leaf("batch_stats", (*path, "var"), channels),
    }


def _conv_norms(backbone: str, stage: str, units: Mapping[tuple[str, ...], tuple[str, str]]) -> dict[str, Leaf]:
    """Leaves of all the backbone's `ConvNorm`s up to a stage."""
    params = _shapes(backbone, stage)["params"]
    leaves: dict[str, Leaf] = {}
    for path, names in units.items():
        node = params
        for part in path:
            node = node[part]
        leaves |= _conv_norm(("backbone", *path), *names, node["kernel"].shape)
    return leaves


def efficientnet_layout(name: str, state: State, source: Any) -> Layout:
    depth = len({k.split(".")[1] for k in state if k.startswith("_blocks.")})
    last = f"_blocks.{depth - 1}._project_conv.weight"
    outputs = length(state, last, 0, 4, source, name) if last in state else 0
    blocks = {known: efficientnet_lite.blocks(known) for known in efficientnet_lite.SCALES}
    fits = [known for known, made in blocks.items() if (len(made), made[-1].outputs) == (depth, outputs)]
    if not fits:
        raise UserError(f"{source}: {depth} blocks are of no EfficientNet-Lite known here")
    leaves = _conv_norms(fits[0], "last", efficientnet_lite.torch_units(fits[0]))
    return Layout(name, fits[0], "last", leaves, frozenset({"_fc.weight", "_fc.bias"}))


def resnet_layout(name: str, state: State, source: Any) -> Layout:
    prefix, children = _RENAMED.get(name, ("", {}))

    def renamed(key: str) -> str:
        child, _, rest = key.partition(".")
        return prefix + children.get(child, child) + (f".{rest}" if rest else "")

    third = renamed("layer3") + "."
    blocks = len({k[len(third) :].split(".")[0] for k in state if k.startswith(third)})
    bottleneck = f"{third}0.conv3.weight" in state
    fits = [n for n, layers in resnet.LAYERS.items() if layers[2] == blocks and (resnet.expansion(n) > 1) == bottleneck]
    if not fits:
        kind = "bottlenecks" if bottleneck else "basic blocks"
        raise UserError(f"{source}: {blocks} {kind} in the third layer are of no ResNet known here")
    backbone = fits[0]
    whole = name != "how" or any(k.startswith(renamed("layer4") + ".") for k in state)
    stage = "last" if whole else "c4"
    units = {
        path: (renamed(convolution), renamed(norm))
        for path, (convolution, norm) in resnet.torch_units(backbone).items()
        if whole or not path[0].startswith("layer4")
    }
    leaves = _conv_norms(backbone, stage, units)
    heads = {"solar": _cirtorch_heads, "cirtorch": _cirtorch_heads, "how": _how_heads, "dir": _dir_heads}
    if name in heads:
        sizes = partial(length, state, source=source, layout=name)
        leaves |= heads[name](state, BACKBONES[backbone].channels[stage], sizes)
    left_out = frozenset({"fc.weight", "fc.bias"}) if name == "torchvision" else frozenset()
    biases: dict[str, str] = {}
    if name == "solar":
        for stage_name in ("c4", "c5"):
            block = f"features.soa{stage_name[1]}"
            if f"{block}.v.weight" in state:
                leaves |= _attention(block, stage_name, BACKBONES[backbone].channels[stage_name])
                biases |= {f"{block}.{unit}.0.bias": f"{block}.{unit}.1.running_mean" for unit in "fg"}
    return Layout(name, backbone, stage, leaves, left_out, biases, "pooled" if name == "dir" else "normalized")


def _attention(key: str, stage: str, channels: int) -> dict[str, Leaf]:
    """One of SOLAR's second-order attention blocks: f and g with BatchNorm, h and v without."""
    inside = channels // FACTORS[stage]
    leaves: dict[str, Leaf] = {}
    for unit in "fg":
        names = f"{key}.{unit}.0", f"{key}.{unit}.1"
        leaves |= _conv_norm(("attention", stage, unit), *names, (1, 1, channels, inside))
    for unit, inputs, outputs in (("h", channels, inside), ("v", inside, channels)):
        path = ("attention", stage, unit)
        leaves[f"{key}.{unit}.weight"] = Leaf("params", (*path, "kernel"), (inputs, outputs), "pointwise")
        leaves[f"{key}.{unit}.bias"] = Leaf("params", (*path, "bias"), (outputs,))
    return leaves


def _fully_connected(key: str, module: str, channels: int, sizes: Sizes) -> dict[str, Leaf]:
    dim = sizes(f"{key}.weight", 0, 2)
    return {
        f"{key}.weight": Leaf("params", (module, "kernel"), (channels, dim), "matrix"),
        f"{key}.bias": Leaf("params", (module, "bias"), (dim,)),
    }


def _exponent(key: str, channels: int, sizes: Sizes) -> dict[str, Leaf]:
    """One for all channels, or one each."""
    return {key: Leaf("params", ("pool", "p"), () if sizes(key, 0, 1) == 1 else (channels,), "exponent")}


def _cirtorch_heads(state: State, channels: int, sizes: Sizes) -> dict[str, Leaf]:
    leaves = _exponent("pool.p", channels, sizes) if "pool.p" in state else {}
    return leaves | (_fully_connected("whiten", "whitening", channels, sizes) if "whiten.weight" in state else {})


def _dir_heads(state: State, channels: int, sizes: Sizes) -> dict[str, Leaf]:
    leaves = _exponent("adpool.p", channels, sizes)
    return leaves | (_fully_connected("fc", "whitening", channels, sizes) if "fc.weight" in state else {})


def _how_heads(state: State, channels: int, sizes: Sizes) -> dict[str, Leaf]:
    key = "dim_reduction" if "dim_reduction.weight" in state else "whiten"
    dim = sizes(f"{key}.weight", 0, 4)
    return {
        f"{key}.weight": Leaf("params", ("local", "kernel"), (channels, dim), "pointwise"),
        f"{key}.bias": Leaf("params", ("local", "bias"), (dim,)),
    }
