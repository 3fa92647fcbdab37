"""Which size a photograph gets, and the few padded shapes in which all of them travel.

A photograph keeps its aspect up to the rounding to `multiple` pixels that the backbone needs. It is placed in the
top left corner of the smallest bucket that holds it; the mask is True where the photograph is.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

RESIZING_VERSION = 1  # of what is made of a decoded photograph before the network: raise it when that changes

Size = tuple[int, int]  # (height, width), pixels


def round_to(length: int | float, multiple: int) -> int:
    """The nearest positive multiple; halves go up."""
    return max(1, int(length / multiple + 0.5)) * multiple


def content_size(size_hw: Sequence[int | np.integer], longest: int | float, multiple: int) -> Size:
    """The size of a photograph of `size_hw` when its longest side becomes `longest`, rounded to `multiple`."""
    h, w = (int(side) for side in size_hw)
    target = round_to(longest, multiple)
    scale = target / max(h, w)
    return (target, round_to(w * scale, multiple)) if h >= w else (round_to(h * scale, multiple), target)


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


def resize(photo: UInt8[np.ndarray, "h w 3"], size: Size) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Bicubic with antialiasing (Pillow); a photograph that has the size already is returned as it is."""
    if photo.shape[:2] == tuple(size):
        return photo
    return np.asarray(Image.fromarray(photo).resize((size[1], size[0]), Image.Resampling.BICUBIC))


def place(photo: UInt8[np.ndarray, "h w 3"], shape: Size) -> tuple[UInt8[np.ndarray, "H W 3"], Bool[np.ndarray, "H W"]]:
    """The photograph in the top left corner of zeros of `shape`, and the mask of where it is."""
    h, w = photo.shape[:2]
    if h > shape[0] or w > shape[1]:
        raise ValueError(f"a photograph of {(h, w)} does not fit {shape}")
    image = np.zeros((*shape, 3), np.uint8)
    mask = np.zeros(shape, bool)
    image[:h, :w], mask[:h, :w] = photo, True
    return image, mask
