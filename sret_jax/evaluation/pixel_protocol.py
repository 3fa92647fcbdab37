"""How well a way of localization marks what queries ask for, in the photographs that show it. numpy only."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from sret_jax.data.pixel_truth import PixelTruth
from sret_jax.evaluation.pixel_metrics import (
    box_iou,
    mask_box,
    mask_iou,
    mean_iou_official,
    mean_iou_strict,
    official_ious,
    pixel_map_official,
    pixel_map_strict,
)

Locate = Callable[[int, Sequence[int]], Sequence[Bool[np.ndarray, "H W"]]]  # (query, photos) -> their masks


def pixel_protocol(
    rankings: Int[np.ndarray, "q k"], truth: PixelTruth, locate: Locate
) -> tuple[dict[str, Any], list[dict[int, float]]]:
    """Every relevant photograph of every query that has masks, marked and compared.

    Args:
      rankings: photos, best first; -1 = none.
      truth: what is to be found, and where.
      locate: marks the object of a query in photos; an empty mask is no mark.

    Returns:
      `{"strict": {"mIoU", "box mIoU", "CorLoc", "mAP@50:5:95", "box mAP@50:5:95"}, "official": {"mIoU", "box mIoU",
      "mAP@50:5:95", "box mAP@50:5:95"}}` in percent, and where the benchmark tells hard photos from easy ones the mean
      overlaps of these, "mIoU hard" and "box mIoU hard"; what has no value, as an official mean over a query without
      any mark, is left out. CorLoc is the share of pairs whose boxes overlap by half. And
      per query the overlap of the masks, {photo: 0 to 1}.
    """
    kinds = ("mask", "box", "official mask", "official box")
    ious: dict[str, list[dict[int, float]]] = {kind: [{} for _ in truth.relevant] for kind in kinds}
    for query, right in enumerate(truth.relevant):
        if query in truth.unlabelled or not len(right):
            continue
        for photo, found in zip(right.tolist(), locate(query, right.tolist()), strict=True):
            if not found.any():
                continue
            true = truth.mask(query, photo)
            ious["mask"][query][photo] = mask_iou(found, true)
            ious["box"][query][photo] = box_iou(mask_box(found), mask_box(true))
            ious["official box"][query][photo], ious["official mask"][query][photo] = official_ious(found, true)
    return _metrics(rankings, truth, ious), ious["mask"]


def _metrics(
    rankings: Int[np.ndarray, "q k"], truth: PixelTruth, ious: dict[str, list[dict[int, float]]]
) -> dict[str, Any]:
    asked = rankings, truth.relevant, truth.junk
    pairs = sum(len(right) for q, right in enumerate(truth.relevant) if q not in truth.unlabelled)
    strict = {
        "mIoU": mean_iou_strict(ious["mask"], truth.relevant, truth.unlabelled),
        "box mIoU": mean_iou_strict(ious["box"], truth.relevant, truth.unlabelled),
        "CorLoc": sum(iou >= 0.5 for own in ious["box"] for iou in own.values()) / max(pairs, 1),
        "mAP@50:5:95": pixel_map_strict(*asked, ious["mask"], truth.unlabelled),
        "box mAP@50:5:95": pixel_map_strict(*asked, ious["box"], truth.unlabelled),
    }
    official = {
        "mAP@50:5:95": pixel_map_official(*asked, ious["official mask"], truth.unlabelled),
        "box mAP@50:5:95": pixel_map_official(*asked, ious["official box"], truth.unlabelled),
    }
    tells_hard = any(len(hard) for hard in truth.hard)
    if tells_hard:
        strict["mIoU hard"] = mean_iou_strict(ious["mask"], truth.hard, truth.unlabelled)
    for name in ("mask", "box"):
        both, hard_only = mean_iou_official(ious[f"official {name}"], truth.easy, truth.hard)
        official["mIoU" if name == "mask" else "box mIoU"] = both
        if tells_hard:
            official["mIoU hard" if name == "mask" else "box mIoU hard"] = hard_only
    return {
        rules: {name: 100 * float(value) for name, value in of.items() if not np.isnan(value)}
        for rules, of in (("strict", strict), ("official", official))
    }
