"""Re-rankers one after the other, as `--rerank=sv:100,alpha_qe:10` names them: see `reranking/rerankers.py`.

A re-ranker sees descriptors and local features of queries and database, and the ranking so far. It changes the order of
what was found and nothing else.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sret_jax.errors import UserError, choices
from sret_jax.reranking.answers import Answers, Candidates, Context
from sret_jax.reranking.rerankers import RERANKERS


@dataclass(frozen=True)
class Named:
    """A re-ranker and how many of the first answers it concerns."""

    name: str
    number: int

    def __str__(self) -> str:
        return f"{self.name}:{self.number}"


def parse_rerankers(texts: Sequence[str]) -> list[Named]:
    """Of NAME or NAME:NUMBER each. Raises `UserError` for an unknown or repeated one."""
    named: list[Named] = []
    for text in texts:
        name, _, number = text.partition(":")
        if name not in RERANKERS:
            raise UserError(f"--rerank: no re-ranker {choices(name, RERANKERS)}, each with :NUMBER or not")
        if number and not (number.isdecimal() and int(number)):
            raise UserError(f"--rerank={text}: the number after the colon must be at least 1")
        named.append(Named(name, int(number) if number else RERANKERS[name].number))
        if named[-1] in named[:-1]:
            raise UserError(f"--rerank: {named[-1]} twice; name each re-ranker once")
    return named


def uses_descriptors(named: Sequence[Named]) -> bool:
    """Whether any of them reads global descriptors."""
    return any(RERANKERS[one.name].descriptors for one in named)


def uses_local(named: Sequence[Named]) -> bool:
    """Whether any of them reads local features."""
    return any(RERANKERS[one.name].local for one in named)


class Chain:
    """Re-rankers made ready for a database: what can be computed before the first query is.

    Attributes:
      seconds: per re-ranker, {"prepare": once, "queries": in all calls, "asked": queries of these calls}.
      uncertainty: by query row, where a re-ranker has looked: see `reranking/community.py`.
    """

    def __init__(self, named: Sequence[Named], context: Context):
        self._context, self._steps = context, []
        self._uses_descriptors = uses_descriptors(named)
        self.seconds: dict[str, dict[str, float]] = {}
        self.uncertainty: dict[int, float] = {}
        for one in named:
            start = time.perf_counter()
            step = RERANKERS[one.name].make(one.number, context)
            self._steps.append((str(one), step))
            self.seconds[str(one)] = {"prepare": time.perf_counter() - start, "queries": 0.0, "asked": 0}

    def __call__(self, answers: Answers) -> Answers:
        """The same photographs in their new order; where the photographs are each other's queries, a query's own is
        kept out of the re-rankers and comes first."""
        rows, ids, scores = answers.rows, answers.ids, answers.scores
        each_other = self._context.queries is self._context.database
        own = rows if each_other else np.full(len(rows), -1)
        first = (ids == own[:, None]) & (ids >= 0)
        order = np.argsort(~first, axis=1, kind="stable")
        ids, scores = np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1)
        has_own = first.any(1)
        out_ids, out_scores = ids.copy(), scores.copy()
        for found in (True, False):
            part = np.flatnonzero(has_own == found)
            if len(part):
                skip = int(found)
                candidates = self._run(rows[part], ids[part, skip:], scores[part, skip:])
                out_ids[part, skip:], out_scores[part, skip:] = candidates.ids, candidates.scores
                if found:  # above the others on whatever scale they are now
                    out_scores[part, 0] = np.maximum(out_scores[part, 0], out_scores[part, 1:].max(1, initial=-np.inf))
        return replace(answers, ids=out_ids, scores=out_scores)

    def _run(self, rows: np.ndarray, ids: np.ndarray, scores: np.ndarray) -> Candidates:
        queries = database = np.empty((len(rows), 0), np.float32)
        if self._uses_descriptors:
            queries, database = self._context.queries.descriptors[rows], self._context.database.descriptors
        candidates = Candidates(rows, queries, database, ids, scores, np.full(len(rows), np.nan))
        for name, step in self._steps:
            start = time.perf_counter()
            candidates = step(candidates)
            self.seconds[name]["queries"] += time.perf_counter() - start
            self.seconds[name]["asked"] += len(rows)
        known = np.flatnonzero(~np.isnan(candidates.uncertainty))
        self.uncertainty |= {int(rows[i]): float(candidates.uncertainty[i]) for i in known}
        return candidates
