"""What every re-ranking keeps: the same photographs, ties in their old order, those that are none (-1) at the end."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int


def reorder(
    ids: Int[np.ndarray, "q k"], scores: Float[np.ndarray, "q k"], new: Float[np.ndarray, "q m"]
) -> tuple[Int[np.ndarray, "q k"], Float[np.ndarray, "q k"]]:
    """The first m photographs of each ranking by falling new score; the others behind them as they were.

    Args:
        ids: photographs, best first; -1 = none, only at the end.
        scores: of them, falling.
        new: scores of the first m <= k. What belongs to no photograph is not read.

    Returns:
        ids and scores. The first m have their new score. The others have their old one, but never more than the last
        of the first m: old and new scores need not be of one kind, and scores must not rise along a ranking.
    """
    m = new.shape[1]
    new = np.where(ids[:, :m] < 0, -np.inf, new).astype(np.float32)
    order = np.argsort(-new, axis=1, kind="stable")
    tail = np.where(ids[:, m:] < 0, -np.inf, scores[:, m:]).astype(np.float32)
    joined = np.concatenate([np.take_along_axis(new, order, 1), tail], axis=1)
    front = np.take_along_axis(ids[:, :m], order, 1)
    return np.concatenate([front, ids[:, m:]], axis=1), np.minimum.accumulate(joined, axis=1)


def to_front(ids: Int[np.ndarray, "q k"], front: Sequence[Int[np.ndarray, "_"]]) -> Int[np.ndarray, "q k"]:
    """Each ranking with the photographs of `front` before all others, in the order of `front`.

    What is in `front` but not in the ranking is left out. An order has no scores of its own: each place keeps the
    score that it had.

    Args:
        ids: photographs, best first; -1 = none, only at the end.
        front: for each query distinct photographs.
    """
    out = np.empty_like(ids)
    size = max([ids.max(initial=-1), *(row.max(initial=-1) for row in front)]) + 1
    place = np.full(size + 1, size)  # the last entry is read by -1
    place[-1] = size + 1
    for i, (row, first) in enumerate(zip(ids, front, strict=True)):
        place[first] = np.arange(len(first))
        out[i] = row[np.argsort(place[row], kind="stable")]
        place[first] = size
    return out
