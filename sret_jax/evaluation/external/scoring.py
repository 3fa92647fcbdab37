"""What something else has ranked or marked, scored without a network."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from sret_jax.config import Config
from sret_jax.datasets.pixel_truth import PixelTruth
from sret_jax.evaluation.anchors import published
from sret_jax.evaluation.benchmark import open_requested
from sret_jax.evaluation.external.marks import read_marks
from sret_jax.evaluation.external.named import read_answers
from sret_jax.evaluation.external.rankings import rank_metrics, ranked_depth
from sret_jax.evaluation.external.submissions import read_ranks
from sret_jax.evaluation.pixel_protocol import pixel_protocol
from sret_jax.evaluation.report.table import print_marks, print_rankings
from sret_jax.evaluation.request import Request, plain_benchmark
from sret_jax.evaluation.results import Results
from sret_jax.storage.refusals import plainly

EXAMPLES = 3  # of relevant pairs that are not marked


@plainly()
def score_rankings(
    benchmark: str,
    file: Path,
    out: Path,
    request: Request,
    anchors: bool = False,
    cache_dir: str | Path | None = None,
) -> Results:
    """Scores rankings that something else made, without a network, and writes `out`/results.json.

    Args:
      benchmark, file: see `external.rankings.rank_metrics`.
      out: folder of the results.
      request: its `root` or `gnd` says where the ground truth is.
      anchors: published numbers beside these.
      cache_dir: where prepared photographs are kept, of benchmarks that need them; default beside `out`.
    """
    metrics, words, distractors = rank_metrics(benchmark, file, request, cache_dir or out.parent / "data")
    about: dict[str, Any] = dict(words)
    results = Results(
        benchmark,
        metrics=metrics,
        rankings=str(file),
        **about,
        anchors=published(plain_benchmark(benchmark), distractors, "standard") if anchors else [],
        before_training={},
        rerank={},
    )
    results.write(out)
    print_rankings(results, out)
    return results


@plainly()
def score_marks(
    benchmark: str, file: Path, out: Path, request: Request, cache_dir: str | Path, rankings: str = ""
) -> Results:
    """Scores where something else has marked the objects, without a network, and writes `out`/results.json.

    Args:
      benchmark: one with masks.
      file: see `external.marks`.
      out: folder of the results.
      request: where the benchmark is; its photographs are needed for their sizes.
      cache_dir: where prepared photographs are kept.
      rankings: of the photographs, by number (.npy or .npz, see `read_ranks`) or by name (.csv, see `read_answers`);
        without them only the overlaps are measured, no mAP.
    """
    opened = open_requested(benchmark, Config(), request, cache_dir)
    truth = opened.ground_truth_masks
    queries, photos = opened.query_photos.names, opened.photos
    marks = read_marks(file, queries, photos)
    order = _order(rankings, queries, photos.names, truth) if rankings else np.empty((len(queries), 0), np.int64)
    pairs: dict[tuple[int, int], bool] = {}  # whether it is marked

    def locate(query: int, rows: Sequence[int]) -> list[np.ndarray]:
        masks = [marks.mask(query, row) for row in rows]
        pairs.update({(query, row): bool(found.any()) for row, found in zip(rows, masks, strict=True)})
        return masks

    metrics, _ = pixel_protocol(order, truth, locate, marks.outline)
    if not rankings:
        metrics = {rules: {k: v for k, v in of.items() if "mAP" not in k} for rules, of in metrics.items()}
    results = Results(
        benchmark,
        marks=str(file),
        rankings=rankings,
        localization={Path(file).name: metrics},
        marked=_completeness(pairs, queries, photos.names),
        ranked=ranked_depth(order, len(photos))[0] if rankings else "",
        photo_fingerprint=photos.fingerprint,
        photographs=opened.photographs,
    )
    results.write(out)
    print_marks(results, out)
    return results


def _order(file: str, queries: Sequence[str], photos: Sequence[str], truth: PixelTruth) -> Int[np.ndarray, "q k"]:
    """Rankings by number (.npy, .npz) or by name (.csv)."""
    if not file.lower().endswith(".csv"):
        return read_ranks(file, len(queries), len(photos))
    scored = [q for q, right in enumerate(truth.relevant) if len(right) and q not in truth.unlabelled]
    return read_answers(file, queries, photos, scored)


def _completeness(pairs: Mapping[tuple[int, int], bool], queries: Sequence[str], photos: Sequence[str]) -> str:
    missing = [f"{queries[query]!r} in {photos[photo]!r}" for (query, photo), marked in pairs.items() if not marked]
    words = f"marks for {len(pairs) - len(missing)} of {len(pairs)} relevant pairs"
    if missing:
        more = ", …" if len(missing) > EXAMPLES else ""
        words += f"; the others count as not found: {', '.join(missing[:EXAMPLES])}{more}"
    return words
