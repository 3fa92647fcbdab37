"""The table that a config names: `config.search.engine`, `server` and `table`."""

import re
from collections.abc import Callable

from sret_jax.config.validation import check_no_password
from sret_jax.errors import UserError, choices
from sret_jax.retrieval.engine import Table
from sret_jax.retrieval.milvus import MilvusTable
from sret_jax.retrieval.pgvector import PostgresTable
from sret_jax.storage.artifacts import fingerprint

SERVERS: dict[str, Callable[[str, str], Table]] = {"milvus": MilvusTable, "pgvector": PostgresTable}
LONGEST = 58  # characters: PostgreSQL has 63 for a name, and the index is named after the table


def open_table(engine: str, server: str, name: str) -> Table:
    """A table of a server, which is not asked yet.

    Args:
      engine: "milvus" or "pgvector".
      server: its address; see `MilvusTable`, `PostgresTable`.
      name: as `table_name` gives it.

    Raises `UserError` for another engine, without its library, and for an address that is none.
    """
    if engine not in SERVERS:
        raise UserError(f"engine {choices(engine, SERVERS)}")
    check_no_password(server)
    return SERVERS[engine](server, name)


def table_name(*parts: str) -> str:
    """A name for a table, of whatever it is for: lower-case letters, digits and _."""
    name = "_".join(re.sub(r"[^a-z0-9]+", "_", part.lower()).strip("_") for part in parts if part)
    name = name if name[:1].isalpha() else f"t_{name}"
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 9]}_{fingerprint(*parts)[:8]}"
