"""What a re-ranking is given: who asks, what is searched, and what has been found so far. Never the ground truth."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from sret_jax.extraction.local_features import StoredLocal
from sret_jax.reranking.matching import LocalFeatures


@dataclass(frozen=True, eq=False)
class Side:
    """Queries, or the photographs searched.

    descriptors  unit length
    sizes        (height, width) of each
    open_local   finds or reads the local features
    """

    descriptors: Float[np.ndarray, "n d"]
    sizes: Int[np.ndarray, "n 2"]
    open_local: Callable[[], StoredLocal]

    @cached_property
    def local(self) -> StoredLocal:
        return self.open_local()

    def features(self, rows: Int[np.ndarray, "b"]) -> LocalFeatures:
        """Unit local features, positions in units of the longest side. A row of -1 has none."""
        found = self.local(np.maximum(rows, 0))
        length = np.linalg.norm(found.features, axis=-1, keepdims=True)
        aspect = self.sizes[np.maximum(rows, 0)][:, ::-1] / self.sizes[np.maximum(rows, 0)].max(1, keepdims=True)
        return LocalFeatures(
            jnp.asarray(found.features / np.where(length > 0, length, 1)),
            jnp.asarray(found.position * aspect[:, None], jnp.float32),
            jnp.asarray(np.where(rows >= 0, found.counts, 0), jnp.int32),
        )


@dataclass(frozen=True, eq=False)
class Answers:
    """What some queries have found so far.

    rows      of the queries, on their side
    queries   their descriptors, as the stages before have left them
    database  descriptors of the photographs, likewise
    ids, scores   best first; -1 = none
    uncertainty   entropy of the communities of the first answers, where a stage has looked; nan elsewhere
    """

    rows: Int[np.ndarray, "q"]
    queries: Float[np.ndarray, "q d"]
    database: Float[np.ndarray, "n d"]
    ids: Int[np.ndarray, "q k"]
    scores: Float[np.ndarray, "q k"]
    uncertainty: Float[np.ndarray, "q"]


Step = Callable[[Answers], Answers]
