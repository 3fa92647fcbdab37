"""What one process sees of a collection: what is committed, and what is made ready over it, for all its threads."""

import dataclasses
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from sret_jax.collection.generations import current_generation
from sret_jax.collection.local import Features, LocalFinder
from sret_jax.collection.marking import Marker
from sret_jax.collection.place import read_about
from sret_jax.collection.served_index import ServedStoreIndex, table_of
from sret_jax.collection.store import Store
from sret_jax.collection.store_index import StoreIndex
from sret_jax.config import SearchConfig
from sret_jax.errors import UserError, did_you_mean
from sret_jax.retrieval.changing_index import ChangingIndex
from sret_jax.retriever import Retriever

SearchedIndex = ChangingIndex | ServedStoreIndex  # here, or by a server


class View:
    """The store as far as it was committed when somebody last looked, with the index and the marker over it.

    Two locks, of which `computing` is taken first where both are:

    Attributes:
      lock: held for moments, while the store is read, so that what is there is told at once.
      computing: guards the loading of the network, the index and the marker; held while a query is described and
        programs are compiled. An update describes photographs by the same network without it, or searches would wait.
      store: None where there are no photographs yet; another object for another generation, so that a search goes on
        with that with which it began.
      names: of the photographs that are there, sorted.
      index: over the store, once something was searched.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.lock, self.computing = threading.RLock(), threading.RLock()
        self.store: Store | None = None
        self.names: list[str] = []
        self.index: StoreIndex | ServedStoreIndex | None = None
        self._marker: Marker | None = None

    def look(self) -> None:
        """Reads what was committed meanwhile."""
        if not has_photos(self.folder):  # it was deleted, or is new
            self.store, self.names = None, []
        elif self.store is not None and self.store.is_current:
            try:
                if not self.store.read_on():
                    return
            except FileNotFoundError:  # another generation since, or damage, which opening it tells
                self.store = Store(self.folder)
        else:
            self.store = Store(self.folder)
        if self.store is not None:
            self.names = sorted(self.store.state.live)

    def searchable(self, retriever: Retriever) -> tuple[Store, SearchedIndex]:
        """The store and its index as they are now; under `computing`.

        Raises `UserError` for a collection without photographs, or that another retriever has described.
        """
        with self.lock:
            self.look()
            store = self._filled()
        if store.state.header.get("retriever") != retriever.fingerprint:
            raise UserError(
                f"{self.folder.name}: described by another retriever, or another version of it; index it again"
            )
        if self.index is None or self.index.store is not store:
            search, table = self._search(retriever), table_of(self.folder)
            self._marker = None
            self.index = (
                ServedStoreIndex(store, search, table, self.lock) if table else StoreIndex(store, search, self.lock)
            )
        return store, self.index.follow()

    def _search(self, retriever: Retriever) -> SearchConfig:
        """The settings of the retriever, with the store that the collection was given instead of its own, if any."""
        search, store = retriever.config.search, read_about(self.folder).get("store")
        if not store:
            return search
        method = "exact" if search.method == "brute_force" else search.method  # which finds the same, in any store
        return dataclasses.replace(search, store=store, method=method)

    def _filled(self) -> Store:
        if self.store is None or not self.store.state.live:
            raise UserError(f"{self.folder.name}: it has no photographs yet; index its folder first")
        return self.store

    def marker(self, store: Store, index: SearchedIndex, retriever: Retriever) -> Marker:
        """What marks objects in photographs of the store; under `computing`, behind `searchable`."""
        if self._marker is None:
            rows = index.ids
            chosen = np.sort(rows)[np.unique(np.linspace(0, len(rows) - 1, min(200, len(rows))).astype(int))]
            self._marker = Marker([store.map(row) for row in chosen.tolist()], retriever.config.localize)
        return self._marker

    def local(self, store: Store, finder: LocalFinder, rows: Sequence[int]) -> dict[int, Features]:
        """The local features of those rows that have any, read while no other thread reads on what they are.

        Raises `UserError` where they are others by now than those that `finder` finds.
        """
        with self.lock:
            if store.local_about != finder.about:
                raise UserError(
                    f"{self.folder.name}: its local features are of another version or setting; index it again"
                )
            return {row: own for row in rows if (own := store.local(row)) is not None}

    def check_names(self, names: Sequence[str]) -> None:
        """Raises `UserError` for a name that is not there, or a collection without photographs, at once."""
        with self.lock:
            self.look()
            check_known(self.folder.name, names, self._filled().state.live)

    def row(self, name: str, store: Store | None) -> int:
        """Of a photograph that is there. Raises `UserError` for an unknown name."""
        with self.lock:
            live = store.state.live if store else {}
            check_known(self.folder.name, [name], live)
            return live[name]


def has_photos(folder: Path) -> bool:
    """Whether anything was ever described. Raises `DamagedError` as `current_generation`."""
    try:
        return bool(current_generation(folder))
    except FileNotFoundError:
        return False


def check_known(collection: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raises `UserError` for the first name that is not among the known ones, with the nearest of them."""
    known = known if isinstance(known, dict | set) else set(known)
    for name in names:
        if name not in known:
            raise UserError(f"{collection}: no photograph {name!r}{did_you_mean(name, list(known))}")
