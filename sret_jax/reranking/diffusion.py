"""Diffusion: similarity that walks from photograph to photograph through the collection.

    s_ij = max(x_i . x_j, 0)^gamma     if i and j are among the k nearest of each other, else 0
    S    = D^-1/2 s D^-1/2,            D = diag(sum_j s_ij)
    (I - alpha S) f = y                y_i = max(q . x_i, 0)^gamma for the photographs nearest to the query q, else 0

f_i is what a random walk from the query leaves at photograph i. The query itself is outside of the graph.

Truncated, the walk stays among a number of photographs around the first answers (`neighbourhood`): the rows and columns
of these are left of S, and f is 0 elsewhere. What a query takes then does not grow with the collection. Where the
neighbourhood is all that can be reached, f is that of the whole.

Reference: Iscen, Tolias, Avrithis, Furon, Chum, Efficient diffusion on region manifolds, CVPR 2017 (gamma = 3,
alpha = 0.99, k = 50 and 10 sources there).
"""

import logging
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int32

from sret_jax.reranking.neighbours import nearest_others
from sret_jax.reranking.ranking import reorder
from sret_jax.retrieval.exact import cosines

log = logging.getLogger(__name__)

QUERIES_AT_ONCE = 64
State = tuple[
    Array, Array, Array, Array, Array
]  # of conjugate gradient: iteration, f, residual, direction, |residual|^2


class AffinityGraph(NamedTuple):
    """S of n photographs, k entries a row; symmetric.

    neighbours  columns of the entries
    weights     the entries; 0 where the neighbour does not have the photograph among its own
    gamma       that they were made with
    """

    neighbours: Int32[np.ndarray, "n k"]
    weights: Float32[np.ndarray, "n k"]
    gamma: float


class Settings(NamedTuple):
    """Of `diffuse`."""

    alpha: float
    tolerance: float
    most_iterations: int


class DiffusionResult(NamedTuple):
    """Solutions of q systems.

    f           float32 [q n]
    residual    |y - (I - alpha S) f| / |y| of each; 0 where y is 0
    iterations  that were made
    """

    f: Float32[Array, "q n"]
    residual: Float32[Array, "q"]
    iterations: Int32[Array, ""]


def affinity_graph(x: Float[np.ndarray, "n d"], *, k: int, gamma: float, chunk_rows: int) -> AffinityGraph:
    """The graph of a collection, made once. A photograph that is nobody's neighbour is fine: it has no edges.

    Args:
        x: unit descriptors.
        k: neighbours of each photograph.
        chunk_rows: photographs searched at a time.
    """
    n = len(x)
    ids, cosine = nearest_others(x, k, chunk_rows)
    rows = np.arange(n)[:, None]
    edges = np.where(ids < 0, -1, rows * n + ids)
    mutual = (ids >= 0) & np.isin(ids * n + rows, edges)
    neighbours = np.where(mutual, ids, 0)
    s = np.where(mutual, np.maximum(cosine, 0), 0).astype(np.float64) ** gamma * mutual  # 0^0 is no edge
    degree = s.sum(1)
    scale = np.where(degree > 0, 1 / np.sqrt(np.where(degree > 0, degree, 1)), 0)
    weights = s * scale[:, None] * scale[neighbours]
    return AffinityGraph(neighbours.astype(np.int32), weights.astype(np.float32), gamma)


@partial(jax.jit, static_argnames=("alpha", "tolerance", "most_iterations"))
def diffuse(
    neighbours: Int[Array, "n k"],
    weights: Float[Array, "n k"],
    y: Float[Array, "q n"],
    alpha: float,
    tolerance: float,
    most_iterations: int,
) -> DiffusionResult:
    """Solves (I - alpha S) f = y for each row of y by conjugate gradient.

    The systems share the products with S and nothing else; one that has converged stays as it is. Memory is a few
    arrays of q n. In float32 the true residual levels off between 1e-6 and 1e-5, whatever the tolerance.

    Args:
        neighbours, weights: of an `AffinityGraph`.
        alpha: below 1, or there is no solution.
        tolerance: of the residual; |f - exact| <= tolerance |y| / (1 - alpha).
        most_iterations: after which it ends, converged or not: `residual` says.
    """
    y = y.T

    def product(f: Array) -> Array:
        def add(total: Array, edge: tuple[Array, Array]) -> tuple[Array, None]:
            return total + edge[1][:, None] * f[edge[0]], None

        return f - alpha * jax.lax.scan(add, jnp.zeros_like(f), (neighbours.T, weights.T))[0]

    def squared(r: Array) -> Array:
        return jnp.sum(r * r, axis=0)

    bound = tolerance**2 * squared(y)

    def unfinished(state: State) -> Array:
        i, _, _, _, rr = state
        return (i < most_iterations) & jnp.any(rr > bound)

    def step(state: State) -> State:
        i, f, r, p, rr = state
        going = rr > bound
        ap = product(p)
        length = jnp.where(going, rr / jnp.where(going, jnp.sum(p * ap, axis=0), 1), 0)
        f, r = f + length[None] * p, r - length[None] * ap
        left = squared(r)
        turn = jnp.where(going, left / jnp.where(going, rr, 1), 0)
        p = r + turn[None] * p
        return i + 1, f, r, p, left

    start = jnp.int32(0), jnp.zeros_like(y), y, y, squared(y)
    iterations, f, *_ = jax.lax.while_loop(unfinished, step, start)
    size = jnp.sqrt(squared(y))
    residual = jnp.sqrt(squared(y - product(f))) / jnp.where(size > 0, size, 1)
    return DiffusionResult(f.T, residual, iterations)


def neighbourhood(graph: AffinityGraph, first: Int[np.ndarray, "s"], most: int) -> Int[np.ndarray, "c"]:
    """At most so many photographs around these, themselves included, sorted: step by step along the edges.

    Of the last step, which does not fit, those with the largest sum of weights to the step before.
    """
    edge = chosen = np.unique(first[:most])
    while len(edge) and len(chosen) < most:
        weights = graph.weights[edge]
        near, which = np.unique(graph.neighbours[edge][weights > 0], return_inverse=True)
        strength = np.bincount(which, weights[weights > 0], len(near))
        new = ~np.isin(near, chosen, assume_unique=True)
        near, strength = near[new], strength[new]
        edge = near[np.lexsort((near, -strength))[: most - len(chosen)]]
        chosen = np.union1d(chosen, edge)
    return chosen


def _diffuse_among(
    graph: AffinityGraph, chosen: np.ndarray, size: int, sources: np.ndarray, weight: np.ndarray, settings: Settings
) -> tuple[np.ndarray, float]:
    """f of the chosen photographs, and the residual; compiled once for all of at most `size`."""
    neighbours, weights = np.zeros((2, size, graph.neighbours.shape[1]))
    place = np.searchsorted(chosen, graph.neighbours[chosen]).clip(max=len(chosen) - 1)
    inside = chosen[place] == graph.neighbours[chosen]
    neighbours[: len(chosen)], weights[: len(chosen)] = place, np.where(inside, graph.weights[chosen], 0)
    y = np.zeros((1, size), np.float32)
    np.add.at(y[0], np.searchsorted(chosen, sources), weight)
    solved = diffuse(neighbours.astype(np.int32), weights.astype(np.float32), jnp.asarray(y), *settings)
    return np.asarray(solved.f)[0, : len(chosen)], float(solved.residual[0])


def rerank_by_diffusion(
    queries: Float[np.ndarray, "q d"],
    database: Float[np.ndarray, "n d"],
    ids: Int[np.ndarray, "q k"],
    graph: AffinityGraph,
    *,
    sources: int,
    alpha: float,
    tolerance: float,
    most_iterations: int,
    photos: int = 0,
) -> tuple[Int[np.ndarray, "q k"], Float[np.ndarray, "q k"]]:
    """Each ranking by falling f of its photographs; ids and f. What no walk reaches has f = 0 and keeps its order.

    A query whose system has not converged is ranked by what was reached, with a line in the log.

    Args:
        queries, database: unit descriptors.
        ids: rows of the database, best first; -1 = none, only at the end.
        graph: of the database.
        sources: photographs of the ranking, from the first on, in which the walk starts.
        alpha, tolerance, most_iterations: of `diffuse`.
        photos: that the walk stays among; 0: all.
    """
    n, first = len(database), ids[:, :sources]
    similarity = cosines(queries, database, np.maximum(first, 0))
    weight = np.where(first >= 0, np.maximum(similarity, 0) ** graph.gamma, 0)
    new, residual = np.empty(ids.shape, np.float32), np.empty(len(ids))
    settings = Settings(alpha, tolerance, most_iterations)
    if 0 < photos < n:
        for q, own in enumerate(ids):
            there = first[q] >= 0
            sources_of = first[q][there][:photos]
            new[q], residual[q] = 0, 0
            if len(sources_of):
                chosen = neighbourhood(graph, sources_of, photos)
                walked = _diffuse_among(graph, chosen, photos, sources_of, weight[q][there][:photos], settings)
                f, residual[q] = np.maximum(walked[0], 0), walked[1]
                place = np.searchsorted(chosen, own).clip(max=len(chosen) - 1)
                new[q] = np.where(chosen[place] == own, f[place], 0)
        _warn_of(residual, settings)
        return reorder(ids, new, new)
    edges = jnp.asarray(graph.neighbours), jnp.asarray(graph.weights)
    for start in range(0, len(ids), QUERIES_AT_ONCE):
        rows = slice(start, min(start + QUERIES_AT_ONCE, len(ids)))
        y = np.zeros((QUERIES_AT_ONCE, n), np.float32)  # the last ones may belong to no query, and cost no iteration
        np.add.at(y, (np.arange(rows.stop - start)[:, None], np.maximum(first[rows], 0)), weight[rows])
        solved = diffuse(*edges, jnp.asarray(y), *settings)
        f = np.maximum(np.asarray(solved.f)[: rows.stop - start], 0)  # the exact f is not negative
        new[rows] = np.take_along_axis(f, np.maximum(ids[rows], 0), 1)
        residual[rows] = np.asarray(solved.residual)[: rows.stop - start]
    _warn_of(residual, settings)
    return reorder(ids, new, new)


def _warn_of(residual: Float[np.ndarray, "q"], settings: Settings) -> None:
    worse = residual > 10 * settings.tolerance  # rounding leaves a little more than the iteration itself knows of
    if worse.any():
        log.warning(
            "diffusion: %d of %d queries not converged after %d iterations (residual %.1e); allow more",
            *(worse.sum(), len(residual), settings.most_iterations, residual.max()),
        )
