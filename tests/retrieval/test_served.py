"""A table in a server is kept equal to our descriptors, and answers are scored as an index scores them."""

import dataclasses

import numpy as np
import pytest

from sret_jax.config import SearchConfig
from sret_jax.errors import UserError
from sret_jax.extraction.origin import Descriptors
from sret_jax.retrieval import engine, served
from sret_jax.retrieval.engine import ServerError, UnreachableError
from sret_jax.retrieval.index import Index
from sret_jax.retrieval.recall import index_recall
from sret_jax.retrieval.served import ServedIndex, keys_of
from sret_jax.retrieval.servers import open_table, table_name
from tests.support.tables import MemoryTable

EXACT = SearchConfig(method="exact")


@pytest.fixture(autouse=True)
def seconds(monkeypatch) -> list[float]:
    """Those that somebody waited, of a clock that runs only while they do."""
    waited: list[float] = []
    monkeypatch.setattr(engine.time, "sleep", waited.append)
    monkeypatch.setattr(engine.time, "monotonic", lambda: sum(waited))
    return waited


def photos(n: int = 200, dim: int = 16, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """Descriptors in groups, twins among them, by names that are not harmless."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n // 10, dim))[rng.integers(0, n // 10, n)] + 0.3 * rng.normal(size=(n, dim))
    x[n // 2 : n // 2 + 5] = x[:5]
    return x.astype(np.float32), [f'it\'s "{i}"; DROP TABLE t; -- \udc80.jpg' for i in range(n)]


def build(table: MemoryTable, x, names, config: SearchConfig = EXACT) -> ServedIndex:
    return ServedIndex.build(x, names, table, config, patience=0.0)


@pytest.mark.parametrize("k", [1, 7, 200])
def test_the_answers_and_scores_are_those_of_an_index(k):
    x, names = photos()
    queries = np.concatenate([x[:20], np.random.default_rng(1).normal(size=(50, 16)).astype(np.float32)])
    own, other = Index.build(x, names, EXACT).search(queries, k), build(MemoryTable(), x, names).search(queries, k)
    np.testing.assert_array_equal(other.ids, own.ids)
    np.testing.assert_array_equal(other.scores, own.scores)
    assert other.names(0) == own.names(0)


def test_an_exact_search_asks_for_more_where_rounding_could_hide_an_answer():
    """All but one of the photographs are nearer to each other than the server can tell."""
    rng = np.random.default_rng(0)
    x = np.ones((300, 16)) + 1e-4 * rng.normal(size=(300, 16))
    names = [f"{i}" for i in range(300)]
    table = MemoryTable()
    found = build(table, x.astype(np.float32), names).search(np.ones((1, 16), np.float32), 5)
    assert found.names(0) == Index.build(x.astype(np.float32), names, EXACT).search(
        np.ones((1, 16), np.float32), 5
    ).names(0)
    assert len(table.searched) > 1 and max(table.searched) >= 300


def test_what_is_unchanged_is_not_uploaded_again():
    x, names = photos()
    table = MemoryTable()
    first = build(table, x, names)
    assert table.upserted == 200 and table.finished == "exact"
    again = build(table, x, names)
    assert table.upserted == 200 and again.fingerprint == first.fingerprint
    order = np.random.default_rng(0).permutation(200)
    shuffled = build(table, x[order], [names[i] for i in order])
    assert table.upserted == 200 and shuffled.search(x[:3], 1).names(0) == [names[0]]


def test_only_what_changed_is_uploaded_and_what_is_gone_is_deleted():
    x, names = photos()
    table = MemoryTable()
    first = build(table, x, names)
    x[3] += 1
    changed = build(table, x, names)
    assert (table.upserted, table.deleted) == (201, 0) and changed.fingerprint != first.fingerprint
    more = changed.add(x[:1] + 9, ["new"])
    fewer = more.remove([names[0], names[7]])
    assert (table.upserted, table.deleted) == (202, 2) and len(fewer) == 199
    assert fewer.search(x[:1] + 9, 1).names(0) == ["new"]
    kept = [i for i in range(200) if i not in (0, 7)]
    rows, own = np.concatenate([x[kept], x[:1] + 9]), [names[i] for i in kept] + ["new"]
    np.testing.assert_array_equal(fewer.search(x, 5).ids, Index.build(rows, own, EXACT).search(x, 5).ids)
    with pytest.raises(UserError, match="'nobody'"):
        fewer.remove(["nobody"])


def test_an_upload_that_was_cut_off_goes_on(monkeypatch):
    monkeypatch.setattr(served, "BATCH", 30)
    x, names = photos()
    for calls in range(1, 12):
        table = MemoryTable()
        table.fail_after, table.lost = calls, -1
        with pytest.raises(UnreachableError, match="memory: does not answer"):
            build(table, x, names)
        before, table.lost = table.upserted, 0
        assert build(table, x, names).search(x[:1], 1).names(0) == [names[0]]
        assert table.upserted == 200 and before % 30 in (0, 20)


def test_an_upload_waits_for_a_server_that_comes_back(seconds, caplog):
    x, names = photos()
    table = MemoryTable()
    table.fail_after, table.lost = 3, 5
    assert ServedIndex.build(x, names, table, EXACT, patience=60.0).search(x[:1], 1).names(0) == [names[0]]
    assert 3 <= sum(seconds) <= 10 and [r.message for r in caplog.records] == [
        "memory: does not answer (waiting up to 60 s)"
    ]


def test_a_search_asks_once_more_and_no_longer(seconds):
    x, names = photos()
    table = MemoryTable()
    index = build(table, x, names)
    table.lost = 1
    assert index.search(x[:1], 1).names(0) == [names[0]]
    table.lost = -1
    with pytest.raises(UnreachableError):
        index.search(x[:1], 1)
    table.lost = 0
    assert index.search(x[:1], 1).names(0) == [names[0]] and sum(seconds) == 0


def test_a_table_of_another_network_or_of_other_photographs_is_left_alone():
    x, names = photos()
    table = MemoryTable()
    index = build(table, Descriptors.of(x, "one"), names)
    before = dict(table.stored)
    for other, other_names, why in (
        (x[:, :8], names, "length 16, not 8: of another network"),
        (Descriptors.of(x, "two"), names, r"another retriever \(one, not two\)"),
        (x, [f"other {i}" for i in range(200)], "holds 200 other photographs and none of these"),
    ):
        with pytest.raises(ServerError, match=rf"memory, table t: .*{why}.*config.search.table.*forget it"):
            build(table, other, other_names)
    assert table.stored == before
    with pytest.raises(UserError, match="different retrievers"):
        index.search(Descriptors.of(x[:1], "two"), 1)


def test_a_table_that_another_program_changes_is_said():
    x, names = photos()
    table = MemoryTable()
    index = build(table, x, names)
    build(table, x, names).add(x[:1], ["somebody else's"])
    with pytest.raises(ServerError, match="another program changed it"):
        index.search(x[:1], 3)


def test_recall_of_an_approximate_search_is_measured():
    x, names = photos()
    index = build(MemoryTable(), x, names, SearchConfig(method="hnsw", reorder=20))
    assert index.method == "hnsw" and index.table.searched == []
    assert index_recall(index, x, 20)["recall@10"] == 100 and set(index.table.searched) == {20}
    assert index_recall(build(MemoryTable(), x, names), x, 20) == {}


def test_the_method_follows_from_the_number_of_photographs():
    assert served.method_of(SearchConfig(), 19_999) == "exact" and served.method_of(SearchConfig(), 20_000) == "hnsw"
    with pytest.raises(UserError, match="config.search.method='ah'"):
        served.method_of(SearchConfig(method="ah", engine="milvus"), 10)


@pytest.mark.parametrize(
    ("k", "queries", "why"),
    [
        (0, np.ones((1, 16)), "choose 1 to 200"),
        (201, np.ones((1, 16)), "choose 1 to 200"),
        (150, np.ones((1, 16)), "config.eval.ranked"),
        (1, np.ones((1, 8)), "not the same network"),
        (1, np.zeros((1, 16)), "query 0: its descriptor is zero"),
    ],
)
def test_a_search_that_cannot_be_is_said(k, queries, why):
    x, names = photos()
    with pytest.raises(UserError, match=why):
        build(MemoryTable(most=100), x, names).search(queries.astype(np.float32), k)


@pytest.mark.parametrize(
    ("x", "names", "why"),
    [
        (np.ones((2, 4)), ["a"], "2 descriptors but 1 names"),
        (np.ones((0, 4)), [], "no photo to search"),
        (np.ones((2, 4)), ["a", "a"], "'a' occurs twice"),
        (np.zeros((1, 4)), ["a"], "a: its descriptor is zero"),
    ],
)
def test_descriptors_that_cannot_be_searched_are_said(x, names, why):
    with pytest.raises(UserError, match=why):
        build(MemoryTable(), x.astype(np.float32), names)


def test_names_of_one_hash_are_said(monkeypatch):
    monkeypatch.setattr(served, "_hash", lambda data: len(data))
    with pytest.raises(UserError, match="'ab' and 'cd' have the same hash"):
        keys_of(["ab", "x", "cd"])


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        (("sret", "9f0c", "roxford5k+1m"), "sret_9f0c_roxford5k_1m"),
        (("sret", "Ünï; DROP TABLE x"), "sret_n_drop_table_x"),
        (("1",), "t_1"),
    ],
)
def test_a_name_of_a_table_is_harmless(parts, name):
    assert table_name(*parts) == name


def test_long_names_of_tables_are_cut_and_stay_apart():
    one, other = (table_name("sret", 100 * "a", end) for end in "xy")
    assert one != other and len(one) == len(other) == 58


@pytest.mark.parametrize(
    "server",
    [
        "postgresql://me:hidden@host/db",
        "host=there password=hidden",
        "host=there PASSWORD = 'hidden'",
        "postgresql://me@host/db?password=hidden",
        "http://root:hidden@host:19530",
        "http://host:19530?token=hidden",
    ],
)
def test_a_password_in_an_address_is_refused_and_not_shown(server):
    with pytest.raises(UserError, match="holds a password") as error:
        open_table("pgvector", server, "t")
    assert "hidden" not in str(error.value)


def test_an_engine_without_its_library_says_what_to_install(monkeypatch):
    from sret_jax.retrieval import milvus, pgvector

    for module, wanted, server in ((milvus, "pymilvus", "http://x"), (pgvector, "psycopg", "")):
        monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(UserError, match=f"needs {wanted}: pip install"):
            open_table(module.__name__.rpartition(".")[2], server, "t")
    with pytest.raises(UserError, match="did you mean 'milvus'"):
        open_table("milvis", "", "t")


def test_candidates_are_as_many_as_the_config_says():
    x, names = photos()
    table = MemoryTable()
    index = build(table, x, names, SearchConfig(method="hnsw"))
    index.search(x[:1], 3)
    index.config = dataclasses.replace(index.config, reorder=50)
    index.search(x[:1], 3)
    index.search(x[:1], 60)
    assert table.searched == [100, 50, 60]
