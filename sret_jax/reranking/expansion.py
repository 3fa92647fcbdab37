"""Descriptors improved by their neighbours: query expansion, database augmentation, SuperGlobal's re-ranking.

References: Chum, Philbin, Sivic, Isard, Zisserman, Total recall, ICCV 2007; Radenovic, Tolias, Chum, Fine-tuning CNN
image retrieval with no human annotation, PAMI 2018; Shao et al., Global features are all you need, ICCV 2023.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int

from sret_jax.reranking.neighbours import nearest_others
from sret_jax.reranking.ranking import reorder
from sret_jax.retrieval.exact import cosines

QUERIES_AT_ONCE = 8  # of SuperGlobal's re-ranking: 8 * 400 descriptors of 2048 numbers are 26 MB


def expand(
    x: Float[np.ndarray, "q d"],
    database: Float[np.ndarray, "n d"],
    ids: Int[np.ndarray, "q k"],
    *,
    top: int,
    alpha: float,
) -> Float[np.ndarray, "q d"]:
    """Each descriptor together with the first photographs of its ranking.

        x' = (x + sum_{i <= top} max(x . d_i, 0)^alpha d_i) / |...|

    alpha = 0 is average query expansion (Chum et al.), alpha = 3 with 50 photographs the published alpha query
    expansion (Radenovic et al.).

    Args:
        x: unit descriptors.
        database: unit descriptors d.
        ids: rows of the database, best first; -1 = none. With fewer than `top` of them, all are taken.

    Returns:
        Unit descriptors. Where the sum is zero, x itself.
    """
    total = x.astype(np.float32)
    for photo in ids[:, :top].T:
        d = database[np.maximum(photo, 0)]
        similarity = np.sum(x * d, axis=1, dtype=np.float32)
        weight = np.where(photo >= 0, np.maximum(similarity, 0) ** np.float32(alpha), 0)
        total += weight[:, None] * d
    norm = np.linalg.norm(total, axis=1, keepdims=True)
    return np.where(norm > 0, total / np.maximum(norm, np.finfo(np.float32).tiny), x).astype(np.float32)


def augment(database: Float[np.ndarray, "n d"], *, top: int, alpha: float, chunk_rows: int) -> Float[np.ndarray, "n d"]:
    """Each photograph's descriptor expanded by its `top` nearest others, with the weights of `expand`.

    Args:
        database: unit descriptors.
        chunk_rows: photographs searched at a time.
    """
    ids, _ = nearest_others(database, top, chunk_rows)
    out = np.empty(database.shape, np.float32)
    for start in range(0, len(database), chunk_rows):
        rows = slice(start, start + chunk_rows)
        out[rows] = expand(database[rows], database, ids[rows], top=top, alpha=alpha)
    return out


def rescore(
    queries: Float[np.ndarray, "q d"], database: Float[np.ndarray, "n d"], ids: Int[np.ndarray, "q k"]
) -> tuple[Int[np.ndarray, "q k"], Float[np.ndarray, "q k"]]:
    """Each ranking sorted by the cosines of these queries and this database; ids and cosines.

    Args:
        ids: rows of the database; -1 = none, only at the end, with score -inf.
    """
    scores = cosines(queries, database, np.maximum(ids, 0))
    return reorder(ids, scores, scores)


def superglobal(
    queries: Float[np.ndarray, "q d"],
    database: Float[np.ndarray, "n d"],
    ids: Int[np.ndarray, "q k"],
    scores: Float[np.ndarray, "q k"],
    *,
    top: int,
    neighbours: int,
    beta: float,
) -> tuple[Int[np.ndarray, "q k"], Float[np.ndarray, "q k"]]:
    """The first photographs of each ranking by refined descriptors; the others behind them as they were.

        x'_i = (x_i + beta sum_j (x_i . x_j) x_j) / (1 + beta sum_j x_i . x_j)
        s1_i = q . x'_i
        q*   = element-wise maximum of the neighbours + 1 descriptors x' of largest s1
        s_i  = (s1_i + q* . x'_i) / 2

    i runs over the first `top` photographs of the ranking, j over those of them nearest to i, itself left out.
    Published with top = 400, neighbours = 9, beta = 0.15 (Shao et al.).

    Args:
        queries, database: unit descriptors.
        ids: rows of the database, best first; -1 = none, only at the end.
        scores: of them, falling.

    Returns:
        ids and scores: s for the first `top`, then as `reorder` has it.
    """
    top = min(top, ids.shape[1])
    new = np.empty((len(ids), top), np.float32)
    for start in range(0, len(ids), QUERIES_AT_ONCE):
        rows = slice(start, start + QUERIES_AT_ONCE)
        missing = max(0, start + QUERIES_AT_ONCE - len(ids))
        own, q = np.pad(ids[rows, :top], ((0, missing), (0, 0))), np.pad(queries[rows], ((0, missing), (0, 0)))
        found = _refined_scores(q, database[np.maximum(own, 0)], own >= 0, neighbours, beta)
        new[rows] = np.asarray(found)[: QUERIES_AT_ONCE - missing]
    return reorder(ids, scores, new)


@partial(jax.jit, static_argnames=("neighbours", "beta"))
def _refined_scores(
    queries: Float[Array, "q d"], x: Float[Array, "q m d"], real: Bool[Array, "q m"], neighbours: int, beta: float
) -> Float32[Array, "q m"]:
    """s of `superglobal`, one query at a time; of no use where not real."""
    dot = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    m = x.shape[1]

    def one(arguments: tuple[Array, Array, Array]) -> Array:
        q, x, real = arguments
        similarity = jnp.where(real[None] & real[:, None] & ~jnp.eye(m, dtype=bool), dot(x, x.T), -jnp.inf)
        nearest, chosen = jax.lax.top_k(similarity, min(neighbours, m))
        nearest = jnp.where(jnp.isfinite(nearest), beta * nearest, 0)
        weight = jnp.zeros((m, m)).at[jnp.arange(m)[:, None], chosen].set(nearest)
        total = 1 + weight.sum(1, keepdims=True)
        # Neighbours that are far more unlike than like it leave nothing to divide by: it stays as it is.
        x = jnp.where(total > 0, (x + dot(weight, x)) / jnp.where(total > 0, total, 1), x)
        first = jnp.where(real, dot(x, q), -jnp.inf)
        best, chosen = jax.lax.top_k(first, min(neighbours + 1, m))
        maximum = jnp.max(jnp.where(jnp.isfinite(best)[:, None], x[chosen], -jnp.inf), axis=0)
        return (first + dot(x, jnp.where(real.any(), maximum, 0))) / 2

    return jax.lax.map(one, (queries, x, real))
