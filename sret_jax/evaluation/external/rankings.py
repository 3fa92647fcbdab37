"""Rankings that something else made, read from the file that it wrote and scored by the rules of a benchmark."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from sret_jax.config import Config
from sret_jax.data.lists import dataset_folder
from sret_jax.datasets.ground_truth import read_ground_truth
from sret_jax.datasets.lookups import (
    LOOKUPS,
    gldv2_ignored,
    gldv2_index,
    gldv2_recognition_solution,
    gldv2_solution,
)
from sret_jax.datasets.revisited import ground_truth_path
from sret_jax.datasets.tables import read_csv
from sret_jax.errors import UserError
from sret_jax.evaluation.benchmark import open_requested, photo_root
from sret_jax.evaluation.external.named import read_answers
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
      file: of benchmarks like "roxford5k" as `read_ranks` takes it, of "gldv2" a submission, of others, and of those
        too where it ends in .csv, as `read_answers` does; of all the `rankings.csv` that an evaluation writes.
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
    if file.suffix.lower() == ".csv":
        scored = [q for q, right in enumerate(zip(truth.easy, truth.hard, strict=True)) if sum(map(len, right))]
        rankings = read_answers(file, truth.queries, truth.photos, scored, distractors=True)
    else:
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
    recognition = is_recognition(file)
    ignored = gldv2_ignored(root, recognition)
    if recognition:
        solution, name, metric = gldv2_recognition_solution(root), "µAP", gldv2_micro_ap
        given: Any = read_recognition_csv(file, solution.keys() | ignored)
    else:
        solution, name, metric = gldv2_solution(root), "mAP@100", gldv2_map_at_100
        given = read_retrieval_csv(file, solution.keys() | ignored)
    answers = {query: found for query, found in given.items() if query in solution}
    metrics: dict[str, Any] = {}
    for group in ("", *sorted({usage for _, usage in solution.values()})):
        part: dict[str, Any] = {query: right for query, (right, usage) in solution.items() if group in ("", usage)}
        found = {query: answers[query] for query in part if query in answers}
        metrics[f"{name} {group}".rstrip()] = 100 * metric(found, part)
    ranked = [f"{len(answers)} of {len(solution)} queries are answered"]
    ranked[0] += "; the others count as zero" if len(answers) < len(solution) and not recognition else ""
    if others := len(given) - len(answers):
        ranked.append(f"{others} test images that the challenge ignores are not scored")
    ranked += [] if recognition else _odd_answers(file, answers, root)
    return metrics | {"queries": len(solution)}, {"ranked": "; ".join(ranked)}


def _odd_answers(file: Path, answers: Mapping[str, Sequence[str]], root: Path) -> list[str]:
    """In words, what the metric counts as wrong: answers named again, and, where the index lies there, unknown ones."""
    words = []
    if again := sum(len(found) - len(set(found)) for found in answers.values()):
        words.append(f"{again} answers are named again, which takes a rank and finds nothing")
    named = {name for found in answers.values() for name in found}
    index = gldv2_index(root)
    if named and index.is_file() and (unknown := named - {row["id"] for row in read_csv(index, ("id",))}):
        if len(unknown) == len(named):
            raise UserError(f"{file}: none of its {len(named)} answers, like {min(named)!r}, is listed in {index}")
        words.append(f"{len(unknown)} answers like {min(unknown)!r} are not in {index.name} and count as wrong")
    return words
