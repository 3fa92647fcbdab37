"""The nearest neighbours of every photograph of a collection, within it."""

import numpy as np
from jaxtyping import Float, Int

from sret_jax.retrieval.exact import cosines, exact_top_k, queries_at_once


def nearest_others(
    x: Float[np.ndarray, "n d"], k: int, chunk_rows: int
) -> tuple[Int[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    """The k photographs of largest cosine to each photograph, itself left out; ties by index.

    Exact search: memory grows with n k and with chunk_rows, not with n^2.

    Args:
        x: unit descriptors.
        chunk_rows: photographs scored at once.

    Returns:
        ids and cosines, nearest first; -1 and -inf where a collection has fewer than k others.
    """
    n = len(x)
    ids, scores = np.full((n, k), -1, np.int64), np.full((n, k), -np.inf, np.float32)
    step = queries_at_once(n, k + 1, chunk_rows)
    for start in range(0, n, step):
        rows = np.arange(start, min(start + step, n))
        found, _ = exact_top_k(x[rows], x, k + 1, chunk_rows)
        itself = found == rows[:, None]
        itself[~itself.any(1), -1] = True  # equal photographs came before it
        found = found[~itself].reshape(len(rows), k)
        cosine = np.where(found < 0, -np.inf, cosines(x[rows], x, np.maximum(found, 0))).astype(np.float32)
        order = np.lexsort((np.where(found < 0, n, found), -cosine), axis=1)
        ids[rows], scores[rows] = np.take_along_axis(found, order, 1), np.take_along_axis(cosine, order, 1)
    return ids, scores
