"""What follows the search of a benchmark: what re-ranking and localization are given, and how good they are."""

import time
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from sret_jax.config import Config
from sret_jax.data.photo_set import PhotoSet
from sret_jax.datasets.pixel_truth import PixelTruth
from sret_jax.datasets.polygons import outline_polygon
from sret_jax.errors import UserError
from sret_jax.evaluation.benchmark import Benchmark
from sret_jax.evaluation.calibration import auroc, risk_coverage
from sret_jax.evaluation.external.submissions import matching_file
from sret_jax.evaluation.pixel_protocol import pixel_protocol
from sret_jax.evaluation.report.located import Shown
from sret_jax.evaluation.report.page import choose_photos
from sret_jax.evaluation.scorers import Ranked
from sret_jax.extraction.local_features import StoredLocal, open_source, store_local
from sret_jax.localization.localizer import METHODS, PHOTOS_AT_ONCE, Localizer
from sret_jax.localization.query_region import region_pixels
from sret_jax.models.descriptor import RetrievalNetwork, Variables
from sret_jax.reranking.answers import Side
from sret_jax.reranking.chain import Chain


def open_sides(
    network: RetrievalNetwork,
    variables: Variables,
    config: Config,
    opened: Benchmark,
    name: str,
    descriptors: tuple[np.ndarray, np.ndarray],
    workdir: Path,
) -> tuple[Side, Side]:
    """What a re-ranking is given of queries and photos; the descriptors are those that ask, and those of all photos."""
    find = cache(lambda: open_source(network, variables, opened.photos, config))

    def local(parts: Mapping[str, PhotoSet]) -> StoredLocal:
        folders = {folder: workdir / "local" / folder / config.local.source for folder in parts}
        return StoredLocal([store_local(find(), part, config, folders[folder]) for folder, part in parts.items()])

    own = {name.partition("+")[0]: opened.photos} | {f"distractors-{part.name}": part for part in opened.distractors}
    photos = Side(descriptors[1], opened.everything.regions, partial(local, own))
    asked = opened.queries
    if asked is None:
        return photos, photos
    return Side(descriptors[0], asked.regions, partial(local, {f"{name}-queries": asked})), photos


def check_methods(methods: Sequence[str]) -> None:
    """Raises `UserError`, before any work, for an unknown way to localize."""
    if unknown := set(methods) - set(METHODS):
        raise UserError(f"--localize: no method {sorted(unknown)[0]!r}; choose from {', '.join(METHODS)}")


def masks_of(opened: Benchmark) -> PixelTruth:
    """Where objects are in its photographs; `UserError` where nobody has drawn them."""
    if opened.pixels is None:
        raise UserError(f"nobody knows where objects are in {opened.searched}; choose a benchmark that has masks")
    return opened.pixels


def localize(
    localizer: Localizer, truth: PixelTruth, rankings: Int[np.ndarray, "q k"]
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """For each method its metrics and photographs per second, from stored maps and local features.

    And where objects were drawn by polygons, its marks of all relevant photographs as the published evaluator reads
    them, by file name; of queries that are not asked, nothing.
    """
    out, files = {}, {}
    for method in localizer.config.localize.methods:
        out[method], outlines = _measured(localizer, method, truth, rankings)
        if truth.shapes:
            files[f"marks-{method}.npy"] = matching_file(outlines)
    return out, files


def _measured(
    localizer: Localizer, method: str, truth: PixelTruth, rankings: Int[np.ndarray, "q k"]
) -> tuple[dict[str, Any], dict[tuple[int, int], np.ndarray]]:
    """One method's metrics, and the outlines of its marks by (query, photo) where the truth has outlines too."""
    localizer.make_ready(method)
    localizer(method, 0, [0] * (1 + PHOTOS_AT_ONCE))  # so that both of its shapes are compiled
    marked, seconds = 0, 0.0
    pairs = [(query, row) for query, right in enumerate(truth.relevant) for row in right.tolist()]
    outlines = dict.fromkeys(pairs, np.empty((0, 2), np.int64))

    def locate(query: int, rows: Sequence[int]) -> list[np.ndarray]:
        nonlocal marked, seconds
        start = time.perf_counter()
        found = [one.mask for one in localizer(method, query, rows)]
        marked, seconds = marked + len(rows), seconds + time.perf_counter() - start
        if truth.shapes:
            outlines.update({(query, row): outline_polygon(mask) for row, mask in zip(rows, found, strict=True)})
        return found

    metrics, _ = pixel_protocol(rankings, truth, locate, lambda query, photo: outlines[query, photo])
    return metrics | {"photos_per_second": round(marked / max(seconds, 1e-9), 2)}, outlines


def show_located(localizer: Localizer, opened: Benchmark, ranked: Ranked, answers: int = 6) -> list[Shown]:
    """What each method marks in the first answers of the queries with regions, else those whose maps the report shows.

    Distractors among them are left out: nothing is looked for there.
    """
    truth, asks = opened.pixels, opened.queries or opened.photos
    out = []
    for query in list(localizer.regions) or choose_photos(ranked, asks):
        ids = ranked.ids[int(np.flatnonzero(ranked.queries == query)[0])]
        rows = [row for row in ids.tolist() if 0 <= row < len(opened.photos)][:answers]
        masks = None
        if truth is not None:
            drawn = [] if query in truth.unlabelled else truth.relevant[query]
            masks = [truth.mask(query, row) if row in drawn else None for row in rows]
        region = localizer.regions.get(query)
        pixels = None if region is None else region_pixels(region, tuple(asks.sizes[query].tolist()))
        for method in localizer.config.localize.methods:
            out.append(Shown(method, query, rows, localizer(method, query, rows), masks, pixels))
    return out


def calibration(chain: Chain, ranked: Ranked) -> dict[str, Any]:
    """How well the uncertainty that a stage has found predicts which queries are answered badly."""
    asked = [i for i, row in enumerate(ranked.queries) if int(row) in chain.uncertainty and not np.isnan(ranked.ap[i])]
    if not asked:
        return {}
    uncertainty, ap = np.array([chain.uncertainty[int(ranked.queries[i])] for i in asked]), ranked.ap[asked]
    coverage, risk = risk_coverage(uncertainty, ap)
    worse = float(np.median(ap))
    return {
        "queries": len(asked),
        "AUROC": auroc(uncertainty, ap < worse),
        "bad": f"AP below {100 * worse:.2f} %, the median",
        "coverage": coverage.tolist(),
        "risk": risk.tolist(),
    }
