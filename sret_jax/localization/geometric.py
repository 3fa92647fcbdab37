"""Where a query region lies in another photograph, from the transform that spatial verification found between the two.

Transforms take homogeneous coordinates (x, y, 1) of the query to those of the gallery photograph, both in units of the
longest side of their photograph, from its upper left corner.
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float

from sret_jax.data.resizing import Size

SINGULAR = 1e-6  # determinant of a transform of largest entry 1, below which it maps the plane to a line or a point


class WarpedRegion(NamedTuple):
    """A region in a gallery photograph: its pixels, and their box (left, top, right, bottom), ends exclusive."""

    mask: Bool[np.ndarray, "H W"]
    box: Float[np.ndarray, "4"]


def box_mask(box: Float[np.ndarray, "4"], size: Size) -> Bool[np.ndarray, "h w"]:
    """The pixels whose centres are in a box (left, top, right, bottom)."""
    y, x = (np.arange(n) + 0.5 for n in size)
    left, top, right, bottom = box
    return np.outer((y > top) & (y < bottom), (x > left) & (x < right))


def warp_region(
    transform: Float[np.ndarray, "3 3"], region: Bool[np.ndarray, "h w"], gallery: Size
) -> WarpedRegion | None:
    """The pixels of the gallery photograph that show the region, as far as they lie in it.

    Args:
        transform: query to gallery.
        region: pixels of the query; of a box by `box_mask`.
        gallery: (height, width) of the gallery photograph, pixels.

    Returns:
        None where the transform is not finite or singular, part of the region falls behind the camera, or nothing of it
        into the photograph.
    """
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    if not len(rows) or not np.isfinite(transform).all() or not transform.any():
        return None
    transform = np.asarray(transform, np.float64) / np.abs(transform).max()
    if abs(np.linalg.det(transform)) < SINGULAR:
        return None
    x, y = np.array([columns[0], columns[-1] + 1]), np.array([rows[0], rows[-1] + 1])
    corners = np.array([(u, v) for u in x for v in y]) / max(region.shape)
    depth = corners @ transform[2, :2] + transform[2, 2]
    if not (depth.min() > 0 or depth.max() < 0):  # the horizon crosses the region
        return None
    if depth.max() < 0:  # the same transform, in front of the camera
        transform = -transform
    to_pixels = _scaling(max(gallery)) @ transform @ np.linalg.inv(_scaling(max(region.shape)))
    flags = cv2.INTER_LINEAR
    warped = cv2.warpPerspective(region.astype(np.float32), to_pixels, (gallery[1], gallery[0]), flags=flags)
    mask = warped > 0.5
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    return WarpedRegion(mask, np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64))


def _scaling(longest: int) -> Float[np.ndarray, "3 3"]:
    """From units of the longest side to pixels counted from the centre of the first."""
    return np.array([[longest, 0, -0.5], [0, longest, -0.5], [0, 0, 1.0]])
