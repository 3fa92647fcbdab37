"""Where the object of a query is in other photographs: every method, and discovery on the features of every network.

    python benchmarks/localization.py --root=PAINTINGS --runs=FOLDER [--seeds=3] [--ablation-csv=CSV] [--limit=N]
        [--rows="plain;plain, stage c4"] [--methods=lost,lost_inwards]

PAINTINGS is a folder of ground_truth.json, its museum photographs with their masks, and the paintings in db/; FOLDER
the `--workdir` of an ablation. Two directions: a painting is looked for in the museum photographs
("paintings"), and the box of a painting in a museum photograph in db/ ("objects"), where the whole picture is the
truth and marking everything is perfect. The heat of discovery was chosen on every other query, the even ones, so that
they stand apart from the odd ones. Localization and retrieval together is the pixel mAP: a photograph counts where it
is found by the network's own descriptor, and marked. Photographs of paintings that are not in db/ are searched, and
relevant to nobody. Discovery on what networks have learned is measured with those of every seed, all else with those
of the first. Speed: one query in `TIMED` photographs from stored maps and local features, wall clock, and the
seconds that the processor worked for it, which a busy machine changes less.

"truth" is no method: the true mask itself, as the share of every patch of the map that it covers, goes through what
discovery does with its heat. What it does not reach, no features of that map can.

Discovery without a query, LOST, is also measured on synthetic objects, whose masks are exact.

Prints the tables, and writes them with a CSV to `--out`; with the CSV of the ablation also a plot of discovery's mIoU
against retrieval's mAP. What a row measures is kept in `--workdir`, and read from there by the next run.
"""

import argparse
import csv
import dataclasses
import json
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np
from ablation import run_folder
from comparison import counted, markdown, mean_and_deviation, write_csv
from jax import Array
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from timing import machine

from sret_jax.config import Config, SearchConfig
from sret_jax.data.folders import prepare_folder
from sret_jax.datasets.pixel_truth import PixelTruth
from sret_jax.evaluation.benchmark import Benchmark, open_benchmark
from sret_jax.evaluation.pixel_protocol import pixel_protocol
from sret_jax.localization.localizer import Localizer
from sret_jax.localization.methods import METHODS, PHOTOS_AT_ONCE, PredictedMask, cut_out, locate
from sret_jax.localization.query_region import region_weights
from sret_jax.models.fixed_smoothing import average
from sret_jax.retrieval.index import Index
from sret_jax.retriever import Retriever, load
from sret_jax.storage.artifacts import write_json

Record = dict[str, Any]
DIRECTIONS = ("paintings", "objects")
TIMED = 80  # photographs
SETS = {"even": 0, "odd": 1}


class Average(nn.Module):
    """HOW's smoothing in the place of the learnable one: what its local features are made of."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"]) -> tuple[Array, dict[str, Array]]:
        return average(x, 3, mask=mask), {}


SEEDED = ("discovery", "query_lost")  # measured with the networks of every seed


@dataclasses.dataclass(frozen=True)
class Row:
    """A trained run, and what is read from it.

    ablation   the row of the ablation that it is of
    source     of the features: `config.localize.source`
    average    the map is averaged before it is read
    methods    measured on it
    """

    ablation: str
    source: str = "map"
    average: bool = False
    methods: tuple[str, ...] = SEEDED


ROWS = {
    "plain": Row("GeM", methods=(*SEEDED, "dense", "truth")),
    "SOLAR": Row("SOLAR: SOA, last stage trained"),
    "HOW's average": Row("HOW pooling, last stage trained", average=True),
    "smoothing": Row("smoothing"),
    "refinement": Row("refinement"),
    "both": Row("both", methods=(*SEEDED, "dense")),
    "plain, stage c4": Row("GeM", source="c4", methods=(*METHODS, "truth")),
}


def load_row(row: Row, args: argparse.Namespace, seed: int = 0) -> Retriever:
    retriever = load(run_folder(args.runs, row.ablation, seed))
    retriever.config.localize.source = row.source
    return retriever


def open_direction(direction: str, config: Config, root: Path, cache: Path) -> Benchmark:
    """The benchmark "paintings", or what it is when photographs and queries change places."""
    benchmark = open_benchmark("paintings", root, config=config, cache=cache)
    if direction == "paintings":
        return benchmark
    database = prepare_folder(root / "db", cache, labelled=False)
    row_of = {f"db/{name}": row for row, name in enumerate(database.names)}
    entries = {entry["image"]: entry for entry in json.loads((root / "ground_truth.json").read_bytes())}
    pairs = [
        (row, found["box_xyxy"], row_of[found["painting"]])
        for row, name in enumerate(benchmark.photos.names)
        for found in entries[name]["objects"]
        if found["painting"] in row_of
    ]
    rows, boxes, relevant = zip(*pairs, strict=True)
    chosen = benchmark.photos.select(rows)
    names = [f"{name}, object {i}" for i, name in enumerate(chosen.names)]
    queries = dataclasses.replace(chosen, names=names, boxes=np.array(boxes, np.int32))
    nothing = [np.array([], np.int64)] * len(queries)

    def everything(query: int, photo: int) -> np.ndarray:
        return np.ones(database.sizes[photo], bool)

    truth = PixelTruth(everything, [np.array([row]) for row in relevant], nothing, nothing)
    return dataclasses.replace(
        benchmark, photos=database, database=database, queries=queries, pixels=truth, searched=str(root / "db")
    )


def open_localizer(
    row: Row, direction: str, args: argparse.Namespace, seed: int
) -> tuple[Localizer, np.ndarray, PixelTruth]:
    """What localizes, the ranking of all photographs for every query, and the truth."""
    retriever = load_row(row, args, seed)
    benchmark = open_direction(direction, retriever.config, args.root, args.workdir / "data")
    folder, own = args.workdir / direction, f"{row.ablation.replace(' ', '_').replace(':', '')}-{seed}"
    queries, photos = benchmark.queries, benchmark.photos
    of_queries, of_photos = (
        retriever.extract(part, folder / "descriptors" / own / name).descriptors
        for name, part in (("queries", queries), ("photos", photos))
    )
    rankings = Index.build(of_photos, photos.names, SearchConfig(method="exact")).search(of_queries, len(photos))
    if row.average:
        retriever = dataclasses.replace(retriever, network=retriever.network.clone(smoothing=Average()))
    localizer = Localizer(retriever, queries, photos, folder=folder / "maps" / own / row.source)
    shown = min(args.limit or len(queries), len(queries))
    return localizer, rankings.ids[:shown], part_of(benchmark.ground_truth_masks, range(shown))


def part_of(truth: PixelTruth, queries: Sequence[int]) -> PixelTruth:
    """Of some queries, numbered anew."""
    lists = ([kind[q] for q in queries] for kind in (truth.easy, truth.hard, truth.junk))
    return PixelTruth(lambda query, photo: truth.mask(queries[query], photo), *lists)


def measure(name: str, direction: str, args: argparse.Namespace, seed: int) -> list[Record]:
    """A record per method and set of queries; read from disk where they are complete."""
    row = ROWS[name]
    wanted = row.methods if seed == 0 else SEEDED
    methods = [method for method in wanted if method in args.methods or not args.methods]
    kept_as = "-".join([name.replace(" ", "_"), str(seed), *(methods if args.methods else [])])
    path = args.workdir / direction / f"{kept_as}.json"
    if path.exists() and not args.limit:
        return json.loads(path.read_bytes())
    localizer, rankings, truth = open_localizer(row, direction, args, seed)
    records = []
    for method in methods:
        if (method, direction) == ("truth", "objects"):  # all of each picture
            continue
        localizer.make_ready(method)
        speed = {} if method == "truth" else time_method(localizer, method)
        found: dict[tuple[int, int], np.ndarray] = {}
        for query, right in enumerate(truth.relevant):
            mark = partial(seen_truth, truth=truth) if method == "truth" else partial(locate, method=method)
            marked = mark(localizer, query=query, rows=right)
            found |= {(query, photo): one.mask for photo, one in zip(right.tolist(), marked, strict=True)}
        for kind, start in SETS.items():
            queries = range(start, len(rankings), 2)
            metrics, _ = pixel_protocol(rankings[queries], part_of(truth, queries), partial(kept, found, queries))
            flat = {f"{rules} {key}": value for rules, of in metrics.items() for key, value in of.items()}
            about = {"features": name, "direction": direction, "method": method, "queries": kind, "seed": seed}
            records.append(about | {"number": len(queries)} | flat | speed)
        print(
            f"{direction}, {name}, {method}, seed {seed}: mIoU {records[-1]['strict mIoU']:.2f} of odd queries",
            flush=True,
        )
    if not args.limit:
        write_json(path, records)
    return records


def seen_truth(localizer: Localizer, truth: PixelTruth, query: int, rows: np.ndarray) -> list[PredictedMask]:
    """What discovery would mark if its heat were the share of each patch that the object covers."""
    marked = []
    for row, inside in zip(rows.tolist(), localizer.maps(rows)[1], strict=True):
        share = region_weights(truth.mask(query, row), localizer.size(row), inside)
        marked.append(cut_out(localizer, row, share, inside))
    return marked


def kept(
    found: dict[tuple[int, int], np.ndarray], queries: Sequence[int], query: int, photos: Sequence[int]
) -> list[np.ndarray]:
    return [found[queries[query], photo] for photo in photos]


def time_method(localizer: Localizer, method: str) -> Record:
    rows = (np.arange(TIMED) % len(localizer.photos)).tolist()
    locate(localizer, method, 0, rows[: 1 + PHOTOS_AT_ONCE])  # compiles both shapes
    wall, work = time.perf_counter(), time.process_time()
    locate(localizer, method, 1, rows)
    wall, work = time.perf_counter() - wall, time.process_time() - work
    return {"photos per second": TIMED / wall, "processor milliseconds": 1000 * work / TIMED}


def synthetic(args: argparse.Namespace) -> list[Record]:
    """LOST, and marking everything, on objects drawn by code: the first query of each photograph does not matter."""
    path = args.workdir / "synthetic.json"
    if path.exists() and not args.limit:
        return json.loads(path.read_bytes())
    row, records = ROWS["plain"], []
    for source in ("map", "c4"):
        retriever = load_row(dataclasses.replace(row, source=source), args)
        photos = open_benchmark("synthetic", config=retriever.config, cache=args.workdir / "data").photos
        photos = photos.select(range(args.limit or len(photos)))
        localizer = Localizer(retriever, photos, photos, folder=args.workdir / "synthetic" / source)
        rows = [np.array([i]) for i in range(len(photos))]
        truth = PixelTruth(
            lambda query, photo, of=photos: of.mask(photo), rows, [rows[0][:0]] * len(rows), [rows[0][:0]] * len(rows)
        )
        for method in ("everything", "lost", "lost_inwards"):
            localizer.make_ready(method)
            masks = [one.mask for one in locate(localizer, method, 0, range(len(photos)))]
            metrics, _ = pixel_protocol(np.stack(rows), truth, lambda query, photos, of=masks: [of[query]])
            about = {"features": "plain" if source == "map" else "plain, stage c4", "method": method}
            records.append(about | {key: metrics["strict"][key] for key in ("mIoU", "box mIoU", "CorLoc")})
    if not args.limit:
        write_json(path, records)
    return records


SHOWN = {
    "mIoU": "strict mIoU",
    "official mIoU": "official mIoU",
    "CorLoc": "strict CorLoc",
    "mAP@50:5:95": "strict mAP@50:5:95",
    "official mAP": "official mAP@50:5:95",
}


def table(records: Sequence[Record], direction: str) -> str:
    """A row per features and method, cells "even / odd"."""
    rows: dict[str, list[Record]] = {}
    for record in records:
        if record["direction"] == direction:
            rows.setdefault(f"{record['features']}: {record['method']}", []).append(record)
    cells = {}
    for name, own in rows.items():
        parts = [[record for record in own if record["queries"] == kind] for kind in SETS]
        cells[name] = {
            column: " / ".join(mean_and_deviation([r[key] for r in part if key in r], 1) for part in parts)
            for column, key in SHOWN.items()
        }
        for column, key, digits in (
            ("photos/s", "photos per second", 0),
            ("processor, ms", "processor milliseconds", 1),
        ):
            cells[name][column] = f"{own[0][key]:.{digits}f}" if key in own[0] else "–"
    return markdown(cells)


def retrieval_map(path: Path) -> dict[str, float]:
    """mAP of each row of an ablation on its first collection, the mean over its seeds."""
    values: dict[str, list[float]] = {}
    with open(path, newline="") as f:
        for line in csv.DictReader(f):
            first = next(column for column in line if column.endswith(" mAP"))
            values.setdefault(line["row"], []).append(float(line[first]))
    return {name: float(np.mean(own)) for name, own in values.items()}


def draw(path: Path, records: Sequence[Record], retrieval: dict[str, float]) -> float:
    """Discovery's mIoU of odd queries against mAP; returns their correlation over the rows."""
    values: dict[str, list[float]] = {}
    for record in records:
        if (record["direction"], record["method"], record["queries"]) == ("paintings", "discovery", "odd"):
            values.setdefault(record["features"], []).append(record["strict mIoU"])
    points = {
        name: (retrieval[ROWS[name].ablation], float(np.mean(own)))
        for name, own in values.items()
        if ROWS[name].source == "map"
    }
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for name, (x, y) in points.items():
        axes.plot(x, y, "o", color="tab:red" if name in ("smoothing", "refinement", "both") else "tab:blue")
        place = (6, -11) if name == "both" else (6, 5)  # its point is close to that of refinement
        axes.annotate(name, (x, y), xytext=place, textcoords="offset points", fontsize=8)
    axes.set_xlabel("retrieval: mAP, %")
    axes.set_ylabel("localization: mIoU of discovery, %")
    axes.grid(alpha=0.3)
    axes.margins(x=0.2, y=0.2)
    figure.savefig(path, dpi=130)
    return float(np.corrcoef(np.array(list(points.values())).T)[0, 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--ablation-csv", type=Path)
    parser.add_argument("--rows", default=";".join(ROWS), help="separated by semicolons")
    parser.add_argument("--methods", type=lambda text: text.split(","), default=[], help="of these rows; default: all")
    parser.add_argument("--directions", default=",".join(DIRECTIONS))
    parser.add_argument("--synthetic", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=int, default=0, help="queries, for a trial; 0 = all")
    parser.add_argument("--workdir", type=Path, default=Path("runs/localization"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    names, directions = args.rows.split(";"), args.directions.split(",")
    if unknown := set(names) - set(ROWS) | set(directions) - set(DIRECTIONS):
        parser.error(f"no {sorted(unknown)[0]!r}; rows: {'; '.join(ROWS)}; directions: {', '.join(DIRECTIONS)}")
    about = machine()
    records = [
        record
        for direction in directions
        for name in names
        for seed in range(args.seeds if ROWS[name].source == "map" else 1)
        for record in measure(name, direction, args, seed)
    ]
    drawn = synthetic(args) if args.synthetic else []
    text = f"Queries apart, even / odd; the heat was chosen on the even ones. {counted(args.seeds, 'seed')}. {about}.\n"
    titles = {"paintings": "A painting in museum photographs", "objects": "A painting's box in a photograph, in db/"}
    for direction in directions:
        text += f"\n{titles[direction]}, %:\n\n{table(records, direction)}\n"
    rows = {f"{one['features']}: {one['method']}": one for one in drawn}
    shown = {row: {key: f"{one[key]:.1f}" for key in ("mIoU", "box mIoU", "CorLoc")} for row, one in rows.items()}
    text += f"\nSynthetic objects, without a query, %:\n\n{markdown(shown)}\n" if shown else ""
    args.out.mkdir(parents=True, exist_ok=True)
    if args.ablation_csv:
        value = draw(args.out / "localization_paintings.png", records, retrieval_map(args.ablation_csv))
        text += f"\nCorrelation of discovery's mIoU (odd queries) with the ablation's mAP over its rows: {value:.2f}.\n"
    print(text)
    (args.out / "localization_paintings.md").write_text(text)
    write_csv(args.out / "localization_paintings.csv", records)


if __name__ == "__main__":
    main()
