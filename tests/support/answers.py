"""A scorer told what a search finds for its queries, a few at a time."""

from collections.abc import Callable

import numpy as np

from sret_jax.evaluation.scorers import Scorer, Scores
from sret_jax.reranking.answers import Answers


def scored(scorer: Scorer, search: Callable, queries: np.ndarray, at_once: int = 256) -> Scores:
    """`search`: (what stands for each of q queries, k) -> ids and scores [q k]."""
    for start in range(0, len(scorer.queries), at_once):
        rows = scorer.queries[start : start + at_once]
        scorer.add(Answers(rows, *search(queries[rows], scorer.depth)))
    return scorer.result()
