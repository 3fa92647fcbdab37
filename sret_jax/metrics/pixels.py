"""How well photographs are found and the object in them marked at once: pixel retrieval (An et al., ICCV 2023).

Two sets of rules. `official` gives the numbers of the published evaluator, with its flaws: a perfect result scores
0.9714 on its two benchmarks, and a photo that is not localised costs nothing. `strict` divides by what there is to
find. Everything is in [0, 1]. `ious` is, per query, `{photo: overlap of what was marked with what should be}`; a
photo that is not in it was not marked at all.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from sret_jax.datasets.polygons import polygon_mask
from sret_jax.metrics.ranking import positions_without_junk, trapezoid_average_precision

Ious = Sequence[Mapping[int, float]]
THRESHOLDS = tuple(range(50, 100, 5))  # percent; an overlap has to be larger


def pixel_map_official(
    rankings: Int[np.ndarray, "q k"],
    relevant: Sequence[np.ndarray],
    junk: Sequence[np.ndarray],
    ious: Ious,
    unlabelled: Collection[int] = (),
) -> float:
    """mAP@50:5:95 as published: the mean over thresholds t of the revisited mAP, where photos below t do not exist.

    What is not marked well enough leaves the relevant photos and becomes a wrong answer; a query that keeps none is
    left out of the mean; `unlabelled` queries score 0. The evaluator was released with the box overlap in `ious`.

    Args:
      rankings: photo indices, best first; -1 = no photo.
      relevant, junk: photo indices per query.
      ious: overlaps per query.
      unlabelled: queries without masks.
    """
    means = []
    for t in THRESHOLDS:
        total, left_out = 0.0, 0
        for q, (ranking, right, ignored) in enumerate(zip(rankings, relevant, junk, strict=True)):
            if q in unlabelled:
                continue
            marked = np.array([photo for photo in right if ious[q].get(int(photo), 0) > t / 100], np.int64)
            if not len(marked):
                left_out += 1
                continue
            positions = positions_without_junk(ranking, marked, ignored)
            total += trapezoid_average_precision(positions, len(marked))
        means.append(total / (len(rankings) - left_out) if left_out < len(rankings) else 0.0)
    return float(np.mean(means))


def pixel_map_strict(
    rankings: Int[np.ndarray, "q k"],
    relevant: Sequence[np.ndarray],
    junk: Sequence[np.ndarray],
    ious: Ious,
    unlabelled: Collection[int] = (),
) -> float:
    """mAP@50:5:95 where every relevant photo counts at every threshold t.

        AP_t = the area by trapezoids under precision over recall; found = ranked and marked with an overlap > t,
               recall = found / (all relevant photos)

    A relevant photo that is marked worse takes its rank as a wrong answer. The mean is over all queries that have
    masks and something to find, whatever was found. The overlap should be that of masks.

    Args:
      rankings, relevant, junk, ious, unlabelled: as for `pixel_map_official`.
    """
    queries = [q for q, right in enumerate(relevant) if len(right) and q not in unlabelled]
    scores = [
        trapezoid_average_precision(positions_without_junk(rankings[q], marked, junk[q]), len(relevant[q]))
        for q in queries
        for t in THRESHOLDS
        for marked in [np.array([i for i in relevant[q] if ious[q].get(int(i), 0) > t / 100], np.int64)]
    ]
    return float(np.mean(scores)) if scores else float("nan")


def mean_iou_official(ious: Ious, easy: Sequence[np.ndarray], hard: Sequence[np.ndarray]) -> tuple[float, float]:
    """(medium, hard) mean overlap as published: over the photos of a query, then over all queries.

    A hard photo that was not marked counts 0; an easy one that was not is left out. One query without any photo makes
    the mean nan.
    """
    medium_means: list[float] = []
    hard_means: list[float] = []
    for marked, sure, unsure in zip(ious, easy, hard, strict=True):
        of_hard = [marked.get(int(photo), 0.0) for photo in unsure]
        of_easy = [marked[int(photo)] for photo in sure if int(photo) in marked]
        hard_means.append(float(np.mean(of_hard)) if of_hard else float("nan"))
        medium_means.append(float(np.mean(of_hard + of_easy)) if of_hard + of_easy else float("nan"))
    return float(np.mean(medium_means)), float(np.mean(hard_means))


def mean_iou_strict(ious: Ious, relevant: Sequence[np.ndarray], unlabelled: Collection[int] = ()) -> float:
    """Mean overlap over all relevant photos of a query, 0 where nothing was marked, then over the labelled queries."""
    means = [
        np.mean([ious[q].get(int(photo), 0.0) for photo in right])
        for q, right in enumerate(relevant)
        if len(right) and q not in unlabelled
    ]
    return float(np.mean(means)) if means else float("nan")


def mask_iou(found: Bool[np.ndarray, "h w"], true: Bool[np.ndarray, "h w"]) -> float:
    """Pixels in both over pixels in either; 0 where nothing is marked at all."""
    union = int((found | true).sum())
    return int((found & true).sum()) / union if union else 0.0


def box_iou(found: Float[np.ndarray, "4"], true: Float[np.ndarray, "4"]) -> float:
    """The same of two boxes (left, top, right, bottom), right and bottom exclusive."""
    shared = np.minimum(found[2:], true[2:]) - np.maximum(found[:2], true[:2])
    both = float(np.prod(np.maximum(shared, 0)))
    union = float(np.prod(found[2:] - found[:2]) + np.prod(true[2:] - true[:2])) - both
    return both / union if union > 0 else 0.0


def mask_box(mask: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "4"] | None:
    """The smallest box that holds a mask; None of an empty one."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64)


def mask_box_iou(found: Bool[np.ndarray, "h w"], true: Bool[np.ndarray, "h w"]) -> float:
    """`box_iou` of the boxes of two masks; 0 where one is empty, as of a label that lies beside its photograph."""
    box, true_box = mask_box(found), mask_box(true)
    return 0.0 if box is None or true_box is None else box_iou(box, true_box)


def official_ious(found: Int[np.ndarray, "p 2"], true: Sequence[Int[np.ndarray, "_ 2"]]) -> tuple[float, float]:
    """(overlap of the boxes, overlap of the areas) of a polygon with the polygons of a label, as published.

    To the last bit, for both are drawn on the published canvas: a square whose side is the largest coordinate that
    occurs, so that the last row or column falls off. A box that begins left of the photo or above it is counted from
    the other end of the canvas, where there is mostly nothing of it. nan where the canvas has nothing of either.

    Args:
      found: x and y, whole pixels; at least one point.
      true: the same of each shape.
    """
    every = np.concatenate(true)
    side = max(0, int(max(found.max(), every.max())))
    spans = [
        [range(side)[low : high + 1] for low, high in zip(p.min(0).tolist(), p.max(0).tolist(), strict=True)]
        for p in (found, every)
    ]
    shared = [max(0, min(a.stop, b.stop) - max(a.start, b.start)) for a, b in zip(*spans, strict=True)]
    box = _share(shared[0] * shared[1], *(len(x) * len(y) for x, y in spans))
    masks = [polygon_mask(polygons, (side, side)) for polygons in ([found], true)]
    columns, rows = np.maximum(np.minimum(found.max(0), every.max(0)) + 1, 0)  # nothing is shared beyond
    both = int(np.count_nonzero(masks[0][:rows, :columns] & masks[1][:rows, :columns]))
    return box, _share(both, *(int(np.count_nonzero(mask)) for mask in masks))


def _share(both: int, *areas: int) -> float:
    union = sum(areas) - both
    return both / union if union else float("nan")


def official_mask_ious(found: Bool[np.ndarray, "h w"], true: Bool[np.ndarray, "h w"]) -> tuple[float, float]:
    """The same of masks that were not drawn by polygons: cut to that canvas, (0, 0) where one is empty."""
    box, true_box = mask_box(found), mask_box(true)
    if box is None or true_box is None:
        return 0.0, 0.0
    side = int(max(box[2:].max(), true_box[2:].max())) - 1
    cut = np.minimum(box, side), np.minimum(true_box, side)
    return box_iou(*cut), mask_iou(found[:side, :side], true[:side, :side])
