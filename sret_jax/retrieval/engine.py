"""What searches named descriptors: an `Index` here, or a table of vectors in a server, behind one protocol.

`Engine` is what benchmarks, re-ranking and localization hold. `Table` is what one kind of server has to offer for it:
one file for each of them, and `served.py`, which makes an engine of any.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float, Int64

from sret_jax.config import SearchConfig
from sret_jax.errors import UserError
from sret_jax.retrieval.index import SearchResult

T = TypeVar("T")


class ServerError(UserError):
    """A server refuses something; the text names it and the remedy."""


class UnreachableError(ServerError):
    """A server does not answer, or not any more; the same may be asked again."""


@runtime_checkable
class Engine(Protocol):
    """Cosine search over named descriptors, wherever it is done."""

    @property
    def descriptors(self) -> Float[np.ndarray, "n d"]:
        """Of unit length, by which re-rankers work."""

    @property
    def names(self) -> list[str]: ...

    @property
    def config(self) -> SearchConfig: ...

    @property
    def method(self) -> str:
        """ "exact" or "brute_force", which miss nothing, or an approximate one."""

    @property
    def fingerprint(self) -> str:
        """Of what is searched."""

    @property
    def retriever(self) -> str:
        """Fingerprint of the one that described the photographs; "" if unknown."""

    @property
    def dim(self) -> int: ...

    @property
    def description(self) -> str:
        """What searches, in words."""

    def __len__(self) -> int: ...

    def search(self, queries: Float[np.ndarray, "q d"], k: int) -> SearchResult:
        """The k photographs of largest cosine to each query. Raises `UserError` as `Index.search`."""


class Nearest(NamedTuple):
    """What a server finds for one query, best first."""

    keys: Int64[np.ndarray, "m"]
    scores: Float[np.ndarray, "m"]  # dot products, as the server rounds them


@runtime_checkable
class Table(Protocol):
    """A table of vectors in a server: rows of a key, a digest of what is stored under it, a name and a vector.

    It connects when it is first used, and again after it lost its server. Every method raises `UnreachableError` where
    the server does not answer, and may then be called again; and `ServerError` for what it refuses.
    """

    @property
    def place(self) -> str:
        """The table and its server, for people; never a password."""

    @property
    def deletion(self) -> str:
        """How a person deletes the table."""

    @property
    def kind(self) -> str:
        """Of the server."""

    @property
    def rounding(self) -> float:
        """By so much a score of the server differs from that of the vectors that it was given, at most."""

    @property
    def most(self) -> int:
        """Answers that it gives to one query, at most."""

    def about(self) -> dict[str, Any] | None:
        """What `write_about` wrote last; None where there is no such table."""

    def create(self, dim: int, method: str, about: dict[str, Any]) -> None:
        """Makes the table, without rows, with what is written of it."""

    def write_about(self, about: dict[str, Any]) -> None: ...

    def rows(self) -> tuple[Int64[np.ndarray, "n"], Int64[np.ndarray, "n"]]:
        """Keys and digests of all that is there, in no particular order."""

    def upsert(
        self,
        keys: Int64[np.ndarray, "n"],
        digests: Int64[np.ndarray, "n"],
        names: Sequence[str],
        vectors: Float[np.ndarray, "n d"],
    ) -> None:
        """Adds rows, or puts them in the place of those of the same keys."""

    def delete(self, keys: Int64[np.ndarray, "n"]) -> None: ...

    def finish(self, method: str) -> None:
        """Makes ready for searching: "exact", or "hnsw" with an index where there is none yet."""

    def search(self, queries: Float[np.ndarray, "q d"], k: int, method: str) -> list[Nearest]:
        """As many as k rows of largest dot product for each query; an approximate method may find fewer."""

    def drop(self) -> None:
        """Deletes the table, if there is one."""

    def close(self) -> None:
        """Ends the connection."""


def patiently(act: Callable[[], T], patience: float = 0.0, tell: Callable[[UserError], None] | None = None) -> T:
    """Does it; where the server is lost it does it again: at once, for it may be back, and then for so many seconds.

    Args:
      act: may be done twice.
      patience: seconds.
      tell: called once, where it begins to wait.

    Raises the last `UnreachableError`.
    """
    end, tries = time.monotonic() + patience, 0
    while True:
        try:
            return act()
        except UnreachableError as error:
            tries += 1
            if tries > 1 and time.monotonic() >= end:
                raise
            if tries == 2 and tell:
                tell(error)
            time.sleep(1.0 if tries > 1 else 0.0)
