"""How well methods of localization mark what queries search for, and what they mark in the answers that are shown."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from sret_jax.data.photo_set import PhotoSet
from sret_jax.datasets.pixel_truth import PixelTruth
from sret_jax.datasets.polygons import outline_polygon
from sret_jax.evaluation.external.submissions import matching_file
from sret_jax.evaluation.pixel_protocol import pixel_protocol
from sret_jax.evaluation.report.marked import MarkedAnswers
from sret_jax.evaluation.report.page import choose_photos
from sret_jax.evaluation.scorers import Scores
from sret_jax.localization.localizer import Localizer
from sret_jax.localization.methods import PHOTOS_AT_ONCE, locate, locate_found
from sret_jax.localization.query_region import region_pixels
from sret_jax.reranking.answers import Answers

SHOWN = 6  # answers of a query


class LocalizationScorer:
    """Predicted masks against ground-truth masks, and the rankings that the pixel metrics weigh them by."""

    def __init__(self, localizer: Localizer, truth: PixelTruth, depth: int):
        """
        Args:
          truth: what is in which photograph, and where.
          depth: of the rankings.
        """
        self._localizer, self._truth = localizer, truth
        self._rankings = np.full((len(localizer.queries), depth), -1, np.int64)

    def add(self, answers: Answers) -> None:
        """Takes the answers to some queries; where subsets are searched for apart, those of the medium one count."""
        if answers.subset in ("", "medium"):
            self._rankings[answers.rows, : answers.ids.shape[1]] = answers.ids

    def result(self) -> tuple[dict[str, Any], dict[str, bytes]]:
        """For each method of `config.localize` its metrics and photographs per second, from stored maps and features.

        And where objects were drawn by polygons, its marks of all relevant photographs as the published evaluator reads
        them, by file name; of queries that are not searched, nothing.
        """
        out, files = {}, {}
        for method in self._localizer.config.localize.methods:
            out[method], outlines = self._measured(method)
            if self._truth.shapes:
                files[f"marks-{method}.npy"] = matching_file(outlines)
        return out, files

    def _measured(self, method: str) -> tuple[dict[str, Any], dict[tuple[int, int], Int[np.ndarray, "_ 2"]]]:
        """One method's metrics, and the outlines of its masks by (query, photo) where the truth has outlines too."""
        localizer, truth = self._localizer, self._truth
        localizer.make_ready(method)
        locate(localizer, method, 0, [0] * (1 + PHOTOS_AT_ONCE))  # so that both of its shapes are compiled
        marked, seconds = 0, 0.0
        pairs = [(query, row) for query, right in enumerate(truth.relevant) for row in right.tolist()]
        outlines = dict.fromkeys(pairs, np.empty((0, 2), np.int64))

        def masks_of(query: int, rows: Sequence[int]) -> list[np.ndarray]:
            nonlocal marked, seconds
            start = time.perf_counter()
            masks = [predicted.mask for predicted in locate(localizer, method, query, rows)]
            marked, seconds = marked + len(rows), seconds + time.perf_counter() - start
            if truth.shapes:
                outlines.update({(query, row): outline_polygon(mask) for row, mask in zip(rows, masks, strict=True)})
            return masks

        metrics, _ = pixel_protocol(self._rankings, truth, masks_of, lambda query, photo: outlines[query, photo])
        return metrics | {"photos_per_second": round(marked / max(seconds, 1e-9), 2)}, outlines


def marked_answers(localizer: Localizer, truth: PixelTruth | None, scores: Scores) -> list[MarkedAnswers]:
    """What each method marks in the first answers of the queries with regions, else those whose maps the report shows.

    Distractors among them are left out: nothing is looked for there. Without ground truth, nothing is marked where the
    object is not found.
    """
    mark = locate_found if truth is None else locate
    queries, photos = localizer.queries, localizer.photos
    out = []
    for query in list(localizer.regions) or choose_photos(scores, queries):
        ids = scores.ids[int(np.flatnonzero(scores.queries == query)[0])]
        rows = [row for row in ids.tolist() if 0 <= row < len(photos)][:SHOWN]
        masks = _ground_truth(truth, query, rows)
        region = localizer.regions.get(query)
        pixels = None if region is None else region_pixels(region, _size(queries, query))
        for method in localizer.config.localize.methods:
            out.append(MarkedAnswers(method, query, rows, mark(localizer, method, query, rows), masks, pixels))
    return out


def _ground_truth(truth: PixelTruth | None, query: int, rows: Sequence[int]) -> list[np.ndarray | None] | None:
    if truth is None:
        return None
    drawn: Sequence[int] = [] if query in truth.unlabelled else truth.relevant[query].tolist()
    return [truth.mask(query, row) if row in drawn else None for row in rows]


def _size(photos: PhotoSet, row: int) -> tuple[int, int]:
    height, width = photos.sizes[row].tolist()
    return height, width
