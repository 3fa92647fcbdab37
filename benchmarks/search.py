"""Nearest-descriptor search: exact, ScaNN and FAISS in the same run, each in a process of its own.

    pip install "sret_jax[bench]"
    python benchmarks/search.py [--count 1000000] [--dim 512] [--queries 256] [--threads 2] [--save]
    python benchmarks/search.py --descriptors=FOLDER    # a store that eval.py wrote; --queries of its rows ask the rest
    python benchmarks/search.py --photos=FOLDER         # windows of photographs, asked for by windows of others

- exact, AH and tree + AH are `sret_jax.retrieval.index.Index`; ScaNN keeps 4 bits per 2 numbers and re-scores by the
  full descriptors. "tuned 0.95" chose its settings itself, as `--config.search.recall=0.95` does; the others go through
  all of theirs. float16, int8: `--config.search.store`. In shards: `--config.search.shards`.
- FAISS: flat; IVF with the same codes (its fast scan), re-scoring and number of leaves; HNSW of 32 links.

All queries are asked at once, with the same number of threads everywhere, for 10 answers and for 100; recall is of as
many as were asked for. The queries per second are those of the best round, "alone" the median time of single queries
that come one after the other. Memory: saved on disk; held by a fresh
process that has loaded the index and searched with it; and at most while it was built, with the descriptors that it was
given. Recall is against the sums in float64. Uniformly random descriptors have no neighbourhoods for a tree or a graph
to follow: they are the hard case, and what real descriptors allow is measured with `--descriptors` and `--photos`.
"""

import argparse
import dataclasses
import importlib.util
import io
import math
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from timing import command, interleaved, machine, save
from windows import window_descriptors

from sret_jax.config import SearchConfig
from sret_jax.retrieval.exact import normalized
from sret_jax.retrieval.index import Index
from sret_jax.storage.row_store import RowStore

RESCORED = {10: (50, 100, 200), 100: (200, 1000)}  # answers asked for: candidates of the codes that are scored again
RECALLS = (0.9, 0.95, 0.97, 0.98, 0.99)
SHARES = (0.01, 0.0125, 0.015, 0.0175, 0.02, 0.025, 0.03, 0.04, 0.05, 0.1, 0.25, 1.0)  # of the leaves, searched
ALONE = 50  # single queries timed, after one that compiles
LINKS, BREADTHS = 32, (128, 192, 256, 512, 1024)  # HNSW: of a photo, and kept while searching
FLAT = "FAISS flat"
OURS = {
    "exact": SearchConfig(method="exact"),
    "exact float16": SearchConfig(method="exact", store="float16"),
    "exact int8": SearchConfig(method="exact", store="int8"),
    "exact 2 shards": SearchConfig(method="exact", shards=2),
    "AH (ScaNN)": SearchConfig(method="ah"),
    "tree + AH (ScaNN)": SearchConfig(method="tree_ah"),
    "tuned 0.95 (ScaNN)": SearchConfig(method="tree_ah", recall=0.95),
    "tuned 0.99 (ScaNN)": SearchConfig(method="tree_ah", recall=0.99),
    "tuned 0.99 int8 (ScaNN)": SearchConfig(method="tree_ah", recall=0.99, store="int8"),
}
THEIRS = (FLAT, "FAISS IVF-PQ + refine", "FAISS HNSW")

Call = Callable[[np.ndarray], np.ndarray]  # queries [q d] -> ids [q k]


def leaves(count: int) -> int:
    return 2 * math.isqrt(count)


def shares(count: int) -> list[int]:
    """Leaves that are searched."""
    return [max(1, round(share * leaves(count))) for share in SHARES]


def build(name: str, folder: Path, threads: int) -> dict[str, Any]:
    """Builds an index of the descriptors in `folder` and saves it there; runs in a fresh process."""
    before = memory("VmRSS")
    x = np.load(folder / "descriptors.npy")
    start = time.perf_counter()
    if name in OURS:
        index = Index.build(x, [str(i) for i in range(len(x))], OURS[name])
    else:
        import faiss

        faiss.omp_set_num_threads(threads)
        codes = f"IVF{leaves(len(x))},PQ{x.shape[1] // 2}x4fsr,RFlat"
        kind = dict(zip(THEIRS, ("Flat", codes, f"HNSW{LINKS},Flat"), strict=True))[name]
        index = faiss.index_factory(x.shape[1], kind, faiss.METRIC_INNER_PRODUCT)
        index.train(x)
        index.add(x)
    seconds, peak = time.perf_counter() - start, memory("VmHWM") - before
    if name in OURS:
        index.save(folder / "ours")
        size = sum(file.stat().st_size for file in (folder / "ours").rglob("*") if file.is_file())
        index.close()
    else:
        faiss.write_index(index, str(folder / "theirs"))
        size = (folder / "theirs").stat().st_size
    return {"name": name, "build": seconds, "peak": peak, "size": size}


def of_workers(kind: str) -> int:
    """Bytes that the processes which this one started hold: those of shards."""
    children = Path("/proc/self/task").glob("*/children")
    return sum(memory(kind, int(child)) for file in children for child in file.read_text().split())


def serve(name: str, folder: Path, threads: int, rounds: int) -> list[dict[str, Any]]:
    """Loads the saved index and times it with all its settings; runs in a fresh process."""
    queries, truth = (np.load(folder / f"{part}.npy") for part in ("queries", "truth"))
    rows = []
    before = memory("VmRSS")
    for k, setting, call in ours(folder, threads) if name in OURS else theirs(name, folder, threads):
        seconds = interleaved({"search": lambda call=call: call(queries)}, rounds)["search"]
        recall = np.mean([np.isin(t[:k], found) for found, t in zip(call(queries), truth, strict=True)])
        speed = {"qps": len(queries) / seconds.min(), "median": len(queries) / np.median(seconds)}
        speed["alone"] = 1000 * np.median([seconds_of(call, query[None]) for query in queries[: ALONE + 1]][1:])
        rows.append(speed | {"k": k, "setting": setting, "recall": recall})
    held = memory("VmRSS") - before + of_workers("VmRSS")
    return [row | {"held": held} for row in rows]


def seconds_of(call: Call, queries: np.ndarray) -> float:
    start = time.perf_counter()
    call(queries)
    return time.perf_counter() - start


def ours(folder: Path, threads: int) -> Iterator[tuple[int, str, Call]]:
    """The searches of an index: answers asked for, settings, and the call."""
    index = Index.load(folder / "ours")
    if index._scann is not None:
        index._scann.set_num_threads(threads)
    for k, depths in RESCORED.items():

        def call(q: np.ndarray, k: int = k) -> np.ndarray:
            return index.search(q, k).ids

        if index.method == "exact" or "recall" in index.settings:
            yield k, said(index.settings), call
            continue
        for rescored in depths:
            index.config = dataclasses.replace(index.config, reorder=rescored)
            if index.method == "ah":
                yield k, f"{rescored} re-scored", call
                continue
            for searched in shares(len(index)):
                index.settings = {"leaves": leaves(len(index)), "leaves_to_search": searched}
                yield k, f"{rescored} re-scored, {searched} leaves", call


def said(settings: dict[str, Any]) -> str:
    """What an index chose for a recall, and measured."""
    if "recall" not in settings:
        return ""
    of = f"{settings['leaves_to_search']} of {settings['leaves']} leaves"
    return f"{settings['reorder']} re-scored for ten, {of}, {settings['recall']:.3f} on its own"


def theirs(name: str, folder: Path, threads: int) -> Iterator[tuple[int, str, Call]]:
    """As `ours`."""
    import faiss

    faiss.omp_set_num_threads(threads)
    index = faiss.read_index(str(folder / "theirs"))
    for k, depths in RESCORED.items():

        def call(q: np.ndarray, k: int = k) -> np.ndarray:
            return index.search(q, k)[1]

        if name == FLAT:
            yield k, "", call
        elif "IVF" in name:
            for rescored in depths:
                index.k_factor = rescored / k
                for searched in shares(index.ntotal):
                    faiss.extract_index_ivf(index.base_index).nprobe = searched
                    yield k, f"{rescored} re-scored, {searched} leaves", call
        else:
            for index.hnsw.efSearch in BREADTHS:
                yield k, f"breadth {index.hnsw.efSearch}", call


def memory(kind: str, process: int | str = "self") -> int:
    """Bytes that a process holds ("VmRSS"), or held at most ("VmHWM")."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    return int(status[kind].split()[0]) * 1024


def nearest(queries: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The rows of largest dot product with each query, summed in float64: as many as are ever asked for."""
    best, ids = np.zeros((len(queries), 0)), np.zeros((len(queries), 0), np.int64)
    for start in range(0, len(x), 1 << 16):
        part = x[start : start + (1 << 16)]
        scores = queries.astype(np.float64) @ part.T.astype(np.float64)
        best = np.concatenate([best, scores], 1)
        ids = np.concatenate([ids, np.broadcast_to(np.arange(start, start + len(part)), scores.shape)], 1)
        order = np.argsort(-best, 1, kind="stable")[:, : max(RESCORED)]
        best, ids = np.take_along_axis(best, order, 1), np.take_along_axis(ids, order, 1)
    return ids


def descriptors(options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, str]:
    """`(searched, queries, in words)`."""
    rng = np.random.default_rng(0)
    if options.photos:
        x, queries = window_descriptors(options.photos, options.count, options.queries, options.dim)
        return x, queries, "windows of photographs, descriptors"
    if options.descriptors:
        store = RowStore.load(options.descriptors)
        x = normalized(store.read(), store.names)
        is_query = np.zeros(len(x), bool)
        is_query[rng.permutation(len(x))[: options.queries]] = True
        return x[~is_query], x[is_query], "descriptors of a store"
    x = rng.standard_normal((options.count + options.queries, options.dim), np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x[options.queries :], x[: options.queries], "random unit descriptors"


def floor(count: int, dim: int, queries: int) -> list[str]:
    m, v = jnp.ones((2048, 2048), jnp.float32), jnp.ones(1 << 26, jnp.float32)
    product, total = jax.jit(lambda z: z @ z), jax.jit(jnp.sum)
    seconds = interleaved({"product": lambda: product(m), "read": lambda: total(v)}, 10)
    rate, bandwidth = 2 * 2048**3 / seconds["product"].min(), v.nbytes / seconds["read"].min()
    flop, full, codes = 2 * count * dim, 4 * count * dim, count * dim // 4
    exact = 1 / max(flop / rate, full / queries / bandwidth)
    return [
        f"- this machine: {rate / 1e9:.0f} GFLOP/s in a 2048 x 2048 product, {bandwidth / 1e9:.1f} GB/s read",
        f"- floor of exact search: {flop / 1e9:.3g} GFLOP a query, and {full / 1e9:.3g} GB read once for {queries} "
        f"queries: at most {exact:.0f} queries/s",
        f"- floor of one query alone: {full / 1e6:.3g} MB, {1e3 * full / bandwidth:.3g} ms exact; AH of all codes: "
        f"{codes / 1e6:.3g} MB, {1e3 * codes / bandwidth:.3g} ms, before re-scoring",
    ]


def table(rows: list[dict[str, Any]]) -> list[str]:
    heads = ["", "answers", "setting", "recall", "queries/s", "median", "alone, ms"]
    heads += ["build, s", "saved, MB", "held, MB", "peak, MB"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        cells = [row["name"], str(row["k"]), row["setting"], f"{row['recall']:.3f}"]
        cells += [f"{row[key]:.0f}" for key in ("qps", "median")] + [f"{row['alone']:.2f}", f"{row['build']:.1f}"]
        cells += [f"{row[key] / 1e6:.0f}" for key in ("size", "held", "peak")]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def fastest(rows: list[dict[str, Any]]) -> list[str]:
    """Of each index the most queries per second at which its recall@10 is enough; - where it never is."""
    names = list(dict.fromkeys(row["name"] for row in rows))
    lines = [f"| queries/s at recall@10 of | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for recall in RECALLS:
        enough = [row for row in rows if row["k"] == 10 and row["recall"] >= recall]
        best = {row["name"]: f"{row['qps']:.0f}" for row in sorted(enough, key=lambda row: row["qps"])}
        lines.append(f"| {recall} or more | {' | '.join(best.get(name, '-') for name in names)} |")
    return lines


def picture(rows: list[dict[str, Any]], title: str) -> bytes:
    """Queries per second against recall@10, a line per index through its settings that no other of its own beats."""
    figure = Figure(figsize=(7, 4.5), dpi=120, layout="constrained")
    axes = figure.add_subplot(xlabel="recall@10", ylabel="queries/s", yscale="log", title=title)
    for name in dict.fromkeys(row["name"] for row in rows):
        points = [(row["recall"], row["qps"]) for row in rows if row["name"] == name and row["k"] == 10]
        best = [(r, q) for r, q in points if not any(r2 >= r and q2 > q for r2, q2 in points)]
        x, y = zip(*sorted(best), strict=True)
        axes.plot(x, y, "o-" if name in OURS else "s--", label=name)
    axes.grid(alpha=0.3)
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def main() -> None:
    cores = sorted(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000, help="random descriptors, or windows, searched")
    parser.add_argument("--dim", type=int, default=512, help="of random descriptors, or windows")
    parser.add_argument("--descriptors", default="", help="folder of a descriptor store, instead of random ones")
    parser.add_argument("--photos", default="", help="folder <instance>/<photo> whose windows are searched instead")
    parser.add_argument("--queries", type=int, default=256)
    parser.add_argument("--threads", type=int, default=len(cores), help=f"of every index, up to {len(cores)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help=f"comma-separated: {', '.join([*OURS, *THEIRS])}")
    parser.add_argument("--save", action="store_true", help="keep the table and the picture under benchmarks/results")
    options = parser.parse_args()
    os.sched_setaffinity(0, cores[: options.threads])  # what XLA and BLAS go by; inherited
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = str(options.threads)

    x, queries, what = descriptors(options)
    title = f"{len(x):,} {what} of {x.shape[1]}"
    lines = [f"# Search of {title}", "", machine(), "", f"{command()}, {options.threads} threads", ""]
    lines += [*floor(*x.shape, len(queries)), ""]
    print("\n".join(lines), flush=True)
    names = [*OURS, *THEIRS]
    if importlib.util.find_spec("faiss") is None:
        lines += ["FAISS is not installed, its rows are left out: pip install 'sret_jax[bench]'", ""]
        print(lines[-2])
        names = list(OURS)
    names = [name for name in names if not options.only or name in options.only.split(",")]
    rows: list[dict[str, Any]] = []
    kind = "store" if options.descriptors else f"{'windows_' if options.photos else ''}{options.count}"
    with tempfile.TemporaryDirectory() as folder:
        for part, array in {"descriptors": x, "queries": queries, "truth": nearest(queries, x)}.items():
            np.save(Path(folder) / f"{part}.npy", array)
        del x
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as process:
            for name in names:
                about = process.submit(build, name, Path(folder), options.threads).result()
                served = process.submit(serve, name, Path(folder), options.threads, options.rounds).result()
                rows += [about | row for row in served]
                text = "\n".join([*lines, *fastest(rows), "", *table(rows), ""])
                print("\n".join(table(rows)[-sum(row["name"] == name for row in rows) :]), flush=True)
                if options.save:  # what is measured is kept, should the rest be interrupted
                    path = save(f"search_{kind}", text)
                    path.with_suffix(".png").write_bytes(picture(rows, title))
    print("\n".join(fastest(rows)))
    if options.save:
        print("saved", path)


if __name__ == "__main__":
    main()
