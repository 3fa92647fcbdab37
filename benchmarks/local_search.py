"""A trained network's local features: benchmarks searched with them by ASMK, and their burstiness."""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from burstiness import DIM, at_one_scale, count, spread

from sret_jax.config import Config
from sret_jax.data.image_folder import prepare_folder
from sret_jax.data.photo_set import PhotoSet
from sret_jax.data.pipeline import Batch, evaluation_batches
from sret_jax.evaluation.benchmarks import Request, open_benchmark
from sret_jax.evaluation.protocols import Ranked
from sret_jax.models.attention import l2_attention
from sret_jax.models.descriptor import RetrievalNetwork, Variables
from sret_jax.models.whitening import pca_whitening
from sret_jax.retrieval.codebook import kmeans
from sret_jax.retrieval.inverted_file import InvertedFile
from sret_jax.retrieval.local import Selected, extract_local, own_maps, padded_together
from sret_jax.retrieval.multiscale import resize_input

MOST = 1000  # features of a photograph
CODEBOOK_PHOTOS, COUNTED_PHOTOS = 400, 100  # evenly spread: learned on, and counted on
COUNTED_SCALES = (1.414, 1.0, 0.707)  # of the photographs that words are counted on


def batches(photos: PhotoSet, network: RetrievalNetwork, config: Config, rows: Any = None) -> Iterator[Batch]:
    """All in one square shape: seven scales of several shapes would compile for longer than they run."""
    return evaluation_batches(
        photos,
        image_size=config.data.image_size,
        bucket_ratios=(),
        size_multiple=network.size_multiple,
        batch_size=8,
        rows=rows,
        threads=config.data.threads,
    )


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


def words_of_photographs(
    network: RetrievalNetwork, variables: Variables, config: Config, cache: Path, words: int
) -> tuple[float, float]:
    """|X| and C_X: local features and distinct visual words of a photograph of "test", the mean.

    The reduction and the words are learned from one scale of photographs of "train".
    """
    train, test = (
        prepare_folder(config.data.root, cache, splits=config.data.splits, split=s) for s in ("train", "test")
    )
    maps_of = partial(local_maps, network, variables)
    features = at_one_scale(batches(train, network, config, spread(train, CODEBOOK_PHOTOS)), maps_of, {})["map"]
    reductions = {}
    if features.shape[1] != DIM:
        mean, projection = (np.asarray(z, np.float32) for z in pca_whitening(features, DIM))
        reductions["map"], features = (mean, projection), (features - mean) @ projection
    counted = batches(test, network, config, spread(test, COUNTED_PHOTOS))
    codebooks = {"map": kmeans(features, words)}
    number, distinct = count(counted, maps_of, reductions, codebooks, MOST, COUNTED_SCALES)["map"].mean(0)
    return float(number), float(distinct)


def asmk_search(
    network: RetrievalNetwork,
    variables: Variables,
    config: Config,
    benchmark: str,
    request: Request,
    cache: Path,
    words: int,
) -> tuple[Ranked, float, float]:
    """A benchmark searched by ASMK with binary kernels, over seven scales, codebook from one scale of "train".

    Returns:
      The result, milliseconds to describe a photograph (local features and their words), bytes of it in the index.
    """
    train = prepare_folder(config.data.root, cache, splits=config.data.splits, split="train")
    learned_on = batches(train, network, config, spread(train, CODEBOOK_PHOTOS))
    index = InvertedFile(kmeans(at_one_scale(learned_on, partial(local_maps, network, variables), {})["map"], words))

    opened = open_benchmark(benchmark, config, request, cache)
    extract = partial(extract_local, own_maps(network, variables), most=MOST)
    asked: dict[int, Selected] = {}
    start, added = time.perf_counter(), []
    for batch in batches(opened.everything, network, config):
        found = dict(extract([batch]))
        index.add(*padded_together(list(found.values())), [opened.everything.names[row] for row in found])
        added += found
        asked |= {} if opened.queries else found
    seconds = time.perf_counter() - start
    if opened.queries:
        asked = dict(extract(batches(opened.queries, network, config)))

    def search(rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        ids, scores = index.search(*padded_together([asked[int(row)] for (row,) in rows]), k)
        return np.array(added)[ids], scores

    ranked, *_ = opened.judge(search, np.arange(len(asked))[:, None])
    return ranked, 1000 * seconds / len(added), index.nbytes / len(added)
