"""Rankings that something else made, read from the file that it wrote and scored by the rules of a benchmark."""

import csv
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from sret_jax.config import Config
from sret_jax.data.lists import NAMED, dataset_folder
from sret_jax.data.names import RowsByName
from sret_jax.datasets.ground_truth import read_ground_truth
from sret_jax.datasets.lookups import LOOKUPS, gldv2_recognition_solution, gldv2_solution
from sret_jax.datasets.revisited import ground_truth_path
from sret_jax.datasets.tables import read_csv
from sret_jax.errors import UserError
from sret_jax.evaluation.benchmark import open_requested, photo_root
from sret_jax.evaluation.external.submissions import (
    is_recognition,
    read_ranks,
    read_recognition_csv,
    read_retrieval_csv,
)
from sret_jax.evaluation.request import PIXEL, REVISITED, Request, check_benchmark, plain_benchmark
from sret_jax.evaluation.scorers import Scorer, Scores, revisited_metrics
from sret_jax.metrics.ranking import gldv2_map_at_100, gldv2_micro_ap
from sret_jax.reranking.answers import Answers

RANKABLE = (*REVISITED, *LOOKUPS, "folder")


def rank_metrics(
    benchmark: str, file: Path, request: Request, cache_dir: str | Path
) -> tuple[dict[str, Any], dict[str, str], int]:
    """`(metrics, more for results.json, distractors ranked)` of rankings in a file.

    Of benchmarks like "roxford5k", and of "gldv2", the ground truth is enough; of the others the photographs have to be
    there too, for their names.

    Args:
      benchmark: one of `RANKABLE`.
      file: of benchmarks like "roxford5k" as `read_ranks` takes it, of "gldv2" a submission, of others `read_answers`.
      request: where the benchmark is.
      cache_dir: where prepared photographs are kept.
    """
    check_benchmark(benchmark, request)
    name = plain_benchmark(benchmark)
    if name not in RANKABLE:
        raise UserError(f"rankings in a file can be scored on {', '.join(RANKABLE)}, not on {benchmark!r}")
    if request.protocol not in ("", "standard"):
        raise UserError("--protocol changes how queries are described; rankings in a file were made already")
    if name != benchmark and name in (*REVISITED, "gldv2"):
        raise UserError(f"--rankings={file} holds the distractors that were ranked: give --benchmark={name}")
    if name == "gldv2":
        return *_gldv2_metrics(file, dataset_folder(request.root, name)), 0
    if name not in REVISITED:
        return _answer_metrics(benchmark, file, request, cache_dir)
    own = PIXEL.get(name, name)
    truth = read_ground_truth(request.gnd or ground_truth_path(photo_root(name, request.root), own), own)
    rankings = read_ranks(file, len(truth.queries), len(truth.photos))
    metrics = revisited_metrics(dict.fromkeys(("easy", "medium", "hard"), rankings), truth)
    words, distractors = ranked_depth(rankings, len(truth.photos))
    return metrics, {"ground_truth": truth.version, "ranked": words}, distractors


def ranked_depth(rankings: Int[np.ndarray, "q k"], photos: int) -> tuple[str, int]:
    """How deep rankings in a file go, in words, and how many distractors they hold.

    Args:
      rankings: photo indices, best first; a number from `photos` on is a distractor, -1 is none.
      photos: of the benchmark.
    """
    lengths = (rankings >= 0).sum(1)
    least, most = int(lengths.min(initial=rankings.shape[1])), int(lengths.max(initial=0))
    distractors = max(0, int(rankings.max(initial=-1)) + 1 - photos)
    words = f"{most} photographs for every query" if least == most else f"{least} to {most} photographs for a query"
    words += f", of {photos} and {distractors} distractors"
    if missing := int((~np.isin(np.arange(photos), rankings)).sum()):
        words += f"; {missing} of the benchmark's photographs are in no ranking and count as never found"
    return words, distractors


def read_answers(
    path: str | Path, queries: Sequence[str], photos: Sequence[str], scored: Collection[int]
) -> Int[np.ndarray, "q k"]:
    """Rankings by name, as photo indices, best first and -1 behind them.

    Args:
      path: a CSV file `id,images` with a line per query, its images separated by spaces. A name with a space of its own
        is quoted, "so"; a query without answers has a line without images.
      queries: the q names there are.
      photos: names of what is searched.
      scored: rows of the queries that have something to find, which have to be there.

    Raises:
      UserError: names the line with a query or an image that is unknown or there twice, and queries that are missing.
    """
    rows, row = RowsByName(queries), RowsByName(photos)
    answers: dict[int, list[int]] = {}
    for number, (query, names) in enumerate(_lines(path), 2):
        where = f"{path}, line {number}"
        if query not in rows:
            raise UserError(f"{where}: unknown query {query!r}; query names look like {queries[0]!r}")
        if rows[query] in answers:
            raise UserError(f"{where}: query {query!r} is answered twice")
        if unknown := [name for name in names if name not in row]:
            raise UserError(
                f"{where}: unknown photograph {unknown[0]!r} ({len(unknown)} such); names look like {photos[0]!r}, and "
                "a name with a space is quoted"
            )
        found = answers[rows[query]] = [row[name] for name in names]
        if len(set(found)) < len(found):
            twice = next(name for i, name in enumerate(names) if row[name] in found[:i])
            raise UserError(f"{where}: {twice!r} is named twice; every photograph has one rank")
    if missing := [queries[i] for i in sorted(scored) if i not in answers]:
        named = ", ".join(map(repr, missing[:NAMED])) + (", …" if len(missing) > NAMED else "")
        raise UserError(
            f"{path}: {len(missing)} of the {len(scored)} queries are not in it ({named}); one without answers has a "
            "line without images"
        )
    out = np.full((len(queries), max(map(len, answers.values()), default=0)), -1, np.int64)
    for i, found in answers.items():
        out[i, : len(found)] = found
    return out


def _lines(path: str | Path) -> list[tuple[str, list[str]]]:
    out = []
    for number, row in enumerate(read_csv(path, ("id", "images")), 2):
        try:
            words = next(csv.reader([row["images"]], delimiter=" ", skipinitialspace=True, strict=True), [])
        except csv.Error as error:
            raise UserError(f"{path}, line {number}: images {row['images'][:80]!r} cannot be read ({error})") from None
        out.append((row["id"], [word for word in words if word]))
    return out


def _answer_metrics(
    benchmark: str, file: Path, request: Request, cache_dir: str | Path
) -> tuple[dict[str, Any], dict[str, str], int]:
    opened = open_requested(benchmark, Config(), request, cache_dir)
    scorer = opened.scorer()
    if not len(scorer.scored):
        raise UserError(f"{request.queries}: no query has a photograph to find; there is nothing to measure")
    given = read_answers(file, opened.query_photos.names, opened.database.names, scorer.scored.tolist())
    words, _ = ranked_depth(given[scorer.scored], len(opened.photos))
    about = {"photographs": opened.photographs, "ranked": words}
    return score(scorer, given).metrics, about, sum(map(len, opened.distractors))


def score(scorer: Scorer, rankings: Int[np.ndarray, "q n"]) -> Scores:
    """What a scorer makes of rankings by row of the query, best first and -1 = none, as deep as they go."""
    found = rankings[scorer.queries][:, : scorer.depth]
    ids = np.pad(found, ((0, 0), (0, scorer.depth - found.shape[1])), constant_values=-1)
    scores = np.where(ids < 0, -np.inf, -np.arange(scorer.depth, dtype=np.float32))
    scorer.add(Answers(scorer.queries, ids, scores))
    return scorer.result()


def _gldv2_metrics(file: Path, root: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The columns of the file say which challenge it answers: retrieval `id,images` or recognition `id,landmarks`."""
    solution: dict[str, tuple[list[Any], str]]
    metric: Callable[..., float]
    if is_recognition(file):
        solution, name, metric = gldv2_recognition_solution(root), "µAP", gldv2_micro_ap
        answers: Any = read_recognition_csv(file, solution)
    else:
        solution, name, metric = gldv2_solution(root), "mAP@100", gldv2_map_at_100
        answers = read_retrieval_csv(file, solution)
    metrics: dict[str, Any] = {}
    for group in ("", *sorted({usage for _, usage in solution.values()})):
        part: dict[str, Any] = {query: right for query, (right, usage) in solution.items() if group in ("", usage)}
        found = {query: answers[query] for query in part if query in answers}
        metrics[f"{name} {group}".rstrip()] = 100 * metric(found, part)
    ranked = f"{len(answers)} of {len(solution)} queries are answered"
    ranked += "; the others count as zero" if len(answers) < len(solution) and name == "mAP@100" else ""
    return metrics | {"queries": len(solution)}, {"ranked": ranked}
