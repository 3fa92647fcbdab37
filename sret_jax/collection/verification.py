"""Spatial verification of the first answers of a collection, by the re-ranker "sv"."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Array

from sret_jax.collection.local import Features
from sret_jax.collection.query import Query
from sret_jax.collection.store import Store
from sret_jax.config import Config
from sret_jax.data.concurrency import run_ahead
from sret_jax.extraction.local_features import as_records, unpack
from sret_jax.reranking.answers import comparable
from sret_jax.reranking.matching import LocalFeatures
from sret_jax.reranking.rerankers import PAIRS_AT_ONCE, PARTS_AHEAD, verify_candidates
from sret_jax.reranking.spatial_verification import rerank_by_inliers

VERIFIED = 50  # answers that are put in a new order

Scored = list[tuple[int, float]]  # rows, and the cosines of their descriptors to the query's; best first


def verified(
    query: Query, answers: Scored, store: Store, found: Mapping[int, Features], config: Config
) -> tuple[Scored, dict[int, int]]:
    """The answers, the first `VERIFIED` of them by their inliers, and these inliers by row.

    Args:
      query: with its local features.
      answers: to it. One without local features, to which an update has not come yet, counts as one without inliers.
      store: of the answers.
      found: local features of the first answers, by row.
      config: `rerank` says how pairs are verified and how many inliers are trusted, `local` what is compared.
    """
    sizes = [store.state.photos[row].size for row in found]
    inliers = dict(zip(found, _inliers(query, list(found.values()), sizes, config), strict=True))
    ids = np.array([[row for row, _ in answers]], np.int64)
    scores = np.array([[score for _, score in answers]], np.float32)
    of_first = np.array([[inliers.get(row, 0) for row, _ in answers[:VERIFIED]]], np.int32)
    ordered, _ = rerank_by_inliers(ids, scores, of_first, trusted=config.rerank.trusted)
    cosines = dict(answers)
    return [(row, cosines[row]) for row in ordered[0].tolist()], inliers


def _inliers(
    query: Query, candidates: Sequence[Features], sizes: Sequence[tuple[int, int]], config: Config
) -> list[int]:
    assert query.local is not None
    none, slots = query.local[:0], config.local.most
    one = LocalFeatures(*(x[0] for x in _comparable([query.local], [query.part_size], slots)))
    out: list[int] = []

    def begun() -> Iterator[tuple[int, Array]]:
        for start in range(0, len(candidates), PAIRS_AT_ONCE):
            part, own = candidates[start : start + PAIRS_AT_ONCE], sizes[start : start + PAIRS_AT_ONCE]
            empty = PAIRS_AT_ONCE - len(part)
            filled = _comparable([*part, *[none] * empty], [*own, *[(1, 1)] * empty], slots)
            yield len(part), verify_candidates(one, filled, config)[1].inliers

    for count, inliers in run_ahead(begun(), PARTS_AHEAD):
        out += np.asarray(inliers)[:count].tolist()
    return out


def _comparable(photos: Sequence[Features], sizes: Sequence[tuple[int, int]], slots: int) -> LocalFeatures:
    return comparable(unpack(as_records(photos, slots)), np.array(sizes))
