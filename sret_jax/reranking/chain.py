"""Re-rankings one after the other, as `--rerank=sv:100,alpha_qe:10` names them: see `reranking/rerankers.py`.

A stage sees descriptors and local features of queries and photographs, and the ranking so far. It changes the order of
what was found and nothing else.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from sret_jax.config import Config
from sret_jax.errors import UserError
from sret_jax.reranking.answers import Answers, Side
from sret_jax.reranking.rerankers import STAGES


@dataclass(frozen=True)
class Stage:
    name: str
    number: int

    def __str__(self) -> str:
        return f"{self.name}:{self.number}"


def parse_stages(texts: Sequence[str]) -> list[Stage]:
    """Of NAME or NAME:NUMBER each. Raises `UserError` for an unknown or repeated one."""
    stages = []
    for text in texts:
        name, _, number = text.partition(":")
        if name not in STAGES:
            raise UserError(f"--rerank: no stage {name!r}; choose from {', '.join(STAGES)}, each with :NUMBER or not")
        if number and not (number.isdecimal() and int(number)):
            raise UserError(f"--rerank={text}: the number after the colon must be at least 1")
        stages.append(Stage(name, int(number) if number else STAGES[name][1]))
        if stages[-1] in stages[:-1]:
            raise UserError(f"--rerank: {stages[-1]} twice; name each stage once")
    return stages


class Chain:
    """Stages made ready for a collection: what can be computed before the first query is.

    Attributes:
      seconds: per stage, {"prepare": once, "queries": in all calls, "asked": queries of these calls}.
      uncertainty: by query row, where a stage has looked: see `reranking/community.py`.
    """

    def __init__(self, stages: Sequence[Stage], queries: Side, photos: Side, config: Config, folder: Path):
        """
        Args:
          queries: who asks; the same object as `photos` where the photographs ask for each other.
          config: its `rerank` says how.
          folder: what the stages keep between runs.
        """
        self._queries, self._photos, self._steps = queries, photos, []
        self.seconds: dict[str, dict[str, float]] = {}
        self.uncertainty: dict[int, float] = {}
        for stage in stages:
            start = time.perf_counter()
            step = STAGES[stage.name][0](stage.number, queries, photos, config, folder)
            self._steps.append((str(stage), step))
            self.seconds[str(stage)] = {"prepare": time.perf_counter() - start, "queries": 0.0, "asked": 0}

    def __call__(
        self, rows: Int[np.ndarray, "q"], ids: Int[np.ndarray, "q k"], scores: Float[np.ndarray, "q k"]
    ) -> tuple[Int[np.ndarray, "q k"], Float[np.ndarray, "q k"]]:
        """The same photographs in their new order; where the photographs ask for each other, a query's own is kept
        out of the stages and comes first."""
        own = rows if self._queries is self._photos else np.full(len(rows), -1)
        first = (ids == own[:, None]) & (ids >= 0)
        order = np.argsort(~first, axis=1, kind="stable")
        ids, scores = np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1)
        has_own = first.any(1)
        out_ids, out_scores = ids.copy(), scores.copy()
        for found in (True, False):
            part = np.flatnonzero(has_own == found)
            if len(part):
                skip = int(found)
                answers = self._run(rows[part], ids[part, skip:], scores[part, skip:])
                out_ids[part, skip:], out_scores[part, skip:] = answers.ids, answers.scores
                if found:  # above the others on whatever scale they are now
                    out_scores[part, 0] = np.maximum(out_scores[part, 0], out_scores[part, 1:].max(1, initial=-np.inf))
        return out_ids, out_scores

    def _run(self, rows: np.ndarray, ids: np.ndarray, scores: np.ndarray) -> Answers:
        nothing = np.full(len(rows), np.nan)
        answers = Answers(rows, self._queries.descriptors[rows], self._photos.descriptors, ids, scores, nothing)
        for name, step in self._steps:
            start = time.perf_counter()
            answers = step(answers)
            self.seconds[name]["queries"] += time.perf_counter() - start
            self.seconds[name]["asked"] += len(rows)
        looked = np.flatnonzero(~np.isnan(answers.uncertainty))
        self.uncertainty |= {int(rows[i]): float(answers.uncertainty[i]) for i in looked}
        return answers
