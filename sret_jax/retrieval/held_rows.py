"""Rows of unit length in slots that are filled and emptied, held as float32 or as codes of fewer bits.

Of codes the float32 rows stay where they are read from. A dot product with a code is off by no more than the code is
from its row, so that the codes tell which rows may be among the nearest; these are read. How far a code is off is kept
for every row: one that came later, and that the scales of int8 do not reach, is looked at more often, and no other.
"""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float, Float32, Int

from sret_jax.retrieval.codes import WIDENED, encoded, scales_for, widened
from sret_jax.retrieval.exact import cosines

DTYPES = {"float32": np.float32, "float16": np.float16, "int8": np.int8}
ROWS_AT_ONCE = 4096  # rows read at once
NUMBERS_AT_ONCE = 1 << 18  # of codes made floats at once: 1 MB, which stays in the cache of a processor
SAMPLE = 16_384  # rows, evenly spread, that the scales of int8 are made for

ReadRows = Callable[[Int[np.ndarray, "m"]], Float32[np.ndarray, "m d"]]  # the rows of these numbers, as float32


class HeldRows:
    """
    Attributes:
      store: what rows are held as: "float32", "float16" or "int8".
    """

    def __init__(self, ids: Int[np.ndarray, "n"], read: ReadRows, store: str):
        self.store, self._read = store, read
        self._scales = self._scales_of(ids) if store == "int8" else None
        self._rows = np.empty((len(ids), read(ids[:0]).shape[1]), DTYPES[store])
        self._errors = np.zeros(len(ids), np.float32)
        self._fill(0, ids)

    def _scales_of(self, ids: Int[np.ndarray, "n"]) -> Float32[np.ndarray, "d"]:
        largest = np.zeros(self._read(ids[:0]).shape[1], np.float32)
        for part in _parts(ids[:: -(-len(ids) // SAMPLE) or 1]):
            largest = np.maximum(largest, np.abs(self._read(part)).max(0))
        return scales_for(largest)

    def append(self, n: int, ids: Int[np.ndarray, "m"]) -> None:
        """Fills the slots behind the first n."""
        end = n + len(ids)
        if end > len(self._rows):  # twice as large, so that a row is copied once or twice in all
            self._rows, self._errors = _longer(self._rows, n, 2 * end), _longer(self._errors, n, 2 * end)
        self._fill(n, ids)

    def move(self, last: int, slot: int) -> None:
        """Puts the row of one slot into another one."""
        self._rows[slot], self._errors[slot] = self._rows[last], self._errors[last]

    def _fill(self, start: int, ids: Int[np.ndarray, "m"]) -> None:
        for part in _parts(ids):
            x, slots = self._read(part), slice(start, start + len(part))
            if self.store == "float32":
                self._rows[slots] = x
            else:
                self._rows[slots], distances = encoded(x, self._scales)
                self._errors[slots] = np.nextafter(distances.astype(np.float32), np.float32(np.inf))
            start += len(part)

    def candidates(self, query: Float[np.ndarray, "d"], k: int, n: int) -> Int[np.ndarray, "m"]:
        """Of the first n slots those whose rows may be among the k nearest, or as near as the k-th."""
        if k >= n:
            return np.arange(n)
        scores, errors = self._scores(query, n), self._errors[:n]
        least = np.partition(scores - errors, n - k)[n - k]  # k rows are at least so near
        rounding = len(query) * np.finfo(np.float32).eps  # of two sums of float32, whatever their order
        return np.flatnonzero(scores + errors >= least - rounding)

    def _scores(self, query: Float[np.ndarray, "d"], n: int) -> Float32[np.ndarray, "n"]:
        """Dot products with what is held, summed in float32."""
        query = query.astype(np.float32)
        if self.store == "float32":
            return self._rows[:n] @ query
        query = query * (np.float32(1 / WIDENED) if self._scales is None else self._scales)
        scores, step = np.empty(n, np.float32), max(1, NUMBERS_AT_ONCE // len(query))
        floats = np.empty((step, len(query)), np.float32)
        for start in range(0, n, step):
            stop = min(start + step, n)
            part = floats[: stop - start]
            if self.store == "float16":
                widened(self._rows[start:stop], part)
            else:
                part[...] = self._rows[start:stop]
            np.dot(part, query, out=scores[start:stop])
        return scores

    def cosines(
        self, query: Float[np.ndarray, "d"], slots: Int[np.ndarray, "m"], ids: Int[np.ndarray, "m"]
    ) -> Float32[np.ndarray, "m"]:
        """Those of the query and the rows of some slots, of these numbers: the same bits whatever rows are held as."""
        if self.store != "float32":
            return cosines_of(query, ids, self._read)
        return cosines_of(query, slots, lambda some: self._rows[some])


def cosines_of(query: Float[np.ndarray, "d"], ids: Int[np.ndarray, "m"], read: ReadRows) -> Float32[np.ndarray, "m"]:
    """Cosines of a query and the rows of these numbers, of which a few are there at once."""
    out = np.empty(len(ids), np.float32)
    for start, part in zip(range(0, len(ids), ROWS_AT_ONCE), _parts(ids), strict=True):
        out[start : start + len(part)] = cosines(query[None], read(part), np.arange(len(part))[None])[0]
    return out


def read_all(ids: Int[np.ndarray, "n"], read: ReadRows) -> Float32[np.ndarray, "n d"]:
    """All rows of these numbers in one array, the only one of its size."""
    out = np.empty((len(ids), read(ids[:0]).shape[1]), np.float32)
    for start, part in zip(range(0, len(ids), ROWS_AT_ONCE), _parts(ids), strict=True):
        out[start : start + len(part)] = read(part)
    return out


def _parts(ids: Int[np.ndarray, "n"]) -> Iterator[Int[np.ndarray, "_"]]:
    return (ids[start : start + ROWS_AT_ONCE] for start in range(0, len(ids), ROWS_AT_ONCE))


def _longer(x: np.ndarray, used: int, length: int) -> np.ndarray:
    out = np.zeros((length, *x.shape[1:]), x.dtype)
    out[:used] = x[:used]
    return out
