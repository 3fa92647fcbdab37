"""A trained network's local features: benchmarks searched with them by ASMK, and their burstiness."""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sret_jax.config import Config
from sret_jax.data.image_folder import prepare_folder
from sret_jax.data.photo_set import PhotoSet
from sret_jax.data.pipeline import Batch, evaluation_batches
from sret_jax.evaluation.benchmarks import Request, open_benchmark
from sret_jax.evaluation.protocols import Ranked
from sret_jax.models.attention import l2_attention
from sret_jax.models.descriptor import RetrievalNetwork, Variables
from sret_jax.models.whitening import pca_whitening
from sret_jax.retrieval.asmk import distinct_words
from sret_jax.retrieval.codebook import kmeans
from sret_jax.retrieval.inverted_file import InvertedFile
from sret_jax.retrieval.local import extract_local, padded_together, select_local
from sret_jax.retrieval.multiscale import resize_input

DIM, MOST = 128, 1000  # length of a local feature, features of a photograph
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


def spread(photos: PhotoSet, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, len(photos) - 1, min(most, len(photos))).round().astype(int))


@partial(jax.jit, static_argnames=("network", "scale"))
def local_maps(network, variables, reduction, images, mask, scale):
    """{"features", "strength", "mask"} at one scale: of HOW's head where there is one, else of the map that is pooled,
    with the strengths of the backbone's, reduced to `DIM` where `reduction` is known."""
    if scale != 1:
        images, mask = resize_input(images, mask, scale, network.size_multiple, recomputed=True)
    x, mask, seen = network.apply(variables, images, mask, method="feature_map")
    if "local" in seen:
        return seen["local"]
    x = x if reduction is None else (x - reduction[0]) @ reduction[1]
    return {"features": x, "strength": l2_attention(seen["backbone"]), "mask": mask}


def words_of_photographs(
    network: RetrievalNetwork, variables: Variables, config: Config, cache: Path, words: int
) -> tuple[float, float]:
    """|X| and C_X: local features and distinct visual words of a photograph of "test", the mean.

    The reduction and the words are learned from one scale of photographs of "train".
    """
    train, test = (
        prepare_folder(config.data.root, cache, splits=config.data.splits, split=s) for s in ("train", "test")
    )

    def at_one_scale(reduction: Any) -> np.ndarray:
        found = []
        for batch in batches(train, network, config, spread(train, CODEBOOK_PHOTOS)):
            maps = local_maps(network, variables, reduction, batch["image"], batch["mask"], 1.0)
            found.append(np.asarray(maps["features"])[np.asarray(maps["mask"])])
        return np.concatenate(found)

    features, reduction = at_one_scale(None), None
    if features.shape[1] != DIM:
        reduction = tuple(np.asarray(z, np.float32) for z in pca_whitening(features, DIM))
        features = (features - reduction[0]) @ reduction[1]
    centroids = kmeans(features, words)
    counts = []
    for batch in batches(test, network, config, spread(test, COUNTED_PHOTOS)):
        maps = [local_maps(network, variables, reduction, batch["image"], batch["mask"], s) for s in COUNTED_SCALES]
        chosen = select_local(maps, COUNTED_SCALES, MOST)
        found = distinct_words(chosen.features, chosen.count, jnp.asarray(centroids))
        counts.append(np.stack([chosen.count, found], 1)[batch["row"] >= 0])
    number, distinct = np.concatenate(counts).mean(0)
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
    learned_on = []
    for batch in batches(train, network, config, spread(train, CODEBOOK_PHOTOS)):
        maps = local_maps(network, variables, None, batch["image"], batch["mask"], 1.0)
        learned_on.append(np.asarray(maps["features"])[np.asarray(maps["mask"])])
    index = InvertedFile(kmeans(np.concatenate(learned_on), words))

    opened = open_benchmark(benchmark, config, request, cache)
    extract = partial(extract_local, network, variables, most=MOST)
    start, described = time.perf_counter(), 0
    for batch in batches(opened.everything, network, config):
        rows = [int(row) for row in batch["row"] if row >= 0]
        found = extract([batch])
        index.add(*padded_together([found[row] for row in rows]), [opened.everything.names[row] for row in rows])
        described += len(rows)
    seconds = time.perf_counter() - start
    row_of = {name: row for row, name in enumerate(opened.everything.names)}
    added = np.array([row_of[name] for name in index.names])

    asked = opened.queries or opened.everything
    queries = extract(batches(asked, network, config))

    def search(rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        ids, scores = index.search(*padded_together([queries[int(row)] for (row,) in rows]), k)
        return added[ids], scores

    ranked, _ = opened.judge(search, np.arange(len(asked))[:, None])
    return ranked, 1000 * seconds / described, index.nbytes / described
