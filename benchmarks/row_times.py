"""What each row of a table takes to describe a photograph and to train, all rows in turn."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from networks import filled
from timing import interleaved

from sret_jax.config import Config
from sret_jax.data.photo_set import PhotoSet
from sret_jax.data.resizing import bucket_shapes, choose_bucket, content_size
from sret_jax.extraction.local_features import open_source
from sret_jax.models.descriptor import build_network, init_network
from sret_jax.retrieval.inverted_file import InvertedFile
from sret_jax.retriever import load
from sret_jax.training import parallel
from sret_jax.training.loop import initial_state, prepare_photos
from sret_jax.training.shown import shown
from sret_jax.training.step import make_step

PHOTOS = 16  # evenly spread among those of one shape: a full batch, and short rounds, that meet the same busy moments


def times_of_rows(
    configs: Mapping[str, Config], trained: set[str], photos: PhotoSet, rounds: int
) -> dict[str, dict[str, float]]:
    """Of each row `milliseconds` to describe a photograph of `photos`, `times_first`, how often the time of the first
    row that is, and of those in `trained` `step_seconds`, one step without loading maps: medians over rounds."""
    describing = interleaved({name: describer(config, photos) for name, config in configs.items()}, rounds)
    first = next(iter(describing.values()))
    times = {
        name: {"milliseconds": 1000 * float(np.median(own)) / PHOTOS, "times_first": float(np.median(own / first))}
        for name, own in describing.items()
    }
    steps = {name: stepper(config) for name, config in configs.items() if name in trained}
    for name, seconds in interleaved(steps, rounds).items():
        times[name]["step_seconds"] = float(np.median(seconds))
    return times


def describer(config: Config, photos: PhotoSet) -> Callable[[], Any]:
    """Describes `PHOTOS` photographs, from their bytes; for ASMK by local features and their visual words.

    The weights are untrained and the words drawn: which they are does not change the time.
    """
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
    cache = Path(config.data.cache_dir)
    photos = prepare_photos(config, cache)
    network = build_network(config.model, train_from=config.train.train_from, batch_stats=config.train.batch_stats)
    variables = filled(init_network(network, config.model, jax.random.key(0)))
    seen = shown(config, network, variables, photos, cache)
    optimizer, state = initial_state(config, variables, photos)
    state = parallel.place(state)
    batch = dict(next(seen.batches(network)))
    batch = parallel.shard([batch | {"stop": np.zeros(len(batch["row"]), bool)}])
    step = parallel.data_parallel(make_step(network, optimizer, config.train, given=seen.given))

    def call() -> Any:
        nonlocal state
        state, metrics = step(state, batch)
        return metrics

    return call
