"""The two uses of whitening in a run: a start for the layer, and one learned from the finished descriptors."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Int

from sret_jax.config import Config
from sret_jax.data.photo_set import PhotoSet
from sret_jax.errors import UserError
from sret_jax.extraction.descriptors import Extractor
from sret_jax.models.descriptor import RetrievalNetwork, build_network
from sret_jax.models.weights.pretrained import stored_whitening
from sret_jax.models.whitening import LearnedWhitening, pair_whitening, pca_whitening

Tree = dict[str, Any]
PARTNERS = 5  # matching pairs made of each photograph, so that their number grows with the photographs alone


def whitened_start(config: Config, variables: Tree, photos: PhotoSet) -> Tree:
    """`variables` with the whitening layer set to PCA-whiten the pooled descriptors of the training photographs.

    The layer's `kernel = projection`, `bias = -mean @ projection`. Photographs are described at one scale, as in
    training.
    """
    layer = variables["params"]["whitening"]
    channels, dim = layer["kernel"].shape
    if dim > channels:
        raise UserError(
            f"config.model.whitening_dim={dim}: PCA has only the {channels} components of the pooled "
            'descriptor; lower it, or set config.model.whitening_init="random"'
        )
    one_scale = dataclasses.replace(config, extract=dataclasses.replace(config.extract, scales=(1.0,)))
    pooled = build_network(config.model, whitening=False)
    described = Extractor(pooled, variables, one_scale).describe(photos, range(len(photos)))
    mean, projection = pca_whitening(described, dim, config.model.whitening_shrinkage)
    start = {"kernel": projection.astype(np.float32), "bias": (-mean @ projection).astype(np.float32)}
    return variables | {"params": variables["params"] | {"whitening": layer | start}}


def learn_whitening(
    config: Config, network: RetrievalNetwork, variables: Tree, photos: PhotoSet
) -> LearnedWhitening | None:
    """The whitening learned from the training photographs as `config.whitening` says; None for "none"."""
    settings = config.whitening
    if settings.kind == "none":
        return None
    if settings.kind == "weights":
        return stored_whitening(config)
    x = Extractor(network, variables, config).describe(photos, range(len(photos)))
    if settings.kind == "pca":
        mean, projection = pca_whitening(x, settings.dim, settings.shrinkage)
    else:
        pairs = matching_pairs(photos.labels) if photos.pairs is None else photos.pairs.T
        mean, projection = pair_whitening(x, pairs[0], pairs[1], settings.dim, settings.shrinkage)
    return LearnedWhitening(mean, projection)


def matching_pairs(labels: Int[np.ndarray, "n"]) -> tuple[Int[np.ndarray, "m"], Int[np.ndarray, "m"]]:
    """Rows of photographs of one instance: each photograph with the next `PARTNERS` of its instance, round about."""
    queries, positives = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for label in np.unique(labels[labels >= 0]):
        rows = np.flatnonzero(labels == label)
        for shift in range(1, min(PARTNERS, len(rows) // 2) + 1):
            queries.append(rows)
            positives.append(np.roll(rows, -shift))
    return np.concatenate(queries), np.concatenate(positives)
