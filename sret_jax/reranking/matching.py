"""Which local feature of a photograph shows what a local feature of another one shows: nearest neighbours."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int, Int32


class LocalFeatures(NamedTuple):
    """Local features of b photographs, or of one without the axis b; the first `counts` of each are real.

    features  compared by Euclidean distance, whatever their length
    position  (x, y) from the upper left corner; the longest side of the photograph is 1, so shapes are kept
    """

    features: Float[Array, "*b n c"]
    position: Float[Array, "*b n 2"]
    counts: Int[Array, "*b"]


class Matches(NamedTuple):
    """Pairs of features of one query and each of k candidates, one slot for each feature of the query.

    query_row, candidate_row  of the features; of no meaning where not `valid`
    """

    query_row: Int32[Array, "k m"]
    candidate_row: Int32[Array, "k m"]
    valid: Bool[Array, "k m"]


@partial(jax.jit, static_argnames=("ratio", "distance", "mutual"))
def match(
    query: LocalFeatures, candidates: LocalFeatures, *, ratio: float | None, distance: float | None, mutual: bool
) -> Matches:
    """The nearest feature of each candidate for every feature of the query, where the tests do not refuse it.

        |q - c|^2 = |q|^2 + |c|^2 - 2 q.c, in full precision; of equally near features the first

    One candidate is compared at a time: beside the features, memory is that of its n x n distances.

    Args:
        query: one photograph, without the axis b.
        candidates: k photographs.
        ratio: the nearest must be nearer than this times the second nearest, which has to exist; None: no such test.
        distance: the largest that is accepted; None: any.
        mutual: the query's feature must be the nearest of the candidate's feature, too; of several that are
            equally near, the first keeps it. Then no feature occurs in two matches.

    Reference: Lowe, Distinctive image features from scale-invariant keypoints, IJCV 2004 (the ratio test).
    """
    n = len(query.features)
    rows = jnp.arange(n, dtype=jnp.int32)

    def nearest(candidate: LocalFeatures) -> Matches:
        squares = _squared_distances(candidate, query)
        best = jnp.min(squares, axis=0)
        chosen = _first(squares == best[None])
        valid = jnp.isfinite(best)
        if ratio is not None:
            others = jnp.where(jnp.arange(len(squares))[:, None] == chosen[None], jnp.inf, squares)
            second = jnp.min(others, axis=0)
            valid &= jnp.isfinite(second) & (best < ratio**2 * second)
        if distance is not None:
            valid &= best <= distance**2
        if mutual:
            own = best <= jnp.min(squares, axis=1)[chosen]
            keeper = jnp.full(len(squares), n, jnp.int32).at[chosen].min(jnp.where(own, rows, n))
            valid &= keeper[chosen] == rows
        return Matches(rows, chosen, valid)

    return jax.lax.map(nearest, candidates)


def _squared_distances(a: LocalFeatures, b: LocalFeatures) -> Float32[Array, "n m"]:
    """Between the features of two photographs; infinite where one is not real."""
    x, y = (z.features.astype(jnp.float32) for z in (a, b))
    of_x, of_y = (
        jnp.where(jnp.arange(len(z)) < count, jnp.sum(z**2, axis=1), jnp.inf)
        for z, count in ((x, a.counts), (y, b.counts))
    )
    products = jnp.dot(x, y.T, precision=jax.lax.Precision.HIGHEST)
    return jnp.maximum(of_x[:, None] + of_y[None] - 2 * products, 0)


def _first(mask: Bool[Array, "n m"]) -> Int32[Array, "m"]:
    """The first row in which each column is true. Unlike `argmax`, a minimum of integers is fast on a CPU."""
    rows = jnp.arange(len(mask), dtype=jnp.int32)
    return jnp.min(jnp.where(mask, rows[:, None], len(mask) - 1), axis=0)
