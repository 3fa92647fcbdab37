"""Which size a photograph gets, how it is resized to it, and the few padded shapes in which all of them travel.

A photograph keeps its aspect up to the rounding to `multiple` pixels that the backbone needs. It is placed in the
top left corner of the smallest bucket that holds it; the mask is True where the photograph is.

Filter and rounding are those that the network was trained with (`data.filter`, `data.rounding`). The networks of
cirtorch, HOW and SOLAR were measured on what `PIL.Image.thumbnail((s, s), LANCZOS)` made of photographs, which Pillow
has changed: until version 6 it took the whole part of the shorter side and filtered in one step ("lanczos", "down"),
since version 7 it averages blocks of pixels first and takes the side nearest in aspect ("thumbnail", "aspect").
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

RESIZING_VERSION = 1  # of what is made of a decoded photograph before the network: raise it when that changes

Size = tuple[int, int]  # (height, width), pixels
FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "thumbnail": Image.Resampling.LANCZOS,
}
THUMBNAIL_GAP = 2.0  # Pillow's: blocks are averaged while the photograph stays this many times its new size


def round_to(length: int | float, multiple: int) -> int:
    """The nearest positive multiple; halves go up."""
    return max(1, int(length / multiple + 0.5)) * multiple


def content_size(
    size_hw: Sequence[int | np.integer], longest: int | float, multiple: int, rounding: str = "nearest"
) -> Size:
    """The size of a photograph of `size_hw` when its longest side becomes `longest`.

    The longest side becomes the nearest multiple of `multiple`, the shorter one as `rounding` ("nearest", "down",
    "aspect") says.
    """
    h, w = (int(side) for side in size_hw)
    target = round_to(longest, multiple)
    if rounding == "nearest":
        scale = target / max(h, w)
        return (target, round_to(w * scale, multiple)) if h >= w else (round_to(h * scale, multiple), target)
    shorter = (_whole_part if rounding == "down" else _nearest_aspect)(h, w, target)
    shorter = max(1, shorter // multiple) * multiple
    return (target, shorter) if h >= w else (shorter, target)


def _whole_part(h: int, w: int, target: int) -> int:
    """Of an upright photograph wider than `target`, first the width is made `target`, and then the height: twice."""
    if w > h:
        return max(1, int(h * target / w))
    if w > target:
        return max(1, int(target * target / int(h * target / w)))
    return max(1, int(w * target / h))


def _nearest_aspect(h: int, w: int, target: int) -> int:
    """Of the whole numbers below and above the exact length, the one nearer in width / height."""
    aspect = w / h
    exact = target / aspect if w > h else target * aspect
    below, above = math.floor(exact), math.ceil(exact)
    if below == 0:
        return 1

    def error(side: int) -> float:
        return abs(aspect - (target / side if w > h else side / target))

    return below if error(below) <= error(above) else above


def bucket_shapes(longest: int, ratios: Sequence[float], multiple: int) -> list[Size]:
    """The square, and for each short/long ratio a landscape and a portrait shape; smallest area first."""
    target = round_to(longest, multiple)
    shapes = {(target, target)}
    for ratio in ratios:
        short = min(target, round_to(target * ratio, multiple))
        shapes |= {(short, target), (target, short)}
    return sorted(shapes, key=lambda shape: (shape[0] * shape[1], shape))


def choose_bucket(content: Size, buckets: Sequence[Size]) -> Size:
    """The smallest bucket that holds `content`."""
    fits = [shape for shape in buckets if content[0] <= shape[0] and content[1] <= shape[1]]
    if not fits:
        raise ValueError(f"no bucket of {list(buckets)} holds {content}")
    return min(fits, key=lambda shape: (shape[0] * shape[1], shape))


def resize(photo: UInt8[np.ndarray, "h w 3"], size: Size, filter: str = "bicubic") -> UInt8[np.ndarray, "h2 w2 3"]:
    """With antialiasing (Pillow), by one of `FILTERS`; a photograph that has the size already is returned as it is."""
    if photo.shape[:2] == tuple(size):
        return photo
    gap = THUMBNAIL_GAP if filter == "thumbnail" else None
    return np.asarray(Image.fromarray(photo).resize((size[1], size[0]), FILTERS[filter], reducing_gap=gap))


def place(photo: UInt8[np.ndarray, "h w 3"], shape: Size) -> tuple[UInt8[np.ndarray, "H W 3"], Bool[np.ndarray, "H W"]]:
    """The photograph in the top left corner of zeros of `shape`, and the mask of where it is."""
    h, w = photo.shape[:2]
    if h > shape[0] or w > shape[1]:
        raise ValueError(f"a photograph of {(h, w)} does not fit {shape}")
    image = np.zeros((*shape, 3), np.uint8)
    mask = np.zeros(shape, bool)
    image[:h, :w], mask[:h, :w] = photo, True
    return image, mask
