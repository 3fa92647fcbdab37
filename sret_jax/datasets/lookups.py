"""Benchmarks whose queries have a list of right answers: Google Landmarks v2, ILIAS, and paintings in photographs.

Each is read from the folder and the files in which its authors publish it, and complete or not at all.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from sret_jax.data.folders import FolderEntry
from sret_jax.data.lists import Builder, ListedPhotos, dataset_folder, listed, prepare_listed
from sret_jax.data.photo_set import PhotoSet
from sret_jax.datasets.tables import read_csv
from sret_jax.errors import UserError
from sret_jax.storage.files import Unreadable, named
from sret_jax.storage.foreign import a_list, a_text, an_object, numbers, one_of, read_json, read_lines, short

NO_GROUP = ""
MOST_BOXES = 1 << 20  # bytes of the boxes of a photograph
Lists = dict[str, list[FolderEntry]]  # what has to be there, by the name of each list


@dataclass(frozen=True, eq=False)
class Lookup:
    """`queries` search `photos`.

    relevant  per query, rows of `photos`
    groups    per query, the part of the benchmark it is reported in ("public", "private"); "" = none
    depth     answers that count; 0 = all
    """

    photos: PhotoSet
    queries: PhotoSet
    relevant: list[Int[np.ndarray, "_"]]
    groups: list[str]
    depth: int


def prepare_gldv2(root: Path, cache_dir: str | Path, builder: Builder = ListedPhotos) -> Lookup:
    """Google Landmarks v2, retrieval (Weyand et al. 2020): the queries search the index, mAP@100.

    <root>/retrieval_solution_v2.1.csv   id,images,Usage; queries of Usage "Ignored" are left out
    <root>/index.csv                     id,...; the photographs searched, or index_image_to_landmark.csv
    <root>/{test,index}/a/b/c/abc....jpg
    """
    lists, solution = gldv2_lists(root), gldv2_solution(root)
    photos = prepare_listed("gldv2", root / "index", lists["gldv2"], cache_dir, builder)
    row = {found.name: i for i, found in enumerate(lists["gldv2"])}
    for query, (right, _) in solution.items():
        for name in right:
            if name not in row:
                raise UserError(f"gldv2: query {query!r} should find {name!r}, which {gldv2_index(root)} does not list")
    return Lookup(
        photos=photos,
        queries=prepare_listed("gldv2 queries", root / "test", lists["gldv2 queries"], cache_dir, builder),
        relevant=[np.array([row[name] for name in right], np.int64) for right, _ in solution.values()],
        groups=[usage for _, usage in solution.values()],
        depth=100,
    )


def gldv2_lists(root: Path) -> Lists:
    return {
        "gldv2": [_sharded(root / "index", row["id"]) for row in read_csv(gldv2_index(root), ("id",))],
        "gldv2 queries": [_sharded(root / "test", query) for query in gldv2_solution(root)],
    }


def gldv2_index(root: Path) -> Path:
    """The list of the photographs searched, under either of its names."""
    return root / "index.csv" if (root / "index.csv").is_file() else root / "index_image_to_landmark.csv"


def gldv2_solution(root: Path) -> dict[str, tuple[list[str], str]]:
    """`{query: (right answers, "public" or "private")}` of the retrieval challenge."""
    path = root / "retrieval_solution_v2.1.csv"
    solution: dict[str, tuple[list[str], str]] = {}
    for row in read_csv(path, ("id", "images", "Usage")):
        if row["Usage"] not in ("Public", "Private", "Ignored"):
            raise UserError(f"{path}: query {row['id']!r} has Usage {row['Usage']!r}; Public, Private or Ignored")
        if row["id"] in solution:
            raise UserError(f"{path}: query {row['id']!r} is listed twice")
        if row["Usage"] != "Ignored":
            right = list(dict.fromkeys(row["images"].split()))
            if not right:
                raise UserError(f"{path}: query {row['id']!r} has no right answer and is not Ignored")
            solution[row["id"]] = right, row["Usage"].lower()
    if not solution:
        raise UserError(f"{path}: holds no query")
    return solution


def gldv2_recognition_solution(root: Path) -> dict[str, tuple[list[int], str]]:
    """`{query: (landmarks, "public" or "private")}` of the recognition challenge; many queries show no landmark."""
    path = root / "recognition_solution_v2.1.csv"
    solution: dict[str, tuple[list[int], str]] = {}
    for row in read_csv(path, ("id", "landmarks", "Usage")):
        if row["Usage"] not in ("Public", "Private", "Ignored"):
            raise UserError(f"{path}: query {row['id']!r} has Usage {row['Usage']!r}; Public, Private or Ignored")
        if row["id"] in solution:
            raise UserError(f"{path}: query {row['id']!r} is listed twice")
        if not all(landmark.isdecimal() and len(landmark) < 19 for landmark in row["landmarks"].split()):
            raise UserError(f"{path}: query {row['id']!r} has landmarks {short(row['landmarks'])}, not numbers")
        if row["Usage"] != "Ignored":
            solution[row["id"]] = [int(landmark) for landmark in row["landmarks"].split()], row["Usage"].lower()
    return solution


def gldv2_ignored(root: Path, recognition: bool = False) -> set[str]:
    """The test images that a challenge does not score; submissions answer them too."""
    path = root / f"{'recognition' if recognition else 'retrieval'}_solution_v2.1.csv"
    return {row["id"] for row in read_csv(path, ("id", "Usage")) if row["Usage"] == "Ignored"}


def _sharded(folder: Path, name: str) -> FolderEntry:
    """`abcdef...` lies in `a/b/c/`."""
    if len(name) < 3 or not name.isalnum():
        return FolderEntry(name, "", None, "not an id of Google Landmarks")
    return listed(folder / name[0] / name[1] / name[2], name)


def prepare_landmark_training(root: str | Path, cache_dir: str | Path, builder: Builder = ListedPhotos) -> PhotoSet:
    """The training photographs of Google Landmarks, instances = landmarks, complete.

    <root>/train_clean.csv   landmark_id,images with the ids separated by spaces (v2-clean); else
    <root>/train.csv         id,...,landmark_id (v1 and v2); rows of landmark "None" (v1) belong to none
    <root>/train/a/b/c/abc....jpg, or <root>/train/<id>.jpg (v1)
    """
    root = Path(root)
    clean = root / "train_clean.csv"
    if clean.is_file():
        pairs = [
            (name, row["landmark_id"])
            for row in read_csv(clean, ("landmark_id", "images"))
            for name in row["images"].split()
        ]
    else:
        pairs = [(row["id"], row["landmark_id"]) for row in read_csv(root / "train.csv", ("id", "landmark_id"))]
    folder = root / "train"
    flat = folder.is_dir() and bool(pairs) and not (folder / pairs[0][0][:1]).is_dir()
    found = [
        dataclasses.replace(
            listed(folder, name) if flat else _sharded(folder, name), instance=None if landmark == "None" else landmark
        )
        for name, landmark in pairs
    ]
    return prepare_listed("google landmarks", folder, found, cache_dir, builder)


def prepare_ilias(root: Path, cache_dir: str | Path, builder: Builder = ListedPhotos) -> Lookup:
    """ILIAS, image queries (Kordopatis-Zilos et al. 2025): mAP@1000; its hundred million come as distractors.

    <root>/ilias_core/<object>/query/Qxxx_yy.jpg   beside each Qxxx_yy_bbox.txt: lines "left top width height"
    <root>/ilias_core/<object>/pos/Pxxx_zz.jpg

    A query is the part of its photograph that holds all of its boxes, at the size of a whole one.
    """
    core, lists = dataset_folder(root, "ilias_core"), ilias_lists(root)
    query_names, right = ([entry.name for entry in lists[name]] for name in ("ilias queries", "ilias"))
    queries = prepare_listed("ilias queries", core, lists["ilias queries"], cache_dir, builder)
    photos = prepare_listed("ilias", core, lists["ilias"], cache_dir, builder)
    boxes = np.stack(
        [_union(core / f"{name}_bbox.txt", size) for name, size in zip(query_names, queries.sizes, strict=True)]
    )
    queries = dataclasses.replace(queries, boxes=boxes)
    of: dict[str, list[int]] = {}
    for i, name in enumerate(right):
        of.setdefault(name.split("/")[0], []).append(i)
    return Lookup(
        photos=photos,
        queries=dataclasses.replace(queries, sizes=queries.regions),
        relevant=[np.array(of[name.split("/")[0]], np.int64) for name in query_names],
        groups=[NO_GROUP] * len(query_names),
        depth=1000,
    )


def ilias_lists(root: Path) -> Lists:
    """Raises `UserError` naming an object without queries or photographs."""
    core = dataset_folder(root, "ilias_core")
    objects = sorted(path.name for path in core.iterdir() if (path / "query").is_dir())
    if not objects:
        raise UserError(f"ilias: no <object>/query/ in {core}; give the folder of ilias_core by --root=DIR")
    query_names: list[str] = []
    right: list[str] = []
    for name in objects:
        own = [
            [f"{name}/{part}/{p.stem}" for p in sorted((core / name / part).glob(pattern))]
            for part, pattern in (("query", "Q*.jpg"), ("pos", "P*.jpg"))
        ]
        if not own[0] or not own[1]:
            raise UserError(
                f"ilias: {core / name} has no {'query/Q*.jpg' if not own[0] else 'pos/P*.jpg'}; complete it"
            )
        query_names += own[0]
        right += own[1]
    return {
        name: [listed(core, photo) for photo in of] for name, of in (("ilias", right), ("ilias queries", query_names))
    }


def _union(path: Path, size: Int[np.ndarray, "2"]) -> Int[np.ndarray, "4"]:
    """(left, top, right, bottom) around all boxes of a file, cut at the border of the photograph."""
    try:
        rows = [[int(float(x)) for x in line.split()] for line in read_lines(path, MOST_BOXES) if line.strip()]
        left, top, width, height = np.array(rows, np.int32).astype(np.int64).reshape(len(rows), 4).T
    except (Unreadable, ValueError, OverflowError) as error:
        raise UserError(f"{path}: no lines of left, top, width and height ({error})") from None
    edge = np.array([size[1], size[0], size[1], size[0]])
    around = np.array([left.min(), top.min(), (left + width).max(), (top + height).max()]) if len(rows) else edge
    box = np.clip(around, 0, edge)
    if box[0] >= box[2] or box[1] >= box[3]:
        raise UserError(f"{path}: its boxes are not on the photograph of {size[1]}x{size[0]} pixels")
    return box


def prepare_paintings(root: Path, cache_dir: str | Path, builder: Builder = ListedPhotos) -> Lookup:
    """Paintings look for the museum photographs that show them.

    <root>/ground_truth.json   [{"image", "mask", "size_wh", "objects": [{"painting" or null, "box_xyxy"}, ...]}, ...]

    A painting that no photograph shows is no query; a photograph of none of them is only searched.
    """
    shown, lists = _shown(root), paintings_lists(root)
    queries = prepare_listed("paintings queries", root, lists["paintings queries"], cache_dir, builder)
    return Lookup(
        photos=prepare_listed("paintings", root, lists["paintings"], cache_dir, builder),
        queries=queries,
        relevant=[np.array([i for i, (_, own) in enumerate(shown) if x in own], np.int64) for x in queries.names],
        groups=[NO_GROUP] * len(queries),
        depth=0,
    )


def paintings_lists(root: Path) -> Lists:
    shown = _shown(root)
    query_names = sorted({painting for _, paintings in shown for painting in paintings})
    return {
        "paintings": [listed(root, image) for image, _ in shown],
        "paintings queries": [listed(root, name) for name in query_names],
    }


def _shown(root: Path) -> list[tuple[str, list[str]]]:
    """The photographs, each with the paintings that it shows."""
    path = root / "ground_truth.json"
    shown = [(e.image, [painting for painting, _ in e.objects]) for e in paintings_entries(root)]
    if not any(paintings for _, paintings in shown):
        raise UserError(f"{path}: no photograph shows a painting; there is nothing to search for")
    return shown


class PaintingsEntry(NamedTuple):
    """A photograph of museum visitors: its file, its mask, and (painting, box or None) of those that it shows."""

    image: str
    mask: str
    objects: list[tuple[str, list[float] | None]]


def paintings_entries(root: Path) -> list[PaintingsEntry]:
    """What `<root>/ground_truth.json` says. Raises `UserError` that names what is not as `prepare_paintings` has it."""
    path = root / "ground_truth.json"
    if not path.exists():
        raise UserError(f"paintings: no {path}; give its folder by --root=DIR")
    with named(path, "it is not a list of images with their objects; fetch it again from its authors"):
        return [_entry(value, f"entry {i}") for i, value in enumerate(a_list(read_json(path), "it"))]


def _entry(value: Any, what: str) -> PaintingsEntry:
    entry, objects = an_object(value, what), []
    for one in a_list(one_of(entry, "objects", what), f"the objects of {what}"):
        found = an_object(one, f"an object of {what}")
        if one_of(found, "painting", f"an object of {what}") is not None:
            box = found.get("box_xyxy")
            box = box and numbers(box, f"box_xyxy of {what}", 4)
            objects.append((a_text(found["painting"], f"the painting of {what}"), box))
    image = a_text(one_of(entry, "image", what), f"the image of {what}")
    return PaintingsEntry(image, a_text(entry.get("mask", ""), f"the mask of {what}"), objects)


LOOKUPS: dict[str, Callable[..., Lookup]] = {
    "gldv2": prepare_gldv2,
    "ilias": prepare_ilias,
    "paintings": prepare_paintings,
}


LISTS: dict[str, Callable[[Path], Lists]] = {
    "gldv2": gldv2_lists,
    "ilias": ilias_lists,
    "paintings": paintings_lists,
}


def prepare_million(root: Path, cache_dir: str | Path, builder: Builder = ListedPhotos) -> PhotoSet:
    """The distractors of Revisiting Oxford and Paris: those that `revisitop1m.txt` lists, in jpg/, all of them."""
    return prepare_listed("revisitop1m", root / "jpg", million_list(root), cache_dir, builder)


def million_list(root: Path) -> list[FolderEntry]:
    path = root / "revisitop1m.txt"
    with named(path, "fetch it again from its authors"):
        names = read_lines(path)
    return [listed(root / "jpg", name) for name in names if name]
