"""Exact search: the k largest dot products, compiled, and scores that do not depend on how they were summed."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from sret_jax.errors import UserError

ROWS_AT_ONCE = 8192  # rows held in float64 at once
SCORES_AT_ONCE = 1 << 26  # query-photo scores held at once, 256 MB


def normalized(x: Float[np.ndarray, "n d"], names: list[str]) -> Float[np.ndarray, "n d"]:
    """Rows of unit length, float32. A zero or non-finite row is an error that names the photo."""
    x = np.ascontiguousarray(x, np.float32)
    out, norm = np.empty_like(x), np.empty(len(x))
    for start in range(0, len(x), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        norm[part] = np.linalg.norm(x[part].astype(np.float64), axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):  # named below
            out[part] = x[part] / norm[part, None]
    bad = np.flatnonzero(~np.isfinite(norm) | (norm == 0))
    if len(bad):
        what = "is zero" if norm[bad[0]] == 0 else "is not finite"
        raise UserError(f"{names[bad[0]]}: its descriptor {what} ({len(bad)} such); leave the photo out")
    return out


def queries_at_once(rows: int, k: int, chunk_rows: int) -> int:
    """How many may ask `exact_top_k` together, so that their scores take bounded memory."""
    return max(1, SCORES_AT_ONCE // min(rows, max(chunk_rows, 4 * k)))


def exact_top_k(
    queries: Float[np.ndarray, "q d"], rows: Float[np.ndarray, "n d"], k: int, chunk_rows: int
) -> tuple[Int[np.ndarray, "q k"], Float[np.ndarray, "q k"]]:
    """Row indices and dot products of the k largest, `chunk_rows` rows on the device at a time; ties by index.

    The device holds one chunk, chunk_rows * d floats, and a few arrays of q * (chunk_rows + k), however many rows
    there are.
    """
    step = min(chunk_rows, len(rows))
    best = jnp.full((len(queries), k), -jnp.inf), jnp.full((len(queries), k), -1, jnp.int32)
    queries_there = jnp.asarray(queries)
    for start in range(0, len(rows), step):
        chunk = rows[start : start + step]
        padded = np.pad(chunk, ((0, step - len(chunk)), (0, 0))) if len(chunk) < step else chunk
        best = _merge_top_k(best, queries_there, padded, start, len(chunk), k)
    scores, ids = (np.asarray(x) for x in best)
    return ids.astype(np.int64), scores


@partial(jax.jit, static_argnames="k")
def _merge_top_k(best, queries, rows, start, count, k):
    scores = jnp.dot(queries, rows.T, precision=jax.lax.Precision.HIGHEST)
    position = jnp.arange(rows.shape[0])
    scores = jnp.where(position[None] < count, scores, -jnp.inf)
    scores, chosen = jax.lax.top_k(scores, min(k, rows.shape[0]))
    scores, ids = (jnp.concatenate(pair, 1) for pair in zip(best, (scores, chosen + start), strict=True))
    scores, chosen = jax.lax.top_k(scores, k)  # of equal scores, the first: the smaller id
    return scores, jnp.take_along_axis(ids, chosen, 1)


def cosines(
    queries: Float[np.ndarray, "q d"], rows: Float[np.ndarray, "n d"], ids: Int[np.ndarray, "q k"]
) -> Float[np.ndarray, "q k"]:
    """Dot products of each query with its own rows, summed in float64 and rounded to float32.

    Whoever found the rows, their scores are the same, but for one rounding in 10^8.
    """
    out = np.empty(ids.shape, np.float32)
    if 4 * ids.shape[1] < len(rows):
        for i, (query, own) in enumerate(zip(queries, ids, strict=True)):
            out[i] = rows[own].astype(np.float64) @ query.astype(np.float64)
        return out
    everything = np.empty((len(queries), len(rows)), np.float32)
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part = rows[start : start + ROWS_AT_ONCE].astype(np.float64)
        everything[:, start : start + ROWS_AT_ONCE] = queries.astype(np.float64) @ part.T
    return np.take_along_axis(everything, ids, 1)
