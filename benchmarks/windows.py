"""Real descriptors by the hundred thousand from few photographs: of windows of their feature maps, as a regional index.

A window is any rectangle of positions; its descriptor is the GeM (p = 3) of the untrained network's map inside it,
L2-normalised and PCA-whitened as a whole photograph's is. Windows of one photograph overlap, so that a query has near
neighbours and far ones, which random descriptors do not have. The queries are windows of photographs that are not
searched.
"""

import tempfile
from pathlib import Path

import jax
import numpy as np
from networks import map_of, square_batches

from sret_jax.config import Config
from sret_jax.data.folders import prepare_folder
from sret_jax.models.whitening import apply_whitening, pca_whitening
from sret_jax.retriever import load, without_unfilled_layers

P, EPS = 3.0, 1e-6
QUERY_PHOTOS = 64  # photographs whose windows are the queries
LEARNED_ON = 16  # windows of every searched photograph that the whitening is learned on


def window_descriptors(root: str, count: int, queries: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit descriptors `(searched [<= count dim], queries [queries dim])`: as many windows of every photograph."""
    maps = feature_maps(root)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(maps))
    query_photos, searched = order[:QUERY_PHOTOS], order[QUERY_PHOTOS:]
    learned_on = np.concatenate([windows(maps[row], LEARNED_ON, rng) for row in searched])
    mean, projection = pca_whitening(learned_on, dim, Config().model.whitening_shrinkage)

    def describe(rows: np.ndarray, total: int) -> np.ndarray:
        each = -(-total // len(rows))
        parts = [apply_whitening(windows(maps[row], each, rng), mean, projection) for row in rows]
        return np.concatenate(parts).astype(np.float32)[:total]

    return describe(searched, count), describe(query_photos, queries)


def windows(x: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """Descriptors [m c] of `most` distinct rectangles of a map [h w c], or of all that there are."""
    tops, bottoms = np.triu_indices(x.shape[0] + 1, 1)
    lefts, rights = np.triu_indices(x.shape[1] + 1, 1)
    chosen = rng.permutation(len(tops) * len(lefts))[:most]
    (top, bottom), (left, right) = (
        (low[i], high[i])
        for low, high, i in zip((tops, lefts), (bottoms, rights), divmod(chosen, len(lefts)), strict=True)
    )
    integral = np.pad(np.maximum(x, EPS).astype(np.float64) ** P, ((1, 0), (1, 0), (0, 0))).cumsum(0).cumsum(1)
    total = integral[bottom, right] - integral[top, right] - integral[bottom, left] + integral[top, left]
    pooled = (np.maximum(total, EPS**P) / ((bottom - top) * (right - left))[:, None]) ** (1 / P)
    return (pooled / np.linalg.norm(pooled, axis=1, keepdims=True)).astype(np.float32)


def feature_maps(root: str) -> list[np.ndarray]:
    """The last map [h w c] of every photograph, without its padding, by the untrained network of the default config."""
    retriever = load(without_unfilled_layers(Config()))
    map_in = map_of(retriever)
    maps: list[np.ndarray] = []
    with tempfile.TemporaryDirectory() as folder:
        photos = prepare_folder(root, Path(folder))
        for batch in square_batches(photos, retriever, retriever.config.extract.batch_size):
            x, mask = jax.device_get(map_in(batch["image"], batch["mask"]))
            sizes = zip(mask.any(2).sum(1), mask.any(1).sum(1), batch["row"] >= 0, x, strict=True)
            maps += [one[:h, :w] for h, w, real, one in sizes if real]
    return maps
