"""Search in a server: a table that is kept equal to our descriptors, and candidates of it that are scored here.

The server chooses candidates, by an index of its own over rounded vectors. Their scores are computed here from our own
descriptors, so that they are those of an `Index`, and equal ones come in the same order.

A row of the table has the hash of its name as its key, and a digest of what is stored. Whatever differs is uploaded,
and nothing else: an upload that was killed goes on, and a photograph more or less costs no more than itself.
"""

import hashlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Int64

from sret_jax.config import SearchConfig
from sret_jax.errors import UserError
from sret_jax.extraction.origin import Descriptors, check_same_retriever, retriever_of
from sret_jax.retrieval.engine import ServerError, Table, patiently
from sret_jax.retrieval.exact import cosines, normalized
from sret_jax.retrieval.index import BRUTE_FORCE_BELOW, SearchResult, check_names, joined_descriptors
from sret_jax.storage.artifacts import fingerprint

log = logging.getLogger(__name__)

FORMAT = 1
BATCH = 4096  # rows of one upsert or deletion: 8 MB of 512 dimensions
QUERIES_AT_ONCE = 64
PLACES_AT_ONCE = 1 << 18  # answers of the queries at once
CANDIDATES = 100  # of an approximate search, at least
PATIENCE = 60.0  # seconds that an upload waits for a server that is lost
Locate = Callable[[Int64[np.ndarray, "_"]], Int64[np.ndarray, "_"]]


def keys_of(names: Sequence[str]) -> Int64[np.ndarray, "n"]:
    """The key of each name: 64 bits of its hash.

    Raises `UserError` for two names with the same one: chances are 3 in 10,000 with 10^8 names.
    """
    keys = np.fromiter((_hash(_encoded(name)) for name in names), np.int64, len(names))
    order = np.argsort(keys, kind="stable")
    twice = np.flatnonzero(np.diff(keys[order]) == 0)
    if len(twice):
        one, other = (names[i] for i in order[twice[0] : twice[0] + 2])
        why = "occurs twice" if one == other else f"and {other!r} have the same hash"
        raise UserError(f"the name {one!r} {why}; rename one of the photographs")
    return keys


def digests_of(names: Sequence[str], descriptors: Float[np.ndarray, "n d"]) -> Int64[np.ndarray, "n"]:
    """A digest of each name and its descriptor."""
    rows = (np.ascontiguousarray(x, np.float32).tobytes() for x in descriptors)
    pairs = zip(names, rows, strict=True)
    return np.fromiter((_hash(_encoded(name) + b"\0" + row) for name, row in pairs), np.int64, len(names))


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big", signed=True)


def method_of(config: SearchConfig, n: int) -> str:
    """ "exact" or "hnsw": what `config.search.method` is for n photographs in a server."""
    if config.method == "auto":
        return "exact" if n < BRUTE_FORCE_BELOW else "hnsw"
    if config.method not in ("exact", "hnsw"):
        raise UserError(
            f"config.search.method={config.method!r} is searched here, not by config.search.engine={config.engine!r}; "
            "choose auto, exact or hnsw"
        )
    return config.method


def synchronize(
    table: Table,
    names: Sequence[str],
    descriptors: Float[np.ndarray, "n d"],
    retriever: str,
    method: str,
    *,
    own: bool = False,
    said: dict[str, Any] | None = None,
    patience: float = PATIENCE,
) -> str:
    """Makes a table hold these descriptors and no others, and ready for searching; returns the fingerprint of them.

    A call that was killed may be made again, and goes on. What is unchanged is not uploaded.

    Args:
      names: one per row, unique.
      descriptors: of unit length.
      retriever: fingerprint of the one that made them; "" if unknown.
      method: "exact" or "hnsw".
      own: the table is nobody else's: what another retriever described is deleted.
      said: written of the table besides, once it is complete.
      patience: seconds that it waits for a server that is lost.

    Raises:
      UnreachableError: the server does not answer, or went away and did not come back.
      ServerError: it refuses something; or the table has vectors of another length, of another retriever, or of other
        photographs.
    """

    def ask(act: Callable[[], Any]) -> Any:
        return patiently(act, patience, lambda error: log.warning("%s (waiting up to %.0f s)", error, patience))

    keys, digests = keys_of(names), digests_of(names, descriptors)
    order, dim = np.argsort(keys), descriptors.shape[1]
    content = hashlib.sha256(keys[order].tobytes() + digests[order].tobytes()).hexdigest()
    key = fingerprint(FORMAT, dim, retriever, content)
    new = {"format": FORMAT, "dim": dim, "retriever": retriever, "key": key, "complete": False}
    about = ask(table.about)
    if about is not None and own and _fault(about, dim, retriever):
        ask(table.drop)
        about = None
    if about is None:
        ask(lambda: table.create(dim, method, new))
        about = new
    if fault := _fault(about, dim, retriever):
        raise ServerError(f"{table.place}: {fault}; choose another config.search.table, or delete it: {table.deletion}")
    begun = about | {"key": key, "retriever": retriever or about.get("retriever", ""), "complete": False}
    done = begun | {"complete": True} | (said or {})
    if about == done:
        ask(lambda: table.finish(method))
        return key
    there, stored = ask(table.rows)
    gone = np.setdiff1d(there, keys)
    if len(there) and len(gone) == len(there) and not own:
        raise ServerError(
            f"{table.place}: holds {len(there)} other photographs and none of these; choose another "
            f"config.search.table, or delete it: {table.deletion}"
        )
    changed = np.flatnonzero(~_contains(there, stored, keys, digests))
    if len(changed) or len(gone):
        ask(lambda: table.write_about(begun))
        log.info("%s: %d of %d descriptors to upload, %d to delete", table.place, len(changed), len(keys), len(gone))
    for start in range(0, len(changed), BATCH):
        part = changed[start : start + BATCH]
        own_names, vectors = [names[i] for i in part], np.ascontiguousarray(descriptors[part], np.float32)
        ask(lambda: table.upsert(keys[part], digests[part], own_names, vectors))  # noqa: B023 - asked at once
    for start in range(0, len(gone), BATCH):
        ask(lambda: table.delete(gone[start : start + BATCH]))  # noqa: B023
    ask(lambda: table.finish(method))
    ask(lambda: table.write_about(done))
    return key


def _fault(about: dict[str, Any], dim: int, retriever: str) -> str:
    """Why these descriptors cannot be in the table of which this is written; "" where they can."""
    if about.get("format") != FORMAT:
        return "was written by another version"
    if about.get("dim") != dim:
        return f"has descriptors of length {about.get('dim')}, not {dim}: of another network"
    other = about.get("retriever")
    if other and retriever and other != retriever:
        return f"has descriptors of another retriever ({other}, not {retriever})"
    return ""


def _contains(
    there: Int64[np.ndarray, "n"], stored: Int64[np.ndarray, "n"], keys: Int64[np.ndarray, "m"], digests: np.ndarray
) -> np.ndarray:
    """Whether each key is there with its digest."""
    if not len(there):
        return np.zeros(len(keys), bool)
    order = np.argsort(there)
    place = order[np.minimum(np.searchsorted(there[order], keys), len(there) - 1)]
    return (there[place] == keys) & (stored[place] == digests)


class Located:
    """The row of each key."""

    def __init__(self, keys: Int64[np.ndarray, "n"], rows: Int64[np.ndarray, "n"]):
        order = np.argsort(keys)
        self._keys, self._rows = keys[order], rows[order]

    def __call__(self, keys: Int64[np.ndarray, "m"]) -> Int64[np.ndarray, "m"]:
        """-1 for a key that is not there."""
        if not len(self._keys):
            return np.full(len(keys), -1)
        place = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[place] == keys, self._rows[place], -1)


def find(
    table: Table,
    queries: Float[np.ndarray, "q d"],
    k: int,
    method: str,
    wanted: int,
    locate: Locate,
    score: Callable[[Int64[np.ndarray, "q m"]], Float[np.ndarray, "q m"]],
) -> tuple[Int[np.ndarray, "q k"], Float[np.ndarray, "q k"]]:
    """Rows of the largest score for each query, best first and equal ones by row; -1 and -inf where there are fewer.

    An exact search takes candidates until none that is left out can be among the k, however the server rounds.

    Args:
      wanted: candidates to begin with, at least k.
      locate: the row of each key; -1 for one that does not count.
      score: scores of rows; whatever it likes for -1.
    """
    wanted = min(wanted, table.most)
    while True:
        found = patiently(lambda: table.search(queries, wanted, method))  # noqa: B023 - asked at once
        ids = np.full((len(queries), max(k, wanted)), -1, np.int64)
        for row, one in zip(ids, found, strict=True):
            row[: len(one.keys)] = locate(one.keys)
        scores = np.where(ids < 0, -np.inf, score(ids)).astype(np.float32)
        order = np.lexsort((ids, -scores), axis=1)[:, :k]
        ids, scores = np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1)
        open_ended = [
            len(one.keys) == wanted and one.scores[-1] + table.rounding >= own[-1]
            for one, own in zip(found, scores, strict=True)
        ]
        if method != "exact" or wanted >= table.most or not any(open_ended):
            return ids, scores
        wanted = min(4 * wanted, table.most)


def candidates(config: SearchConfig, method: str, k: int) -> int:
    """How many a search for k answers begins with."""
    return k + 16 if method == "exact" else max(k, config.reorder or max(CANDIDATES, 2 * k))


class ServedIndex:
    """Cosine search over named descriptors whose candidates a server finds: an `Engine`.

    Attributes:
      table: in the server.
      descriptors: float32 [n d], of unit length; what scores the candidates.
      names: of the photographs, unique.
      method: "exact" or "hnsw".
      fingerprint: of the descriptors and names.
      retriever: fingerprint of the one that described the photographs; "" if unknown.
    """

    def __init__(
        self,
        table: Table,
        descriptors: Float[np.ndarray, "n d"],
        names: list[str],
        config: SearchConfig,
        method: str,
        fingerprint: str,
        retriever: str,
    ):
        self.table, self.descriptors, self.names, self.config = table, descriptors, names, config
        self.method, self.fingerprint, self.retriever = method, fingerprint, retriever
        self._locate = Located(keys_of(names), np.arange(len(names)))

    @classmethod
    def build(
        cls,
        descriptors: Float[np.ndarray, "n d"],
        names: list[str],
        table: Table,
        config: SearchConfig | None = None,
        patience: float = PATIENCE,
    ) -> "ServedIndex":
        """An index over one descriptor per photograph, of which what the server lacks is uploaded.

        Args:
          descriptors: of any length but zero; they are normalised here.
          names: one per row, unique.
          config: `method` "auto" is exact below 20,000 photographs, and an HNSW index above; `reorder` says how many
            candidates are scored.
          patience: seconds that it waits for a server that is lost.

        Raises `UserError` as `Index.build`, and `ServerError` as `synchronize`.
        """
        config = config or SearchConfig()
        check_names(descriptors, names)
        method, retriever = method_of(config, len(names)), retriever_of(descriptors)
        unit = normalized(descriptors, names)
        key = synchronize(table, names, unit, retriever, method, patience=patience)
        return cls(table, unit, list(names), config, method, key, retriever)

    def add(self, descriptors: Float[np.ndarray, "n d"], names: list[str]) -> "ServedIndex":
        """An index of these photographs after the present ones; only they are uploaded."""
        return self._rebuilt(joined_descriptors(self, descriptors, names), self.names + list(names))

    def remove(self, names: Sequence[str]) -> "ServedIndex":
        """An index without these photographs. Raises `UserError` for a name that is not there."""
        gone = set(names)
        if unknown := gone - set(self.names):
            raise UserError(f"index: no photograph {min(unknown)!r} to remove")
        kept = [i for i, name in enumerate(self.names) if name not in gone]
        left = Descriptors.of(self.descriptors[kept], self.retriever)
        return self._rebuilt(left, [self.names[i] for i in kept])

    def _rebuilt(self, descriptors: Descriptors, names: list[str]) -> "ServedIndex":
        return ServedIndex.build(descriptors, names, self.table, self.config)

    @property
    def dim(self) -> int:
        return self.descriptors.shape[1]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def description(self) -> str:
        rescored = self.config.reorder or f"{CANDIDATES} or twice the answers"
        how = "exact search" if self.method == "exact" else f"HNSW, {rescored} re-scored"
        return f"{how}, by {self.table.kind}, {len(self)} photos x {self.dim}"

    def search(self, queries: Float[np.ndarray, "q d"], k: int) -> SearchResult:
        """The k photographs of largest cosine to each query, with the scores that an `Index` gives.

        Raises `UserError` as `Index.search`, and for more answers than the server gives; and `ServerError`.
        """
        if not 1 <= k <= len(self):
            raise UserError(f"k={k}: the index has {len(self)} photos; choose 1 to {len(self)}, or add photos")
        if k > self.table.most:
            raise UserError(
                f"k={k}: {self.table.kind} gives at most {self.table.most} answers; set config.eval.ranked to fewer"
            )
        check_same_retriever(retriever_of(queries), self.retriever)
        if queries.shape[1] != self.dim:
            raise UserError(f"queries of length {queries.shape[1]} but an index of {self.dim}: not the same network")
        queries = normalized(queries, [f"query {i}" for i in range(len(queries))])
        ids, scores = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
        wanted = min(len(self), candidates(self.config, self.method, k))
        step = max(1, min(QUERIES_AT_ONCE, PLACES_AT_ONCE // wanted))
        for start in range(0, len(queries), step):
            part = slice(start, start + step)
            own = queries[part]

            def score(rows: Int64[np.ndarray, "q m"]) -> Float[np.ndarray, "q m"]:
                return cosines(own, self.descriptors, np.maximum(rows, 0))  # noqa: B023 - called at once

            ids[part], scores[part] = find(self.table, own, k, self.method, wanted, self._rows, score)
        return SearchResult(ids, scores, self.names)

    def _rows(self, keys: Int64[np.ndarray, "m"]) -> Int64[np.ndarray, "m"]:
        rows = self._locate(keys)
        if (rows < 0).any():
            raise ServerError(
                f"{self.table.place}: holds photographs that it did not hold before; another program changed it: run "
                "the command again, or choose another config.search.table"
            )
        return rows
