"""Search in two stages: all photographs by their descriptors, then the order of the answers anew."""

import numpy as np
from jaxtyping import Float, Int

from sret_jax.reranking.chain import Chain
from sret_jax.retrieval.search import Index

Found = tuple[Int[np.ndarray, "q k"], Float[np.ndarray, "q k"]]  # ids, best first, -1 = none; and scores


class TwoStageSearch:
    """Search by queries that are named by their rows: what a re-ranking needs of them is more than a descriptor.

    Attributes:
      depth: the most answers that were asked for.
    """

    def __init__(self, index: Index, descriptors: Float[np.ndarray, "q d"], chain: Chain | None = None):
        """
        Args:
          descriptors: of all queries.
          chain: the second stage, or None for none.
        """
        self._index, self._descriptors, self._chain, self.depth = index, descriptors, chain, 0

    def __call__(self, rows: Int[np.ndarray, "q"], k: int) -> Found:
        """The k best photographs for these queries."""
        return self.rerank(rows, *self.first(rows, k))

    def first(self, rows: Int[np.ndarray, "q"], k: int) -> Found:
        """By global descriptors alone."""
        self.depth = max(self.depth, k)
        found = self._index.search(self._descriptors[rows], k)
        return found.ids, found.scores

    def rerank(
        self, rows: Int[np.ndarray, "q"], ids: Int[np.ndarray, "q k"], scores: Float[np.ndarray, "q k"]
    ) -> Found:
        """The same photographs in the order of the second stage."""
        return (ids, scores) if self._chain is None else self._chain(rows, ids, scores)
