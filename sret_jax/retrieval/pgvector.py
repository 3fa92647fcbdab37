"""PostgreSQL with pgvector as a `Table`: half-precision vectors, by HNSW or exactly. Only this file knows psycopg.

What is written of a table is a row of the table `sret_jax_tables` beside it. Passwords come from where libpq looks for
them, PGPASSWORD or ~/.pgpass, and never from the config. Names are parameters, or rows of a COPY.
"""

import contextlib
import importlib.util
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int64

from sret_jax.errors import UserError
from sret_jax.retrieval.engine import Nearest, ServerError, UnreachableError

if TYPE_CHECKING:
    import psycopg

TABLES = "sret_jax_tables"
LONGEST = 16_000  # dimensions of a halfvec
LONGEST_INDEXED = 4_000  # and of one in an HNSW index
MOST_EF = 1000  # of hnsw.ef_search; an iterative scan goes on behind it
SCANNED = 20_000  # rows that an iterative scan visits, pgvector's default
ROWS_AT_ONCE = 1 << 16
SECONDS_TO_CONNECT = 10
LOST = ("08", "57P01", "57P02", "57P03")  # SQLSTATE of a connection that is gone, and of a server that goes or comes
REFUSED = ("authentication failed", "no password supplied", "pg_hba.conf", "role ", "certificate")
STARTING = "start it, or look after config.search.server and the network; the same command goes on then"


class PostgresTable:
    """A table of a database; see `Table`.

    Attributes:
      rounding: two vectors of unit length, each component rounded to 11 bits, have a dot product that is off by 2^-10
        at most, and a little of the components that are too small for a half.
    """

    kind = "PostgreSQL with pgvector"
    rounding = 1.1e-3
    most = 1_000_000_000

    def __init__(self, server: str, name: str):
        """
        Args:
          server: a connection string of libpq, or its URI, without a password; "" for what PGHOST and the like say.
          name: of the table: lower-case letters, digits and _, 58 at most.

        Raises `UserError` without psycopg, and for a connection string that is none.
        """
        if importlib.util.find_spec("psycopg") is None:
            raise UserError(
                'config.search.engine="pgvector" needs psycopg: pip install "sret_jax[pgvector]", or psycopg[binary]'
            )
        import psycopg
        from psycopg import conninfo

        try:
            parts = conninfo.conninfo_to_dict(server)
        except psycopg.ProgrammingError as error:
            raise UserError(
                f"config.search.server: no connection string of PostgreSQL ({_line(error)}); write "
                "postgresql://USER@HOST:PORT/DATABASE, and the password into ~/.pgpass"
            ) from None
        self._server, self.name = server, name
        self._lock = threading.RLock()
        where = str(parts.get("host") or parts.get("service") or "its default host")
        where += f":{parts['port']}" if parts.get("port") else ""
        self.server = f"PostgreSQL at {where}" + (f"/{parts['dbname']}" if parts.get("dbname") else "")
        self._connection: psycopg.Connection[Any] | None = None

    @property
    def place(self) -> str:
        return f"{self.server}, table {self.name}"

    @property
    def deletion(self) -> str:
        return f"DROP TABLE {self.name}"

    @contextlib.contextmanager
    def _connected(self) -> Iterator["psycopg.Connection[Any]"]:
        """One transaction. What goes wrong becomes a `ServerError`; a connection that is lost is forgotten."""
        import psycopg

        with self._lock:
            try:
                if self._connection is None:
                    self._connection = psycopg.connect(
                        self._server,
                        autocommit=True,
                        connect_timeout=SECONDS_TO_CONNECT,
                        application_name="sret_jax",
                        keepalives_idle=30,
                        tcp_user_timeout=60_000,  # ms: a server that vanished does not hold a search for ever
                    )
                with self._connection.transaction():
                    yield self._connection
            except psycopg.Error as error:
                raise self._said(error) from None

    def _said(self, error: "psycopg.Error") -> ServerError:
        import psycopg

        code, text = error.sqlstate or "", _line(error)
        lost = self._connection is None or self._connection.closed or code.startswith(LOST)
        if lost:
            connecting = self._connection is None
            self.close()
            if code.startswith("28") or code == "3D000" or (connecting and any(said in text for said in REFUSED)):
                return ServerError(
                    f"{self.server}: refuses the login ({text}); name the user in config.search.server, and write the "
                    "password into ~/.pgpass or PGPASSWORD"
                )
            if connecting and "database" in text and "does not exist" in text:
                return ServerError(f"{self.server}: {text}; create it, or name another in config.search.server")
            return UnreachableError(f"{self.server}: does not answer ({text}); {STARTING}")
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            return ServerError(f"{self.place}: {text}; have its administrator grant it, or name another user")
        if code.startswith("53"):
            return ServerError(f"{self.place}: {text}; make room on the server, and run the same command again")
        return ServerError(f"{self.place}: {text}")

    def about(self) -> dict[str, Any] | None:
        with self._connected() as connection:
            there = connection.execute(
                "SELECT to_regclass(%s) IS NOT NULL, to_regclass(%s) IS NOT NULL", [self.name, TABLES]
            ).fetchone()
            assert there is not None
            if not there[0]:
                return None
            row = None
            if there[1]:
                row = connection.execute(_sql("SELECT about FROM {} WHERE name = %s", TABLES), [self.name]).fetchone()
        if row is None or not isinstance(row[0], dict):
            raise ServerError(f"{self.place}: a table of something else; choose another config.search.table")
        return row[0]

    def create(self, dim: int, method: str, about: dict[str, Any]) -> None:
        if dim > (LONGEST_INDEXED if method == "hnsw" else LONGEST):
            raise ServerError(
                f"{self.place}: descriptors of length {dim}: pgvector searches up to {LONGEST_INDEXED} by an index, "
                f"and {LONGEST} exactly (config.search.method=exact); describe with a smaller config.model.dim"
            )
        with self._connected() as connection:
            # Two processes at once would each find it missing.
            connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [TABLES])
            self._extend(connection)
            connection.execute(
                _sql("CREATE TABLE IF NOT EXISTS {} (name text PRIMARY KEY, about jsonb NOT NULL)", TABLES)
            )
            connection.execute(
                _sql(
                    "CREATE TABLE IF NOT EXISTS {} (key bigint PRIMARY KEY, digest bigint NOT NULL, "
                    f"name text NOT NULL, vector halfvec({int(dim)}) NOT NULL)",
                    self.name,
                )
            )
            self._write(connection, about)

    def _extend(self, connection: "psycopg.Connection[Any]") -> None:
        """Makes sure of pgvector, 0.8 or newer: halfvec, and scans that go on."""
        import psycopg

        find = "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
        found = connection.execute(find).fetchone()
        if found is None:
            try:
                with connection.transaction():
                    connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            except psycopg.errors.InsufficientPrivilege:
                raise ServerError(
                    f"{self.server}: pgvector is not enabled in this database; have its administrator say CREATE "
                    "EXTENSION vector"
                ) from None
            except (psycopg.errors.FeatureNotSupported, psycopg.errors.UndefinedFile):
                raise ServerError(f"{self.server}: has no pgvector; install pgvector 0.8 or newer on it") from None
            found = connection.execute(find).fetchone()
        version = found[0] if found else "0"
        if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < (0, 8):
            raise ServerError(
                f"{self.server}: has pgvector {version}; install 0.8 or newer, and say ALTER EXTENSION vector UPDATE"
            )

    def write_about(self, about: dict[str, Any]) -> None:
        with self._connected() as connection:
            self._write(connection, about)

    def _write(self, connection: "psycopg.Connection[Any]", about: dict[str, Any]) -> None:
        from psycopg.types.json import Jsonb

        insert = "INSERT INTO {} VALUES (%s, %s) ON CONFLICT (name) DO UPDATE SET about = excluded.about"
        connection.execute(_sql(insert, TABLES), [self.name, Jsonb(about)])

    def rows(self) -> tuple[Int64[np.ndarray, "n"], Int64[np.ndarray, "n"]]:
        parts = [np.empty((0, 2), np.int64)]
        with self._connected() as connection, connection.cursor(name="sret_rows", binary=True) as cursor:
            cursor.execute(_sql("SELECT key, digest FROM {}", self.name))
            while part := cursor.fetchmany(ROWS_AT_ONCE):
                parts.append(np.array(part, np.int64))
        both = np.concatenate(parts)
        return both[:, 0], both[:, 1]

    def upsert(
        self,
        keys: Int64[np.ndarray, "n"],
        digests: Int64[np.ndarray, "n"],
        names: Sequence[str],
        vectors: Float[np.ndarray, "n d"],
    ) -> None:
        # A halfvec on the wire: its length and a zero, 16 bits each, then the halves; big-endian.
        head = np.array([vectors.shape[1], 0], ">u2").tobytes()
        halves = vectors.astype(">f2")
        with self._connected() as connection, connection.cursor() as cursor:
            cursor.execute(
                "CREATE TEMPORARY TABLE IF NOT EXISTS sret_incoming "
                "(key bigint, digest bigint, name text, vector halfvec) ON COMMIT DELETE ROWS"
            )
            with cursor.copy("COPY sret_incoming FROM STDIN (FORMAT BINARY)") as copy:
                copy.set_types(["int8", "int8", "text", "bytea"])
                for key, digest, name, row in zip(keys.tolist(), digests.tolist(), names, halves, strict=True):
                    copy.write_row((key, digest, _text(name), head + row.tobytes()))
            cursor.execute(
                _sql(
                    "INSERT INTO {} SELECT key, digest, name, vector FROM sret_incoming ON CONFLICT (key) DO UPDATE "
                    "SET digest = excluded.digest, name = excluded.name, vector = excluded.vector",
                    self.name,
                )
            )

    def delete(self, keys: Int64[np.ndarray, "n"]) -> None:
        with self._connected() as connection:
            connection.execute(_sql("DELETE FROM {} WHERE key = ANY(%s)", self.name), [keys.tolist()])

    def finish(self, method: str) -> None:
        with self._connected() as connection:
            index = f"{self.name}_hnsw"
            # Looked for first: who may only read has no right to make what is there already.
            if method == "hnsw" and connection.execute("SELECT to_regclass(%s)", [index]).fetchone() == (None,):
                make = "CREATE INDEX IF NOT EXISTS {} ON {} USING hnsw (vector halfvec_ip_ops)"
                connection.execute(_sql(make, index, self.name))
            connection.execute(_sql("ANALYZE {}", self.name))

    def search(self, queries: Float[np.ndarray, "q d"], k: int, method: str) -> list[Nearest]:
        with self._connected() as connection, connection.cursor(binary=True) as cursor:
            cursor.execute(
                "SELECT set_config('hnsw.ef_search', %s, true), set_config('hnsw.iterative_scan', %s, true), "
                "set_config('hnsw.max_scan_tuples', %s, true), set_config('enable_indexscan', %s, true)",
                [
                    str(min(MOST_EF, max(1, k))),
                    "relaxed_order",
                    str(min(2**31 - 1, max(SCANNED, 4 * k))),
                    "off" if method == "exact" else "on",
                ],
            )
            select = _sql(
                "SELECT key, -(vector <#> %(query)s::halfvec) FROM {} ORDER BY vector <#> %(query)s::halfvec "
                "LIMIT %(k)s",
                self.name,
            )
            asked = [{"query": f"[{','.join(f'{x:.9g}' for x in query.tolist())}]", "k": k} for query in queries]
            cursor.executemany(select, asked, returning=True)
            found = []
            for _ in asked:
                rows = cursor.fetchall()
                keys = np.fromiter((row[0] for row in rows), np.int64, len(rows))
                found.append(Nearest(keys, np.fromiter((row[1] for row in rows), np.float32, len(rows))))
                cursor.nextset()
        return found

    def drop(self) -> None:
        with self._connected() as connection:
            connection.execute(_sql("DROP TABLE IF EXISTS {}", self.name))
            if connection.execute("SELECT to_regclass(%s)", [TABLES]).fetchone() != (None,):
                connection.execute(_sql("DELETE FROM {} WHERE name = %s", TABLES), [self.name])

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                with contextlib.suppress(Exception):  # it may be lost already
                    self._connection.close()
                self._connection = None


def _sql(text: str, *names: str) -> Any:
    """A statement with names of tables in it, quoted; values are parameters."""
    from psycopg import sql

    return sql.SQL(text).format(*map(sql.Identifier, names))


def _text(name: str) -> str:
    """A name as a text of PostgreSQL can hold it, for people: what is no UTF-8 is escaped."""
    return name.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def _line(error: Exception) -> str:
    """What an error says, on one line."""
    said = getattr(getattr(error, "diag", None), "message_primary", None) or str(error) or type(error).__name__
    said = said.rpartition("failed: ")[2].partition("Is the server running")[0]  # of what libpq says of a connection
    return " ".join(said.split())[:300]
