"""What is searched for, and how good the answers are. numpy only.

A scorer says which queries are searched, and how deep, before anything is searched; it is told the answers, a few
queries at a time, and sums them up. It never sees what made the answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from sret_jax.datasets.ground_truth import GroundTruth
from sret_jax.datasets.lookups import Lookup
from sret_jax.errors import UserError
from sret_jax.evaluation.external.submissions import ranks_file, retrieval_csv
from sret_jax.metrics.ranking import (
    average_precision,
    recall_at,
    revisited_map,
    revisited_scores,
    revisited_sets,
    score_rankings,
    summarize,
)
from sret_jax.reranking.answers import Answers

KEPT = 100  # answers of each query that are kept
WRONG, RIGHT, UNJUDGED = 0, 1, -1
RECALLS = (1, 5, 10)  # k of R@k


@dataclass(frozen=True)
class Scores:
    """The queries of a benchmark, their best answers, and how good these are."""

    queries: Int[np.ndarray, "q"]  # row of each query in its photo set
    ids: Int[np.ndarray, "q k"]  # row of each answer in the database, best first; -1 = none
    scores: Float[np.ndarray, "q k"]  # cosine; -inf = none
    ap: Float[np.ndarray, "q"]  # average precision over the full ranking, 0..1; nan = the query has nothing to find
    verdicts: Int[np.ndarray, "q k"]  # of each answer: RIGHT, WRONG, or UNJUDGED
    metrics: dict[str, Any]  # percent; empty where nothing is labelled
    about: dict[str, str] = field(default_factory=dict)  # for results.json, in words
    files: dict[str, bytes] = field(default_factory=dict)  # submissions, by file name


@runtime_checkable
class Scorer(Protocol):
    """What a benchmark makes of answers.

    queries  rows of the queries that are searched
    depth    answers of each that it needs
    scored   those of the queries that have something to find
    """

    queries: Int[np.ndarray, "q"]
    depth: int
    scored: Int[np.ndarray, "s"]

    def add(self, answers: Answers) -> None:
        """Takes the answers to some queries, in the order of `queries`."""
        ...

    def result(self) -> Scores:
        """The scores of everything that was added. Raises `UserError` where there is nothing to measure."""
        ...


class InstanceScorer:
    """Right answers are photographs of the query's instance; what is scored is the full ranking.

    Attributes:
      leave_one_out: the photographs are each other's queries. Those of an instance with at least two are queries, and
        a query is excluded from its own ranking.
    """

    def __init__(
        self,
        labels: Int[np.ndarray, "n"],
        instances: Sequence[str],
        query_labels: Int[np.ndarray, "q"] | None = None,
        keep: int = KEPT,
        own: Int[np.ndarray, "q m"] | None = None,
    ):
        """
        Args:
          labels: of the database, index into `instances`; -1 = none.
          query_labels: of separate queries, index into the same instances; -1 = none of them, and not scored. None:
            leave-one-out.
          keep: answers per query in the result.
          own: rows of the database that are a separate query itself, which are excluded from its ranking; -1 = none.
        """
        self._labels, self._instances, self.leave_one_out = labels, instances, query_labels is None
        counts = np.bincount(labels[labels >= 0], minlength=len(instances))
        if query_labels is None:
            self.queries = np.flatnonzero([label >= 0 and counts[label] >= 2 for label in labels])
            self._query_labels, self.scored = labels, self.queries
            if not len(self.queries):
                raise UserError("no query has a photo to find: an instance needs at least two photos to be measured")
        else:
            self.queries, self._query_labels = np.arange(len(query_labels)), query_labels
            self.scored = np.flatnonzero(query_labels >= 0)
        self._own = own if own is not None else np.full((len(self._query_labels), 1), -1)
        if self.leave_one_out:
            self._own = np.arange(len(labels))[:, None]
        self.depth = len(labels)
        self._keep = min(keep, self.depth - self.leave_one_out)
        self._parts: list[tuple[np.ndarray, ...]] = []

    def add(self, answers: Answers) -> None:
        ids, scores, labels = answers.ids, answers.scores, self._query_labels[answers.rows]
        own = self._own[answers.rows]
        ap, first = score_rankings(ids, labels, self._labels, own)
        itself = np.any([ids == one[:, None] for one in own.T], axis=0) & (ids >= 0)
        if itself.any():  # to the end
            ids, scores = np.where(itself, -1, ids), np.where(itself, -np.inf, scores)
            last = np.argsort(itself, axis=1, kind="stable")
            ids, scores = np.take_along_axis(ids, last, 1), np.take_along_axis(scores, last, 1)
        # A copy: a view would keep the full rankings.
        self._parts.append((ids[:, : self._keep].copy(), scores[:, : self._keep].astype(np.float32), ap, first))

    def result(self) -> Scores:
        ids, scores, ap, first = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        query_labels, metrics = self._query_labels[self.queries], {}
        if self.leave_one_out or not np.isnan(ap).all():
            metrics = summarize(ap, first, query_labels)
            metrics["per_instance"] = {self._instances[label]: x for label, x in metrics["per_instance"].items()}
        right = (ids >= 0) & (np.where(ids >= 0, self._labels[ids], -1) == query_labels[:, None])
        verdicts = np.where(np.isnan(ap)[:, None], UNJUDGED, np.where(right, RIGHT, WRONG))
        about = {"ranked": f"all {self.depth} photographs for every query"}
        return Scores(self.queries, ids, scores, ap, verdicts, metrics, about)


class RevisitedScorer:
    """Easy, medium and hard sets of a ground truth like that of ROxford5k, by its own trapezoid AP.

    `ap`, `verdicts` and mAP are of the medium set; junk takes a rank but is not judged. Answers to one subset only, see
    `junk_first`, count for that one.
    """

    def __init__(self, truth: GroundTruth, photos: int, depth: int = 0, keep: int = KEPT):
        """
        Args:
          truth: which photographs are easy, hard or junk.
          photos: in the database, distractors too.
          depth: that are ranked; 0 for all.
          keep: answers per query in the result.
        """
        self._truth, self._photos, self._keep = truth, photos, keep
        self.queries = self.scored = np.arange(len(truth.queries))
        self.depth = min(depth or photos, photos)
        self._sets = revisited_sets(truth.easy, truth.hard, truth.junk)
        self._parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in self._sets}

    def add(self, answers: Answers) -> None:
        part = answers.ids.astype(np.int32), answers.scores[:, : self._keep].copy()  # of a million, a gigabyte less
        for name in [answers.subset] if answers.subset else self._parts:
            self._parts[name].append(part)

    def result(self) -> Scores:
        rankings = {name: np.concatenate([ids for ids, _ in parts]) for name, parts in self._parts.items()}
        metrics, ids = revisited_metrics(rankings, self._truth), rankings["medium"]
        scores = np.concatenate([scores for _, scores in self._parts["medium"]])
        relevant, junk = self._sets["medium"]
        ap, _ = revisited_scores(ids, relevant, junk)
        kept = ids[:, : self._keep].astype(np.int64)
        verdicts = np.full(kept.shape, WRONG)
        for row, right, ignored, judged in zip(kept, relevant, junk, verdicts, strict=True):
            judged[np.isin(row, right)] = RIGHT
            judged[np.isin(row, ignored)] = UNJUDGED
        part = "all" if self.depth == self._photos else f"the first {self.depth} of"
        about = {
            "ground_truth": self._truth.version,
            "ranked": f"{part} {self._photos} photographs for every query",
        }
        return Scores(self.queries, kept, scores, ap, verdicts, metrics, about, {"ranks.npy": ranks_file(ids)})


def junk_first(truth: GroundTruth, answers: Answers) -> list[Answers]:
    """For each subset of the ground truth the answers without what it does not count, which are so many -1 at the end.

    Some published systems re-rank only these. It takes the ground truth, and every subset has a ranking of its own.
    """
    out = []
    for name, (_, junk) in revisited_sets(truth.easy, truth.hard, truth.junk).items():
        dropped = np.stack([np.isin(ids, junk[row]) for row, ids in zip(answers.rows, answers.ids, strict=True)])
        order = np.argsort(dropped, axis=1, kind="stable")
        ids, scores = np.where(dropped, -1, answers.ids), np.where(dropped, -np.inf, answers.scores)
        ids, scores = np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1)
        out.append(Answers(answers.rows, ids, scores, name))
    return out


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


class LookupScorer:
    """Queries with lists of right answers, as Google Landmarks v2 and ILIAS measure them: mAP@depth."""

    def __init__(self, lookup: Lookup, names: Sequence[str], submission: bool = False, keep: int = KEPT):
        """
        Args:
          lookup: right answers of each query; its `depth` answers count.
          names: of the database.
          submission: write the answers as the retrieval challenge of Google Landmarks takes them.
          keep: answers per query in the result.
        """
        self._lookup, self._names, self._submission, self._keep = lookup, names, submission, keep
        count = len(names)
        self._counted = min(lookup.depth or count, count)
        self.depth = max(self._counted, min(keep, count))
        self.queries = self.scored = np.arange(len(lookup.relevant))
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, answers: Answers) -> None:
        self._parts.append((answers.ids, answers.scores[:, : self._keep].copy()))

    def result(self) -> Scores:
        lookup = self._lookup
        ids, scores = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        right = np.stack([np.isin(row, relevant) for row, relevant in zip(ids, lookup.relevant, strict=True)])
        totals = [min(len(relevant), lookup.depth or len(self._names)) for relevant in lookup.relevant]
        counted = right[:, : self._counted]
        ap = np.array([average_precision(row, total) for row, total in zip(counted, totals, strict=True)])
        name = f"mAP@{lookup.depth}" if lookup.depth else "mAP"
        metrics: dict[str, Any] = {name: 100 * float(ap.mean())}
        recall = recall_at(ids, lookup.relevant, RECALLS)
        metrics |= {f"R@{k}": 100 * float(x) for k, x in zip(RECALLS, recall, strict=True)}
        for group in sorted(set(lookup.groups) - {""}):
            metrics[f"{name} {group}"] = 100 * float(ap[np.array(lookup.groups) == group].mean())
        metrics["queries"] = len(ap)
        metrics["per_query"] = {q: 100 * float(x) for q, x in zip(lookup.queries.names, ap, strict=True)}
        verdicts, kept = np.where(right, RIGHT, WRONG)[:, : self._keep], ids[:, : self._keep]
        about = {"ranked": f"the first {self._counted} of {len(self._names)} photographs count"}
        files = {}
        if self._submission:
            found = [[self._names[i] for i in row[: lookup.depth] if i >= 0] for row in kept]
            files["submission.csv"] = retrieval_csv(lookup.queries.names, found)
        return Scores(self.queries, kept, scores, ap, verdicts, metrics, about, files)
