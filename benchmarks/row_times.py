"""What each row of a table takes to describe a photograph and to train, all rows in turn."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from networks import filled
from timing import interleaved

from sret_jax.config import Config, photos_per_batch
from sret_jax.data.folders import prepare_folder
from sret_jax.data.photo_set import PhotoSet
from sret_jax.data.pipeline import training_batches
from sret_jax.data.resizing import bucket_shapes, choose_bucket, content_size
from sret_jax.extraction.local_features import open_source
from sret_jax.models.descriptor import build_network, init_network
from sret_jax.retrieval.inverted_file import InvertedFile
from sret_jax.retriever import load
from sret_jax.training import parallel
from sret_jax.training.loop import initial_state, prepare_photos
from sret_jax.training.step import make_step

PHOTOS = 16  # evenly spread among those of one shape: a full batch, and short rounds, that meet the same busy moments


def times_of_rows(configs: Mapping[str, Config], trained: set[str], rounds: int) -> dict[str, dict[str, float]]:
    """Of each row `milliseconds` to describe a photograph, `times_first`, how often the time of the first row that is,
    and of those in `trained` `training_seconds`, all steps without loading photographs: medians over rounds."""
    describing = interleaved({name: describer(config) for name, config in configs.items()}, rounds)
    first = next(iter(describing.values()))
    times = {
        name: {"milliseconds": 1000 * float(np.median(own)) / PHOTOS, "times_first": float(np.median(own / first))}
        for name, own in describing.items()
    }
    steps = {name: stepper(config) for name, config in configs.items() if name in trained}
    for name, seconds in interleaved(steps, rounds).items():
        times[name]["training_seconds"] = configs[name].train.steps * float(np.median(seconds))
    return times


def describer(config: Config) -> Callable[[], Any]:
    """Describes `PHOTOS` photographs of "test", from their bytes; for ASMK by local features and their visual words.

    The weights are untrained and the words drawn: which they are does not change the time.
    """
    data = config.data
    photos = prepare_folder(data.root, data.cache_dir, splits=data.splits, split="test")
    retriever = load(config)
    retriever = replace(retriever, variables=filled(retriever.variables))
    rows = of_one_shape(photos, config, retriever.network.size_multiple)
    if config.search.method != "asmk":
        return lambda: retriever.describe(photos, rows)
    local = replace(config, local=replace(config.local, source="head"))
    source = open_source(retriever.extractor, photos, local)
    words = np.random.default_rng(0).standard_normal((config.search.words, config.model.local.dim), np.float32)
    index = InvertedFile(words)

    def describe() -> None:
        found = [one for _, one in source(photos, rows)]
        index.add(np.stack([one.features for one in found]), np.stack([one.counts for one in found]), [""] * len(found))

    return describe


def of_one_shape(photos: PhotoSet, config: Config, multiple: int) -> list[int]:
    """`PHOTOS` rows that fill one batch of the most frequent shape."""
    data = config.data
    buckets = bucket_shapes(data.image_size, data.bucket_ratios, multiple)
    shapes = [choose_bucket(content_size(size, data.image_size, multiple), buckets) for size in photos.sizes.tolist()]
    same = np.flatnonzero([shape == max(buckets, key=shapes.count) for shape in shapes])
    return same[np.linspace(0, len(same) - 1, PHOTOS).astype(int)].tolist()


def stepper(config: Config) -> Callable[[], Any]:
    """Makes one training step, always on the first batch."""
    photos = prepare_photos(config, Path(config.data.cache_dir))
    network = build_network(config.model, train_from=config.train.train_from, batch_stats=config.train.batch_stats)
    variables = filled(init_network(network, config.model, jax.random.key(0)))
    optimizer, state = initial_state(config, variables, photos)
    state = parallel.place(state)
    batches = training_batches(photos, config.data, seed=config.seed, size_multiple=network.size_multiple)
    batch = parallel.shard([dict(next(batches)) | {"stop": np.zeros(photos_per_batch(config), bool)}])
    step = parallel.data_parallel(make_step(network, optimizer, config.train))

    def call() -> Any:
        nonlocal state
        state, metrics = step(state, batch)
        return metrics

    return call
