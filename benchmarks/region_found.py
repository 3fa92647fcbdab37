"""How well it can be told whether an answer shows the object of a query's region at all.

    python benchmarks/region_found.py --folder "NAME=ROOT;SPLITS;SPLIT" ... [--paintings=PAINTINGS]
        [--synthetic] [--scenes=200]

The queries are those of `region_queries.py`, whose `--workdir` keeps the maps: scenes with a box on the smaller of two
objects, the boxes of synthetic objects, boxes of paintings in museum photographs ("paintings"), and the other way round
the pictures of the paintings in the museum photographs ("museum"). Told apart are the first `ANSWERS` answers of every
query: the wrong ones among them are those that a descriptor takes for right. Rows: the cosine of the descriptors, and
scores of the maps of both photographs, where the query's is that of the whole photograph or of what is cut out of it.

Columns: the chance that a right answer has a higher score than a wrong one (AUROC); of the answers from the threshold
on, how many are right (precision), and of the right ones, how many are from it on (recall); how many answers are right
at all (right). The threshold of a score is where `--recall` percent of the right answers of the first collection are
found; the others tell whether that holds. Prints a table, and writes it and a CSV to `--out`.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from comparison import write_csv, write_table
from localization import open_direction
from region_queries import Queries, described, open_queries, size_of
from timing import command, machine

from sret_jax.config import LocalizeConfig
from sret_jax.data.regions import MARGIN, cut_out, region_within
from sret_jax.evaluation.calibration import auroc
from sret_jax.localization.presence import mutual_presence, presence
from sret_jax.localization.query_region import mean_direction, region_heat, region_weights
from sret_jax.localization.regions import best_box, window_boxes
from sret_jax.retriever import Retriever, load

ANSWERS = 10  # of each query


def window(query: Any, weights: Any, x: Any, mask: Any, mean: Any) -> Any:
    """The score of the best window."""
    return best_box(query, weights, x, mask, mean, window_boxes(mask))[1]


def hottest(query: Any, weights: Any, x: Any, mask: Any, mean: Any) -> Any:
    """The greatest heat of discovery."""
    return region_heat(query, weights, x, mask, mean).max((1, 2))


SCORES: dict[str, Callable[..., Any]] = {
    "mean of best": presence,
    "mutual": mutual_presence,
    "best window": window,
    "greatest heat": hottest,
}


def scored_answers(
    retriever: Retriever, of_maps: Retriever, queries: Queries, folder: Path
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Scores of the first answers by name, and whether each is right; `of_maps` has the maps that are compared."""
    side, photos = retriever.config.data.image_size, queries.photos
    cut = cut_out(photos, queries.boxes)
    x = described(retriever, cut, folder / f"cut-{MARGIN}")
    database = described(retriever, queries.database, folder / "database")
    maps = folder / of_maps.config.localize.source
    searched = of_maps.maps(queries.database, maps / "database", side)
    ways = {
        "whole": (of_maps.maps(photos, maps / "whole", side), photos, lambda region, size: region),
        "cut": (of_maps.maps(cut, maps / f"cut-{MARGIN}", side), cut, region_within),
    }
    rows = np.arange(len(searched))[:: len(searched) // 50 + 1]
    mean = jnp.mean(jnp.stack([mean_direction(*searched(rows[i : i + 1])) for i in range(len(rows))]), axis=0)
    out: dict[str, list[np.ndarray]] = {}
    right = []
    for query, (relevant, hidden) in enumerate(queries.relevance):
        order = np.argsort(-(database @ x[query]), kind="stable")
        answers = order[~np.isin(order, hidden)][:ANSWERS]
        right.append(np.isin(answers, relevant))
        out.setdefault("cosine", []).append(database[answers] @ x[query])
        x_answers, inside = searched(answers)
        for way, (of_queries, shown, seen) in ways.items():
            (own,), (mask,) = of_queries(np.array([query]))
            region = seen(queries.boxes.get(query), size_of(photos, query))
            weights = region_weights(region, size_of(shown, query), mask)
            for name, function in SCORES.items():
                values = np.asarray(function(own, weights, x_answers, inside, mean))
                out.setdefault(f"{name}, {way}", []).append(values)
    scores = {name: np.concatenate(values) for name, values in out.items()}
    both = {f"cosine + {name}": scores["cosine"] + x for name, x in scores.items() if name.endswith("cut")}
    return scores | both, np.concatenate(right)


def open_museum(retriever: Retriever, root: Path, cache: Path) -> Queries:
    """Pictures of paintings, whole, and the museum photographs that they are looked for in."""
    benchmark = open_direction("paintings", retriever.config, root, cache)
    assert benchmark.queries is not None
    nothing = np.array([], int)
    relevance = [(right, nothing) for right in benchmark.ground_truth_masks.relevant]
    return Queries(benchmark.queries, {}, {}, benchmark.photos, relevance)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", action="append", default=[], metavar="NAME=ROOT;SPLITS;SPLIT")
    parser.add_argument("--paintings", type=Path)
    parser.add_argument("--synthetic", action="store_true", help="the synthetic objects, by their boxes")
    parser.add_argument("--scenes", type=int, default=200, help="queries of each collection")
    parser.add_argument("--recall", type=float, default=90.0, help="of the first collection, percent")
    parser.add_argument("--source", default="map", help="of the maps, as config.localize.source")
    parser.add_argument("--workdir", type=Path, default=Path("runs/region_queries"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    args.revisited = []
    about, retriever = machine(), load()
    of_maps = replace(retriever, config=replace(retriever.config, localize=LocalizeConfig(source=args.source)))
    opened = open_queries(retriever, args)
    if args.paintings:
        opened["museum"] = open_museum(retriever, args.paintings, args.workdir / "data")
    thresholds: dict[str, float] = {}
    rows: dict[str, dict[str, str]] = {}
    records = []
    for collection, queries in opened.items():
        scores, right = scored_answers(retriever, of_maps, queries, args.workdir / collection)
        for name, values in scores.items():
            at = thresholds.setdefault(name, float(np.percentile(values[right], 100 - args.recall)))
            found = values >= at
            measured = {
                "AUROC": 100 * auroc(-values, right == 0),
                "precision": 100 * float(right[found].mean()),
                "recall": 100 * float(found[right].mean()),
                "right": 100 * float(right.mean()),
            }
            records.append({"collection": collection, "row": name, "threshold": at} | measured)
            cells = rows.setdefault(name, {"threshold": f"{at:.3f}"})
            cells[collection] = " / ".join(f"{measured[key]:.1f}" for key in measured)
    text = f"AUROC / precision / recall / right, percent, of the first {ANSWERS} answers. {command()}. {about}."
    write_table(args.out / "region_found.md", text, rows)
    write_csv(args.out / "region_found.csv", records)


if __name__ == "__main__":
    main()
