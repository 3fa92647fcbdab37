"""Where the seconds of a query go, stage by stage, and what each stage is worth: the time budget of a search engine.

    python benchmarks/query_time.py --gnd=GND --gnd-root=FOLDER --distractors=PHOTOS [--workdir=RUN] [--save]

The queries of a benchmark like ROxford5k search its photographs and PHOTOS, with the network of RUN, or untrained
EfficientNet-Lite0 with GeM. Beside our stages stand, on the same SIFT features, what they replace: the procedure of
DELF (k-d tree, scikit-image's RANSAC, affine, 1,000 trials) and OpenCV's matcher and RANSAC. Then search, propagation
and diffusion, whole and truncated, in drawn collections of growing size, in groups of 50 photographs that verify each
other.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from comparison import markdown
from scipy.spatial import cKDTree
from skimage.measure import ransac
from skimage.transform import AffineTransform
from timing import machine, save

from sret_jax.config import Config
from sret_jax.evaluation.benchmark import Benchmark, open_benchmark
from sret_jax.evaluation.run import Features, Timings
from sret_jax.reranking.answers import Answers, Context, PhotoFeatures
from sret_jax.reranking.chain import Chain, parse_rerankers
from sret_jax.reranking.community import communities, uncertainty
from sret_jax.reranking.diffusion import affinity_graph, rerank_by_diffusion
from sret_jax.reranking.hypergraph import propagate
from sret_jax.reranking.hypergraph_building import assembled
from sret_jax.reranking.spatial_verification import rerank_by_inliers
from sret_jax.retrieval.index import Index
from sret_jax.retriever import load, without_unfilled_layers
from sret_jax.storage.workdir import Workdir

TOP = 100  # verified
DISTANCE, RESIDUAL, TRIALS = 0.9, 0.0195, 1000  # of DELF: features of unit length; 20 of 1024 pixels
GROUP, INLIERS, DIM = 50, 30, 512  # of the drawn collections
AMONG = 1000  # photographs that truncated diffusion walks among


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gnd", required=True)
    parser.add_argument("--gnd-root", required=True)
    parser.add_argument("--distractors", required=True)
    parser.add_argument("--workdir", type=Path, default=None, help="a run of train.py")
    parser.add_argument("--neighbours", type=int, default=20, help="of a photograph, verified for the hypergraph")
    parser.add_argument("--sizes", default="5000,100000", help="photographs of the drawn collections")
    parser.add_argument("--keep", type=Path, default=None, help="where descriptors and features are kept between runs")
    parser.add_argument("--save", action="store_true", help="write the tables to results/")
    args = parser.parse_args()
    about = machine()
    with tempfile.TemporaryDirectory() as folder:
        stages = of_a_benchmark(args, args.keep or Path(folder))
    growth = {f"{int(n):,}": of_a_drawn_collection(int(n)) for n in args.sizes.split(",")}
    text = f"{about}\n\n{markdown(stages)}\n\nDrawn collections, milliseconds per query:\n\n{markdown(growth)}\n"
    print(text)
    if args.save:
        save("query_time", text)


def seconds_each(call: Callable[[int], object], count: int) -> float:
    """Median seconds of call(0), call(1), ...; call(0) once before, for its compilation."""
    call(0)
    seconds = []
    for i in range(count):
        start = time.perf_counter()
        call(i)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def of_a_benchmark(args: argparse.Namespace, keep: Path) -> dict[str, dict[str, str]]:
    retriever = load(args.workdir or without_unfilled_layers(Config()))
    config, place = retriever.config, Workdir(keep)
    where = {"gnd": args.gnd, "distractors": [args.distractors], "config": config, "cache": place.data}
    benchmark = open_benchmark("revisited", args.gnd_root, **where)
    features = Features(retriever, benchmark, place, Timings())
    queries, rows, n = features.query_descriptors, benchmark.scorer().queries, len(benchmark.database)
    index = Index.build(features.extract(), benchmark.database.names, config.search)
    features.unit_descriptors = index.descriptors  # what searches and what re-ranks is held once
    found = index.search(queries, n)
    answers = Answers(rows, found.ids, found.scores)
    each_alone = [Answers(rows[i : i + 1], found.ids[i : i + 1], found.scores[i : i + 1]) for i in rows]
    described = seconds_each(lambda i: retriever.describe(benchmark.query_photos, [i % len(rows)]), 12)
    searched = seconds_each(lambda i: index.search(queries[i % len(rows)][None], n), 30)
    table = {"describe the query": line(described), "search": line(searched, benchmark, answers)}
    context = Context(features.queries, features.database, config, place.reranking)
    for text in (f"hypergraph:{args.neighbours}", "alpha_qe:50", "superglobal:400", "diffusion:50", f"sv:{TOP}"):
        chain = Chain(parse_rerankers([text]), context)
        seconds = seconds_each(lambda i, chain=chain: chain(each_alone[i]), len(rows))
        table[f"+ {text}"] = line(seconds, benchmark, chain(answers))
    for name, count in (("DELF's procedure", delf_inliers), ("OpenCV", opencv_inliers)):
        start = time.perf_counter()
        inliers = np.array([[count(*pair) for pair in pairs_of(context, row, found.ids[row, :TOP])] for row in rows])
        seconds = (time.perf_counter() - start) / len(rows)
        reranked = Answers(rows, *rerank_by_inliers(found.ids, found.scores, inliers, trusted=0))
        table[f"+ {name}, {TOP}"] = line(seconds, benchmark, reranked)
    return table


def line(seconds: float, benchmark: Benchmark | None = None, answers: Answers | None = None) -> dict[str, str]:
    cells = {"seconds per query": f"{seconds:.4f}", "mAP E / M / H": "–", "peak memory": "–"}
    if benchmark is not None:
        scorer = benchmark.scorer()
        scorer.add(answers)
        metrics = scorer.result().metrics
        cells["mAP E / M / H"] = " / ".join(f"{metrics[kind]['mAP']:.2f}" for kind in ("easy", "medium", "hard"))
        cells["peak memory"] = f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB"
    return cells


def pairs_of(context: Context, row: int, others: np.ndarray):
    """(features, positions) of the query and of each of the others, as numpy arrays of what is real."""

    def real(photos: PhotoFeatures, rows: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        found = [np.asarray(x) for x in photos.local_features(rows)]
        return [(f[:count], p[:count]) for f, p, count in zip(*found, strict=True)]

    (query,) = real(context.queries, np.array([row]))
    return [(query, other) for other in real(context.database, others)]


def delf_inliers(query: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> int:
    """As DELF's image re-ranking: nearest neighbours below a distance by a k-d tree, RANSAC for an affine transform."""
    if min(len(query[0]), len(other[0])) < 1:
        return 0
    _, nearest = cKDTree(query[0]).query(other[0], distance_upper_bound=DISTANCE)
    matched = np.flatnonzero(nearest < len(query[0]))
    if len(matched) <= 3:
        return 0
    points = other[1][matched], query[1][nearest[matched]]
    _, inliers = ransac(points, AffineTransform, 3, RESIDUAL, max_trials=TRIALS, rng=0)
    return 0 if inliers is None else int(inliers.sum())


def opencv_inliers(query: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> int:
    """Mutual nearest neighbours and RANSAC for an affine transform, as ours."""
    if min(len(query[0]), len(other[0])) < 3:
        return 0
    matches = cv2.BFMatcher(cv2.NORM_L2, crossCheck=True).match(query[0], other[0])
    if len(matches) < 3:
        return 0
    a, b = query[1][[m.queryIdx for m in matches]], other[1][[m.trainIdx for m in matches]]
    _, inliers = cv2.estimateAffine2D(a, b, ransacReprojThreshold=RESIDUAL, maxIters=TRIALS)
    return 0 if inliers is None else int(inliers.sum())


def of_a_drawn_collection(n: int) -> dict[str, str]:
    """Descriptors in groups around random directions, every photograph verified with ten of its group."""
    rng = np.random.default_rng(0)
    group = np.arange(n) // GROUP
    x = rng.normal(size=(-(-n // GROUP), DIM)).astype(np.float32)[group] + rng.normal(size=(n, DIM)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    index = Index.build(x, [str(i) for i in range(n)], Config().search)
    queries = x[rng.integers(0, n, 20)]
    found = [index.search(q[None], 1000) for q in queries]

    a = np.repeat(np.arange(n), 5)
    b = np.minimum(group[a] * GROUP + (a % GROUP + 1 + np.tile(np.arange(5), n)) % GROUP, n - 1)
    a, b = a[a != b], b[a != b]
    here, there = (rng.random((len(a) * INLIERS, 2)).astype(np.float32) for _ in range(2))
    graph = assembled(n, a, b, np.full(len(a), INLIERS), here, there)
    size = sum(part.nbytes for part in graph) / 1e6

    start = time.perf_counter()
    walk = affinity_graph(x, k=50, gamma=3.0, chunk_rows=Config().search.chunk_rows)
    made = time.perf_counter() - start

    def diffuse(i: int, photos: int = 0) -> object:
        settings = {"sources": 10, "alpha": 0.99, "tolerance": 1e-5, "most_iterations": 200}
        return rerank_by_diffusion(queries[i][None], x, found[i].ids, walk, photos=photos, **settings)

    calls = {
        "search": lambda i: index.search(queries[i][None], 1000),
        "communities and uncertainty": lambda i: uncertainty(communities(graph, found[i].ids[0, :20])),
        "propagation": lambda i: propagate(graph, found[i].ids[0, :1], 3),
        "diffusion": diffuse,
        f"diffusion among {AMONG:,}": lambda i: diffuse(i, AMONG),
    }
    cells = {name: f"{1000 * seconds_each(call, len(queries)):.1f}" for name, call in calls.items()}
    return cells | {"hypergraph": f"{size:.0f} MB", "diffusion graph made in": f"{made:.0f} s"}


if __name__ == "__main__":
    main()
