"""Exact search: the k largest dot products, compiled, and scores that do not depend on how they were summed."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from sret_jax.errors import UserError
from sret_jax.retrieval.codes import Codes

ROWS_AT_ONCE = 8192  # rows held in float64 at once
SCORES_AT_ONCE = 1 << 26  # query-photo scores held at once, 256 MB
SCORES_OF_A_STEP = 1 << 22  # 16 MB: larger arrays of a CPU are fresh, zeroed pages every time
ALIGNED = 64  # bytes: the CPU computes on an array that begins at a multiple of it where it is, on others in a copy


def normalized(x: Float[np.ndarray, "n d"], names: list[str]) -> Float[np.ndarray, "n d"]:
    """Rows of unit length, float32, aligned. A zero or non-finite row is an error that names the photo."""
    x = np.ascontiguousarray(x, np.float32)
    memory = np.empty(x.nbytes + ALIGNED, np.uint8)
    out = memory[-memory.ctypes.data % ALIGNED :][: x.nbytes].view(np.float32).reshape(x.shape)
    norm = np.empty(len(x))
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
    """How many queries `exact_top_k` takes at once, so that their scores take bounded memory."""
    return max(1, SCORES_AT_ONCE // min(rows, max(chunk_rows, 4 * k)))


def exact_top_k(
    queries: Float[np.ndarray, "q d"], rows: Float[np.ndarray, "n d"] | Codes, k: int, chunk_rows: int
) -> tuple[Int[np.ndarray, "q k"], Float[np.ndarray, "q k"]]:
    """Row indices and dot products of the k largest, at most `chunk_rows` rows on the device at a time; ties by index.

    The device holds one chunk, at most chunk_rows * d floats, and a few arrays of q * (chunk_rows + k), however many
    rows there are. Of codes it holds the chunk as it is, and as floats.
    """
    if isinstance(rows, Codes):
        queries, rows = rows.scaled(queries), rows.rows
    step = min(chunk_rows, len(rows), max(SCORES_OF_A_STEP // len(queries), 4 * k))
    best = jnp.full((len(queries), k), -jnp.inf), jnp.full((len(queries), k), -1, jnp.int32)
    queries_there = jnp.asarray(queries)
    for start in range(0, len(rows), step):
        first = min(start, len(rows) - step)  # the last chunk is as long as the others, and begins among rows seen
        best = _merge_top_k(best, queries_there, rows[first : first + step], first, start - first, k)
    scores, ids = (np.asarray(x) for x in best)
    return ids.astype(np.int64), scores


@partial(jax.jit, static_argnames="k")
def _merge_top_k(
    best: tuple[Array, Array], queries: Array, rows: Array, first: Array, seen: Array, k: int
) -> tuple[Array, Array]:
    """The k best so far and of these rows, whose first one has the index `first`; so many of them were `seen`."""
    scores = jnp.dot(queries, rows.astype(queries.dtype).T, precision=jax.lax.Precision.HIGHEST)
    position = jnp.arange(rows.shape[0])
    scores = jnp.where(position[None] < seen, -jnp.inf, scores)
    scores, chosen = top_k(scores, min(k, rows.shape[0]))
    scores, ids = (jnp.concatenate(pair, 1) for pair in zip(best, (scores, chosen + first), strict=True))
    scores, chosen = jax.lax.top_k(scores, k)  # of equal scores, the first: the smaller id
    return scores, jnp.take_along_axis(ids, chosen, 1)


def top_k(scores: Float[Array, "q n"], k: int) -> tuple[Float[Array, "q {k}"], Int[Array, "q {k}"]]:
    """`jax.lax.top_k`, by blocks: the k largest are in the k blocks of largest maximum; equal ones by index.

    Only n / block maxima and k * block scores are sorted, with a block of sqrt(n / k) far fewer than n. A block that is
    left out has no place: k blocks before it each hold a score that is larger, or equal and of smaller index.
    """
    q, n = scores.shape
    block = 2 ** int(math.log2(math.sqrt(n / k)))
    if block < 4:
        scores, index = jax.lax.top_k(scores, k)
        return scores, index
    blocks = jnp.pad(scores, ((0, 0), (0, -n % block)), constant_values=-jnp.inf).reshape(q, -1, block)
    chosen = jnp.sort(jax.lax.top_k(blocks.max(-1), k)[1], axis=1)  # in their order, for equal scores
    candidates = jnp.take_along_axis(blocks, chosen[..., None], axis=1).reshape(q, -1)
    scores, index = jax.lax.top_k(candidates, k)
    return scores, jnp.take_along_axis(chosen, index // block, axis=1) * block + index % block


def cosines(
    queries: Float[np.ndarray, "q d"], rows: Float[np.ndarray, "n d"], ids: Int[np.ndarray, "q k"]
) -> Float[np.ndarray, "q k"]:
    """Dot products of each query with its own rows, both of unit length: the sum, rounded to float64 and to float32.

    Whoever found the rows, among however many and in which order, their scores have the same bits. A sum in float64 is
    so close that its order shows only where the sum lies between two numbers of float32; there it is made exactly.
    """
    out = np.empty(ids.shape, np.float32)
    if 4 * ids.shape[1] < len(rows):
        for i, (query, own) in enumerate(zip(queries, ids, strict=True)):
            out[i] = _dot_products(query[None], rows[own])[0]
        return out
    everything = np.empty((len(queries), len(rows)), np.float32)
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        everything[:, part] = _dot_products(queries, rows[part])
    return np.take_along_axis(everything, ids, 1)


def _dot_products(queries: Float[np.ndarray, "q d"], rows: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "q m"]:
    q, x = queries.astype(np.float64), rows.astype(np.float64)
    total = q @ x.T
    error = x.shape[1] * np.finfo(np.float64).eps  # of a sum in any order, of vectors of unit length
    total -= error
    out = total.astype(np.float32)
    total += 2 * error
    query, row = np.nonzero(out != total.astype(np.float32))  # one of both is right
    for start in range(0, len(query), ROWS_AT_ONCE):
        some = slice(start, start + ROWS_AT_ONCE)
        products = q[query[some]] * x[row[some]]  # exact: each has 48 bits
        exact = np.zeros(len(products))
        for i in np.flatnonzero(products.any(1)):
            exact[i] = math.fsum(products[i])
        out[query[some], row[some]] = exact.astype(np.float32)
    return out
