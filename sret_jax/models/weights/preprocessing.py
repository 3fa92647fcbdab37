"""What is done with photographs before a network: its authors' mean, deviation and resizing, as far as files tell."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from sret_jax.errors import UserError
from sret_jax.models.weights.folder import CONFIG, PREPROCESSOR, value_of
from sret_jax.storage.foreign import short

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
    layout: str,
    silent: tuple[Any, Any],
    beside: Mapping[str, Any],
    about: Mapping[str, Any],
    preprocessor: Mapping[str, Any],
    source: Any,
) -> Preprocessing:
    """Of a network, from what was saved with it.

    cirtorch and SOLAR keep mean and deviation in `meta`, HOW in `net_params`, transformers in a file of its own, timm
    in `pretrained_cfg`.

    Args:
      layout: of the names in the file.
      silent: mean and deviation of the network's authors, where all of these are silent.
      beside: entries of the file beside the network.
      about, preprocessor: `config.json` and `preprocessor_config.json` of a saved folder; empty where there is none.
      source: for errors.

    Raises:
      UserError: what is there are not three numbers each, of photographs in 0..1, or is of another type.
    """
    timm = value_of(about, "pretrained_cfg", dict, {}, source, CONFIG)
    interpolation = value_of(timm, "interpolation", str, "", source, CONFIG)

    def transformers(name: str, kind: type, default: Any) -> Any:
        return value_of(preprocessor, name, kind, default, source, PREPROCESSOR)

    if not transformers("do_normalize", bool, True):
        pair: Any = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    elif preprocessor.get("image_mean") is not None:
        pair = preprocessor["image_mean"], transformers("image_std", list, silent[1])
    else:
        meta, options = _mapping(beside.get("meta")), _mapping(beside.get("net_params"))
        known = dict(zip(("mean", "std"), silent, strict=True)) | timm | dict(meta)
        pair = _mapping(options.get("runtime")).get("mean_std", (known["mean"], known["std"]))
    scaled, factor = transformers("do_rescale", bool, True), transformers("rescale_factor", float, 1 / 255)
    if not scaled or not np.isclose(factor, 1 / 255):
        field = "rescale_factor" if scaled else "do_rescale"
        raise UserError(
            f"{source}: its photographs are not scaled to 0..1 ({field} in {PREPROCESSOR}); there is no network here "
            "for others"
        )
    mean, deviation = _checked(pair, source)
    if layout in THUMBNAILS:
        return Preprocessing(mean, deviation, "lanczos", "down")
    filter = RESAMPLE.get(transformers("resample", float, 0), interpolation)
    return Preprocessing(mean, deviation, filter if filter in RESAMPLE.values() else "", "")


def _checked(pair: Any, source: Any) -> tuple[np.ndarray, np.ndarray]:
    try:
        given = [np.asarray(v) for v in pair]
        if any(values.dtype.kind not in "iuf" for values in given):
            raise ValueError("no numbers")
        mean, deviation = (values.astype(np.float32).reshape(3) for values in given)
    except (TypeError, ValueError):
        raise UserError(
            f"{source}: its mean and std of photographs are not three numbers each: {short(pair)}"
        ) from None
    if not ((0 <= mean) & (mean <= 1) & (deviation > 0) & (deviation <= 1)).all():
        raise UserError(f"{source}: mean {mean.tolist()} and std {deviation.tolist()} are not of photographs in 0..1")
    return mean, deviation


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
