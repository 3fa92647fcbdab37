"""The tables of an evaluation for other programs: rankings and average precisions as CSV."""

import csv
import io
from typing import Any

import numpy as np

from sret_jax.datasets.tables import harmless
from sret_jax.evaluation.benchmark import Benchmark
from sret_jax.evaluation.scorers import Scores


def rankings_csv(scores: Scores, benchmark: Benchmark) -> bytes:
    """The answers that were kept of every query, best first."""
    queries, names = benchmark.query_photos.names, benchmark.database.names
    rows: list[list[Any]] = [["query", "rank", "photo", "score"]]
    for query, ids, values in zip(scores.queries, scores.ids, scores.scores, strict=True):
        for rank, (i, score) in enumerate(zip(ids, values, strict=True), 1):
            if i >= 0:
                rows.append([harmless(queries[query]), rank, harmless(names[i]), f"{score:.6f}"])
    return _csv(rows)


def queries_csv(scores: Scores, benchmark: Benchmark) -> bytes:
    """The average precision of every query, percent; one with nothing to find has an empty cell."""
    cells = ["" if np.isnan(ap) else f"{100 * ap:.4f}" for ap in scores.ap]
    names = [harmless(benchmark.query_photos.names[query]) for query in scores.queries]
    return _csv([["query", "AP"], *map(list, zip(names, cells, strict=True))])


def _csv(rows: list[list[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")
