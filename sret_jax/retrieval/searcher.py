"""The nearest of consecutive rows to queries of unit length: exact, or by what ScaNN proposes.

Rows are scored by their codes where there are any (`codes`), in memory or mapped, and what may be among the nearest is
scored again by the descriptors, which then stay on the disk until they are read.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from sret_jax.config import SearchConfig
from sret_jax.retrieval.approximate import scann_top_k
from sret_jax.retrieval.codes import Codes
from sret_jax.retrieval.exact import cosines, exact_top_k, queries_at_once

APPROXIMATE = ("ah", "tree_ah")  # methods that may miss a photo
REORDER = 10  # candidates re-scored per answer
TIE = 1e-5  # scores closer than this may come in another order from another way of summing

Settings = dict[str, Any]  # of an approximate method: leaves, leaves_to_search, reorder, recall
Found = tuple[Int[np.ndarray, "q k"], Float[np.ndarray, "q k"]]  # ids and scores, best first; -1 and -inf for none


@dataclass(frozen=True)
class Searcher:
    """
    rows      float32 [n d], of unit length
    method    "exact", "brute_force", "ah" or "tree_ah"
    settings  of the method, see `Settings`
    scann     the library's searcher over the rows; None of "exact"
    codes     of the rows, to search by
    bare      ScaNN holds no descriptors of its own to re-score by
    """

    rows: Float[np.ndarray, "n d"]
    method: str
    settings: Settings
    config: SearchConfig
    scann: Any = None
    codes: Codes | None = None
    bare: bool = False

    def search(self, queries: Float[np.ndarray, "q d"], k: int) -> Found:
        """The k nearest rows of each query; of equal scores the first ones, where the search is exact."""
        ids, scores = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
        step = queries_at_once(len(self.rows), k, self.config.chunk_rows)
        for start in range(0, len(queries), step):
            part = slice(start, start + step)
            ids[part], scores[part] = self._search(queries[part], k)
        return ids, scores

    def _search(self, queries: np.ndarray, k: int) -> Found:
        if self.method in APPROXIMATE:
            ids, scores = self._approximate(queries, k)  # best first, but for the order of equal ones
            tied = (scores[:, 1:] == scores[:, :-1]).any(1)
            ids[tied], scores[tied] = best_first(ids[tied], scores[tied], k)
            return ids, scores
        fewest = 16 + (k if self.codes is None else 4 * k)
        return self._exact(queries, k, min(len(self.rows), fewest))

    def _exact(self, queries: np.ndarray, k: int, wanted: int) -> Found:
        """Whatever may be nearer than the k-th, or as near, has to be among the candidates; else more are looked at."""
        ids, raw = self._candidates(queries, wanted)
        least = raw[:, k - 1 : k] - (TIE + (2 * self.codes.error if self.codes else 0))
        possible = ids if self.codes is None else ids[:, : max(k, (raw >= least).sum(1).max())]
        found, scores = best_first(possible, cosines(queries, self.rows, possible), k)
        unsure = np.flatnonzero(raw[:, -1:] > least)
        if wanted == len(self.rows) or not len(unsure):
            return found, scores
        unsure = np.resize(unsure, min(len(queries), 1 << (len(unsure) - 1).bit_length()))  # few shapes are compiled
        wanted = min(len(self.rows), 4 * wanted)
        step = queries_at_once(len(self.rows), wanted, self.config.chunk_rows)
        for start in range(0, len(unsure), step):
            some = unsure[start : start + step]
            found[some], scores[some] = self._exact(queries[some], k, wanted)
        return found, scores

    def _candidates(self, queries: np.ndarray, k: int) -> Found:
        if self.scann is None:
            rows = self.rows if self.codes is None else self.codes
            return exact_top_k(queries, rows, k, self.config.chunk_rows)
        return scann_top_k(self.scann, queries, k, {})

    def _approximate(self, queries: np.ndarray, k: int) -> Found:
        settings = {"leaves_to_search": self.settings["leaves_to_search"]} if self.method == "tree_ah" else {}
        wanted = min(len(self.rows), rescored(k, self.settings, self.config))
        if not self.bare:
            return scann_top_k(self.scann, queries, k, settings | {"pre_reorder_num_neighbors": wanted})
        ids, _ = scann_top_k(self.scann, queries, wanted, settings)
        if self.codes is not None:
            ids = self._possible(queries, ids, k)
        scores = cosines(queries, self.rows, np.maximum(ids, 0))
        return best_first(ids, np.where(ids < 0, -np.inf, scores).astype(np.float32), k)

    def _possible(self, queries: np.ndarray, ids: np.ndarray, k: int) -> np.ndarray:
        """Of the candidates those that may be among the k nearest, as far as their codes can tell."""
        assert self.codes is not None
        scores = self.codes.scores(queries, ids)
        order = np.argsort(-scores, axis=1, kind="stable")
        ids, scores = np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1)
        possible = scores >= scores[:, k - 1 : k] - (TIE + 2 * self.codes.error)
        return ids[:, : max(k, int(possible.sum(1).max(initial=0)))]


def rescored(k: int, settings: Settings, config: SearchConfig) -> int:
    """How many candidates an approximate search of k answers scores again."""
    chosen = settings.get("reorder", 0)  # for ten answers
    return max(k, config.reorder or max(chosen, -(-chosen * k // 10)) or REORDER * k)


def best_first(ids: np.ndarray, scores: np.ndarray, k: int) -> Found:
    """The k of highest score, equal ones by id, and -1 (no photo) last."""
    order = np.lexsort((ids, -scores), axis=1)[:, :k]
    return np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1)
