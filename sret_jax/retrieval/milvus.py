"""Milvus as a `Table`: a collection of a server, or a file of milvus-lite. Only this file knows pymilvus.

What is written of a table is a property of the collection. A password or key comes from the environment, MILVUS_TOKEN,
and never from the config. Filters hold numbers alone: rows are named by their keys.
"""

import contextlib
import importlib.util
import json
import logging
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from jaxtyping import Float, Int64

from sret_jax.errors import UserError
from sret_jax.retrieval.engine import Nearest, ServerError, UnreachableError

if TYPE_CHECKING:
    from pymilvus import MilvusClient

T = TypeVar("T")
ABOUT = "sret_jax.about"  # the property
TOKEN = "MILVUS_TOKEN"  # USER:PASSWORD, or a key
ROWS_AT_ONCE = 16_384  # of a query, Milvus's own limit
LONGEST_NAME = 65_535  # bytes of a VARCHAR
SECONDS_TO_CONNECT = 10.0
SECONDS = 600.0  # of one request
STARTING = "start it, or look after config.search.server and the network; the same command goes on then"


class MilvusTable:
    """A collection of Milvus; see `Table`.

    An index that somebody made on its field `vector` is kept: "hnsw" is then searched by that one.
    """

    kind = "Milvus"
    rounding = 2e-5  # float32, summed in any order
    most = 16_384

    def __init__(self, server: str, name: str):
        """
        Args:
          server: http://HOST:PORT or https://, without a password; or the path of a file of milvus-lite, NAME.db.
          name: of the collection: letters, digits and _.

        Raises `UserError` without pymilvus, or milvus-lite for a file, and for what is no address.
        """
        if importlib.util.find_spec("pymilvus") is None:
            raise UserError('config.search.engine="milvus" needs pymilvus: pip install "sret_jax[milvus]", or pymilvus')
        self._uri, self.server = server, f"Milvus at {server}"
        if server.endswith(".db"):
            if importlib.util.find_spec("milvus_lite") is None:
                raise UserError(f"config.search.server={server}: a file needs milvus-lite: pip install milvus-lite")
            self._uri = str(Path(server).expanduser().absolute())
        elif not server.startswith(("http://", "https://")):
            raise UserError(
                f'config.search.server="{server}": no address of Milvus; write http://HOST:19530, or a file NAME.db'
            )
        self.name, self._lock = name, threading.RLock()
        self._client: MilvusClient | None = None
        self._loaded = False

    @property
    def place(self) -> str:
        return f"{self.server}, collection {self.name}"

    @property
    def deletion(self) -> str:
        return f"MilvusClient({self._uri!r}).drop_collection({self.name!r})"

    def _do(self, act: Callable[["MilvusClient"], T]) -> T:
        """Does it with a connected client. What goes wrong becomes a `ServerError`; a lost client is forgotten."""
        import grpc
        from pymilvus import MilvusClient, MilvusException

        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it logs each failure with its stack, and raises it
        with self._lock:
            try:
                if self._client is None:
                    token = os.environ.get(TOKEN, "")
                    self._client = MilvusClient(self._uri, token=token, timeout=SECONDS_TO_CONNECT, dedicated=True)
                return act(self._client)
            except (MilvusException, grpc.RpcError) as error:
                raise self._said(error) from None
            except ValueError as error:  # of a closed channel
                if "closed channel" not in str(error):
                    raise
                raise self._said(error) from None

    def _said(self, error: Exception) -> ServerError:
        import grpc

        status, text = _status(error), " ".join(str(getattr(error, "message", error)).split())[:300]
        if status in ("UNAUTHENTICATED", "PERMISSION_DENIED") or "auth check failure" in text:
            self.close()
            return ServerError(f"{self.server}: refuses the login; set {TOKEN} to USER:PASSWORD or a key ({text})")
        of_connection = isinstance(error, (grpc.RpcError, ValueError)) or self._client is None
        if of_connection or status or "Fail connecting" in text or "closed" in text:
            self.close()
            if self._uri.endswith(".db"):
                return UnreachableError(
                    f"{self.server}: cannot be opened ({text}); one process at a time has a file of milvus-lite: end "
                    "the other, and run the same command again"
                )
            return UnreachableError(f"{self.server}: does not answer ({status or text}); {STARTING}")
        return ServerError(f"{self.place}: {text}")

    def about(self) -> dict[str, Any] | None:
        found = self._do(
            lambda client: (
                client.describe_collection(self.name, timeout=SECONDS)
                if client.has_collection(self.name, timeout=SECONDS)
                else None
            )
        )
        if found is None:
            return None
        try:
            about = json.loads(found["properties"][ABOUT])
        except (KeyError, TypeError, ValueError):
            about = None
        if not isinstance(about, dict):
            raise ServerError(f"{self.place}: a collection of something else; choose another config.search.table")
        return about

    def create(self, dim: int, method: str, about: dict[str, Any]) -> None:
        from pymilvus import DataType, MilvusClient

        schema = MilvusClient.create_schema(auto_id=False)
        schema.add_field("key", DataType.INT64, is_primary=True)
        schema.add_field("digest", DataType.INT64)
        schema.add_field("name", DataType.VARCHAR, max_length=LONGEST_NAME)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
        properties = {ABOUT: json.dumps(about)}
        self._do(
            lambda client: client.create_collection(
                self.name, schema=schema, properties=properties, consistency_level="Strong", timeout=SECONDS
            )
        )

    def write_about(self, about: dict[str, Any]) -> None:
        properties = {ABOUT: json.dumps(about)}
        self._do(lambda client: client.alter_collection_properties(self.name, properties=properties, timeout=SECONDS))

    def rows(self) -> tuple[Int64[np.ndarray, "n"], Int64[np.ndarray, "n"]]:
        def read(client: "MilvusClient") -> np.ndarray:
            self._load(client)
            parts = [np.empty((0, 2), np.int64)]
            pages = client.query_iterator(
                self.name, ROWS_AT_ONCE, output_fields=["key", "digest"], timeout=SECONDS, consistency_level="Strong"
            )
            while page := pages.next():
                parts.append(np.array([(row["key"], row["digest"]) for row in page], np.int64))
            pages.close()
            return np.concatenate(parts)

        both = self._do(read)
        return both[:, 0], both[:, 1]

    def upsert(
        self,
        keys: Int64[np.ndarray, "n"],
        digests: Int64[np.ndarray, "n"],
        names: Sequence[str],
        vectors: Float[np.ndarray, "n d"],
    ) -> None:
        rows = [
            {"key": key, "digest": digest, "name": _text(name), "vector": vector}
            for key, digest, name, vector in zip(keys.tolist(), digests.tolist(), names, vectors, strict=True)
        ]
        self._do(lambda client: client.upsert(self.name, rows, timeout=SECONDS))

    def delete(self, keys: Int64[np.ndarray, "n"]) -> None:
        self._do(lambda client: client.delete(self.name, ids=keys.tolist(), timeout=SECONDS))

    def finish(self, method: str) -> None:
        def make(client: "MilvusClient") -> None:
            now = self._index(client)
            if now and (now == "FLAT") != (method == "exact"):
                client.release_collection(self.name, timeout=SECONDS)
                client.drop_index(self.name, "vector", timeout=SECONDS)
                now, self._loaded = "", False
            client.flush(self.name, timeout=SECONDS)
            if not now:
                self._make_index(client, method)
            self._load(client)

        self._do(make)

    def _index(self, client: "MilvusClient") -> str:
        """The kind of the index of the vectors; "" where there is none."""
        for name in client.list_indexes(self.name, field_name="vector", timeout=SECONDS):
            about = client.describe_index(self.name, name, timeout=SECONDS)
            if about:
                return str(about["index_type"])
        return ""

    def _make_index(self, client: "MilvusClient", method: str) -> None:
        parameters = client.prepare_index_params()
        if method == "exact":
            parameters.add_index("vector", index_type="FLAT", index_name="vector", metric_type="IP")
        else:
            building = {"M": 16, "efConstruction": 200}
            parameters.add_index("vector", index_type="HNSW", index_name="vector", metric_type="IP", params=building)
        client.create_index(self.name, parameters, timeout=SECONDS)

    def _load(self, client: "MilvusClient") -> None:
        """Has the server hold the collection ready, once for each connection."""
        if not self._loaded:
            if not self._index(client):  # Milvus loads nothing without one
                self._make_index(client, "exact")
            client.load_collection(self.name, timeout=SECONDS)
            self._loaded = True

    def search(self, queries: Float[np.ndarray, "q d"], k: int, method: str) -> list[Nearest]:
        def ask(client: "MilvusClient") -> list[Nearest]:
            self._load(client)
            found = client.search(
                self.name,
                data=list(np.ascontiguousarray(queries, np.float32)),
                anns_field="vector",
                limit=k,
                output_fields=["key"],
                search_params={"metric_type": "IP", "params": {"ef": k} if method == "hnsw" else {}},
                timeout=SECONDS,
                consistency_level="Strong",
            )
            out = []
            for hits in found:
                keys = np.fromiter((hit["key"] for hit in hits), np.int64, len(hits))
                out.append(Nearest(keys, np.fromiter((hit["distance"] for hit in hits), np.float32, len(hits))))
            return out

        return self._do(ask)

    def drop(self) -> None:
        self._do(lambda client: client.drop_collection(self.name, timeout=SECONDS))
        self._loaded = False

    def close(self) -> None:
        with self._lock:
            if self._client is not None:
                with contextlib.suppress(Exception):  # it may be lost already
                    self._client.close()
            self._client, self._loaded = None, False


def _status(error: BaseException | None) -> str:
    """The status of gRPC behind an error; "" where there is none."""
    import grpc

    seen: list[BaseException] = []  # pymilvus raises errors that are their own cause
    while error is not None and error not in seen:
        code = getattr(error, "code", None)
        code = code() if callable(code) else code
        if isinstance(code, grpc.StatusCode):
            return code.name
        seen.append(error)
        error = error.__cause__
    return ""


def _text(name: str) -> str:
    """A name as a VARCHAR can hold it, for people: what is no UTF-8 is escaped, and what is too long is cut."""
    return name.encode("utf-8", "backslashreplace")[:LONGEST_NAME].decode("utf-8", "ignore")
