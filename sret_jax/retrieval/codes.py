"""Descriptors in fewer bits, to search by: float16, or int8 with one scale for every dimension.

How far a code lies from its descriptor at most is known, and with it which photographs can be among the nearest: these
are scored again by the descriptors themselves. On disk and in memory float16 takes a half, int8 a quarter.

A scale for every row would be the other way. Of real descriptors its greatest error is larger, which decides how many
have to be scored again.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float16, Float32, Float64, Int, Shaped

ROWS_AT_ONCE = 8192  # rows held in float64 at once
LEVELS = 127  # of int8, on either side of 0
WIDENED = 2.0**-112  # what `widened` multiplies numbers by: the exponents of float32 begin so much lower


@dataclass(frozen=True)
class Codes:
    """Rows of fewer bits, which may be mapped from a file.

    rows    float16 or int8 [n d]
    scales  int8: float32 [d], by which the numbers of a dimension are multiplied; None of float16
    error   the greatest distance of a descriptor from its code: scores of unit queries differ by no more
    """

    rows: Shaped[np.ndarray, "n d"]
    scales: Float32[np.ndarray, "d"] | None
    error: float

    def __len__(self) -> int:
        return len(self.rows)

    def scaled(self, queries: Float[np.ndarray, "q d"]) -> Float32[np.ndarray, "q d"]:
        """Queries whose dot products with the numbers of the rows are those with what these stand for."""
        return queries.astype(np.float32) if self.scales is None else queries * self.scales

    def scores(self, queries: Float[np.ndarray, "q d"], ids: Int[np.ndarray, "q k"]) -> Float32[np.ndarray, "q k"]:
        """Dot products of each query with the codes of its own rows, within `error` of the true ones; -inf for -1."""
        out = np.empty(ids.shape, np.float32)
        for i, (query, own) in enumerate(zip(self.scaled(queries), np.maximum(ids, 0), strict=True)):
            out[i] = self.rows[own].astype(np.float32) @ query
        return np.where(ids < 0, -np.inf, out).astype(np.float32)


def encode(x: Float32[np.ndarray, "n d"], store: str) -> Codes:
    """The codes of descriptors of unit length: `store` is "float16" or "int8"."""
    parts = [slice(start, start + ROWS_AT_ONCE) for start in range(0, len(x), ROWS_AT_ONCE)]
    scales = scales_for(np.max([np.abs(x[part]).max(0) for part in parts], 0)) if store == "int8" else None
    rows, error = np.empty(x.shape, np.float16 if scales is None else np.int8), 0.0
    for part in parts:
        rows[part], distances = encoded(x[part], scales)
        error = max(error, float(distances.max()))
    return Codes(rows, scales, error)


def widened(rows: Float16[np.ndarray, "n d"], out: Float32[np.ndarray, "n d"]) -> None:
    """Writes finite numbers times `WIDENED`, exactly: their bits are moved to where float32 has them.

    NumPy converts one number after the other, which takes several times as long as all the rest of a search.
    """
    bits = out.view(np.int32)
    bits[...] = rows.view(np.int16)  # the sign fills all that is above
    bits <<= 13
    bits &= np.int32(0x8FFFE000 - (1 << 32))


def scales_for(largest: Float32[np.ndarray, "d"]) -> Float32[np.ndarray, "d"]:
    """Those of int8, by the largest number that a dimension holds, whatever its sign."""
    return np.where(largest > 0, largest / LEVELS, 1).astype(np.float32)


def encoded(
    x: Float32[np.ndarray, "n d"], scales: Float32[np.ndarray, "d"] | None
) -> tuple[Shaped[np.ndarray, "n d"], Float64[np.ndarray, "n"]]:
    """The codes of rows, of int8 where there are scales and else of float16, and how far each lies from its row.

    A number that its scale does not reach is cut off at the largest that it does, and one too small for the exponents
    of float16 is 0, because libraries differ in what they make of such; the distance counts both.
    """
    if scales is None:
        rows = np.where(np.abs(x) < np.finfo(np.float16).smallest_normal, 0, x).astype(np.float16)
    else:
        rows = np.clip(np.rint(x / scales), -LEVELS, LEVELS).astype(np.int8)
    back = rows.astype(np.float64) * (1 if scales is None else scales)
    return rows, np.linalg.norm(x - back, axis=1)
