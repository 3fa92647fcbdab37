"""Sizes that are symbols: a network that is exported is traced once for batches, heights and widths of all sizes."""

from typing import Any, TypeAlias

Size: TypeAlias = Any  # a number, or an expression


def known(*sizes: Size) -> bool:
    """Whether all sizes are numbers. While a network is exported some are expressions, as `32*h`."""
    return all(isinstance(size, int) for size in sizes)
