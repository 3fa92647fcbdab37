"""What spatial verification adds to a global descriptor, and what it costs: mAP against seconds per query.

    python benchmarks/tradeoff.py --root=PHOTOS --splits=SPLITS.json --runs=FOLDER [--seeds=3] [--top=100]

FOLDER is the `--workdir` of an ablation with the same photographs, whose trained networks are searched with
leave-one-out on "test", alone and with the first `--top` answers verified by SIFT and an affine transform: sorted by
any number of inliers, as published procedures do, and by those that are more than chance gives. SIFT is the
same for all of them, so that a pair of photographs is verified once, whichever networks ask for it. A query's seconds
are those to describe it (from the ablation), to search with it alone (exact search), and to find and verify its local
features against stored ones; the first are shown apart, as every row has them. Prints a table, and writes it with a
plot to `--out`.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ablation import run_folder
from comparison import counted, mean_and_deviation, paired_bootstrap, plot, write_table
from timing import command, machine

from sret_jax.config import Config, RerankConfig
from sret_jax.data.photo_set import PhotoSet
from sret_jax.evaluation.benchmark import Benchmark, open_benchmark
from sret_jax.extraction.local_features import Sift, StoredLocal, store_local
from sret_jax.reranking.answers import Answers, Context, PhotoFeatures
from sret_jax.reranking.rerankers import count_inliers
from sret_jax.reranking.spatial_verification import rerank_by_inliers
from sret_jax.retrieval.index import Index
from sret_jax.retriever import load

SHOWN = {
    "GeM": "GeM",
    "both": "smoothing + refinement",
    "GeM, last stage trained": "GeM, last stage trained",
    "both, last stage trained": "smoothing + refinement, last stage trained",
}
AT_ONCE = 50  # pairs verified by one call
TRUSTED = RerankConfig().trusted
AIM = f"GeM + SV, {TRUSTED} inliers"  # what a descriptor alone should reach
TIMED = 30  # queries that are searched one by one for the time of one


@dataclass
class Point:
    """One way to search, over seeds."""

    map: list[float]
    ap: np.ndarray  # per query, the mean over seeds, percent
    describe: float  # seconds per query
    search: float  # and to verify

    @property
    def seconds(self) -> float:
        return self.describe + self.search


class Pairs:
    """Inliers of pairs of photographs, each verified once."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.known: dict[tuple[int, int], int] = {}
        self.seconds, self.pairs = 0.0, 0  # of all calls but the first, which is compiled

    def __call__(self, query: int, others: np.ndarray) -> np.ndarray:
        missing = np.array([other for other in others.tolist() if (query, other) not in self.known], np.int64)
        for start in range(0, len(missing), AT_ONCE):
            part = missing[start : start + AT_ONCE]
            began = time.perf_counter()
            padded = np.pad(part, (0, AT_ONCE - len(part)), constant_values=-1)
            (found,) = count_inliers(self.context, np.array([query]), padded[None])
            if self.known and len(part) == AT_ONCE:
                self.seconds, self.pairs = self.seconds + time.perf_counter() - began, self.pairs + AT_ONCE
            self.known |= {(query, other): int(n) for other, n in zip(part.tolist(), found, strict=False)}
        return np.array([self.known[query, other] for other in others.tolist()], np.int64)


def rankings(found: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Without each query itself."""
    others = np.argsort(found == np.arange(len(found))[:, None], axis=1, kind="stable")[:, :-1]
    return np.take_along_axis(found, others, 1), np.take_along_axis(scores, others, 1)


def scored(benchmark: Benchmark, ids: np.ndarray, scores: np.ndarray) -> tuple[float, np.ndarray]:
    """mAP and the AP of every query, percent."""
    scorer = benchmark.scorer()
    scorer.add(Answers(scorer.queries, ids[scorer.queries], scores[scorer.queries]))
    result = scorer.result()
    return result.metrics["mAP"], 100 * result.ap


def search(args: argparse.Namespace, name: str, seed: int) -> tuple[Benchmark, Config, np.ndarray, np.ndarray, float]:
    """The photographs, the rankings with their scores, and the seconds of one search by a trained network."""
    retriever = load(run_folder(args.runs, name, seed))
    config = retriever.config
    config.data.root, config.data.splits = args.root, str(args.splits)
    benchmark = open_benchmark("folder", config=config, cache=args.runs / "data")
    x = retriever.extract(benchmark.photos, args.workdir / f"{name}-{seed}".replace(" ", "")).descriptors
    index = Index.build(x, benchmark.photos.names, config.search)
    seconds = []
    for row in range(min(TIMED, len(x))):
        began = time.perf_counter()
        index.search(x[row : row + 1], len(x))
        seconds.append(time.perf_counter() - began)
    found = index.search(x, len(x))
    return benchmark, config, *rankings(found.ids, found.scores), float(np.median(seconds))


def open_pairs(photos: PhotoSet, config: Config, folder: Path) -> tuple[Pairs, float]:
    """What verifies pairs, and the seconds that the local features of one query take."""
    find, rows = Sift(config), range(min(TIMED, len(photos)))
    began = time.perf_counter()
    list(find(photos, rows))
    seconds = (time.perf_counter() - began) / len(rows)
    stored = StoredLocal([store_local(find, photos, config, folder / "features")])
    features = PhotoFeatures(lambda: np.zeros((len(photos), 0), np.float32), photos.regions, lambda: stored)
    return Pairs(Context(features, features, config, folder)), seconds


def measure(args: argparse.Namespace) -> Iterator[tuple[str, Point]]:
    """Every row alone and verified."""
    pairs, sift = None, 0.0
    described = json.loads((args.runs / "times.json").read_text())["rows"]
    for name, shown in SHOWN.items():
        ways = {shown: None, f"{shown} + SV": 0, f"{shown} + SV, {TRUSTED} inliers": TRUSTED}
        means, aps, times = {way: [] for way in ways}, {way: [] for way in ways}, []
        for seed in range(args.seeds):
            benchmark, config, ids, scores, seconds = search(args, name, seed)
            times.append(seconds)
            if pairs is None:
                pairs, sift = open_pairs(benchmark.photos, config, args.workdir / "sift")
            inliers = np.stack([pairs(query, own) for query, own in enumerate(ids[:, : args.top])])
            for way, trusted in ways.items():
                order = (ids, scores)
                if trusted is not None:
                    order = rerank_by_inliers(ids, scores, inliers, trusted=trusted)
                mean, ap = scored(benchmark, *order)
                means[way].append(mean)
                aps[way].append(ap)
                print(f"seed {seed}, {way}: mAP {mean:.2f}", flush=True)
        verification = sift + args.top * pairs.seconds / max(pairs.pairs, 1)
        for way, trusted in ways.items():
            seconds = min(times) + (0 if trusted is None else verification)
            yield way, Point(means[way], np.mean(aps[way], 0), described[name]["milliseconds"] / 1000, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True)
    parser.add_argument("--splits", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--top", type=int, default=100)
    parser.add_argument("--workdir", type=Path, default=Path("runs/tradeoff"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args, machine_before = parser.parse_args(), machine()
    points = dict(measure(args))
    aim = points[AIM]
    rows = {}
    for name, point in points.items():
        mean, low, high = paired_bootstrap(point.ap, aim.ap)
        rows[name] = {
            "mAP": mean_and_deviation(point.map),
            "describe, ms": f"{1000 * point.describe:.1f}",
            "search, verify, ms": f"{1000 * point.search:.1f}",
            f"against {AIM}": f"{mean:+.2f} ({low:+.2f} to {high:+.2f})",
            "times as fast": f"{aim.seconds / point.seconds:.1f}, without describing {aim.search / point.search:.0f}",
        }
    about = f"Leave-one-out on test instances, {counted(args.seeds, 'seed')}, first {args.top} verified. "
    about += f"{machine_before}. {command()}"
    write_table(args.out / "tradeoff.md", about, rows)
    ours = {name for name in points if name.startswith("smoothing")}
    drawn = {name: (point.seconds, point.map) for name, point in points.items()}
    plot(args.out / "tradeoff.png", drawn, ours, "seconds per query")


if __name__ == "__main__":
    main()
