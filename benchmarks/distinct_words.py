"""The burstiness of a network's local features: how many there are, and how many distinct visual words."""

from functools import partial

import jax
import numpy as np
from burstiness import DIM, at_one_scale, count, spread
from networks import square_batches

from sret_jax.data.photo_set import PhotoSet
from sret_jax.extraction.multiscale import resize_input
from sret_jax.models.attention import l2_attention
from sret_jax.models.whitening import pca_whitening
from sret_jax.retrieval.codebook import kmeans
from sret_jax.retriever import Retriever

MOST = 1000  # features of a photograph
CODEBOOK_PHOTOS, COUNTED_PHOTOS = 400, 100  # evenly spread: learned on, and counted on
COUNTED_SCALES = (1.414, 1.0, 0.707)  # of the photographs that words are counted on
BATCH = 8


@partial(jax.jit, static_argnames=("network", "scale"))
def local_maps(network, variables, reductions, images, mask, scale):
    """{"map": {"features", "strength", "mask"}} at one scale: of HOW's head where there is one, else of the map that is
    pooled with the strengths of the backbone's, reduced where `reductions` says how."""
    if scale != 1:
        images, mask = resize_input(images, mask, scale, network.size_multiple, recomputed=True)
    x, mask, seen = network.apply(variables, images, mask, method="feature_map")
    if "local" in seen:
        return {"map": seen["local"]}
    for mean, projection in reductions.values():
        x = (x - mean) @ projection
    return {"map": {"features": x, "strength": l2_attention(seen["backbone"]), "mask": mask}}


def words_of_photographs(retriever: Retriever, words: int, train: PhotoSet, test: PhotoSet) -> tuple[float, float]:
    """|X| and C_X: local features and distinct visual words of a photograph of `test`, the mean.

    The reduction and the words are learned from one scale of photographs of `train`.
    """
    maps_of = partial(local_maps, retriever.network, retriever.variables)
    learned_on = square_batches(train, retriever, BATCH, spread(train, CODEBOOK_PHOTOS))
    features = at_one_scale(learned_on, maps_of, {})["map"]
    reductions = {}
    if features.shape[1] > DIM:  # heads reduce by themselves
        mean, projection = (np.asarray(z, np.float32) for z in pca_whitening(features, DIM))
        reductions["map"], features = (mean, projection), (features - mean) @ projection
    counted = square_batches(test, retriever, BATCH, spread(test, COUNTED_PHOTOS))
    codebooks = {"map": kmeans(features, words)}
    number, distinct = count(counted, maps_of, reductions, codebooks, MOST, COUNTED_SCALES)["map"].mean(0)
    return float(number), float(distinct)
