"""A retriever's network as benchmarks look into it: its map, square batches for it, and layers that nothing filled."""

from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from jaxtyping import Int

from sret_jax.data.photo_set import PhotoSet
from sret_jax.data.pipeline import PhotoBatch, evaluation_batches
from sret_jax.models.descriptor import Variables
from sret_jax.retriever import Retriever


def map_of(retriever: Retriever) -> Callable[[np.ndarray, np.ndarray], tuple[jax.Array, jax.Array]]:
    """The map that the network pools, and its mask, of photographs and their masks."""
    network, variables = retriever.network, retriever.variables
    return jax.jit(lambda images, mask: network.apply(variables, images, mask, method="feature_map")[:2])


def square_batches(
    photos: PhotoSet, retriever: Retriever, batch_size: int, rows: Sequence[int] | Int[np.ndarray, "m"] | None = None
) -> Iterator[PhotoBatch]:
    """All in one square shape: to compile several takes longer than what they would save."""
    data = retriever.config.data
    return evaluation_batches(
        photos,
        image_size=data.image_size,
        bucket_ratios=(),
        size_multiple=retriever.network.size_multiple,
        batch_size=batch_size,
        rows=rows,
        threads=data.threads,
    )


def filled(variables: Variables) -> Variables:
    """With random numbers in the layers that only training fills: which they are does not change the time."""
    rng = np.random.default_rng(0)

    def fill(x: np.ndarray) -> np.ndarray:
        return np.where(np.isnan(x), rng.standard_normal(x.shape, np.float32), x)

    return jax.tree.map(fill, variables)
