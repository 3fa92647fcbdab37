"""How good a ranking is: average precision and what is built on it. numpy only.

A function that returns one number returns it in [0, 1]; a table of metrics is in percent, as in results.json.
"""

from collections.abc import Collection, Mapping, Sequence
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
    own: Int[np.ndarray, "q"] | Int[np.ndarray, "q m"] | None = None,
) -> tuple[Float[np.ndarray, "q"], Bool[np.ndarray, "q"]]:
    """`(AP, whether the first photo is right)` of every query; AP is nan where a query has nothing to find.

    Args:
      rankings: photo indices, best first; -1 = no photo. A right photo missing from it counts as never found.
      query_labels: the instance of each query; -1 = none, which nothing matches.
      labels: the instance of each photo searched; -1 = none, it can only be wrong.
      own: the query's own index among the photos searched, or several where it is there several times, which are taken
        out of its ranking; -1 or None = not there.
    """
    own = np.full((len(rankings), 1), -1) if own is None else own.reshape(len(rankings), -1)
    ap, first = np.full(len(rankings), np.nan), np.zeros(len(rankings), bool)
    sizes = np.bincount(labels[labels >= 0], minlength=max(query_labels.max(initial=-1) + 1, 1))
    for q, (ranking, label, itself) in enumerate(zip(rankings, query_labels, own, strict=True)):
        total = int(sizes[label]) - int((labels[itself[itself >= 0]] == label).sum()) if label >= 0 else 0
        if total:
            relevant = labels[ranking[(ranking >= 0) & ~np.isin(ranking, itself)]] == label
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


def trapezoid_average_precision(positions: Int[np.ndarray, "r"], total: int) -> float:
    """The area under the precision-recall curve, by trapezoids, as Philbin et al. 2007 and all after them measure it.

        AP = 1/R * sum_j (p0_j + p1_j) / 2,    p0_j = j / position_j (1 where that is 0),  p1_j = (j+1) / (position_j+1)

    Args:
      positions: 0-based ranks of the relevant photos that were found, rising.
      total: R, the relevant photos there are.
    """
    j = np.arange(len(positions))
    before = np.where(positions == 0, 1.0, j / np.maximum(positions, 1))
    after = (j + 1) / (positions + 1)
    return float(((before + after) / 2).sum() / total) if total else float("nan")


def positions_without_junk(
    ranking: Int[np.ndarray, "k"], relevant: Int[np.ndarray, "r"], junk: Int[np.ndarray, "j"]
) -> Int[np.ndarray, "f"]:
    """0-based ranks of the relevant photos after the junk, and what is no photo (-1), has been taken out."""
    ranking = ranking[(ranking >= 0) & ~np.isin(ranking, junk)]
    return np.flatnonzero(np.isin(ranking, relevant))


def revisited_sets(
    easy: Sequence[np.ndarray], hard: Sequence[np.ndarray], junk: Sequence[np.ndarray]
) -> dict[str, tuple[list[np.ndarray], list[np.ndarray]]]:
    """`{set: (relevant, junk)}` per query: easy ignores the hard photos, hard the easy ones, medium takes both."""

    def both(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [np.concatenate([x, y]) for x, y in zip(a, b, strict=True)]

    return {
        "easy": (list(easy), both(junk, hard)),
        "medium": (both(easy, hard), list(junk)),
        "hard": (list(hard), both(junk, easy)),
    }


def revisited_scores(
    rankings: Int[np.ndarray, "q k"],
    relevant: Sequence[np.ndarray],
    junk: Sequence[np.ndarray],
    ks: Sequence[int] = (1, 5, 10),
) -> tuple[Float[np.ndarray, "q"], Float[np.ndarray, "q m"]]:
    """AP and P@k of every query in one set of the revisited protocol; nan where nothing is relevant.

        P@k = (relevant among the first k') / k',    k' = min(k, rank of the last relevant photo found)

    Args:
      rankings: photo indices, best first; -1 = no photo. What is missing from a short ranking was never found.
      relevant, junk: photo indices per query.
      ks: the m values of k.
    """
    ap, precision = np.full(len(rankings), np.nan), np.full((len(rankings), len(ks)), np.nan)
    for q, (ranking, right, ignored) in enumerate(zip(rankings, relevant, junk, strict=True)):
        _refuse_repeated(ranking, q)
        if len(right):
            positions = positions_without_junk(ranking, right, ignored)
            last = positions.max(initial=-1) + 1
            ap[q] = trapezoid_average_precision(positions, len(right))
            precision[q] = [(positions < min(k, last)).sum() / max(min(k, last), 1) for k in ks]
    return ap, precision


def revisited_map(
    rankings: Int[np.ndarray, "q k"],
    easy: Sequence[np.ndarray],
    hard: Sequence[np.ndarray],
    junk: Sequence[np.ndarray],
    ks: Sequence[int] = (1, 5, 10),
) -> dict[str, dict[str, Any]]:
    """`{set: {"mAP", "mP@k", ..., "queries"}}` of easy, medium and hard, in percent (Radenović et al. 2018).

    A query without a relevant photo in a set is left out of that set's means.

    Args:
      rankings: photo indices, best first, one row per query; -1 = no photo.
      easy, hard, junk: photo indices per query.
      ks: where the precision is taken.
    """
    out: dict[str, dict[str, Any]] = {}
    for name, (relevant, ignored) in revisited_sets(easy, hard, junk).items():
        ap, precision = revisited_scores(rankings, relevant, ignored, ks)
        scored = ~np.isnan(ap)
        means = [ap[scored].mean(), *precision[scored].mean(0)] if scored.any() else [np.nan] * (1 + len(ks))
        names = ["mAP", *(f"mP@{k}" for k in ks)]
        out[name] = {n: 100 * float(x) for n, x in zip(names, means, strict=True) if scored.any()}
        out[name]["queries"] = int(scored.sum())
    return out


def _refuse_repeated(ranking: np.ndarray, query: int) -> None:
    found = np.sort(ranking[ranking >= 0])
    if (found[1:] == found[:-1]).any():
        twice = found[1:][found[1:] == found[:-1]][0]
        raise UserError(f"the ranking of query {query} holds photo {twice} twice; every photo has one rank")


def recall_at(
    rankings: Int[np.ndarray, "q k"], relevant: Sequence[np.ndarray], ks: Sequence[int]
) -> Float[np.ndarray, "m"]:
    """R@k for each of `ks`: the share of queries, of those with anything to find, with a relevant photo in the first k.

    Args:
      rankings: photo indices, best first; -1 = no photo.
      relevant: photo indices per query.
      ks: how many answers are looked at.
    """
    with_answers = [(ranking, right) for ranking, right in zip(rankings, relevant, strict=True) if len(right)]
    hits = [[bool(np.isin(ranking[:k], right).any()) for k in ks] for ranking, right in with_answers]
    return np.mean(hits, axis=0) if hits else np.full(len(ks), np.nan)


def truncated_average_precision(answers: Sequence[str], relevant: Collection[str], depth: int) -> float:
    """AP of the first `depth` answers, over as many relevant photos as could be among them.

        AP@d = 1/min(R, d) * sum_{k<=d} precision(k) * relevant[k]

    A photo named a second time is not counted again, but it takes its rank.
    """
    if not relevant:
        raise UserError("a query with nothing to find has no average precision; leave it out of the solution")
    seen: set[str] = set()
    correct, total = 0, 0.0
    for rank_, answer in enumerate(answers[:depth], 1):
        if answer in relevant and answer not in seen:
            correct += 1
            total += correct / rank_
        seen.add(answer)
    return total / min(len(relevant), depth)


def gldv2_map_at_100(
    predictions: Mapping[str, Sequence[str]], solution: Mapping[str, Collection[str]], depth: int = 100
) -> float:
    """Mean AP@100 over all queries of the solution; a query without a prediction counts as zero.

    The retrieval metric of the Google Landmarks challenges (Weyand et al. 2020), and of ILIAS at depth 1000.

    Args:
      predictions: query -> photos, best first.
      solution: query -> the relevant photos, at least one.
      depth: answers that count.
    """
    _refuse_unknown(predictions, solution)
    scores = [truncated_average_precision(predictions.get(q, ()), set(right), depth) for q, right in solution.items()]
    return float(sum(scores) / len(scores)) if scores else float("nan")


def gldv2_micro_ap(predictions: Mapping[str, tuple[Any, float]], solution: Mapping[str, Collection[Any]]) -> float:
    """Micro-AP, or global average precision, of recognition: all predictions in one list by falling confidence.

        µAP = 1/M * sum_i precision(i) * correct[i],    M = queries that show a landmark

    Equal confidences are ordered by query, then by landmark, as the challenge does.

    Args:
      predictions: query -> (landmark, confidence), at most one each; a query may be left unanswered.
      solution: query -> its landmarks; none where the photo shows no landmark.
    """
    _refuse_unknown(predictions, solution)
    for query, (_, score) in predictions.items():
        if not np.isfinite(score):
            raise UserError(f"the confidence of query {query!r} is {score}; it must be finite")
    order = sorted(predictions, key=lambda query: (-predictions[query][1], query, predictions[query][0]))
    correct = np.array([predictions[query][0] in solution[query] for query in order], bool)
    return average_precision(correct, sum(bool(landmarks) for landmarks in solution.values()))


def _refuse_unknown(predictions: Mapping[str, Any], solution: Mapping[str, Any]) -> None:
    for query in predictions:
        if query not in solution:
            raise UserError(f"query {query!r} is answered but not in the solution; leave it out")
