"""The index over the rows of a store where a server finds the candidates.

`keep`, of whoever holds the lock of the collection, uploads what the server lacks. What was committed since is searched
here, so that a search never lacks a photograph; and what was taken out is passed over.
"""

import contextlib
import dataclasses
import logging
import secrets
import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from sret_jax.collection.place import locked, read_about, write_about
from sret_jax.collection.store import Store
from sret_jax.config import SearchConfig
from sret_jax.config.validation import OF_SERVERS
from sret_jax.errors import UserError
from sret_jax.retrieval.engine import Table, patiently
from sret_jax.retrieval.exact import cosines
from sret_jax.retrieval.served import Located, candidates, find, keys_of, method_of, synchronize
from sret_jax.retrieval.servers import open_table, table_name

log = logging.getLogger(__name__)

LOCAL = "local"
SECONDS_BETWEEN = 5.0  # two looks at what was uploaded, while something is not


def choose_engine(folder: Path, engine: str, server: str) -> None:
    """Writes where a collection is searched from now on: "local", or in a table of its own of a server.

    Raises `UserError` as `open_table`, and for an address without an engine.
    """
    if engine == LOCAL:
        if server:
            raise UserError("--server: give --engine=milvus or --engine=pgvector with it")
        chosen = None
    else:
        if engine == "milvus" and server.endswith(".db"):
            server = str(Path(server).expanduser().absolute())
        open_table(engine, server, "sret")  # refuses what is none
        chosen = {"engine": engine, "server": server, "table": table_name("sret", folder.name, secrets.token_hex(4))}
    with locked(folder):
        about = read_about(folder)
        before = about.pop("search", None)
        if before and chosen and before | {"table": ""} == chosen | {"table": ""}:
            return
        if before:
            with contextlib.suppress(UserError):  # without its library one goes back to searching here all the same
                old = open_table(**_keywords(before))
                log.warning("%s: not used any more; delete it: %s", old.place, old.deletion)
        write_about(folder, about | ({"search": chosen} if chosen else {}))


def table_of(folder: Path) -> Table | None:
    """The table that a collection is searched in; None where it is searched here."""
    chosen = read_about(folder).get("search")
    return open_table(**_keywords(chosen)) if chosen else None


def _keywords(chosen: dict[str, Any]) -> dict[str, str]:
    return {"engine": str(chosen["engine"]), "server": str(chosen["server"]), "name": str(chosen["table"])}


class ServedStoreIndex:
    """An index over one generation of a store, by a table of a server; what `StoreIndex` and its index are together.

    Attributes:
      generation: the folder of the one that it is over; of another one the rows have other numbers.
    """

    def __init__(
        self, store: Store, config: SearchConfig, table: Table, lock: AbstractContextManager[object] | None = None
    ):
        """`lock` is held while the rows that are there are listed, where other threads read the store on."""
        method = config.method if config.method in OF_SERVERS else "auto"
        self.store, self.config, self.table = store, dataclasses.replace(config, method=method), table
        self.generation, self._lock = store.generation, lock or threading.Lock()
        self._counts, self._looked = (-1, -1), 0.0
        self._names: list[str] = []
        self._about: dict[str, Any] = {}
        self.ids = np.empty(0, np.int64)
        self._place(0)

    @property
    def method(self) -> str:
        """How it searches; "" before it first did."""
        return method_of(self.config, len(self.ids)) if len(self.ids) else ""

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, id: int) -> bool:
        return 0 <= id < len(self._there) and bool(self._there[id])

    def follow(self) -> "ServedStoreIndex":
        """The index over what is in the store now."""
        with self._lock:
            live, counts = self.store.state.live, (len(self.store.state.photos), len(self.store.state.live))
            changed = counts != self._counts
            names, rows = (list(live), list(live.values())) if changed else ([], [])
        if changed or (len(self._late) and time.monotonic() > self._looked + SECONDS_BETWEEN):
            about = patiently(self.table.about) or {}  # where this fails, it is asked again next time
            if changed:
                self._names, self._counts, self.ids = names, counts, np.array(rows, np.int64)
            self._about, self._looked = about, time.monotonic()
            known = about.get("generation") == self.generation.name
            self._place(int(about.get("rows", 0)) if known else 0)
        return self

    def _place(self, uploaded: int) -> None:
        """Notes which rows the server has: those before the row `uploaded`."""
        self._there = np.zeros(max(0, self._counts[0]), bool)
        self._there[self.ids] = True
        served = self.ids < uploaded
        names = [name for name, own in zip(self._names, served.tolist(), strict=True) if own]
        self._locate = Located(keys_of(names), self.ids[served])
        self._late = np.sort(self.ids[~served])
        self._late_descriptors = np.empty((0, self.store.dim), np.float32)
        if len(self._late):
            first = int(self._late[0])
            self._late_descriptors = self.store.descriptors(first)[self._late - first]

    def keep(self) -> None:
        """Uploads what the server lacks, and deletes there what is gone.

        Raises `ServerError`; a call that failed may be made again, and goes on.
        """
        self.follow()
        if not len(self):
            return
        retriever = str(self.store.state.header.get("retriever", ""))
        said = {"generation": self.generation.name, "rows": self._counts[0], "photos": len(self)}
        descriptors = self.store.descriptors()[self.ids]
        synchronize(self.table, self._names, descriptors, retriever, self.method, own=True, said=said)
        self._about = said
        self._place(self._counts[0])

    def search(self, query: Float[np.ndarray, "d"], k: int) -> tuple[Int64[np.ndarray, "m"], Float[np.ndarray, "m"]]:
        """As `ChangingIndex.search`. Raises `ServerError`."""
        k = min(k, len(self))
        served = len(self) - len(self._late)
        ids, scores = self._late, _cosines(query, self._late_descriptors)
        if k and served:
            gone = max(0, int(self._about.get("photos", 0)) - served)  # are found as well, and passed over
            wanted = candidates(self.config, self.method, k) + gone
            found, found_scores = find(
                self.table, query[None], k, self.method, wanted, self._locate, self._score(query)
            )
            there = found[0] >= 0
            ids, scores = np.concatenate([ids, found[0][there]]), np.concatenate([scores, found_scores[0][there]])
        order = np.lexsort((ids, -scores))[:k]
        return ids[order], scores[order]

    def _score(self, query: Float[np.ndarray, "d"]) -> Any:
        def score(rows: Int64[np.ndarray, "1 m"]) -> Float[np.ndarray, "1 m"]:
            own, there = np.zeros((rows.shape[1], self.store.dim), np.float32), rows[0] >= 0
            own[there] = self.store.descriptors_of(rows[0][there])
            return _cosines(query, own)[None]

        return score


def _cosines(query: Float[np.ndarray, "d"], rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n"]:
    if not len(rows):
        return np.empty(0, np.float32)
    return cosines(query[None], rows, np.arange(len(rows))[None])[0]
