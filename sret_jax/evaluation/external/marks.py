"""What other methods have marked, in the files that they write: COCO's results, pictures, or pixel retrieval's .npy."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from sret_jax.data.names import RowsByName
from sret_jax.data.photo_set import PhotoSet
from sret_jax.data.resizing import Size
from sret_jax.datasets.mask_file import ENDINGS, read_mask
from sret_jax.datasets.object_file import read_npy_dict
from sret_jax.datasets.pixel_truth import PAIR, Mask
from sret_jax.datasets.polygons import MAX_COORDINATE, outline_polygon, polygon, polygon_mask
from sret_jax.datasets.run_length import decode_runs
from sret_jax.errors import UserError
from sret_jax.storage.files import Unreadable, named
from sret_jax.storage.foreign import a_list, a_number, a_whole_number, an_object, numbers, read_json, short

FORMATS = "COCO's results (.json), a folder of <query>_<photo>.png, or pixel retrieval's dict of polygons (.npy)"
PICTURE = PAIR, "<query>_<photo>"  # how a pair is named
MATCH = re.compile(r"qimlist_(\d{1,9})_imlist_(\d{1,9})"), "qimlist_<query>_imlist_<photo>"


@dataclass(frozen=True)
class Marks:
    """What was marked, (query, photo) -> it.

    mask      its pixels, at the size of the photo
    outline   one polygon (x, y) around it, uncut as the file has it where it has one; without any point of nothing
    """

    mask: Mask
    outline: Callable[[int, int], Int[np.ndarray, "p 2"]]


def read_marks(path: str | Path, queries: Sequence[str], photos: PhotoSet) -> Marks:
    """Where a method says that the object of each query is.

        .json     a list of {"category_id": query, "image_id": photo, "segmentation" or "bbox", "score"} as of COCO's
                  results: run lengths, polygons or a box (left, top, width, height). Query and photo are names, or
                  numbers in the benchmark's order. Of several for one pair those of the highest score count, together
        folder    <query>_<photo>.png, numbers in the benchmark's order: a mask, in a form that `mask_file` reads
        .npy      {"qimlist_<query>_imlist_<photo>": polygon [[x, y], ...], or [] for nothing}, numbers: the matching
                  results of PROxford, and what `submissions.matching_file` writes

    A pair that is not in the file was not marked. Polygons are filled with their borders, coordinates truncated; they
    may reach beyond the photo.

    Args:
      path: of the file or folder.
      queries: names.
      photos: their names and sizes.

    Raises:
      UserError: names the entry that is wrong; of what it draws, when that is asked for. Nothing in a file is executed.
    """
    path = Path(path)
    drawn: dict[tuple[int, int], np.ndarray] = {}
    if path.is_dir():
        found = _pictures(path, queries, photos)
    elif path.suffix == ".json":
        found = _coco(path, queries, photos)
    elif path.suffix == ".npy":
        drawn = _polygons(path, queries, photos)
        found = {pair: [_filled([points])] if len(points) else [] for pair, points in drawn.items()}
    else:
        raise UserError(f"--marks={path}: give {FORMATS}")
    if not found:
        raise UserError(f"{path}: marks nothing; give {FORMATS}")

    def mark(query: int, photo: int) -> np.ndarray:
        size = (int(photos.sizes[photo][0]), int(photos.sizes[photo][1]))
        masks = [draw(size) for draw in found.get((query, photo), ())]
        return np.logical_or.reduce(masks) if masks else np.zeros(size, bool)

    def outline(query: int, photo: int) -> np.ndarray:
        return drawn[query, photo] if (query, photo) in drawn else outline_polygon(mark(query, photo))

    return Marks(mark, outline)


PairMasks = Mapping[tuple[int, int], Sequence[Callable[[Size], Bool[np.ndarray, "h w"]]]]  # what draws each pair


def _pictures(folder: Path, queries: Sequence[str], photos: PhotoSet) -> PairMasks:
    found: dict[tuple[int, int], Sequence[Callable[[Size], np.ndarray]]] = {}
    for path in sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS):
        pair = _pair(path.stem, PICTURE, queries, photos, path)
        if pair in found:
            raise UserError(f"{path}: its pair has another picture; keep one of them")
        found[pair] = [partial(read_mask, path)]
    return found


def _polygons(path: Path, queries: Sequence[str], photos: PhotoSet) -> dict[tuple[int, int], Int[np.ndarray, "p 2"]]:
    found = {}
    for key, points in read_npy_dict(path).items():
        pair = _pair(key, MATCH, queries, photos, path)
        try:
            found[pair] = polygon(points) if len(points) else np.empty((0, 2), np.int64)
        except (Unreadable, ValueError, TypeError) as error:
            raise UserError(f"{path}: {short(key)} is no polygon [[x, y], ...] ({error})") from None
    return found


def _pair(
    key: str, named: tuple[re.Pattern[str], str], queries: Sequence[str], photos: PhotoSet, path: Path
) -> tuple[int, int]:
    pattern, form = named
    numbers = pattern.fullmatch(key)
    if not numbers or int(numbers[1]) >= len(queries) or int(numbers[2]) >= len(photos):
        numbered = f"{len(queries)} queries and {len(photos)} photos, numbered from 0"
        raise UserError(f"{path}: {short(key)} is no {form} of the benchmark's {numbered}")
    return int(numbers[1]), int(numbers[2])


def _coco(path: Path, queries: Sequence[str], photos: PhotoSet) -> PairMasks:
    with named(path, f"it is not COCO's results; give {FORMATS}"):
        entries = [an_object(entry, "an entry") for entry in a_list(read_json(path), "it")]
    rows = {"category_id": RowsByName(queries), "image_id": RowsByName(photos.names)}
    best: dict[tuple[int, int], tuple[float, list[Any]]] = {}
    for number, entry in enumerate(entries):
        where = f"{path}, entry {number}"
        query, photo = (_row(entry.get(key), of, f"{where}: {key}") for key, of in rows.items())
        pair = query, photo
        with named(where, "correct it"):
            score = a_number(entry.get("score", 0), "score")
        draw = _drawn(entry, where)
        if pair not in best or score > best[pair][0]:
            best[pair] = score, [draw]
        elif score == best[pair][0]:
            best[pair][1].append(draw)
    return {pair: draws for pair, (_, draws) in best.items()}


def _row(value: Any, names: RowsByName, where: str) -> int:
    """By number, or by name; a name that is a number is never looked up by it, for JSON tells text from numbers."""
    if isinstance(value, str) and value in names:
        return names[value]
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(names):
        return value
    raise UserError(f"{where} {short(value)} is no name or number of the benchmark")


def _drawn(entry: Mapping[str, Any], where: str) -> Callable[[Size], Bool[np.ndarray, "h w"]]:
    """What draws an entry's segmentation, or without one its box; checked except for the sizes of masks."""
    segmentation = entry.get("segmentation")
    try:
        if isinstance(segmentation, dict):
            counts, given = segmentation["counts"], a_list(segmentation["size"], "size")
            height, width = (a_whole_number(n, "size") for n in given)
            return lambda size: _runs(counts, (height, width), size, where)
        if segmentation:
            flat = [numbers(points, "a polygon") for points in a_list(segmentation, "segmentation")]
            return _filled([polygon(np.reshape(points, (-1, 2))) for points in flat])
        left, top, wide, high = numbers(entry["bbox"], "bbox", 4)
        corners = np.array([left, top, left + wide, top + high])
        if wide <= 0 or high <= 0:
            raise ValueError("a box without area")
        box = np.round(corners).clip(0, MAX_COORDINATE).astype(np.int64)
        return lambda size: _box(box, size)
    except (Unreadable, ValueError, TypeError, KeyError, OverflowError) as error:
        raise UserError(f"{where}: neither run lengths, nor polygons, nor a box ({error})") from None


def _runs(counts: Any, own: tuple[int, int], size: Size, where: str) -> Bool[np.ndarray, "h w"]:
    if own != size:
        raise UserError(f"{where}: a mask of {own[1]}x{own[0]} for a photo of {size[1]}x{size[0]} pixels")
    try:
        return decode_runs(counts, size)
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{where}: {error}") from None


def _box(box: np.ndarray, size: Size) -> Bool[np.ndarray, "h w"]:
    mask = np.zeros(size, bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def _filled(polygons: Sequence[np.ndarray]) -> Callable[[Size], Bool[np.ndarray, "h w"]]:
    return lambda size: polygon_mask(polygons, size)
