"""The time to describe a photograph by each row of a table, all rows in turn."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float
from timing import interleaved

from sret_jax.config import Config
from sret_jax.data.photo_set import PhotoSet
from sret_jax.data.resizing import bucket_shapes, choose_bucket, content_size
from sret_jax.models.descriptor import RetrievalNetwork, Variables
from sret_jax.retrieval.extract import Extractor
from sret_jax.retrieval.inverted_file import InvertedFile
from sret_jax.retrieval.local_store import open_source

PHOTOS = 16  # evenly spread among those of one shape: a full batch, and short rounds, that meet the same busy moments
REFERENCE = "GeM"


def describer(
    network: RetrievalNetwork, variables: Variables, photos: PhotoSet, config: Config, words: int
) -> Callable[[], Any]:
    """Describes `PHOTOS` photographs, from their bytes; for ASMK by local features and their `words` visual words.

    Which words they are does not change the time, so they are drawn.
    """
    data, multiple = config.data, network.size_multiple
    buckets = bucket_shapes(data.image_size, data.bucket_ratios, multiple)
    shapes = [choose_bucket(content_size(size, data.image_size, multiple), buckets) for size in photos.sizes.tolist()]
    same = np.flatnonzero([shape == max(buckets, key=shapes.count) for shape in shapes])
    rows = same[np.linspace(0, len(same) - 1, PHOTOS).astype(int)].tolist()
    if config.search.method != "asmk":
        extractor = Extractor(network, variables, photos, config)
        return lambda: extractor.describe(rows)
    source = open_source(network, variables, photos, replace(config, local=replace(config.local, source="head")))
    dim = config.model.local.dim
    index = InvertedFile(np.random.default_rng(0).standard_normal((words, dim), np.float32))

    def describe() -> None:
        found = [one for _, one in source(photos, rows)]
        index.add(np.stack([one.features for one in found]), np.stack([one.count for one in found]), [""] * len(found))

    return describe


def timed(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, Float[np.ndarray, "2"]]:
    """Of each row milliseconds of a photograph, and how often the reference's time: medians over rounds of all rows."""
    seconds = interleaved(dict(calls), rounds)
    return {
        name: np.array([1000 * np.median(own) / PHOTOS, np.median(own / seconds[REFERENCE])])
        for name, own in seconds.items()
    }
