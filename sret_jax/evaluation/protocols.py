"""What is asked of a search, and how its answers are scored. numpy only."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from sret_jax.evaluation.metrics import score_rankings, summarize

Search = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]  # (queries [q d], k) -> ids and scores [q k]
QUERIES_AT_ONCE = 256  # a full ranking of so many queries is held at once


@dataclass(frozen=True)
class Ranked:
    """The queries of a protocol, their best answers and their scores."""

    queries: Int[np.ndarray, "q"]  # row of each query in its photo set
    ids: Int[np.ndarray, "q k"]  # row of each answer among the photos searched, best first; -1 = none
    scores: Float[np.ndarray, "q k"]  # cosine; -inf = none
    ap: Float[np.ndarray, "q"]  # average precision over the full ranking, 0..1; nan = the query has nothing to find
    first: np.ndarray  # bool [q]: the best answer is right
    metrics: dict[str, Any]  # percent; empty where nothing is labelled


def folder_protocol(
    search: Search,
    descriptors: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, "n"],
    instances: Sequence[str],
    keep: int,
) -> Ranked:
    """Leave-one-out: every photo of an instance with at least two photos queries all the others.

    Args:
      search: over `descriptors`, in this order.
      descriptors: of the photos searched, which are the queries as well.
      labels: index into `instances`; -1 = none. Such photos, and those alone in their instance, are only searched.
      keep: answers per query in the result; the scores always come from the full ranking.

    Raises:
      UserError: no instance has two photos.
    """
    counts = np.bincount(labels[labels >= 0], minlength=len(instances))
    queries = np.flatnonzero([label >= 0 and counts[label] >= 2 for label in labels])
    return _run(search, descriptors, queries, labels[queries], labels, instances, keep, own=queries)


def query_protocol(
    search: Search,
    query_descriptors: Float[np.ndarray, "q d"],
    query_labels: Int[np.ndarray, "q"],
    labels: Int[np.ndarray, "n"],
    instances: Sequence[str],
    keep: int,
) -> Ranked:
    """Separate queries search all photos. A query without a label, or whose instance is not there, is not scored.

    Args:
      search: over the photos searched.
      query_descriptors: one per query.
      query_labels: index into `instances`, which must be the instances of the photos searched; -1 = none of them.
      labels: of the photos searched, index into `instances`.
      keep: answers per query in the result.
    """
    queries = np.arange(len(query_descriptors))
    return _run(search, query_descriptors, queries, query_labels, labels, instances, keep, own=None)


def _run(
    search: Search,
    descriptors: np.ndarray,
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
    ap, first = np.full(len(queries), np.nan), np.zeros(len(queries), bool)
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        part = slice(start, start + QUERIES_AT_ONCE)
        found, cosine = search(descriptors[queries[part]], n)
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
    return Ranked(queries, ids, scores, ap, first, metrics)
