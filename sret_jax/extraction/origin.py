"""Descriptors that know which retriever made them, so that those of two are never compared."""

from typing import Any

import numpy as np
from jaxtyping import Float

from sret_jax.errors import UserError


class Descriptors(np.ndarray):
    """An array of descriptors, float32 [n d], with the fingerprint of the retriever that made them.

    Rows and slices keep it; numpy treats it as any other array.
    """

    retriever: str

    @classmethod
    def of(cls, x: Float[np.ndarray, "n d"], retriever: str) -> "Descriptors":
        tagged = np.asarray(x).view(cls)
        tagged.retriever = retriever
        return tagged

    def __array_finalize__(self, other: Any) -> None:
        self.retriever = getattr(other, "retriever", "")


def retriever_of(x: np.ndarray) -> str:
    """The fingerprint of the retriever that made these descriptors; "" if unknown."""
    return getattr(x, "retriever", "")


def check_same_retriever(queries: str, database: str) -> None:
    """Raises `UserError` where two known fingerprints of retrievers differ."""
    if queries and database and queries != database:
        raise UserError(
            f"queries and database were described by different retrievers ({queries} and {database}): describe both "
            "with the same one"
        )
