"""What something else has ranked or marked, scored without a network."""

from pathlib import Path
from typing import Any

import numpy as np

from sret_jax.artifacts import write_json
from sret_jax.config import Config
from sret_jax.environment import environment
from sret_jax.evaluation.anchors import published
from sret_jax.evaluation.benchmarks import Request, judge_rankings, open_benchmark
from sret_jax.evaluation.mark_files import read_marks
from sret_jax.evaluation.pixel_protocol import pixel_protocol
from sret_jax.evaluation.submissions import read_ranks
from sret_jax.evaluation.table import print_marks, print_rankings
from sret_jax.second_stage import masks_of


def score_rankings(benchmark: str, file: Path, out: Path, request: Request, anchors: bool = False) -> dict[str, Any]:
    """Scores rankings that something else made, without a network or photographs, and writes `out`/results.json.

    Args:
      benchmark: one whose ground truth can be read alone.
      file: as the authors' evaluator takes it: `ranks.npy` of revisitop.
      out: folder of the results.
      request: its `root` or `gnd` says where the ground truth is.
      anchors: published numbers beside these.
    """
    metrics, about, distractors = judge_rankings(benchmark, file, request)
    results = {
        "benchmark": benchmark,
        "metrics": metrics,
        "rankings": str(file),
        **about,
        "anchors": published(benchmark, distractors, "standard") if anchors else [],
        "before_training": {},
        "rerank": {},
    } | environment()
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "results.json", results)
    print_rankings(results, out)
    return results


def score_marks(
    benchmark: str, file: Path, out: Path, request: Request, cache_dir: str | Path, rankings: str = ""
) -> dict[str, Any]:
    """Scores where something else has marked the objects, without a network, and writes `out`/results.json.

    Args:
      benchmark: one with masks.
      file: see `evaluation.mark_files`.
      out: folder of the results.
      request: where the benchmark is; its photographs are needed for their sizes.
      cache_dir: where prepared photographs are kept.
      rankings: of the photographs, as for `score_rankings`; without them only the overlaps are measured, no mAP.
    """
    opened = open_benchmark(benchmark, Config(), request, cache_dir)
    truth = masks_of(opened)
    queries, photos = (opened.queries or opened.photos).names, opened.photos
    marks = read_marks(file, queries, photos)
    order = read_ranks(rankings, len(queries), len(photos)) if rankings else np.empty((len(queries), 0), np.int64)
    metrics, _ = pixel_protocol(
        order, truth, lambda query, rows: [marks.mask(query, row) for row in rows], marks.outline
    )
    if not rankings:
        metrics = {rules: {k: v for k, v in of.items() if "mAP" not in k} for rules, of in metrics.items()}
    results = {
        "benchmark": benchmark,
        "marks": str(file),
        "rankings": rankings,
        "localization": {Path(file).name: metrics},
        "photo_fingerprint": photos.fingerprint,
    } | environment()
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "results.json", results)
    print_marks(results, out)
    return results
