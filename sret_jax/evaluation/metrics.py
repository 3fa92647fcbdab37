"""How good a ranking is: average precision and what is built on it. numpy only."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from sret_jax.errors import UserError


def average_precision(relevant: Bool[np.ndarray, "n"], total: int | None = None) -> float:
    """Mean, over the `total` relevant photos, of the precision at the rank of each.

        AP = 1/R * sum_k precision(k) * relevant[k],    precision(k) = (relevant among the first k) / k

    Args:
      relevant: whether the photo at each rank is relevant, best rank first.
      total: R, the relevant photos there are; those that the ranking lacks count as precision 0. Default: all in it.

    Returns:
      The AP in [0, 1]; nan without any relevant photo.
    """
    precision = np.cumsum(relevant) / np.arange(1, len(relevant) + 1)
    total = int(relevant.sum()) if total is None else total
    return float(precision[relevant].sum() / total) if total else float("nan")


def rank(similarity: Float[np.ndarray, "q n"]) -> Int[np.ndarray, "q n"]:
    """Photo indices by falling similarity; equal similarities in the order of the index."""
    if not np.isfinite(similarity).all():
        q, i = np.argwhere(~np.isfinite(similarity))[0]
        raise UserError(f"the similarity of query {q} and photo {i} is {similarity[q, i]}; every one must be finite")
    return np.argsort(-similarity, axis=1, kind="stable")


def score_rankings(
    rankings: Int[np.ndarray, "q k"],
    query_labels: Int[np.ndarray, "q"],
    labels: Int[np.ndarray, "n"],
    own: Int[np.ndarray, "q"] | None = None,
) -> tuple[Float[np.ndarray, "q"], Bool[np.ndarray, "q"]]:
    """`(AP, whether the first photo is right)` of every query; AP is nan where a query has nothing to find.

    Args:
      rankings: photo indices, best first; -1 = no photo. A right photo missing from it counts as never found.
      query_labels: the instance of each query; -1 = none, which nothing matches.
      labels: the instance of each photo searched; -1 = none, it can only be wrong.
      own: the query's own index among the photos searched, which is taken out of its ranking; -1 or None = not there.
    """
    own = np.full(len(rankings), -1) if own is None else own
    ap, first = np.full(len(rankings), np.nan), np.zeros(len(rankings), bool)
    sizes = np.bincount(labels[labels >= 0], minlength=max(query_labels.max(initial=-1) + 1, 1))
    for q, (ranking, label, itself) in enumerate(zip(rankings, query_labels, own, strict=True)):
        total = int(sizes[label]) - int(itself >= 0) if label >= 0 else 0
        if total:
            relevant = labels[ranking[(ranking >= 0) & (ranking != itself)]] == label
            ap[q], first[q] = average_precision(relevant, total), relevant[:1].any()
    return ap, first


def summarize(
    ap: Float[np.ndarray, "q"], first: Bool[np.ndarray, "q"], query_labels: Int[np.ndarray, "q"]
) -> dict[str, Any]:
    """`{"mAP", "R@1", "queries", "per_instance": {label: mAP}}` in percent, over the queries whose AP is not nan."""
    scored = ~np.isnan(ap)
    if not scored.any():
        raise UserError("no query has a photo to find: an instance needs at least two photos to be measured")
    return {
        "mAP": 100 * float(ap[scored].mean()),
        "R@1": 100 * float(first[scored].mean()),
        "queries": int(scored.sum()),
        "per_instance": {
            int(label): 100 * float(ap[scored & (query_labels == label)].mean())
            for label in np.unique(query_labels[scored])
        },
    }


def leave_one_out_map(similarity: Float[np.ndarray, "n n"], labels: Int[np.ndarray, "n"]) -> dict[str, Any]:
    """Every photo of an instance with at least two photos queries all the others.

    A photo that is alone in its instance, or has none (label -1), is no query but stays among those searched.

    Args:
      similarity: larger = more alike; the diagonal is not read as a result.
      labels: the instance of each photo.

    Returns:
      As `summarize`: mAP is the mean over queries, per_instance the mean over the queries of an instance.
    """
    ap, first = score_rankings(rank(similarity), labels, labels, np.arange(len(labels)))
    return summarize(ap, first, labels)
