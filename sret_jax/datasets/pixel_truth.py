"""Which pixels of a photograph show the object of a query, as the authors of a benchmark have drawn them."""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Bool, Int

from sret_jax.data.photo_set import PhotoSet
from sret_jax.datasets.ground_truth import GroundTruth
from sret_jax.datasets.lookups import Lookup, paintings_entries
from sret_jax.datasets.mask_file import find_mask, read_mask
from sret_jax.datasets.object_file import read_npy_dict
from sret_jax.datasets.polygons import polygon, polygon_mask
from sret_jax.errors import UserError
from sret_jax.storage.files import Unreadable
from sret_jax.storage.foreign import a_list, an_object, one_of, read_json, short

log = logging.getLogger(__name__)

PAIR = re.compile(r"(\d{1,9})_(\d{1,9})")  # of a query and a photo, by number
# github.com/anguoyuan/Pixel_retrieval-Segmented_instance_retrieval, README.md
LABELS = "https://sgvr.kaist.ac.kr/~guoyuan/Segment_retrieval/pixel_retrieval_benchmarks.rar"
OVERSHOOT = 5  # pixels beyond the photo that a label may reach, as clicks at its border do
UNLABELLED = {"roxford5k": (56, 63), "rparis6k": (57, 59)}  # queries of which nobody drew the masks

Mask = Callable[[int, int], Bool[np.ndarray, "h w"]]  # (query, photo) -> True on its object, at the size of the photo
Shapes = Callable[[int, int], list[Int[np.ndarray, "_ 2"]] | None]  # (query, photo) -> polygons (x, y) on its object


@dataclass(frozen=True, eq=False)
class PixelTruth:
    """What is to be found, and where.

    mask         of a relevant pair
    easy, hard   per query, rows of the photos that show it; without that difference all are easy
    junk         per query, rows that are not counted either way
    unlabelled   queries without masks, left out of the strict metrics
    shapes       what the mask was drawn from, uncut; of a pair without a label None. None: it was not drawn by polygons
    """

    mask: Mask
    easy: list[Int[np.ndarray, "_"]]
    hard: list[Int[np.ndarray, "_"]]
    junk: list[Int[np.ndarray, "_"]]
    unlabelled: tuple[int, ...] = ()
    shapes: Shapes | None = None

    @property
    def relevant(self) -> list[Int[np.ndarray, "_"]]:
        return [np.concatenate(pair) for pair in zip(self.easy, self.hard, strict=True)]


def masked_truth(photos: PhotoSet) -> PixelTruth:
    """Of photographs with masks that ask for each other: all others of the same instance, and where it is in them.

    A photograph is its own junk, no answer to itself.
    """

    def mask(query: int, photo: int) -> np.ndarray:
        found = photos.mask(photo)
        if found is None:
            raise UserError(f"{photos.name}: {photos.names[photo]!r} has no mask")
        return found

    return _of_each_other(photos, mask, np.ones(len(photos), bool))


def folder_truth(root: Path, photos: PhotoSet) -> PixelTruth:
    """The same with masks in a folder of their own: <root>/<instance>/<photo>.png, or another of `mask_file.ENDINGS`.

    A photograph without a mask, which is warned of, is no answer either way.

    Raises `UserError` where no photograph has one; and, when it is read, naming a mask that does not fit.
    """
    expected = [root / PurePosixPath(name).with_suffix(".png") for name in photos.names]
    paths = [find_mask(root, str(PurePosixPath(name).with_suffix(""))) for name in photos.names]
    drawn = np.array([path is not None for path in paths])
    if not drawn.any():
        raise UserError(
            f"{root}: no mask of the {len(paths)} photos; that of {photos.names[0]!r} would be {expected[0]}"
        )
    if not drawn.all():
        missing = expected[int(np.argmin(drawn))]
        log.warning("%s: %d of %d photos have no mask (%s, ...)", root, (~drawn).sum(), len(paths), missing)

    def mask(query: int, photo: int) -> np.ndarray:
        path = paths[photo] or expected[photo]
        found = read_mask(path, photos.sizes[photo])
        if not found.any():
            raise UserError(f"{path}: nothing is marked in it; leave it out if nobody drew the object")
        return found

    return _of_each_other(photos, mask, drawn)


def _of_each_other(photos: PhotoSet, mask: Mask, drawn: Bool[np.ndarray, " n"]) -> PixelTruth:
    rows, labels = np.arange(len(photos)), photos.labels
    same = [
        np.flatnonzero((labels == label) & (label >= 0) & (rows != row) & drawn) for row, label in enumerate(labels)
    ]
    junk = [np.flatnonzero((rows == row) | (labels == label) & ~drawn) for row, label in enumerate(labels)]
    return PixelTruth(mask, same, [np.array([], np.int64)] * len(photos), junk)


def paintings_truth(root: Path, lookup: Lookup) -> PixelTruth:
    """Of the paintings: the photograph's mask within the boxes of the painting.

    Raises `UserError` naming a mask that is missing, no mask, or of another size than its photograph.
    """
    entries = {entry.image: entry for entry in paintings_entries(root)}

    def mask(query: int, photo: int) -> np.ndarray:
        entry = entries[lookup.photos.names[photo]]
        path = root / entry.mask
        if ".." in path.parts or not path.is_relative_to(root):
            raise UserError(f"{root / 'ground_truth.json'}: the mask {short(entry.mask)} is not below its folder")
        whole = read_mask(path, lookup.photos.sizes[photo])
        out = np.zeros_like(whole)
        for painting, box in entry.objects:
            if painting == lookup.queries.names[query] and box:
                left, top, right, bottom = (max(0, int(x)) for x in box)
                out[top:bottom, left:right] = whole[top:bottom, left:right]
        if not out.any():
            raise UserError(f"{path}: nothing of {lookup.queries.names[query]!r} is in its box")
        return out

    nothing = [np.array([], np.int64)] * len(lookup.queries)
    return PixelTruth(mask, lookup.relevant, nothing, nothing)


def labelled_truth(root: Path, benchmark: str, truth: GroundTruth, photos: PhotoSet) -> PixelTruth:
    """Of PROxford and PRParis (An et al., ICCV 2023): polygons drawn with labelme.

    <root>/<oxford or paris>_pair2labelpath.npy   {"<query>_<photo>": path of a labelme JSON below root}

    itself or in `pixel_retrieval_benchmarks/`. All shapes of a file together are the object.

    Raises:
      UserError: names a relevant pair without a label; and, when it is read, a label that does not fit its photo.
    """
    name = f"{benchmark.removeprefix('r').rstrip('56k')}_pair2labelpath.npy"
    folder = next((f for f in (root, root / "pixel_retrieval_benchmarks") if (f / name).is_file()), None)
    if folder is None:
        raise UserError(
            f"{benchmark}: no {name} in {root}; unpack {LABELS} there, for example with bsdtar, unar or unrar"
        )
    paths: dict[tuple[int, int], Path] = {}
    for key, value in read_npy_dict(folder / name).items():
        pair = PAIR.fullmatch(key)
        if not pair or not isinstance(value, str):
            raise UserError(f"{folder / name}: {key!r} is no pair of a query and a photo with the path of a label")
        paths[int(pair[1]), int(pair[2])] = _below(folder, value)
    unlabelled = UNLABELLED.get(benchmark, ())
    for q, right in enumerate(zip(truth.easy, truth.hard, strict=True)):
        for photo in np.concatenate(right):
            if q not in unlabelled and (q, int(photo)) not in paths:
                raise UserError(
                    f"{folder / name}: no label for query {truth.queries[q]!r} in photo {truth.photos[photo]!r}"
                )

    read = cache(read_labelme)  # a file may hold the photo beside the polygons

    def shapes(query: int, photo: int) -> list[np.ndarray] | None:
        height, width = photos.sizes[photo].tolist()
        return read(paths[query, photo], (height, width)) if (query, photo) in paths else None

    def mask(query: int, photo: int) -> np.ndarray:
        return polygon_mask(shapes(query, photo) or [], photos.sizes[photo])

    return PixelTruth(mask, truth.easy, truth.hard, truth.junk, unlabelled, shapes)


def _below(folder: Path, name: str) -> Path:
    """A label's path as its authors stored it: below the folder, or where it lay on their disk, by its last parts."""
    parts = Path(name.replace("\\", "/")).parts
    for start in range(len(parts)):
        path = folder.joinpath(*parts[start:])
        if ".." not in parts[start:] and not Path(*parts[start:]).is_absolute() and path.is_file():
            return path
    raise UserError(f"{folder}: no label {name!r}; complete the folder")


def read_labelme(path: Path, size: tuple[int, int]) -> list[Int[np.ndarray, "_ 2"]]:
    """The polygons (x, y) of a labelme file, coordinates cut to whole pixels as the published evaluator does.

    Args:
      path: of the file.
      size: (height, width) of the photo.

    Raises:
      UserError: it has no polygons, says that it was drawn on a photo of another size, or reaches far beyond this one.
    """
    try:
        label = an_object(read_json(path), "it")
        shapes = a_list(one_of(label, "shapes", "it"), "its shapes")
        polygons = [polygon(one_of(an_object(shape, "a shape"), "points", "a shape")) for shape in shapes]
        if not polygons:
            raise ValueError("it has no shapes")
        own = label.get("imageHeight"), label.get("imageWidth")
    except (Unreadable, ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{path}: not a labelme file with polygons ({error})") from None
    height, width = size
    if any(given not in (None, real) for given, real in zip(own, size, strict=True)):
        raise UserError(
            f"{path}: drawn on a photo of {own[1] or '?'}x{own[0] or '?'} pixels, but this one has {width}x{height}"
        )
    points = np.concatenate(polygons)
    beyond = (points < -OVERSHOOT) | (points > np.array([width, height]) + OVERSHOOT)
    if beyond.any():
        x, y = points[np.argmax(beyond.any(1))]
        raise UserError(f"{path}: its point ({x}, {y}) is not on the photo of {width}x{height} pixels")
    return polygons
