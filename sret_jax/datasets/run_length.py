"""Masks in COCO's run-length encoding: the lengths of runs of 0 and 1 by turns, down one column after the other."""

from typing import Any

import numpy as np
from jaxtyping import Bool


def decode_runs(counts: Any, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """The mask of (height, width) that a segmentation's `counts` describe, integers or the text that compresses them.

    Raises `ValueError` for anything else, and for runs that do not fill it exactly.
    """
    runs = np.asarray(_from_text(counts) if isinstance(counts, str) else counts)
    pixels = size[0] * size[1]
    whole = runs.ndim == 1 and runs.dtype.kind in "iu" and not ((runs < 0) | (runs > pixels)).any()
    if not whole or runs.sum() != pixels:
        raise ValueError(f"runs that do not fill {size[1]}x{size[0]} pixels")
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape(size, order="F")


def _from_text(text: str) -> list[int]:
    """COCO's compression: five bits a character from the lowest on, a sixth says that more follow, and from the
    fourth number on the difference to the one two before."""
    runs: list[int] = []
    value = shift = 0
    for character in text.encode():
        bits = character - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError(f"{chr(character)!r} in compressed runs")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("compressed runs that end in a number")
    return runs
