"""Masks as polygons and back, as OpenCV fills them: borders belong to it, what is covered twice is outside."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Int
from scipy.spatial import cKDTree

from sret_jax.storage.foreign import a_number

MAX_COORDINATE = 1 << 15  # of a point: the published evaluator of pixel retrieval draws on a square of that side
MOST_POINTS = 1 << 14  # of the borders that are joined to one polygon; what they need grows with the square


def polygon(points: Any) -> Int[np.ndarray, "p 2"]:
    """A list of x and y, cut to whole pixels; `ValueError`, `TypeError` or `Unreadable` if it is anything else."""
    if isinstance(points, list | tuple):  # a pickle may hold one list of points a thousand times
        points = [[a_number(x, "a coordinate") for x in point] for point in points]
    found = np.trunc(np.asarray(points, np.float64))
    if found.ndim != 2 or found.shape[1] != 2 or not len(found) or not (np.abs(found) <= MAX_COORDINATE).all():
        raise ValueError(f"a polygon is a list of x and y, at most {MAX_COORDINATE}")
    return found.astype(np.int64)


def polygon_mask(
    polygons: Sequence[Int[np.ndarray, "_ 2"]], size: Sequence[int] | Int[np.ndarray, "2"]
) -> Bool[np.ndarray, "h w"]:
    """The pixels of (height, width) in any of the polygons, borders included."""
    canvas = np.zeros((int(size[0]), int(size[1])), np.uint8)
    for points in polygons:
        cv2.fillPoly(canvas, [np.asarray(points, np.int32)], 1)
    return canvas.view(bool)


def outline_polygon(mask: Bool[np.ndarray, "h w"]) -> Int[np.ndarray, "p 2"]:
    """The one polygon (x, y) that `polygon_mask` fills to the mask; without any point of an empty mask.

    The border of its largest part; holes and further parts hang on it by bridges between nearest points, which are
    walked to and fro. A bridge to another part adds its own pixels, one to a hole none. Of a mask in crumbs the
    smallest borders are left out, beyond `MOST_POINTS` altogether.
    """
    borders, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    if not borders:
        return np.empty((0, 2), np.int64)
    borders = sorted((border[:, 0].astype(np.int64) for border in borders), key=len, reverse=True)
    kept = max(1, int(np.searchsorted(np.cumsum([len(border) for border in borders]), MOST_POINTS, side="right")))
    return _without_straight(_joined(borders[:kept]))


def _joined(borders: Sequence[Int[np.ndarray, "_ 2"]]) -> Int[np.ndarray, "p 2"]:
    """Closed borders as one: by turns the one that is nearest to those before it, at its nearest point (Prim 1957)."""
    points = np.concatenate(borders)
    border = np.repeat(np.arange(len(borders)), [len(own) for own in borders])
    ends = np.cumsum([len(own) for own in borders])
    first, last = np.r_[0, ends[:-1]], ends - 1
    at, follows = list(range(len(points))), list(range(1, len(points) + 1))  # steps: the point of each, and the next
    for start, end in zip(first.tolist(), last.tolist(), strict=True):
        follows[end] = start
    distance, nearest = np.full(len(points), np.inf), np.zeros(len(points), np.int64)
    left, new = border > 0, 0
    while left.any():
        rest = np.flatnonzero(left)
        far, point = cKDTree(points[first[new] : last[new] + 1]).query(points[rest])
        nearer = far < distance[rest]
        distance[rest[nearer]], nearest[rest[nearer]] = far[nearer], first[new] + point[nearer]
        there = int(rest[np.argmin(distance[rest])])
        here, new = int(nearest[there]), int(border[there])
        before = there - 1 if there > first[new] else int(last[new])
        at += [there, here]  # back at the bridge's far end, and at its near one
        follows += [len(at) - 1, follows[here]]
        follows[before], follows[here] = len(at) - 2, there
        left &= border != new
    walk, step = [at[0]], follows[0]
    while step:
        walk.append(at[step])
        step = follows[step]
    return points[walk]


def _without_straight(points: Int[np.ndarray, "p 2"]) -> Int[np.ndarray, "q 2"]:
    """A closed polygon without the points at which it goes straight on."""
    turns = (points - np.roll(points, 1, axis=0) != np.roll(points, -1, axis=0) - points).any(1)
    return points[turns] if turns.any() else points[:1]
