"""What of a query photograph should be described where a region says what is searched for.

    python benchmarks/region_queries.py --folder "NAME=ROOT;SPLITS;SPLIT" ... [--paintings=PAINTINGS]
        [--synthetic] [--scenes=200]

Drawn scenes: a query shows two photographs of a collection, a large one and, pasted somewhere on it, a small one of
another instance, whose longer side is 0.2 to 0.45 of the scene's. The region is the small one: its box, or a click in
the middle half of it. Right are the other photographs of its instance; the two that the scene is made of are not
searched. Rows: the whole photograph; the region cut out with a margin, a share of its longer side; pooled from the
whole photograph's map, whose patches have seen what is around them, those that lie in the region by half or more, or
the one that does most; and for a click a square, a share of the photograph's longest side, or what grows from the
clicked patch: the patches that correlate with it and are connected to it. The first row is the small photograph itself,
in its own size, as if nothing were around it.

PAINTINGS (a folder of ground_truth.json, museum photographs and db/): the box of a painting in a museum photograph is
looked for in db/. The synthetic objects are looked for by the box of each in its own drawn photograph.

The margin and what a click stands for are chosen on the first collection; the others tell whether that holds. Prints a
table, and writes it and a CSV to `--out`; what is described is kept in `--workdir`.
"""

import argparse
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ablation import open_collections
from comparison import write_csv, write_table
from localization import open_direction
from PIL import Image
from timing import command, machine

from sret_jax.config import Config
from sret_jax.data.opening import open_photos
from sret_jax.data.photo_set import PhotoSet
from sret_jax.data.regions import Region, cut_out
from sret_jax.data.sampling import rows_of_instances
from sret_jax.evaluation.benchmark import open_benchmark
from sret_jax.extraction.maps import StoredMaps
from sret_jax.localization.object_discovery import centre, connected, mask_boxes
from sret_jax.localization.pixels import pixel_box
from sret_jax.localization.query_region import directions, region_weights
from sret_jax.metrics.ranking import average_precision
from sret_jax.models.pooling import l2_normalize
from sret_jax.retriever import Retriever, load

SIDE = 640  # longest of a scene, pixels
SHARES = 0.2, 0.45  # range of the small object's longer side in it
MARGINS = (0.0, 0.05, 0.1, 0.2, 0.4)
SQUARES = (0.2, 0.3, 0.4, 0.5)
ABOVE = (0.0, 0.3)  # correlation with the clicked patch
Relevance = Sequence[tuple[np.ndarray, np.ndarray]]  # of each query: rows that are right, rows that are not searched


class Queries(NamedTuple):
    """Photographs, a box and where it is drawn a click in each, the photographs searched, and which are right."""

    photos: PhotoSet
    boxes: dict[int, Region]
    clicks: dict[int, Region]
    database: PhotoSet
    relevance: Relevance
    intact: list[int] = []  # row in the database of the photograph that a region shows small, where that is known


def draw_scenes(photos: PhotoSet, count: int, seed: int = 0) -> Queries:
    """Scenes of pairs of photographs of different instances that have other photographs to find."""
    rng, instances = np.random.default_rng(seed), rows_of_instances(photos, at_least=2)
    scenes, relevance, intact = [], [], []
    boxes: dict[int, Region] = {}
    clicks: dict[int, Region] = {}
    for number in range(count):
        small, large = rng.permutation(len(instances))[:2]
        row, behind = (int(rng.choice(instances[i])) for i in (small, large))
        scene = _longest(Image.fromarray(photos.photo(behind)), SIDE)
        pasted = _longest(Image.fromarray(photos.photo(row)), round(rng.uniform(*SHARES) * SIDE))
        pasted.thumbnail(scene.size)
        left, top = (int(rng.integers(0, a - b + 1)) for a, b in zip(scene.size, pasted.size, strict=True))
        scene.paste(pasted, (left, top))
        scenes.append(scene)
        intact.append(row)
        size = np.array(pasted.size)
        boxes[number] = np.array([left, top, left + size[0], top + size[1]])
        clicks[number] = np.array([left, top]) + size * rng.uniform(0.25, 0.75, 2)
        relevance.append((np.setdiff1d(instances[small], row), np.array([row, behind])))
    return Queries(open_photos(scenes), boxes, clicks, photos, relevance, intact)


def open_paintings(retriever: Retriever, root: Path, cache: Path) -> Queries:
    """Museum photographs with a box on one of the paintings in them, and the pictures of the paintings."""
    benchmark = open_direction("objects", retriever.config, root, cache)
    assert benchmark.queries is not None and benchmark.queries.boxes is not None
    relevance = [(right, np.array([], int)) for right in benchmark.ground_truth_masks.relevant]
    whole = dataclasses.replace(benchmark.queries, boxes=None)
    return Queries(whole, dict(enumerate(benchmark.queries.boxes)), {}, benchmark.photos, relevance)


def open_synthetic(cache: Path) -> Queries:
    """Drawn photographs of drawn objects among other things, each with the box of its object; those of it are right."""
    photos = open_benchmark("synthetic", config=Config(), cache=cache).database
    boxes, relevance = {}, []
    of_instance = {row: rows for rows in rows_of_instances(photos, at_least=2) for row in rows}
    for row in range(len(photos)):
        mask = photos.mask(row)
        assert mask is not None
        down, across = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        boxes[row] = np.array([across[0], down[0], across[-1] + 1, down[-1] + 1])
        relevance.append((np.setdiff1d(of_instance[row], row), np.array([row])))
    return Queries(photos, boxes, {}, photos, relevance)


def _longest(image: Image.Image, side: int) -> Image.Image:
    scale = side / max(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)


def score(x: np.ndarray, database: np.ndarray, relevance: Relevance) -> dict[str, float]:
    """How often a right answer is first, and mAP, percent."""
    aps, first = [], []
    for similarity, (right, hidden) in zip(x @ database.T, relevance, strict=True):
        ranking = np.argsort(-similarity, kind="stable")
        hits = np.isin(ranking[~np.isin(ranking, hidden)], right)
        aps.append(average_precision(hits))
        first.append(hits[0])
    return {"first": 100 * float(np.mean(first)), "mAP": 100 * float(np.mean(aps))}


def described(
    retriever: Retriever, photos: PhotoSet, folder: Path, regions: Mapping[int, Region] | None = None
) -> np.ndarray:
    """Descriptors from stored maps; with regions of the patches that lie in these by half or more, or do most."""
    maps = retriever.maps(photos, folder, retriever.config.data.image_size)

    def head(network, x, mask):  # type: ignore[no-untyped-def]
        return l2_normalize(network.whitening(l2_normalize(network.pool(x, mask))))

    pooled = jax.jit(lambda x, mask: retriever.network.apply(retriever.variables, x, mask, method=head))
    out = []
    for row in range(len(photos)):
        x, mask = maps(np.array([row]))
        weights = region_weights((regions or {}).get(row), size_of(photos, row), mask[0])
        out.append(np.asarray(pooled(x, (weights >= min(0.5, weights.max()))[None])))
    return np.concatenate(out)


def squares(photos: PhotoSet, clicks: Mapping[int, Region], share: float) -> dict[int, Region]:
    """Squares around clicks, a share of the photograph's longest side."""
    out = {}
    for row, click in clicks.items():
        half = share * max(size_of(photos, row)) / 2
        out[row] = np.concatenate([np.asarray(click) - half, np.asarray(click) + half])
    return out


def grown(photos: PhotoSet, clicks: Mapping[int, Region], maps: StoredMaps, above: float = 0.0) -> dict[int, Region]:
    """Boxes of the patches that correlate with the clicked one by more than `above`, and are connected to it."""
    out: dict[int, Region] = {}
    for row, click in clicks.items():
        x, inside = maps(np.array([row]))
        at = region_weights(click, size_of(photos, row), inside[0]) > 0
        y = directions(centre(directions(x), inside))
        like = jnp.einsum("bhwc,c->bhw", y, y[0][at][0])
        (box,) = np.asarray(mask_boxes(connected((like > above) & inside, jnp.asarray(at)[None])))
        out[row] = pixel_box(box, inside[0], size_of(photos, row))
    return out


def size_of(photos: PhotoSet, row: int) -> tuple[int, int]:
    height, width = photos.sizes[row].tolist()
    return height, width


def measure(retriever: Retriever, queries: Queries, folder: Path) -> Iterator[tuple[str, dict[str, float]]]:
    """Each row's name and scores; what is described is kept in the folder."""
    photos, database = queries.photos, described(retriever, queries.database, folder / "database")

    def rated(name: str, regions: Mapping[int, Region], margin: float) -> dict[str, float]:
        x = described(retriever, cut_out(photos, regions, margin), folder / name)
        return score(x, database, queries.relevance)

    def pooled(regions: Mapping[int, Region]) -> dict[str, float]:
        return score(described(retriever, photos, folder / "whole", regions), database, queries.relevance)

    if queries.intact:
        yield "the small photograph itself", score(database[queries.intact], database, queries.relevance)
    yield "whole photograph", rated("whole", {}, 0)
    yield "box, pooled from the whole map", pooled(queries.boxes)
    for margin in MARGINS:
        yield f"box, cut, margin {margin:g}", rated(f"cut-{margin}", queries.boxes, margin)
    if not queries.clicks:
        return
    yield "click, pooled from the whole map", pooled(queries.clicks)
    for share in SQUARES:
        yield f"click, square of {share:g}", rated(f"square-{share}", squares(photos, queries.clicks, share), 0)
    maps = retriever.maps(photos, folder / "whole", retriever.config.data.image_size)
    for above in ABOVE:
        yield f"click, grown above {above:g}", rated(f"grown-{above}", grown(photos, queries.clicks, maps, above), 0)


def open_queries(retriever: Retriever, args: argparse.Namespace) -> dict[str, Queries]:
    """Those that the flags name, the folders in their order first."""
    opened = open_collections(args).items() if args.folder else ()
    found = {name: draw_scenes(benchmark.database, args.scenes) for name, benchmark in opened}
    if args.synthetic:
        found["synthetic"] = open_synthetic(args.workdir / "data")
    if args.paintings:
        found["paintings"] = open_paintings(retriever, args.paintings, args.workdir / "data")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", action="append", default=[], metavar="NAME=ROOT;SPLITS;SPLIT")
    parser.add_argument("--paintings", type=Path)
    parser.add_argument("--synthetic", action="store_true", help="the synthetic objects, by their boxes")
    parser.add_argument("--scenes", type=int, default=200, help="queries of each collection")
    parser.add_argument("--workdir", type=Path, default=Path("runs/region_queries"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    args.revisited = []
    about, retriever, records = machine(), load(), []
    rows: dict[str, dict[str, str]] = {}
    for name, queries in open_queries(retriever, args).items():
        for row, scores in measure(retriever, queries, args.workdir / name):
            print(name, row, scores, flush=True)
            records.append({"collection": name, "row": row} | scores)
            rows.setdefault(row, {}).update({f"{name}: {key}": f"{value:.1f}" for key, value in scores.items()})
    columns = list(dict.fromkeys(column for cells in rows.values() for column in cells))
    table = {row: {column: cells.get(column, "–") for column in columns} for row, cells in rows.items()}
    text = f"{args.scenes} scenes of each collection; a right answer first, and mAP, percent. {command()}. {about}."
    write_table(args.out / "region_queries.md", text, table)
    write_csv(args.out / "region_queries.csv", records)


if __name__ == "__main__":
    main()
