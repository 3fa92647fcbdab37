"""ASMK against the authors' package on the same local features and words: seconds of each step, in the same run.

    pip install asmk faiss-cpu
    python benchmarks/visual_words.py [--photos 1000] [--queries 16] [--features 500] [--words 4096] [--save]

- build: the collection's features to an inverted file that can be searched (assignment, aggregation, lists).
- query: the queries' features to scores of all photographs, best first; 5 words a feature.
- assign and aggregate: the part of `build` without the lists.

Features are drawn by code, with bursts. A ratio compares ours with the package round by round; the median is printed.
The floor of assignment is its matrix product, at the rate of a large one measured here; that of the comparison is
reading every visited entry (code and photograph) once, at the rate of a large addition measured here.
"""

import argparse
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from asmk.asmk_method import ASMKMethod
from asmk.codebook import Codebook
from asmk.index import initialize_index
from timing import command, interleaved, machine, save

from sret_jax.retrieval.asmk import aggregate
from sret_jax.retrieval.codebook import kmeans, nearest_words
from sret_jax.retrieval.inverted_file import InvertedFile

CHANNELS, BATCH, ASSIGNMENTS = 128, 64, 5


def features(rng: np.random.Generator, photos: int, count: int) -> np.ndarray:
    """A third of each photograph's features are near one of them: bursts."""
    x = rng.normal(size=(photos, count, CHANNELS)).astype(np.float32)
    x[:, : count // 3] = x[:, :1] + 0.3 * x[:, : count // 3]
    return x


def package(centroids: np.ndarray) -> ASMKMethod:
    words = Codebook(initialize_index(None), size=len(centroids))
    words.index(centroids)
    build = {"kernel": {"binary": True}, "ivf": {"use_idf": False}, "quantize": {"multiple_assignment": 1}}
    query = {"quantize": {"multiple_assignment": ASSIGNMENTS}, "search": {"topk": None}}
    query |= {"similarity": {"similarity_threshold": 0.0, "alpha": 3.0}, "aggregate": {}}
    params = {"index": {"gpu_id": None}, "build_ivf": build | {"aggregate": {}}, "query_ivf": query}
    return ASMKMethod(params, {}, codebook=words)


def flat(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x.reshape(-1, CHANNELS), np.repeat(np.arange(len(x)), x.shape[1])


def table(title: str, calls: dict[str, Callable[[], Any]], units: int, rounds: int) -> list[str]:
    seconds = interleaved(calls, rounds)
    lines = [f"| {title} | best ms | median ms | ours / this, speed |", "|---" * 4 + "|"]
    for name, s in seconds.items():
        best, median, ratio = 1e3 * s.min() / units, 1e3 * np.median(s) / units, np.median(s / seconds["sret_jax"])
        lines.append(f"| {name} | {best:.2f} | {median:.2f} | {ratio:.2f} |")
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=1000)
    parser.add_argument("--queries", type=int, default=16)
    parser.add_argument("--features", type=int, default=500, help="of a photograph")
    parser.add_argument("--words", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", action="store_true", help="keep the table under benchmarks/results")
    options = parser.parse_args()

    m = jnp.ones((2048, 2048), jnp.float32)
    product, plus = jax.jit(lambda z: z @ z), jax.jit(lambda z: z + 1)
    z = jnp.ones(2**26, jnp.float32)
    rates = interleaved({"product": lambda: product(m), "plus": lambda: plus(z)}, 10)
    flops, bandwidth = 2 * 2048**3 / rates["product"].min(), 2 * 4 * 2**26 / rates["plus"].min()

    rng = np.random.default_rng(0)
    x, queries = features(rng, options.photos, options.features), features(rng, options.queries, options.features)
    centroids = kmeans(x.reshape(-1, CHANNELS)[:: max(1, x[..., 0].size // (20 * options.words))], options.words)
    names = [str(i) for i in range(options.photos)]
    counts, query_counts = (np.full(len(z), options.features, np.int32) for z in (x, queries))

    def ours() -> InvertedFile:
        index = InvertedFile(centroids)
        for start in range(0, len(x), BATCH):
            rows = slice(start, start + BATCH)
            index.add(x[rows], counts[rows], names[rows])
        index.search(x[:1], counts[:1], 1)  # makes the lists
        return index

    index, theirs = ours(), package(centroids).build_ivf(*flat(x))
    found, scores = index.search(queries, query_counts, len(x))
    _, _, ranks, expected = theirs.query_ivf(*flat(queries))
    order = np.argsort(found, 1), np.argsort(ranks, 1)
    difference = np.abs(np.take_along_axis(scores, order[0], 1) - np.take_along_axis(expected, order[1], 1)).max()

    own = [np.unique(nearest_words(jnp.asarray(q), jnp.asarray(centroids), ASSIGNMENTS)) for q in queries]
    lengths = theirs.inverted_file.counts
    visited = np.mean([lengths[words].sum() for words in own])
    assign = 2 * options.features * options.words * CHANNELS / flops
    entry = CHANNELS // 8 + 4
    sizes = f"{options.photos} photographs, {options.features} features of {CHANNELS} channels, {options.words} words"
    lines = [f"# ASMK, binary: {sizes}", "", machine(), "", command(), ""]
    lines += [
        f"- largest difference of the scores: {difference:.1e}",
        f"- {lengths.sum() / options.photos:.0f} words a photograph, {entry} bytes each",
        f"- a query has {np.mean([len(words) for words in own]):.0f} words and visits {visited:.0f} entries",
        f"- measured here: {flops / 1e9:.0f} GFLOP/s, {bandwidth / 1e9:.0f} GB/s",
        f"- floor: assignment of a photograph {1e3 * assign:.2f} ms, comparison with a query "
        f"{1e3 * visited * entry / bandwidth:.2f} ms",
        "",
    ]
    lines += table(
        "build, per photograph",
        {"sret_jax": ours, "asmk": lambda: package(centroids).build_ivf(*flat(x))},
        options.photos,
        options.rounds,
    )
    lines += table(
        "query, per query",
        {
            "sret_jax": lambda: index.search(queries, query_counts, len(x)),
            "asmk": lambda: theirs.query_ivf(*flat(queries)),
        },
        options.queries,
        options.rounds,
    )
    batch = tuple(jnp.asarray(z) for z in (x[:BATCH], counts[:BATCH], centroids))
    kernel, codebook = theirs.kernel, theirs.codebook
    lines += table(
        "assign and aggregate, per photograph",
        {
            "sret_jax": lambda: aggregate(*batch),
            "asmk": lambda: kernel.aggregate(*codebook.quantize(*flat(x[:BATCH]), multiple_assignment=1)),
        },
        BATCH,
        options.rounds,
    )
    text = "\n".join(lines)
    print(text)
    if options.save:
        print("saved", save("visual_words", text))


if __name__ == "__main__":
    main()
