"""Where each tensor of a foreign checkpoint goes: one `Layout` per naming that public networks are saved with.

    layout        backbone's keys                       beside the backbone
    torchvision   conv1, layer1.0.conv1, fc             (timm's ResNets too)
    efficientnet  _conv_stem, _blocks.0._expand_conv
    cirtorch      features.0, features.4.0.conv1        pool.p, whiten (fully connected)
    cirtorch-imagenet  0, 4.0.conv1                     (the Caffe-converted ResNets that cirtorch starts from)
    solar         features.conv1.0, features.conv2_x.2  pool.p, whiten, features.soa4, features.soa5
    how           features.0, features.4.0.conv1        dim_reduction, or whiten as a convolution
    dir           conv1, layer1.0.conv1                 adpool.p, fc (the whitening)
    dinov2        patch_embed.proj, blocks.0.attn.qkv   register_tokens
    timm          the same                              reg_token, and then positions without the class token's

A timm file without registers holds the very tensors of DINOv2's, but timm resamples their positions with antialiasing:
at another grid than the stored 37 x 37 it is another network, which `Layout.antialias` says.

All ResNets have torchvision's graph, the Caffe-converted ones included: the stride of a bottleneck is in its 3x3
convolution, and they take RGB.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sret_jax.errors import UserError
from sret_jax.models.attention import FACTORS
from sret_jax.models.backbones import BACKBONES, build_backbone, efficientnet_lite, resnet, vit

State = Mapping[str, np.ndarray]
Shape = tuple[int, ...]


class Leaf(NamedTuple):
    """One parameter or statistic: where it belongs, its shape there, and how the file's tensor becomes it."""

    collection: str
    path: tuple[str, ...]
    shape: Shape
    form: str = "vector"


class Form(NamedTuple):
    """`wanted`: the shape that the file's tensor must have, from the leaf's; `turned`: the leaf from that tensor."""

    wanted: Callable[[Shape], Shape]
    turned: Callable[[np.ndarray, Shape], np.ndarray]


FORMS = {
    "vector": Form(lambda s: s, lambda x, s: x),
    "kernel": Form(lambda s: (s[3], s[2], s[0], s[1]), lambda x, s: x.transpose(2, 3, 1, 0)),
    "matrix": Form(lambda s: s[::-1], lambda x, s: x.T),
    "pointwise": Form(lambda s: (s[1], s[0], 1, 1), lambda x, s: x[:, :, 0, 0].T),
    "exponent": Form(lambda s: s or (1,), lambda x, s: x.reshape(s)),
    "tokens": Form(lambda s: (1, *s), lambda x, s: x[0]),
    "grid": Form(lambda s: (1, s[0] - 1, s[1]), lambda x, s: np.concatenate([np.zeros_like(x[0, :1]), x[0]])),
}


@dataclass(frozen=True)
class Layout:
    """`leaves`: of every key that must be in the file; `left_out`: keys that may be there and are not used."""

    name: str
    backbone: str
    stage: str  # the last one that the file has
    leaves: dict[str, Leaf]
    left_out: frozenset[str] = frozenset()
    biases: dict[str, str] = field(default_factory=dict)  # of a convolution before a BatchNorm -> the mean it moves
    whitens: str = "normalized"  # what the fully connected layer takes: the "normalized" pooled vector, or "pooled"
    antialias: bool = False  # positions are resampled so with registers and without: `backbones/vit.py: resampling`


def find_layout(state: State, name: str, source: Any) -> Layout:
    """The layout called `name`, or for "auto" the one that the keys show. Raises `UserError` if there is none."""
    names = [known for known, marks in _MARKS.items() if marks(state)] if name == "auto" else [name]
    if not names:
        some = ", ".join(repr(k) for k in list(state)[:3])
        raise UserError(f"{source}: no known layout has entries like {some}; choose from {', '.join(_MARKS)}")
    if names[0] not in _MARKS:
        raise UserError(f"unknown layout {names[0]!r}; choose auto or one of {', '.join(_MARKS)}")
    return _MAKERS.get(names[0], _resnet)(names[0], state, source)


_MARKS: dict[str, Callable[[State], bool]] = {  # in this order: the first that holds
    "timm": lambda s: "patch_embed.proj.weight" in s and ("reg_token" in s or "mask_token" not in s),
    "dinov2": lambda s: "patch_embed.proj.weight" in s,
    "efficientnet": lambda s: "_conv_stem.weight" in s,
    "solar": lambda s: "features.conv1.0.weight" in s,
    "how": lambda s: (
        "features.0.weight" in s and ("dim_reduction.weight" in s or np.ndim(s.get("whiten.weight", 0)) == 4)
    ),
    "cirtorch": lambda s: "features.0.weight" in s,
    "cirtorch-imagenet": lambda s: "0.weight" in s and "4.0.conv1.weight" in s,
    "dir": lambda s: "adpool.p" in s,
    "torchvision": lambda s: "conv1.weight" in s and "layer1.0.conv1.weight" in s,
}
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


def _efficientnet(name: str, state: State, source: Any) -> Layout:
    depth = len({k.split(".")[1] for k in state if k.startswith("_blocks.")})
    last = state.get(f"_blocks.{depth - 1}._project_conv.weight", np.zeros(0))
    blocks = {known: efficientnet_lite.blocks(known) for known in efficientnet_lite.SCALES}
    fits = [known for known, made in blocks.items() if (len(made), made[-1].outputs) == (depth, len(last))]
    if not fits:
        raise UserError(f"{source}: {depth} blocks are of no EfficientNet-Lite known here")
    leaves = _conv_norms(fits[0], "last", efficientnet_lite.torch_units(fits[0]))
    return Layout(name, fits[0], "last", leaves, frozenset({"_fc.weight", "_fc.bias"}))


def _resnet(name: str, state: State, source: Any) -> Layout:
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
        leaves |= heads[name](state, BACKBONES[backbone].channels[stage])
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


def _fully_connected(state: State, key: str, module: str, channels: int) -> dict[str, Leaf]:
    dim = len(state[f"{key}.weight"])
    return {
        f"{key}.weight": Leaf("params", (module, "kernel"), (channels, dim), "matrix"),
        f"{key}.bias": Leaf("params", (module, "bias"), (dim,)),
    }


def _exponent(p: np.ndarray, channels: int) -> Leaf:
    """One for all channels, or one each."""
    return Leaf("params", ("pool", "p"), () if p.shape == (1,) else (channels,), "exponent")


def _cirtorch_heads(state: State, channels: int) -> dict[str, Leaf]:
    leaves = {}
    if "pool.p" in state:
        leaves["pool.p"] = _exponent(state["pool.p"], channels)
    if "whiten.weight" in state:
        leaves |= _fully_connected(state, "whiten", "whitening", channels)
    return leaves


def _dir_heads(state: State, channels: int) -> dict[str, Leaf]:
    leaves = {"adpool.p": _exponent(state["adpool.p"], channels)}
    return leaves | (_fully_connected(state, "fc", "whitening", channels) if "fc.weight" in state else {})


def _how_heads(state: State, channels: int) -> dict[str, Leaf]:
    key = "dim_reduction" if "dim_reduction.weight" in state else "whiten"
    dim = len(state[f"{key}.weight"])
    return {
        f"{key}.weight": Leaf("params", ("local", "kernel"), (channels, dim), "pointwise"),
        f"{key}.bias": Leaf("params", ("local", "bias"), (dim,)),
    }


def _vit(name: str, state: State, source: Any) -> Layout:
    registers = "reg_token" if name == "timm" else "register_tokens"
    width = np.shape(state["cls_token"])[-1] if "cls_token" in state else 0
    fits = [n for n, s in vit.SIZES.items() if s.width == width and (s.registers > 0) == (registers in state)]
    if not fits:
        raise UserError(f"{source}: a class token of {width} channels is of no vision transformer known here")
    shapes = _shapes(fits[0], "last")["params"]

    def leaf(*path: str, form: str = "vector") -> Leaf:
        node = shapes
        for part in path:
            node = node[part]
        return Leaf("params", ("backbone", *path), node.shape, form)

    def affine(key: str, *path: str, weight: str, form: str) -> dict[str, Leaf]:
        return {f"{key}.weight": leaf(*path, weight, form=form), f"{key}.bias": leaf(*path, "bias")}

    grid = "grid" if name == "timm" and registers in state else "tokens"
    leaves = {"cls_token": leaf("class_token", form="tokens"), "pos_embed": leaf("positions", form=grid)}
    if registers in state:
        leaves[registers] = leaf("registers", form="tokens")
    leaves |= affine("patch_embed.proj", "patches", weight="kernel", form="kernel")
    leaves |= affine("norm", "norm", weight="scale", form="vector")
    for i in range(vit.SIZES[fits[0]].depth):
        ours, theirs = f"block{i}", f"blocks.{i}."
        for module, key in (("qkv", "attn.qkv"), ("proj", "attn.proj"), ("fc1", "mlp.fc1"), ("fc2", "mlp.fc2")):
            leaves |= affine(theirs + key, ours, module, weight="kernel", form="matrix")
        for n in "12":
            leaves |= affine(f"{theirs}norm{n}", ours, f"norm{n}", weight="scale", form="vector")
            leaves[f"{theirs}ls{n}.gamma"] = leaf(ours, f"gamma{n}")
    return Layout(name, fits[0], "cls", leaves, frozenset({"mask_token"}), antialias=name == "timm")


_MAKERS = {"efficientnet": _efficientnet, "dinov2": _vit, "timm": _vit}
