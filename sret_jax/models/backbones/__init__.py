"""Backbones by name: one call returns the map and the mask of every stage."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from sret_jax.errors import UserError
from sret_jax.models.backbones import convnext, efficientnet_lite, resnet, vit
from sret_jax.models.backbones.base import CLASS_TOKEN, IMAGE_DEVIATION, IMAGE_MEAN, STAGES
from sret_jax.models.backbones.convnext import ConvNeXt
from sret_jax.models.backbones.efficientnet_lite import EfficientNetLite
from sret_jax.models.backbones.resnet import ResNet
from sret_jax.models.backbones.vit import VisionTransformer
from sret_jax.models.backbones.vit_specs import SPECS, Triple

_STRIDES = (2, 4, 8, 16, 32, 32)


@dataclass(frozen=True)
class BackboneInfo:
    """What is known of a backbone before it is built."""

    size_multiple: int  # height and width of photograph and bucket must be multiples of this
    stages: dict[str, int]  # stride of each stage's map; 0 where the map has one position
    channels: dict[str, int]  # of each stage's map
    # Of photographs, per channel, values 0..1: where the weights bring none of their own, unless they are `fixed`.
    mean: Triple = IMAGE_MEAN
    deviation: Triple = IMAGE_DEVIATION
    fixed: bool = False  # mean and deviation belong to the network, whatever its weights are
    # Of one that does not come with the package: (parameters, train_from, update_stats, dtype) -> the network, and its
    # pretrained variables
    build: Callable[..., nn.Module] | None = None
    pretrained: Callable[[], dict[str, Any]] | None = None


def _lite(name: str) -> BackboneInfo:
    channels = {b.ends: b.outputs for b in efficientnet_lite.blocks(name) if b.ends} | {"last": efficientnet_lite.HEAD}
    mean, deviation = ((value / 255,) * 3 for value in (efficientnet_lite.CENTRE, efficientnet_lite.SPREAD))
    return BackboneInfo(32, dict(zip(STAGES, _STRIDES, strict=True)), channels, mean, deviation, fixed=True)


def _resnet(name: str) -> BackboneInfo:
    widths = [resnet.expansion(name) * w for w in resnet.WIDTHS]
    return BackboneInfo(
        1, dict(zip(STAGES, _STRIDES, strict=True)), dict(zip(STAGES, [64, *widths, widths[-1]], strict=True))
    )


def _convnext(name: str) -> BackboneInfo:
    widths = convnext.SIZES[name].widths
    strides = dict(zip(STAGES[1:], _STRIDES[1:], strict=True)) | {CLASS_TOKEN: 0}
    return BackboneInfo(32, strides, dict(zip(strides, [*widths, widths[-1], widths[-1]], strict=True)))


def _vit(name: str) -> BackboneInfo:
    spec = SPECS[name]
    return BackboneInfo(spec.patch, vit.stages(name), vit.channels(name), spec.mean, spec.deviation)


BACKBONES: dict[str, BackboneInfo] = (
    {name: _lite(name) for name in efficientnet_lite.SCALES}
    | {name: _resnet(name) for name in resnet.LAYERS}
    | {name: _convnext(name) for name in convnext.SIZES}
    | {name: _vit(name) for name in SPECS}
)


def same_network(name: str, other: str) -> bool:
    """Whether the two are names of one graph whose photographs are normalised alike, so that they share weights."""
    return name == other or (name in SPECS and SPECS[name] == SPECS.get(other))


def build_backbone(
    name: str,
    *,
    dtype: Any = jnp.float32,
    train_from: str = "none",
    batch_stats: str = "frozen",
    parameters: Mapping[str, Any] | None = None,
) -> nn.Module:
    """The network; its call is documented at `base.Backbone`.

    `dtype`: of the computation, parameters are float32. `train_from`: the first stage that trains ("all", a stage, or
    "none"); no gradient goes further back. `batch_stats`: "frozen" uses the running statistics always; "updated" uses
    and tracks the batch's own in the stages that train, over the pmap axis "batch", when called with `train=True`.
    `parameters`: keyword arguments of one that does not come with the package.
    """
    if name not in BACKBONES:
        raise UserError(f"unknown backbone {name!r}; choose one of {', '.join(BACKBONES)}")
    if build := BACKBONES[name].build:
        return build(parameters or {}, train_from, batch_stats == "updated", dtype)
    families = {
        **dict.fromkeys(efficientnet_lite.SCALES, EfficientNetLite),
        **dict.fromkeys(resnet.LAYERS, ResNet),
        **dict.fromkeys(convnext.SIZES, ConvNeXt),
    }
    return families.get(name, VisionTransformer)(name, train_from, batch_stats == "updated", dtype)


def parameters_up_to(name: str, stage: str, parameters: Mapping[str, Any] | None = None) -> set[tuple[str, ...]]:
    """Paths of the parameters that the map of a stage is computed with. `parameters`: as of `build_backbone`."""
    side = 2 * BACKBONES[name].size_multiple
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.uint8)
    mask = jax.ShapeDtypeStruct((1, side, side), jnp.bool_)
    network = build_backbone(name, parameters=parameters)
    shapes = jax.eval_shape(lambda *args: network.init(*args, last_stage=stage), jax.random.key(0), image, mask)
    return set(flatten_dict(shapes["params"]))
