"""A region of a photograph: what of it is searched for.

It is a box (left, top, right, bottom), right and bottom exclusive; a click (x, y); a mask of the photograph's size; or
None, which is all of it. Coordinates are pixels of the upright photograph. What is described of a region is the box
around it with a margin, cut out as if it were a photograph of its own.
"""

import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

from sret_jax.config.rules import shown
from sret_jax.data.decoding import MIN_SIDE, encode_mask
from sret_jax.data.photo_set import PhotoSet, RecordSource
from sret_jax.data.resizing import Size
from sret_jax.errors import UserError
from sret_jax.storage.artifacts import fingerprint

Region = Sequence[int | float] | np.ndarray | None
Box = tuple[int, int, int, int]  # left, top, right, bottom; right and bottom exclusive
# Both chosen on held-out instances: benchmarks/region_queries.py.
CLICKED = 0.3  # side of the square that stands for a click, longest side of the photograph = 1
MARGIN = 0.05  # around the described region on each side, longer side of the region = 1


def checked_region(region: Region, size: Size) -> Float[np.ndarray, "_"] | Bool[np.ndarray, "H W"] | None:
    """A region as an array: a box or a click in float64, boxes clipped to the photograph, a mask in bool.

    Args:
        region: what somebody gave.
        size: (height, width) of the photograph, pixels.

    Raises:
        UserError: numbers that are not finite, neither a box nor a click; a region without any pixel of the photograph
            in it; a mask of another size.
    """
    if region is None:
        return None
    height, width = size
    try:
        numbers = np.asarray(region)
    except ValueError:  # of unequal lengths
        numbers = np.array(None)
    if numbers.ndim == 2:
        if numbers.dtype != bool:
            raise UserError(f"query mask: {numbers.dtype}, not bool; give True where the object is")
        if numbers.shape != (height, width):
            raise UserError(
                f"query mask: {numbers.shape[1]}x{numbers.shape[0]} pixels, its photograph {width}x{height}"
            )
        if not numbers.any():
            raise UserError("query mask: it is empty; mark the object in it")
        return numbers
    truths = isinstance(region, list | tuple) and any(isinstance(x, bool) for x in region)
    of_numbers = numbers.dtype.kind in "iuf" and not truths  # one of 400 digits makes an array of objects
    if numbers.shape not in ((2,), (4,)) or not of_numbers or not np.isfinite(numbers).all():
        raise UserError(f"query region {shown(region)}: give a box (left, top, right, bottom) or a click (x, y)")
    numbers = numbers.astype(np.float64)
    if len(numbers) == 2:
        x, y = numbers
        if not (0 <= x < width and 0 <= y < height):
            raise UserError(f"query click ({x:g}, {y:g}): outside the photograph of {width}x{height} pixels")
        return numbers
    clipped = np.clip(numbers, 0, [width, height, width, height])
    if not (clipped[:2] < clipped[2:]).all():
        box = ", ".join(f"{v:g}" for v in numbers)
        raise UserError(f"query box ({box}): no area inside the photograph of {width}x{height} pixels")
    return clipped


def region_box(region: Region, size: Size) -> Box:
    """The smallest box of whole pixels around a region; of a click a square, as far as it lies in the photograph.

    Raises:
        UserError: as `checked_region`.
    """
    found, (height, width) = checked_region(region, size), size
    if found is None:
        return 0, 0, width, height
    if found.ndim == 2:
        rows, columns = np.flatnonzero(found.any(1)), np.flatnonzero(found.any(0))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    if len(found) == 2:
        half = CLICKED * max(size) / 2
        found = np.concatenate([found - half, found + half])
    left, top = (max(0, math.floor(x)) for x in found[:2])
    right, bottom = (min(side, math.ceil(x)) for side, x in zip((width, height), found[2:], strict=True))
    return left, top, right, bottom


def described_box(region: Region, size: Size, margin: float = MARGIN) -> Box:
    """The box that is cut out of a photograph and described for a region of it.

    At least `MIN_SIDE` pixels a side, so that it can be decoded like any photograph; it ends where the photograph does.
    The square that stands for a click gets no margin.

    Args:
        region: what is searched for.
        size: (height, width) of the photograph, pixels.
        margin: around the region on each side, longer side of the region = 1.

    Raises:
        UserError: a region that is none, as `checked_region`; a negative margin.
    """
    if not (math.isfinite(margin) and margin >= 0):
        raise UserError(f"margin {margin}: give a share of the region's longer side, 0 or more")
    left, top, right, bottom = region_box(region, size)
    found = checked_region(region, size)
    clicked = found is not None and found.shape == (2,)
    around = 0.0 if clicked else margin * max(right - left, bottom - top)
    left, right = _widened(left, right, around, size[1])
    top, bottom = _widened(top, bottom, around, size[0])
    return left, top, right, bottom


def region_within(
    region: Region, size: Size, margin: float = MARGIN
) -> Float[np.ndarray, "4"] | Bool[np.ndarray, "h w"]:
    """The region in pixels of its `described_box`: a mask of that size, or a box, which stands for a click too.

    Raises:
        UserError: as `described_box`.
    """
    left, top, right, bottom = described_box(region, size, margin)
    found = checked_region(region, size)
    if found is not None and found.ndim == 2:
        return found[top:bottom, left:right]
    return np.array(region_box(region, size), np.float64) - [left, top, left, top]


def _widened(low: int, high: int, around: float, length: int) -> tuple[int, int]:
    """An interval with something around it, at least `MIN_SIDE` long, inside 0 to `length`."""
    low, high = max(0, math.floor(low - around)), min(length, math.ceil(high + around))
    shortest = min(MIN_SIDE, length)
    if high - low < shortest:
        low = min(max(0, (low + high - shortest) // 2), length - shortest)
        high = low + shortest
    return low, high


@dataclass(frozen=True)
class CutRecords:
    """Records whose photographs, and masks, are cut to boxes by row; the others stay as they are."""

    photos: PhotoSet
    boxes: Mapping[int, Box]

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> Mapping[str, bytes]:
        if index not in self.boxes:
            return self.photos.source[index]
        left, top, right, bottom = self.boxes[index]
        file = io.BytesIO()  # lossless
        Image.fromarray(self.photos.whole(index)[top:bottom, left:right]).save(file, "PNG", compress_level=1)
        mask = self.photos.mask(index)
        marked = {} if mask is None else {"mask": encode_mask(mask[top:bottom, left:right])}
        return {"image": file.getvalue()} | marked


def cut_out(photos: PhotoSet, regions: Mapping[int, Region], margin: float = MARGIN) -> PhotoSet:
    """The photographs, those of some rows cut to what is described of a region, as if they had been taken so.

    Unlike the boxes of a `PhotoSet`, which show a part at the scale that the whole photograph has, as the protocols of
    benchmarks do, what is cut out fills the network's input.

    Args:
        regions: by row; where it is None, or a row has none, the photograph stays whole.
        margin: as of `described_box`.

    Raises:
        UserError: a row that does not exist, or a region that is none (the photograph is named); photographs that are
            cut to boxes already.
    """
    sizes, digests, boxes = photos.sizes.copy(), list(photos.digests), {}
    for row, region in regions.items():
        if not 0 <= row < len(photos):
            raise UserError(f"a region of row {row}, but there are {len(photos)} photographs; rows count from 0")
        if region is None:
            continue
        height, width = photos.sizes[row].tolist()
        try:
            boxes[row] = left, top, right, bottom = described_box(region, (height, width), margin)
        except UserError as error:
            raise UserError(f"{photos.names[row]!r}: {error}") from None
        sizes[row] = bottom - top, right - left
        digests[row] = fingerprint(digests[row], boxes[row])
    if boxes and photos.boxes is not None:
        raise UserError(f"{photos.name}: its photographs are cut to their boxes already; give no regions")
    source: RecordSource = CutRecords(photos, boxes)
    return dataclasses.replace(photos, sizes=sizes, digests=digests, source=source) if boxes else photos
