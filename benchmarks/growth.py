"""Time and memory as the work grows: describing, storing, indexing, searching and scoring, with the exponent of growth.

    python benchmarks/growth.py [--photos=100,200,400] [--sizes=1000,10000,100000,1000000] [--dim=128] [--save]

- describe: photographs drawn by code, to descriptors in a store, by the weights that come with the package. Compiling
  is not counted: the shapes were seen before.
- store: drawn descriptors into such a store, chunk by chunk: what describing adds to the network's time.
- collection: drawn descriptors and maps into a collection as `sret index` keeps it, 1,000 at a time, and opening it.
- index: `Index.build`, which chooses the method by the size.
- search: 64 queries, ten answers each, through that index.
- report: the whole ranking of these 64 queries by exact search, 8 at a time, scored as a benchmark is.

Everything but the first is of drawn descriptors: unit vectors around as many centres as there are hundreds of them, as
photographs of a hundred views each would be. Time is the processor's, of all threads of this process, so that what else
runs on the machine does not count; a share of waiting for the disk is not in it. Memory is what the process held at
most during the step, above what it held before. The exponent is that of time between a size and the one before it: 1 is
linear, and n log n shows as 1.1 from a thousand to ten thousand and as 1.07 from a hundred thousand to a million.
"""

import argparse
import math
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from comparison import markdown
from timing import command, machine, save

import sret_jax
from sret_jax.collection.state import StoredPhoto
from sret_jax.collection.store import Described, Store
from sret_jax.config import SearchConfig
from sret_jax.datasets.synthetic_views import prepare_synthetic
from sret_jax.evaluation.scorers import InstanceScorer
from sret_jax.reranking.answers import Answers
from sret_jax.retrieval.exact import exact_top_k
from sret_jax.retrieval.index import Index
from sret_jax.storage.row_store import fill_store

QUERIES, ANSWERS, AT_ONCE = 64, 10, 8
VIEWS = 100  # descriptors around a centre


class Cost(NamedTuple):
    """Of a step at a size: seconds of the processor and of the clock, and bytes above what was held before."""

    size: int
    cpu: float
    wall: float
    bytes: int


def held(line: str) -> int:
    """Bytes in /proc/self/status: VmRSS, or VmHWM, the most since `forget_peak`."""
    text = Path("/proc/self/status").read_text()
    return 1024 * int(next(one.split()[1] for one in text.splitlines() if one.startswith(line)))


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def measured(size: int, step: Callable[[], Any]) -> tuple[Cost, Any]:
    """What a step costs, and what it returns."""
    forget_peak()
    before, wall, cpu = held("VmRSS"), time.perf_counter(), time.process_time()
    result = step()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return Cost(size, cpu, wall, max(held("VmHWM") - before, 0)), result


def exponent(one: Cost, other: Cost) -> float:
    """p of time ~ size^p between two sizes."""
    return math.log(max(other.cpu, 1e-9) / max(one.cpu, 1e-9)) / math.log(other.size / one.size)


def drawn(size: int, dim: int, seed: int = 0) -> np.ndarray:
    """Unit descriptors float32 [size dim], of which `VIEWS` lie around a centre, one after the other."""
    rng = np.random.default_rng(seed)
    x = np.empty((size, dim), np.float32)
    for start in range(0, size, VIEWS):
        part = x[start : start + VIEWS]
        part[:] = rng.standard_normal(dim, np.float32) + 0.7 * rng.standard_normal(part.shape, np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return x


def names_of(size: int) -> list[str]:
    return [f"{i // 1000:04d}/{i:08d}.jpg" for i in range(size)]


def of_photographs(sizes: list[int], work: Path) -> list[Cost]:
    """Describing, the photographs drawn before and the programs compiled before."""
    retriever = sret_jax.load()
    photos = prepare_synthetic(work / "drawn", instances=-(-max(sizes) // 8), photos=8, seed=0, split="test")
    retriever.extractor.describe(photos, range(min(2 * retriever.extractor.batch_size, len(photos))))
    costs = []
    for size in sizes:
        part = photos.select(np.arange(size))
        costs.append(
            measured(size, lambda part=part, size=size: retriever.extract(part, work / f"described-{size}"))[0]
        )
    return costs


def store(x: np.ndarray, names: list[str], folder: Path) -> None:
    fill_store(folder, names, "drawn", 1024, lambda rows: x[rows.start : rows.stop])


def collection(x: np.ndarray, names: list[str], folder: Path, channels: int = 112) -> None:
    own = np.ones((1, 1, channels), np.int8)  # maps of one position: the same at every size
    made = Store.create(folder, x.shape[1], channels, {"retriever": "drawn", "stage": "c4"})
    for start in range(0, len(x), 1000):
        part = x[start : start + 1000]
        photos = [
            StoredPhoto(name, (768, 1024), f"{start + i:064x}", (1, 1), (1, 1), (0, 0))
            for i, name in enumerate(names[start : start + 1000])
        ]
        made.add(Described(photos, part, [own] * len(part)))
    Store(folder)


def report(x: np.ndarray, queries: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Scores of the whole rankings of queries that are views of the first centres."""
    instances = [f"{i:06d}" for i in range(int(labels.max()) + 1)]
    scorer = InstanceScorer(labels, instances, np.arange(len(queries)) % len(instances))
    for start in range(0, len(queries), AT_ONCE):
        rows = np.arange(start, min(start + AT_ONCE, len(queries)))
        ids, scores = exact_top_k(queries[rows], x, len(x), SearchConfig().chunk_rows)
        scorer.add(Answers(rows, ids, scores))
    return scorer.result().metrics


def of_descriptors(size: int, dim: int, work: Path) -> dict[str, Cost]:
    x, names = drawn(size, dim), names_of(size)
    centres = x[::VIEWS][np.arange(QUERIES) % -(-size // VIEWS)]
    noise = np.random.default_rng(1).standard_normal(centres.shape, np.float32) / 3 / math.sqrt(dim)
    queries = centres + noise
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    costs = {}
    for name, step in (("store", store), ("collection", collection)):
        folder = work / f"{name}-{size}"
        costs[name], _ = measured(size, lambda step=step, folder=folder: step(x, names, folder))
        shutil.rmtree(folder)
    costs["index"], index = measured(size, lambda: Index.build(x, names))
    index.search(queries[:1], ANSWERS)
    costs["search"], _ = measured(size, lambda: index.search(queries, ANSWERS))
    del index
    labels = np.arange(size) // VIEWS
    exact_top_k(queries[:AT_ONCE], x, size, SearchConfig().chunk_rows)  # compiles
    costs["report"], _ = measured(size, lambda: report(x, queries, labels))
    return costs


def table(costs: dict[str, list[Cost]]) -> str:
    rows: dict[str, dict[str, str]] = {}
    for step, of_step in costs.items():
        for before, cost in zip([None, *of_step], of_step, strict=False):
            rows[f"{step}, {cost.size:,}"] = {
                "seconds of the processor": f"{cost.cpu:.3g}",
                "of the clock": f"{cost.wall:.3g}",
                "µs of the processor / photograph": f"{1e6 * cost.cpu / cost.size:.3g}",
                "exponent": "–" if before is None else f"{exponent(before, cost):.2f}",
                "memory, MB": f"{cost.bytes / 1e6:.0f}",
                "bytes / photograph": f"{cost.bytes / cost.size:.0f}",
            }
    return markdown(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", default="100,200,400", help="photographs that are drawn and described")
    parser.add_argument("--sizes", default="1000,10000,100000,1000000", help="drawn descriptors")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--save", action="store_true", help="keep the table under benchmarks/results")
    given = parser.parse_args()
    sizes, photos = ([int(n) for n in text.split(",") if n] for text in (given.sizes, given.photos))
    about, costs = machine(), {}
    with tempfile.TemporaryDirectory() as folder:
        if photos:
            costs["describe"] = of_photographs(photos, Path(folder))
        for size in sizes:
            for step, cost in of_descriptors(size, given.dim, Path(folder)).items():
                costs.setdefault(step, []).append(cost)
            text = f"{about}. {given.dim} dimensions. {command()}\n\n{table(costs)}\n"
            print(text, flush=True)
            if given.save:  # after every size: the next one takes ten times as long
                print("saved", save("growth", text), flush=True)


if __name__ == "__main__":
    main()
