"""The two uses of whitening in a run: a start for the layer, and one learned from the finished descriptors."""

import dataclasses
import logging
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from sret_jax.config import Config
from sret_jax.errors import UserError
from sret_jax.metrics.ranking import rank, score_rankings, summarize
from sret_jax.models.descriptor import RetrievalNetwork, build_network
from sret_jax.models.weights.pretrained import stored_whitening
from sret_jax.models.whitening import (
    LearnedWhitening,
    pair_whitening,
    pca_whitening,
    ridge_powers,
    within_spectrum,
    within_whitening,
)
from sret_jax.training.shown import Shown

log = logging.getLogger(__name__)
Tree = dict[str, Any]
RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, np.inf)
FOLDS = 5  # of the cross-validation
PARTNERS = 5  # matching pairs made of each photograph, so that their number grows with the photographs alone


def whitened_start(config: Config, variables: Tree, shown: Shown, kind: str) -> Tree:
    """`variables` with the whitening layer set in closed form from the pooled descriptors of the training photographs.

    The layer's `kernel = projection`, `bias = -mean @ projection`. Photographs are described at one scale, as in
    training.

    Args:
        kind: "pca" or "within".
    """
    layer, settings = variables["params"]["whitening"], config.model
    channels, dim = layer["kernel"].shape
    if dim > channels:
        raise UserError(
            f"config.model.whitening_dim={dim}: a closed form has only the {channels} components of the pooled "
            'descriptor; lower it, or set config.model.whitening_init="random"'
        )
    one_scale = dataclasses.replace(config, extract=dataclasses.replace(config.extract, scales=(1.0,)))
    x = dataclasses.replace(shown, config=one_scale).describe(build_network(settings, whitening=False), variables)
    if kind == "pca":
        mean, projection = pca_whitening(x, dim, settings.whitening_shrinkage)
    else:
        mean, projection = ridge_whitening(x, shown.photos.labels, dim, settings.whitening_ridge)
    start = {"kernel": projection.astype(np.float32), "bias": (-mean @ projection).astype(np.float32)}
    return variables | {"params": variables["params"] | {"whitening": layer | start}}


def learn_whitening(
    config: Config, network: RetrievalNetwork, variables: Tree, shown: Shown
) -> LearnedWhitening | None:
    """The whitening learned from the training photographs as `config.whitening` says; None for "none"."""
    settings, photos = config.whitening, shown.photos
    if settings.kind == "none":
        return None
    if settings.kind == "weights":
        return stored_whitening(config)
    x = shown.describe(network, variables)
    if settings.kind == "pca":
        mean, projection = pca_whitening(x, settings.dim, settings.shrinkage)
    elif settings.kind == "within":
        mean, projection = ridge_whitening(x, photos.labels, settings.dim, settings.ridge)
    else:
        pairs = matching_pairs(photos.labels) if photos.pairs is None else photos.pairs.T
        mean, projection = pair_whitening(x, pairs[0], pairs[1], settings.dim, settings.shrinkage)
    return LearnedWhitening(mean, projection)


def ridge_whitening(
    x: Float[np.ndarray, "n c"], labels: Int[np.ndarray, "n"], dim: int, ridge: float
) -> tuple[Float[np.ndarray, "c"], Float[np.ndarray, "c d"]]:
    """`within_whitening`, with `choose_ridge` where `ridge` is 0."""
    return within_whitening(x, labels, dim, ridge or choose_ridge(x, labels))


def choose_ridge(x: Float[np.ndarray, "n c"], labels: Int[np.ndarray, "n"]) -> float:
    """The ridge of `within_whitening` by cross-validation over instances.

    The instances are dealt out to `FOLDS` parts. The photographs of each part search all others after a whitening that
    was learned without the part. Chosen is the largest ridge, the one that changes least, whose mean over the
    instances' mAP is within a standard error of the best one's: with few instances little can be told apart. With fewer
    than two instances of two different photographs there is nothing to compare, and the ridge is 1.

    Reference: the rule of one standard error, Breiman, Friedman, Olshen, Stone, Classification and regression trees,
    1984.
    """
    several = [label for label in np.unique(labels[labels >= 0]) if np.ptp(x[labels == label], axis=0).any()]
    folds = [several[i::FOLDS] for i in range(min(FOLDS, len(several)))]
    if len(folds) < 2:
        return 1.0
    scores: dict[float, list[float]] = {ridge: [] for ridge in RIDGES}
    for held_out in folds:
        out = np.isin(labels, held_out)
        values, u = within_spectrum(x[~out], labels[~out])
        turned = (x - x[~out].mean(0)) @ u
        for ridge in RIDGES:
            y = turned * ridge_powers(values, ridge)
            y /= np.maximum(np.linalg.norm(y, axis=1, keepdims=True), 1e-12)
            found = score_rankings(rank(y[out] @ y.T), labels[out], labels, np.flatnonzero(out))
            scores[ridge] += summarize(*found, labels[out])["per_instance"].values()
    found_of = {ridge: np.array(found) for ridge, found in scores.items()}
    best = max(reversed(RIDGES), key=lambda ridge: found_of[ridge].mean())

    def as_good(ridge: float) -> bool:
        loss = found_of[best] - found_of[ridge]
        return bool(loss.mean() <= loss.std(ddof=1) / np.sqrt(len(loss)))

    chosen = max(ridge for ridge in RIDGES if as_good(ridge))
    means = ", ".join(f"{ridge:g}: {found_of[ridge].mean():.2f}" for ridge in RIDGES)
    log.info("whitening: ridge %g of %s", chosen, means)
    return chosen


def matching_pairs(labels: Int[np.ndarray, "n"]) -> tuple[Int[np.ndarray, "m"], Int[np.ndarray, "m"]]:
    """Rows of photographs of one instance: each photograph with the next `PARTNERS` of its instance, round about."""
    queries, positives = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for label in np.unique(labels[labels >= 0]):
        rows = np.flatnonzero(labels == label)
        for shift in range(1, min(PARTNERS, len(rows) // 2) + 1):
            queries.append(rows)
            positives.append(np.roll(rows, -shift))
    return np.concatenate(queries), np.concatenate(positives)
