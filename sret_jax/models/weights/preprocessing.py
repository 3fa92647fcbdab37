"""What is done with photographs before a network: its authors' mean, deviation and resizing, as far as files tell."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from sret_jax.errors import UserError
from sret_jax.models.backbones.base import IMAGE_DEVIATION, IMAGE_MEAN

# cirtorch shrinks by Pillow's `thumbnail` with Lanczos, and SOLAR and HOW with its code; with the Pillow of then.
THUMBNAILS = ("cirtorch", "solar", "how")
RESAMPLE = {1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers, which transformers writes


class Preprocessing(NamedTuple):
    """Per channel, of values 0..1; `filter` and `rounding` as `config.data` has them, "" where nothing tells."""

    mean: np.ndarray
    deviation: np.ndarray
    filter: str
    rounding: str


def preprocessing(
    layout: str, beside: Mapping[str, Any], about: Mapping[str, Any], preprocessor: Mapping[str, Any], source: Any
) -> Preprocessing:
    """Of a network, from what was saved with it.

    cirtorch and SOLAR keep mean and deviation in `meta`, HOW in `net_params`, transformers in a file of its own, timm
    in `pretrained_cfg`; where all are silent they are ImageNet's.

    Args:
      layout: of the names in the file.
      beside: entries of the file beside the network.
      about, preprocessor: `config.json` and `preprocessor_config.json` of a saved folder; empty where there is none.
      source: for errors.

    Raises:
      UserError: what is there are not three numbers each, of photographs in 0..1.
    """
    timm = _mapping(about.get("pretrained_cfg"))
    if preprocessor.get("do_normalize") is False:
        pair: tuple[Any, Any] = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    elif "image_mean" in preprocessor:
        pair = preprocessor["image_mean"], preprocessor.get("image_std", IMAGE_DEVIATION)
    else:
        meta, options = _mapping(beside.get("meta")), _mapping(beside.get("net_params"))
        known = {"mean": IMAGE_MEAN, "std": IMAGE_DEVIATION} | {k: v for k, v in timm.items() if k in ("mean", "std")}
        pair = meta.get("mean", known["mean"]), meta.get("std", known["std"])
        pair = _mapping(options.get("runtime")).get("mean_std", pair)
    if preprocessor.get("do_rescale", True) and not np.isclose(preprocessor.get("rescale_factor", 1 / 255), 1 / 255):
        raise UserError(
            f"{source}: its photographs are not scaled to 0..1 (rescale_factor in preprocessor_config.json)"
        )
    mean, deviation = _checked(pair, source)
    if layout in THUMBNAILS:
        return Preprocessing(mean, deviation, "lanczos", "down")
    filter = RESAMPLE.get(preprocessor.get("resample", 0), str(timm.get("interpolation", "")))
    return Preprocessing(mean, deviation, filter if filter in RESAMPLE.values() else "", "")


def _checked(pair: Any, source: Any) -> tuple[np.ndarray, np.ndarray]:
    try:
        mean, deviation = (np.asarray(v, np.float32).reshape(3) for v in pair)
    except (TypeError, ValueError):
        raise UserError(f"{source}: its mean and std of photographs are not three numbers each: {pair}") from None
    if not ((0 <= mean) & (mean <= 1) & (deviation > 0) & (deviation <= 1)).all():
        raise UserError(f"{source}: mean {mean.tolist()} and std {deviation.tolist()} are not of photographs in 0..1")
    return mean, deviation


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
