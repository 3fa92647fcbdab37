"""The index over the rows of a store, which follows what is added to it and taken from it."""

import json
import logging
import threading
from contextlib import AbstractContextManager

import numpy as np
from jaxtyping import Int64

from sret_jax.collection.store import Store
from sret_jax.config import SearchConfig
from sret_jax.retrieval.changing_index import ChangingIndex
from sret_jax.storage.artifacts import DamagedError

log = logging.getLogger(__name__)


def kept_about(store: Store) -> tuple[str, float]:
    """How the index that is kept beside a store searches, and the recall@10 that was measured; ("", 0.0) of none.

    Nothing is loaded, and nothing checked: it is only said.
    """
    try:
        about = json.loads((store.generation / "index" / "index.json").read_bytes())
        return str(about["method"]), float(about["settings"].get("recall", 0.0))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "", 0.0


class StoreIndex:
    """A `ChangingIndex` over one generation of a store.

    Searching never writes: what was built is kept by `keep`, of whoever holds the lock of the collection.

    Attributes:
      generation: the folder of the one that it is over; of another one the rows have other numbers.
    """

    def __init__(self, store: Store, config: SearchConfig, lock: AbstractContextManager[object] | None = None):
        """`lock` is held while the rows that are there are listed, where other threads read the store on."""
        self.store, self.config, self._lock = store, config, lock or threading.Lock()
        self.generation = store.generation
        self._place = store.generation / "index"
        self._seen = 0  # rows of the store
        self._index = self._kept()
        self._is_kept = self._index is not None

    @property
    def method(self) -> str:
        """How it searches; "" before it first did."""
        index = self._index  # which another thread may be building anew
        return index.method if index else ""

    @property
    def recall(self) -> float:
        """Recall@10 that its settings were chosen for, as it was measured; 0 where none was asked for."""
        index = self._index
        return index.recall if index else 0.0

    def follow(self) -> ChangingIndex:
        """The index over what is in the store now; it is built anew where it has outgrown itself."""
        if self._index is not None:
            self._change(self._index)
        if self._index is None or self._index.outgrown:
            now, seen = self._rows()
            self._index = None  # before the next one takes its memory
            self._index = ChangingIndex(np.sort(now), self.store.descriptors_of, self.config)
            self._seen, self._is_kept = seen, False
        return self._index

    def keep(self) -> None:
        """Writes an approximate index beside the rows, where it was built since; an exact one needs no building."""
        if self._index is not None and self._index.method != "exact" and not self._is_kept:
            self._index.save(self._place, self.generation.name)
            self._is_kept = True

    def _kept(self) -> ChangingIndex | None:
        try:
            index = ChangingIndex.load(self._place, self.generation.name, self.store.descriptors_of, self.config)
        except DamagedError as error:
            log.warning("%s; it is built again", error)
            return None
        if index is not None:
            self._seen = 1 + max(index.ids.tolist(), default=-1)
        return index

    def _change(self, index: ChangingIndex) -> None:
        """Makes the same changes to the index as were made to the store."""
        now, rows = self._rows()
        if self._seen == rows and len(index) == len(now):
            return
        index.delete(np.setdiff1d(index.ids, now))
        index.insert(np.setdiff1d(now, index.ids))
        self._seen = rows

    def _rows(self) -> tuple[Int64[np.ndarray, "n"], int]:
        """The rows that are there, and how many there ever were."""
        with self._lock:
            live = self.store.state.live
            return np.fromiter(live.values(), np.int64, len(live)), len(self.store.state.photos)
