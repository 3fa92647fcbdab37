"""How an approximate index reaches a recall that is asked for, with as little work as it can: measured on itself.

    recall@10 = |found among the first 10, and as near as the exact 10th| / 10

Means of a few photographs of the collection ask, as what comes from elsewhere would: near to several of them, and very
near to none. The photographs themselves would be found too easily, as many of them have near copies, which lie in one
leaf. Exact search says what is right. Of a tree the number of leaves, of those that are searched and of the candidates
that are scored again are chosen: the recall grows with both of the latter, and so does the work. What was chosen by
some means is measured, and where it must be corrected, by others.
"""

import bisect
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from sret_jax.retrieval.approximate import scann_top_k
from sret_jax.retrieval.exact import cosines, exact_top_k, queries_at_once
from sret_jax.retrieval.searcher import Settings

log = logging.getLogger(__name__)

ANSWERS = 10  # whose recall it is
SAMPLE = 256  # queries that choose, and as many others that measure
MIXED = 5  # photographs in each; what three chose was too little for photographs from elsewhere
REORDERS = (10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1000, 2000)  # candidates scored again
FINENESS = 1.2  # from one number of leaves that are searched to the next
TREES = 3  # built at most
EQUAL = 1e-6  # cosines closer than this differ by rounding only
# Seconds for a byte of codes are 1; of benchmarks/results/search_windows_200000_cpu.md, by least squares. Descriptors
# are fetched one by one, centroids are multiplied with all queries at once.
OF_DESCRIPTORS, OF_CENTROIDS = 1.5, 0.5


class Sample(NamedTuple):
    """Descriptors that ask, of unit length.

    tenth   the cosine of the 10th nearest photograph
    """

    queries: Float32[np.ndarray, "s d"]
    tenth: Float32[np.ndarray, "s"]


class Choice(NamedTuple):
    """leaves_to_search is 0 where there are no leaves."""

    leaves_to_search: int
    reorder: int


def tune(
    x: Float[np.ndarray, "n d"], leaves: int, recall: float, chunk_rows: int, build: Callable[[Settings], Any]
) -> tuple[Settings, Any]:
    """The settings that reach the recall with the least work, and what `build` made of them.

    With "recall", which was measured: less than was asked for where nothing reaches it, and the settings are then the
    most exact ones.

    Args:
      x: descriptors of unit length, at least 16.
      leaves: of the first tree that is tried; 0: of an index without a tree.
      recall: asked for, a share.
      chunk_rows: of exact search.
      build: an index over x, of settings with "leaves" and "leaves_to_search" where there is a tree.
    """
    rng = np.random.default_rng(0)
    samples = [_sample(x, _means(x, rng), chunk_rows) for _ in range(2)]
    best, built = _try(x, leaves, recall, samples, build)
    tried = {leaves}
    while leaves and best["recall"] >= recall and len(tried) < TREES:
        following = _following(len(x), x.shape[1], best)
        if following in tried or not 2 <= following <= len(x) // 4:
            break
        tried.add(following)
        other, its = _try(x, following, recall, samples, build)
        if other["recall"] < recall or _work(len(x), x.shape[1], other) >= _work(len(x), x.shape[1], best):
            break
        best, built = other, its
    if best["recall"] < recall:
        log.warning(
            "search.recall=%.10g is not reached: the most exact settings find %.4g of the exact answers; "
            "search.method=exact finds all",
            *(recall, best["recall"]),
        )
    return best, built


def said(settings: Settings, asked: float) -> str:
    """What was chosen and measured, in words; "" where nothing was."""
    if "recall" not in settings:
        return ""
    reached = "asked for" if settings["recall"] >= asked else "was asked for and is not reached"
    return f"recall@{ANSWERS} {settings['recall']:.4g} on means of its photos ({asked:.10g} {reached})"


def _try(
    x: np.ndarray, leaves: int, recall: float, samples: Sequence[Sample], build: Callable[[Settings], Any]
) -> tuple[Settings, Any]:
    n, d = x.shape
    trees: Settings = {"leaves": leaves} if leaves else {}
    built = build(trees | ({"leaves_to_search": leaves} if leaves else {}))
    breadths, reorders = _breadths(leaves), sorted({min(r, n) for r in REORDERS})

    def work(choice: Choice) -> float:
        return _work(n, d, trees | choice._asdict())

    def recall_on(sample: Sample) -> Callable[[Choice], float]:
        return lambda choice: _recall(built, x, sample, choice)

    chosen = cheapest(recall_on(samples[0]), breadths, reorders, recall, work)
    chosen, measured = raised(recall_on(samples[1]), chosen, breadths, reorders, recall, work)
    settings = trees | {"reorder": chosen.reorder, "recall": measured}
    return settings | ({"leaves_to_search": chosen.leaves_to_search} if leaves else {}), built


def cheapest(
    recall_of: Callable[[Choice], float],
    breadths: Sequence[int],
    reorders: Sequence[int],
    enough: float,
    work: Callable[[Choice], float],
) -> Choice:
    """The choice of least work whose recall is enough; the most exact one where none is.

    Walks along the border between what is enough and what is not: `recall_of` is asked for as many choices as both
    lists are long together, and not for all.

    Args:
      recall_of: does not fall with either number.
      breadths, reorders: rising.
      work: rises with either number.
    """
    j, i = len(reorders) - 1, bisect.bisect_left(breadths, enough, key=lambda b: recall_of(Choice(b, reorders[-1])))
    best = Choice(breadths[-1], reorders[-1])
    while i < len(breadths) and work(Choice(breadths[i], reorders[0])) <= work(best):
        while j > 0 and recall_of(Choice(breadths[i], reorders[j - 1])) >= enough:
            j -= 1
        best = min(best, Choice(breadths[i], reorders[j]), key=work)
        if j == 0:
            break
        i += 1
    return best


def raised(
    recall_of: Callable[[Choice], float],
    choice: Choice,
    breadths: Sequence[int],
    reorders: Sequence[int],
    enough: float,
    work: Callable[[Choice], float],
) -> tuple[Choice, float]:
    """The choice, made more exact step by step until its recall is enough or none is more exact; and that recall."""
    measured = recall_of(choice)
    while measured < enough:
        breadth, reorder = bisect.bisect(breadths, choice[0]), bisect.bisect(reorders, choice[1])
        next_ones = [Choice(b, choice.reorder) for b in breadths[breadth : breadth + 1]]
        next_ones += [Choice(choice.leaves_to_search, r) for r in reorders[reorder : reorder + 1]]
        if not next_ones:
            break
        recalls = {one: recall_of(one) for one in next_ones}
        choice = min((one for one in next_ones if recalls[one] >= enough), key=work, default=None) or max(
            next_ones, key=lambda one: (recalls[one], -work(one))
        )
        measured = recalls[choice]
    return choice, measured


def _breadths(leaves: int) -> list[int]:
    """Numbers of leaves that may be searched, up to all."""
    if not leaves:
        return [0]
    steps = math.ceil(math.log(leaves, FINENESS)) if leaves > 1 else 0
    return sorted({min(leaves, round(FINENESS**step)) for step in range(steps + 1)})


def _work(n: int, d: int, settings: Settings) -> float:
    """Of a query, in bytes of codes: of 4 bits for two numbers, of photos in the leaves that are searched."""
    leaves = settings.get("leaves", 0)
    return _scan(n, d, settings) + OF_DESCRIPTORS * 4 * d * settings["reorder"] + OF_CENTROIDS * 4 * d * leaves


def _scan(n: int, d: int, settings: Settings) -> float:
    share = settings["leaves_to_search"] / settings["leaves"] if settings.get("leaves") else 1.0
    return n * d / 4 * share


def _following(n: int, d: int, settings: Settings) -> int:
    """How many leaves may be less work, as those that are searched and the comparison with all centroids go."""
    scan, centroids = _scan(n, d, settings), OF_CENTROIDS * 4 * d * settings["leaves"]
    return settings["leaves"] * 2 if scan > centroids else settings["leaves"] // 2


def _means(x: Float[np.ndarray, "n d"], rng: np.random.Generator) -> Float32[np.ndarray, "s d"]:
    """Means of `MIXED` rows that are drawn, of unit length."""
    total = x[rng.integers(0, len(x), (SAMPLE, MIXED))].sum(1, dtype=np.float32)
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def _sample(x: np.ndarray, queries: np.ndarray, chunk_rows: int) -> Sample:
    tenth = np.empty(len(queries), np.float32)
    step = queries_at_once(len(x), ANSWERS, chunk_rows)
    for start in range(0, len(queries), step):
        some = queries[start : start + step]
        ids, _ = exact_top_k(some, x, ANSWERS, chunk_rows)
        tenth[start : start + step] = cosines(some, x, ids).min(1)
    return Sample(queries, tenth)


def _recall(scann: Any, x: np.ndarray, sample: Sample, choice: Choice) -> float:
    settings = {"pre_reorder_num_neighbors": choice.reorder}
    if choice.leaves_to_search:
        settings["leaves_to_search"] = choice.leaves_to_search
    ids, _ = scann_top_k(scann, sample.queries, choice.reorder, settings)
    near = (ids >= 0) & (cosines(sample.queries, x, np.maximum(ids, 0)) >= sample.tenth[:, None] - EQUAL)
    return float(np.minimum(near.sum(1), ANSWERS).mean() / ANSWERS)
