"""A table of vectors in memory, which rounds like a server, loses its connection when it is told to, and counts."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sret_jax.retrieval.engine import Nearest, UnreachableError


class MemoryTable:
    """A `Table`.

    Attributes:
      lost: calls that fail from now on; -1: all.
      fail_after: calls that go well before `lost` counts.
      upserted, deleted, searched: rows, and candidates of each search, in all calls that went well.
    """

    place, deletion, kind, rounding = "memory, table t", "forget it", "memory", 1.1e-3

    def __init__(self, most: int = 1000):
        self.most, self.lost, self.fail_after = most, 0, 0
        self.said: dict[str, Any] | None = None
        self.stored: dict[int, tuple[int, str, np.ndarray]] = {}
        self.upserted, self.deleted, self.searched, self.finished = 0, 0, [], ""

    def _ask(self) -> None:
        if self.fail_after:
            self.fail_after -= 1
        elif self.lost:
            self.lost -= 1
            raise UnreachableError("memory: does not answer")

    def about(self) -> dict[str, Any] | None:
        self._ask()
        return None if self.said is None else dict(self.said)

    def create(self, dim: int, method: str, about: dict[str, Any]) -> None:
        self._ask()
        self.said = dict(about)

    def write_about(self, about: dict[str, Any]) -> None:
        self._ask()
        self.said = dict(about)

    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        self._ask()
        digests = [digest for digest, _, _ in self.stored.values()]
        return np.array(list(self.stored), np.int64), np.array(digests, np.int64)

    def upsert(self, keys: np.ndarray, digests: np.ndarray, names: Sequence[str], vectors: np.ndarray) -> None:
        self._ask()
        for key, digest, name, vector in zip(keys.tolist(), digests.tolist(), names, vectors, strict=True):
            self.stored[key] = digest, name, vector.astype(np.float16)
        self.upserted += len(keys)

    def delete(self, keys: np.ndarray) -> None:
        self._ask()
        for key in keys.tolist():
            del self.stored[key]
        self.deleted += len(keys)

    def finish(self, method: str) -> None:
        self._ask()
        self.finished = method

    def search(self, queries: np.ndarray, k: int, method: str) -> list[Nearest]:
        self._ask()
        self.searched.append(k)
        keys = np.array(list(self.stored), np.int64)
        vectors = np.array([vector for _, _, vector in self.stored.values()], np.float32)
        found = []
        for query in queries.astype(np.float16).astype(np.float32):
            scores = vectors @ query
            best = np.argsort(-scores, kind="stable")[: min(k, self.most)]
            found.append(Nearest(keys[best], scores[best]))
        return found

    def drop(self) -> None:
        self._ask()
        self.said, self.stored = None, {}

    def close(self) -> None:
        pass
