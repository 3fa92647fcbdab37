"""Search in two stages: all photographs by their descriptors, then the order of the answers anew."""

import numpy as np
from jaxtyping import Float, Int, Shaped

from sret_jax.reranking.chain import Chain
from sret_jax.retrieval.asmk_search import AsmkIndex
from sret_jax.retrieval.index import Index

Found = tuple[Int[np.ndarray, "q k"], Float[np.ndarray, "q k"]]  # ids, best first, -1 = none; and scores


class TwoStageSearch:
    """Search by queries that are named by their rows: what a re-ranking needs of them is more than a descriptor.

    Attributes:
      depth: the most answers that were asked for.
    """

    def __init__(
        self,
        index: Index | AsmkIndex,
        asking: Shaped[np.ndarray, "q *d"],
        chain: Chain | None = None,
        *,
        remember: bool = False,
    ):
        """
        Args:
          asking: what the index is asked with, of all queries: descriptors, or for ASMK rows.
          chain: the second stage, or None for none.
          remember: keep what was found last for each query, for `rankings`.
        """
        self._index, self._asking, self._chain, self.depth = index, asking, chain, 0
        self._found: dict[int, np.ndarray] | None = {} if remember else None

    def __call__(self, rows: Int[np.ndarray, "q"], k: int) -> Found:
        """The k best photographs for these queries."""
        return self.rerank(rows, *self.first(rows, k))

    def rankings(self, queries: int) -> Int[np.ndarray, "q k"]:
        """What was found last for each of so many queries; -1 for those that have not asked."""
        out = np.full((queries, self.depth), -1, np.int64)
        for row, ids in (self._found or {}).items():
            out[row, : len(ids)] = ids
        return out

    def first(self, rows: Int[np.ndarray, "q"], k: int) -> Found:
        """By the index alone."""
        self.depth = max(self.depth, k)
        found = self._index.search(self._asking[rows], k)
        return found.ids, found.scores

    def rerank(
        self, rows: Int[np.ndarray, "q"], ids: Int[np.ndarray, "q k"], scores: Float[np.ndarray, "q k"]
    ) -> Found:
        """The same photographs in the order of the second stage."""
        if self._chain is not None:
            ids, scores = self._chain(rows, ids, scores)
        if self._found is not None:
            self._found |= dict(zip(rows.tolist(), ids, strict=True))
        return ids, scores
