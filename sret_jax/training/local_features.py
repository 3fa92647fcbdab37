"""The start of the local features' reduction: PCA-whitening, learned from the training photographs."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from sret_jax.config import Config
from sret_jax.data.photo_set import PhotoSet
from sret_jax.errors import UserError
from sret_jax.extraction.descriptors import Extractor
from sret_jax.models.descriptor import build_network
from sret_jax.models.fixed_smoothing import average
from sret_jax.models.whitening import pca_whitening

Tree = dict[str, Any]
PHOTOS, FEATURES = 5000, 40_000  # at most so many are looked at; the photographs as published


def reduced_start(config: Config, variables: Tree, photos: PhotoSet) -> Tree:
    """`variables` with the reduction of the local features set to PCA-whiten those of the training photographs.

    `kernel = projection`, `bias = -mean @ projection`, with shrinkage 1. The features are those of one scale, averaged
    as the network will average them.
    """
    layer = variables["params"]["local"]
    channels, dim = layer["kernel"].shape
    if dim > channels:
        raise UserError(f"config.model.local.dim={dim}: PCA has only the {channels} components of the map; lower it")
    features = _sample(config, variables, photos)
    if len(features) < 2:
        raise UserError("config.model.local needs photographs to learn its reduction from; give more of them")
    mean, projection = pca_whitening(features, dim)
    start = {"kernel": projection.astype(np.float32), "bias": (-mean @ projection).astype(np.float32)}
    return variables | {"params": variables["params"] | {"local": layer | start}}


def _sample(config: Config, variables: Tree, photos: PhotoSet) -> Float[np.ndarray, "n c"]:
    """Averaged local features at random positions of evenly spread photographs."""
    model = dataclasses.replace(config.model, whitening=False, pool="spoc")
    model.local = dataclasses.replace(model.local, enabled=False)
    extractor = Extractor(build_network(model), variables, config)
    rows = np.unique(np.linspace(0, len(photos) - 1, min(PHOTOS, len(photos))).round().astype(int)).tolist()
    rng, share, found = np.random.default_rng(config.seed), -(-FEATURES // len(rows)), []
    averaged = jax.jit(partial(average, window=config.model.local.window))
    for start in range(0, len(rows), config.extract.batch_size):
        batch = extractor.intermediates(photos, rows[start : start + config.extract.batch_size])
        for intermediates in batch.values():
            x, mask = jnp.asarray(intermediates["map"], jnp.float32)[None], jnp.asarray(intermediates["mask"])[None]
            inside = np.asarray(averaged(x, mask=mask))[0, intermediates["mask"]]
            found.append(inside[rng.permutation(len(inside))[:share]])
    return np.concatenate(found)
