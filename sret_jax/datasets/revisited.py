"""ROxford5k, RParis6k, and any folder with a ground truth like theirs, as photo sets (Radenović et al. 2018).

    <root>/gnd_<name>.pkl    or .json: which photographs answer which query
    <root>/jpg/<photo>.jpg   the queries and the photographs searched

`<root>/<name>/` may hold them as well, so that one root serves several benchmarks.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from sret_jax.data.folders import FolderEntry
from sret_jax.data.lists import Builder, ListedPhotos, dataset_folder, listed, prepare_listed
from sret_jax.data.names import RowsByName
from sret_jax.data.photo_set import PhotoSet
from sret_jax.datasets.ground_truth import GroundTruth, read_ground_truth
from sret_jax.errors import UserError

LEAST_SHARE = 0.5  # of a box that must lie on its photograph, or the photograph is another one


@dataclass(frozen=True, eq=False)
class Revisited:
    """`queries` have boxes, and search `photos`; the indices of `truth` are rows of `photos`."""

    photos: PhotoSet
    queries: PhotoSet
    truth: GroundTruth


def prepare_revisited(
    benchmark: str, root: str | Path, cache_dir: str | Path, gnd: str | Path = "", builder: Builder = ListedPhotos
) -> Revisited:
    """Reads and checks the photographs of a benchmark once, and keeps them in `cache_dir`.

    Args:
      benchmark: its name, "roxford5k" or another.
      root: the folder described above.
      cache_dir: where prepared photographs are kept.
      gnd: the ground truth file; default `gnd_<benchmark>.pkl` in the folder.
      builder: writes them: `prepare_listed`.

    Raises:
      UserError: names what is missing, listed twice, or does not fit the ground truth.
    """
    truth, folder, found = list_revisited(benchmark, root, gnd)
    everything = prepare_listed(benchmark, folder, found, cache_dir, builder)
    row = RowsByName(everything.names)
    queries = everything.select([row[name] for name in truth.queries])
    boxes = np.stack([_box(truth, q, queries) for q in range(len(queries))])
    return Revisited(
        photos=everything.select(range(len(truth.photos))),
        queries=dataclasses.replace(queries, name=f"{benchmark} queries", boxes=boxes),
        truth=truth,
    )


def list_revisited(
    benchmark: str, root: str | Path, gnd: str | Path = ""
) -> tuple[GroundTruth, Path, list[FolderEntry]]:
    """The ground truth, the folder of the photographs, and of these what has to be there; arguments as above."""
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{benchmark}: no folder {str(root)!r}; give one of jpg/ and gnd_{benchmark}.pkl by --root=DIR")
    truth = read_ground_truth(gnd or ground_truth_path(root, benchmark), benchmark)
    folder = dataset_folder(dataset_folder(root, benchmark), "jpg")
    searched = RowsByName(truth.photos)
    for query, junk in zip(truth.queries, truth.junk, strict=True):
        if query in searched and searched[query] not in junk:
            raise UserError(f"{benchmark}: the query {query!r} is among the photographs searched and not its own junk")
    names = truth.photos + [name for name in truth.queries if name not in searched]
    return truth, folder, [listed(folder, name) for name in names]


def ground_truth_path(root: Path, benchmark: str) -> Path:
    """`gnd_<benchmark>.pkl` or .json in `<root>/<benchmark>/` or `<root>/`."""
    for folder in (root / benchmark, root):
        for ending in ("pkl", "json"):
            if (path := folder / f"gnd_{benchmark}.{ending}").is_file():
                return path
    raise UserError(f"{benchmark}: no gnd_{benchmark}.pkl in {root}; put it there, or name it by --gnd=FILE")


def _box(truth: GroundTruth, query: int, queries: PhotoSet) -> Int[np.ndarray, "4"]:
    """The box in whole pixels, halves to the even one as Pillow crops, cut at the border of the photograph."""
    box, (height, width) = truth.boxes[query], queries.sizes[query].tolist()
    left, top, right, bottom = np.clip(np.rint(box), 0, [width, height, width, height]).astype(np.int64)
    if (right - left) * (bottom - top) < LEAST_SHARE * (box[2] - box[0]) * (box[3] - box[1]):
        raise UserError(
            f"query {truth.queries[query]!r}: its box {box.tolist()} is not on its photograph of {width}x{height} "
            "pixels; the photograph is another one, or of another size, than the ground truth was made for"
        )
    return np.array([left, top, right, bottom], np.int64)
