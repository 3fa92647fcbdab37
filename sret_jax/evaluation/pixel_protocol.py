"""How well predicted masks overlap the ground-truth masks, over all relevant photographs of every query."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from sret_jax.datasets.pixel_truth import PixelTruth
from sret_jax.metrics.pixels import (
    mask_box_iou,
    mask_iou,
    mean_iou_official,
    mean_iou_strict,
    official_ious,
    official_mask_ious,
    pixel_map_official,
    pixel_map_strict,
)

Locate = Callable[[int, Sequence[int]], Sequence[Bool[np.ndarray, "H W"]]]  # (query, photos) -> their masks
Outline = Callable[[int, int], Int[np.ndarray, "p 2"]]  # (query, photo) -> what marks it there, without points: nothing


def pixel_protocol(
    rankings: Int[np.ndarray, "q k"], truth: PixelTruth, locate: Locate, outline: Outline | None = None
) -> tuple[dict[str, Any], list[dict[int, float]]]:
    """Every relevant photograph of every query that has masks, marked and compared.

    Args:
      rankings: photos, best first; -1 = none.
      truth: what is to be found, and where.
      locate: marks the object of a query in photos; an empty mask is no mark.
      outline: the same marks as the polygons that the published evaluator takes, called after `locate`. With it, and
        a truth that was drawn by polygons, the official overlaps are those of that evaluator; else they are of masks.

    Returns:
      `{"strict": {"mIoU", "box mIoU", "CorLoc", "mAP@50:5:95", "box mAP@50:5:95"}, "official": {"mIoU", "box mIoU",
      "mAP@50:5:95", "box mAP@50:5:95"}}` in percent, and where the benchmark tells hard photos from easy ones the same
      over the hard ones, "mIoU hard" and so on, all but CorLoc; what has no value, as an official mean over a query
      without any mark, is left out. CorLoc is the share of pairs whose boxes overlap by half. And
      per query the overlap of the masks, {photo: 0 to 1}.
    """
    kinds = ("mask", "box", "official mask", "official box")
    ious: dict[str, list[dict[int, float]]] = {kind: [{} for _ in truth.relevant] for kind in kinds}
    drawn = truth.shapes if outline else None
    for query, right in enumerate(truth.relevant):
        photos = right.tolist()
        official = ious["official box"][query], ious["official mask"][query]
        if query not in truth.unlabelled and photos:
            for photo, found in zip(photos, locate(query, photos), strict=True):
                if not found.any():
                    continue
                true = truth.mask(query, photo)
                ious["mask"][query][photo] = mask_iou(found, true)
                ious["box"][query][photo] = mask_box_iou(found, true)
                if drawn is None:
                    official[0][photo], official[1][photo] = official_mask_ious(found, true)
        if outline is None or drawn is None:
            continue
        for photo in photos:  # of unlabelled queries too, where they have labels
            mark, shapes = outline(query, photo), drawn(query, photo)
            if len(mark) and shapes:
                official[0][photo], official[1][photo] = official_ious(mark, shapes)
    return _metrics(rankings, truth, ious), ious["mask"]


def _metrics(
    rankings: Int[np.ndarray, "q k"], truth: PixelTruth, ious: dict[str, list[dict[int, float]]]
) -> dict[str, Any]:
    pairs = sum(len(right) for q, right in enumerate(truth.relevant) if q not in truth.unlabelled)
    strict = {"CorLoc": sum(iou >= 0.5 for own in ious["box"] for iou in own.values()) / max(pairs, 1)}
    official: dict[str, float] = {}
    sets = {"": (truth.relevant, truth.junk)}
    if any(len(hard) for hard in truth.hard):
        easy_too = [np.concatenate(pair) for pair in zip(truth.easy, truth.junk, strict=True)]
        sets[" hard"] = truth.hard, easy_too
    for kind, name in (("mask", ""), ("box", "box ")):
        means = mean_iou_official(ious[f"official {kind}"], truth.easy, truth.hard)
        for (of, (right, junk)), mean in zip(sets.items(), means, strict=False):
            lists = rankings, right, junk
            strict[f"{name}mIoU{of}"] = mean_iou_strict(ious[kind], right, truth.unlabelled)
            strict[f"{name}mAP@50:5:95{of}"] = pixel_map_strict(*lists, ious[kind], truth.unlabelled)
            official[f"{name}mIoU{of}"] = mean
            official[f"{name}mAP@50:5:95{of}"] = pixel_map_official(*lists, ious[f"official {kind}"], truth.unlabelled)
    return {
        rules: {name: 100 * float(value) for name, value in of.items() if not np.isnan(value)}
        for rules, of in (("strict", strict), ("official", official))
    }
