"""What a re-ranker is given: queries, the database, and what has been found so far. Never the ground truth."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from sret_jax.config import Config
from sret_jax.extraction.local_features import StoredLocal
from sret_jax.extraction.selection import SelectedFeatures
from sret_jax.reranking.matching import LocalFeatures


@dataclass(frozen=True, eq=False)
class Answers:
    """What a search has found for some queries.

    rows         of the queries
    ids, scores  rows of the database, best first; -1 and -inf = none
    subset       of the ground truth, where each subset is searched for apart; "" = all of it
    """

    rows: Int[np.ndarray, "q"]
    ids: Int[np.ndarray, "q k"]
    scores: Float[np.ndarray, "q k"]
    subset: str = ""


@dataclass(frozen=True, eq=False)
class PhotoFeatures:
    """The features of the queries, or of the database, found or read when they are first used.

    open_descriptors  global ones, of unit length
    sizes             (height, width) of each photograph
    open_local        local features
    """

    open_descriptors: Callable[[], Float[np.ndarray, "n d"]]
    sizes: Int[np.ndarray, "n 2"]
    open_local: Callable[[], StoredLocal]

    @cached_property
    def descriptors(self) -> Float[np.ndarray, "n d"]:
        return self.open_descriptors()

    @cached_property
    def local(self) -> StoredLocal:
        return self.open_local()

    def local_features(self, rows: Int[np.ndarray, "b"]) -> LocalFeatures:
        """Unit local features, positions in units of the longest side. A row of -1 has none."""
        found = self.local(np.maximum(rows, 0))
        counts = np.where(rows >= 0, found.counts, 0)
        return comparable(found._replace(counts=counts), self.sizes[np.maximum(rows, 0)])


def comparable(found: SelectedFeatures, sizes: Int[np.ndarray, "b 2"]) -> LocalFeatures:
    """Local features of photographs of these sizes (height, width): of unit length, the longest side of unit length."""
    length = np.linalg.norm(found.features, axis=-1, keepdims=True)
    aspect = sizes[:, ::-1] / sizes.max(1, keepdims=True)
    return LocalFeatures(
        jnp.asarray(found.features / np.where(length > 0, length, 1)),
        jnp.asarray(found.position * aspect[:, None], jnp.float32),
        jnp.asarray(found.counts, jnp.int32),
    )


@dataclass(frozen=True, eq=False)
class Context:
    """What re-rankers work on.

    queries, database  the same object where the photographs are each other's queries
    config             its `rerank` says how
    folder             what they keep between runs
    """

    queries: PhotoFeatures
    database: PhotoFeatures
    config: Config
    folder: Path


@dataclass(frozen=True, eq=False)
class Candidates:
    """The answers to some queries, on their way through the re-rankers.

    rows               of the queries
    queries, database  descriptors, as the re-rankers before have left them; of no dimension where none uses any
    ids, scores        best first; -1 = none
    uncertainty        entropy of the communities of the first answers, where a re-ranker has looked; nan elsewhere
    """

    rows: Int[np.ndarray, "q"]
    queries: Float[np.ndarray, "q d"]
    database: Float[np.ndarray, "n d"]
    ids: Int[np.ndarray, "q k"]
    scores: Float[np.ndarray, "q k"]
    uncertainty: Float[np.ndarray, "q"]


Step = Callable[[Candidates], Candidates]
