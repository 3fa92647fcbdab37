"""What is asked of a search, and how its answers are scored. numpy only."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from sret_jax.datasets.ground_truth import GroundTruth
from sret_jax.datasets.lookups import Lookup
from sret_jax.errors import UserError
from sret_jax.evaluation.metrics import (
    average_precision,
    recall_at,
    revisited_map,
    revisited_scores,
    revisited_sets,
    score_rankings,
    summarize,
)

# (what stands for each of q queries, k) -> ids and scores [q k]. One of two stages has them as `first` and `rerank`.
Search = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
QUERIES_AT_ONCE = 256  # a full ranking of so many queries is held at once
WRONG, RIGHT, UNJUDGED = 0, 1, -1
RECALLS = (1, 5, 10)  # k of R@k


@dataclass(frozen=True)
class Ranked:
    """The queries of a protocol, their best answers and their scores."""

    queries: Int[np.ndarray, "q"]  # row of each query in its photo set
    ids: Int[np.ndarray, "q k"]  # row of each answer among the photos searched, best first; -1 = none
    scores: Float[np.ndarray, "q k"]  # cosine; -inf = none
    ap: Float[np.ndarray, "q"]  # average precision over the full ranking, 0..1; nan = the query has nothing to find
    verdicts: Int[np.ndarray, "q k"]  # of each answer: RIGHT, WRONG, or UNJUDGED
    metrics: dict[str, Any]  # percent; empty where nothing is labelled
    places: int  # ranks that the search was asked for, of all queries together
    empty: int  # of them without a photo (-1): what an approximate search has not found


def folder_protocol(
    search: Search,
    asking: Shaped[np.ndarray, "n *d"],
    labels: Int[np.ndarray, "n"],
    instances: Sequence[str],
    keep: int,
) -> Ranked:
    """Leave-one-out: every photo of an instance with at least two photos queries all the others.

    Args:
      search: over the photos, in the order of `labels`.
      asking: what stands for each photo as a query, its descriptor or its row.
      labels: index into `instances`; -1 = none. Such photos, and those alone in their instance, are only searched.
      keep: answers per query in the result; the scores always come from the full ranking.

    Raises:
      UserError: no instance has two photos.
    """
    counts = np.bincount(labels[labels >= 0], minlength=len(instances))
    queries = np.flatnonzero([label >= 0 and counts[label] >= 2 for label in labels])
    return _run(search, asking, queries, labels[queries], labels, instances, keep, own=queries)


def query_protocol(
    search: Search,
    asking: Shaped[np.ndarray, "q *d"],
    query_labels: Int[np.ndarray, "q"],
    labels: Int[np.ndarray, "n"],
    instances: Sequence[str],
    keep: int,
) -> Ranked:
    """Separate queries search all photos. A query without a label, or whose instance is not there, is not scored.

    Args:
      search: over the photos searched.
      asking: what stands for each query, its descriptor or its row.
      query_labels: index into `instances`, which must be the instances of the photos searched; -1 = none of them.
      labels: of the photos searched, index into `instances`.
      keep: answers per query in the result.
    """
    queries = np.arange(len(asking))
    return _run(search, asking, queries, query_labels, labels, instances, keep, own=None)


def revisited_protocol(
    search: Search,
    asking: Shaped[np.ndarray, "q *d"],
    truth: GroundTruth,
    depth: int,
    keep: int,
    junk_first: bool = False,
) -> tuple[Ranked, Int[np.ndarray, "q depth"]]:
    """The queries of a benchmark like ROxford5k search its photos, and distractors after them.

    `ap`, `verdicts` and mAP are of the medium set; junk takes a rank but is not judged.

    Args:
      search: over the benchmark's photos and then the distractors.
      asking: what stands for each query, its descriptor or its row, in the order of the ground truth.
      truth: which photo is easy, hard or junk.
      depth: how many photos are ranked; all that are searched, or fewer.
      keep: answers per query in the result.
      junk_first: of `search.first` what a set does not count is taken out before `search.rerank` sees it, which some
        published systems do. Each set then has rankings of its own, and what is returned is of the medium one.

    Returns:
      The result, and the whole rankings.
    """
    sets = revisited_sets(truth.easy, truth.hard, truth.junk)
    if junk_first:
        found = search.first(asking, depth)
        empty = found[0] < 0
        each = {name: search.rerank(asking, *_without(*found, junk)) for name, (_, junk) in sets.items()}
        ids, scores = each["medium"]
        metrics = revisited_metrics({name: own for name, (own, _) in each.items()}, truth)
    else:
        ids, scores = search(asking, depth)
        empty = ids < 0
        metrics = revisited_metrics(dict.fromkeys(sets, ids), truth)
    relevant, junk = sets["medium"]
    ap, _ = revisited_scores(ids, relevant, junk)
    ids_kept, verdicts = ids[:, :keep], np.full(ids[:, :keep].shape, WRONG)
    for row, right, ignored, judged in zip(ids_kept, relevant, junk, verdicts, strict=True):
        judged[np.isin(row, right)] = RIGHT
        judged[np.isin(row, ignored)] = UNJUDGED
    queries = np.arange(len(ids))
    return Ranked(queries, ids_kept, scores[:, :keep], ap, verdicts, metrics, empty.size, int(empty.sum())), ids


def _without(ids: np.ndarray, scores: np.ndarray, junk: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The rankings without these photos, and with as many -1 at their ends."""
    dropped = np.stack([np.isin(row, own) for row, own in zip(ids, junk, strict=True)])
    order = np.argsort(dropped, axis=1, kind="stable")
    ids, scores = np.where(dropped, -1, ids), np.where(dropped, -np.inf, scores)
    return np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1)


def lookup_protocol(
    search: Search, asking: Shaped[np.ndarray, "q *d"], lookup: Lookup, count: int, keep: int
) -> Ranked:
    """Queries with lists of right answers, as Google Landmarks v2 and ILIAS measure them: mAP@depth.

    Args:
      search: over the benchmark's photos and then the distractors.
      asking: what stands for each query, its descriptor or its row, in the order of the benchmark.
      lookup: the benchmark; its `depth` answers count.
      count: how many photos are searched.
      keep: answers per query in the result.
    """
    depth = min(lookup.depth or count, count)
    ids, scores = search(asking, max(depth, min(keep, count)))
    right = np.stack([np.isin(row, relevant) for row, relevant in zip(ids, lookup.relevant, strict=True)])
    totals = [min(len(relevant), lookup.depth or count) for relevant in lookup.relevant]
    ap = np.array([average_precision(row[:depth], total) for row, total in zip(right, totals, strict=True)])
    name = f"mAP@{lookup.depth}" if lookup.depth else "mAP"
    metrics: dict[str, Any] = {name: 100 * float(ap.mean())}
    recall = recall_at(ids, lookup.relevant, RECALLS)
    metrics |= {f"R@{k}": 100 * float(x) for k, x in zip(RECALLS, recall, strict=True)}
    for group in sorted(set(lookup.groups) - {""}):
        metrics[f"{name} {group}"] = 100 * float(ap[np.array(lookup.groups) == group].mean())
    metrics["queries"] = len(ap)
    metrics["per_query"] = {q: 100 * float(x) for q, x in zip(lookup.queries.names, ap, strict=True)}
    verdicts = np.where(right, RIGHT, WRONG)[:, :keep]
    queries, empty = np.arange(len(ids)), int((ids < 0).sum())
    return Ranked(queries, ids[:, :keep], scores[:, :keep], ap, verdicts, metrics, ids.size, empty)


def revisited_metrics(rankings: Mapping[str, Int[np.ndarray, "q k"]], truth: GroundTruth) -> dict[str, Any]:
    """`revisited_map`, and of the medium set `"mAP"`, `"queries"` and `"per_query"`: the AP of each, percent.

    `rankings`: of easy, medium and hard.
    """
    metrics: dict[str, Any] = {
        name: revisited_map(own, truth.easy, truth.hard, truth.junk)[name] for name, own in rankings.items()
    }
    ap, _ = revisited_scores(rankings["medium"], *revisited_sets(truth.easy, truth.hard, truth.junk)["medium"])
    if np.isnan(ap).all():
        raise UserError("the ground truth names no photo that any query should find; there is nothing to measure")
    per_query = {name: 100 * float(x) for name, x in zip(truth.queries, ap, strict=True) if not np.isnan(x)}
    return metrics | {"mAP": metrics["medium"]["mAP"], "queries": len(per_query), "per_query": per_query}


def _run(
    search: Search,
    asking: np.ndarray,
    queries: np.ndarray,
    query_labels: np.ndarray,
    labels: np.ndarray,
    instances: Sequence[str],
    keep: int,
    own: np.ndarray | None,
) -> Ranked:
    n = len(labels)
    keep = min(keep, n - (own is not None))
    ids, scores = np.full((len(queries), keep), -1, np.int64), np.full((len(queries), keep), -np.inf, np.float32)
    ap, first, empty = np.full(len(queries), np.nan), np.zeros(len(queries), bool), 0
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        part = slice(start, start + QUERIES_AT_ONCE)
        found, cosine = search(asking[queries[part]], n)
        empty += int((found < 0).sum())
        itself = None if own is None else own[part]
        ap[part], first[part] = score_rankings(found, query_labels[part], labels, itself)
        if itself is not None:  # to the end, then cut off: the query is not an answer to itself
            last = np.argsort(found == itself[:, None], axis=1, kind="stable")
            found, cosine = np.take_along_axis(found, last, 1), np.take_along_axis(cosine, last, 1)
        ids[part], scores[part] = found[:, :keep], cosine[:, :keep]
    metrics = {}
    if own is not None or not np.isnan(ap).all():
        metrics = summarize(ap, first, query_labels)
        metrics["per_instance"] = {instances[label]: value for label, value in metrics["per_instance"].items()}
    right = (ids >= 0) & (np.where(ids >= 0, labels[ids], -1) == query_labels[:, None])
    verdicts = np.where(np.isnan(ap)[:, None], UNJUDGED, np.where(right, RIGHT, WRONG))
    return Ranked(queries, ids, scores, ap, verdicts, metrics, len(queries) * n, empty)
