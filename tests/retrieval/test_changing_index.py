"""An index from which rows are taken and to which others are added finds what one over the present rows finds.

By codes of fewer bits exact search finds the same as by float32, bit for bit, and reads only what may be among it.
"""

import json
import tracemalloc

import numpy as np
import pytest

from sret_jax.config import SearchConfig
from sret_jax.errors import UserError
from sret_jax.retrieval import changing_index, held_rows
from sret_jax.retrieval.changing_index import ChangingIndex
from sret_jax.retrieval.exact import cosines
from sret_jax.retrieval.held_rows import ReadRows
from sret_jax.storage.artifacts import DamagedError, seal_folder, write_json

STORES = ["float32", "float16", "int8"]
RNG = np.random.default_rng(0)
CENTRES = RNG.normal(size=(40, 32))


def rows(n: int) -> np.ndarray:
    x = CENTRES[RNG.integers(0, len(CENTRES), n)] + 0.7 * RNG.normal(size=(n, 32))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def exhaustive(present: dict[int, np.ndarray], query: np.ndarray, k: int) -> list[int]:
    return sorted(present, key=lambda id: (-float(np.float32(present[id] @ query)), id))[:k]


def reader(present: dict[int, np.ndarray], dim: int = 32) -> ReadRows:
    """Of rows that are there; one that is gone, or not there yet, cannot be read."""

    def read(ids: np.ndarray) -> np.ndarray:
        return np.array([present[id] for id in ids.tolist()], np.float32).reshape(len(ids), dim)

    return read


def over(x: np.ndarray, config: SearchConfig | None = None, ids: np.ndarray | None = None) -> ChangingIndex:
    ids = np.arange(len(x)) if ids is None else ids
    return ChangingIndex(ids, reader(dict(zip(ids.tolist(), x, strict=True)), x.shape[1]), config)


def changed(
    method: str, n: int = 600, rounds: int = 20, store: str = "float32"
) -> tuple[ChangingIndex, dict[int, np.ndarray]]:
    present = dict(enumerate(rows(n)))
    config = SearchConfig(method=method, store=store)
    index, following = ChangingIndex(np.arange(n), reader(present), config), n
    for _ in range(rounds):
        ids = np.arange(following, following + 30)
        present |= dict(zip(ids.tolist(), rows(30), strict=True))
        index.insert(ids)
        following += 30
        gone = RNG.choice(sorted(present), 30, replace=False)
        index.delete(gone)
        for id in gone.tolist():
            del present[id]
    return index, present


@pytest.mark.parametrize("store", STORES)
def test_exact_search_after_twenty_rounds_is_exhaustive(store):
    index, present = changed("exact", store=store)
    assert len(index) == 600 and sorted(index.ids.tolist()) == sorted(present)
    for query in rows(20):
        ids, scores = index.search(query, 25)
        assert ids.tolist() == exhaustive(present, query, 25)
        np.testing.assert_allclose(scores, [present[id] @ query for id in ids.tolist()], atol=1e-6)


def in_loops(present: dict[int, np.ndarray], query: np.ndarray, k: int) -> list[tuple[int, np.float32]]:
    """The k nearest, and their cosines, each summed for itself."""
    every = np.array([[0]])
    scored = [(id, cosines(query[None], row[None], every)[0, 0]) for id, row in present.items()]
    return sorted(scored, key=lambda one: (-one[1], one[0]))[:k]


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("seed", range(3))
def test_whatever_comes_and_goes_the_answers_are_those_of_a_loop(store, seed, monkeypatch):
    monkeypatch.setattr(held_rows, "ROWS_AT_ONCE", 7)
    monkeypatch.setattr(held_rows, "NUMBERS_AT_ONCE", 5 * 32)
    monkeypatch.setattr(changing_index, "INSERTED_AT_ONCE", 11)
    rng, present, following = np.random.default_rng(seed), {}, 0
    index = ChangingIndex(np.empty(0, np.int64), reader(present), SearchConfig(method="exact", store=store))
    for _ in range(60):
        match rng.integers(3):
            case 0:
                new = rows(int(rng.integers(1, 40)))
                new[1::3] = new[0]  # equal ones
                ids = np.arange(following, following + len(new))
                present |= dict(zip(ids.tolist(), new, strict=True))
                following += len(new)
                index.insert(ids)
            case 1 if present:
                gone = rng.choice(sorted(present), int(rng.integers(1, 1 + len(present) // 2 or 1)), replace=False)
                index.delete(gone)
                for id in gone.tolist():
                    del present[id]
            case _:
                query = rows(1)[0]
                for k in (1, 5, 1000):
                    ids, scores = index.search(query, k)
                    assert list(zip(ids.tolist(), scores, strict=True)) == in_loops(present, query, k)
        assert sorted(index.ids.tolist()) == sorted(present)


@pytest.mark.parametrize("store", ["float16", "int8"])
def test_rows_nearer_to_each_other_than_their_codes_are_told_apart(store):
    rng = np.random.default_rng(0)
    x = np.ones(32) + 1e-5 * rng.normal(size=(400, 32))
    x = np.concatenate([x, x[:50]])
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    right, index = over(x), over(x, SearchConfig(store=store))
    for query in x[::90]:
        for own, found in zip(right.search(query, 7), index.search(query, 7), strict=True):
            np.testing.assert_array_equal(found, own)


def test_a_row_beyond_the_scales_is_found_and_costs_no_other_row_its_code():
    x = rows(500)
    x[:, 7] /= 1000  # so is the scale of int8
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    present, read_rows = dict(enumerate(x)), []
    read = reader(present)
    config = SearchConfig(method="exact", store="int8")
    index = ChangingIndex(np.arange(500), lambda ids: read_rows.extend(ids.tolist()) or read(ids), config)
    far = np.eye(32, dtype=np.float32)[7]
    present |= {500: far, 501: -far}
    index.insert(np.array([500, 501]))
    query = (x[3] + far) / np.linalg.norm(x[3] + far)
    for one in (far, -far, query):
        read_rows.clear()
        ids, scores = index.search(one, 1)
        assert list(zip(ids.tolist(), scores, strict=True)) == in_loops(present, one, 1)
    read_rows.clear()
    index.search(x[3], 3)
    assert {3, 500, 501} <= set(read_rows) and len(read_rows) < 60


def test_scales_of_int8_are_learned_anew_from_what_has_come():
    index = over(rows(100), SearchConfig(method="exact", store="int8"))
    assert not index.outgrown
    present = dict(enumerate(rows(300)))
    few = ChangingIndex(np.arange(10), reader(present), SearchConfig(method="exact", store="int8"))
    few.insert(np.arange(10, 300))
    assert few.outgrown and few.search(present[200], 1)[0].tolist() == [200]


@pytest.mark.parametrize(("store", "size"), [("float32", 4), ("float16", 2), ("int8", 1)])
def test_rows_are_held_once_and_in_as_many_bytes_as_the_store_says(store, size, monkeypatch):
    """No float32 copy of all rows beside codes, and no second one of float32; the numbers of the rows are held too."""
    monkeypatch.setattr(held_rows, "ROWS_AT_ONCE", 256)
    n, dim = 20_000, 512
    drawn = np.random.default_rng(0).normal(size=(50, dim)).astype(np.float32)
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    tracemalloc.start()
    try:
        index = ChangingIndex(np.arange(n), lambda ids: drawn[ids % 50], SearchConfig(method="exact", store=store))
        index.search(drawn[3] + np.float32(0), 2)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    beside = 30 * 256 * dim + 4 * held_rows.NUMBERS_AT_ONCE + 400 * n
    assert size * n * dim < peak < size * n * dim + beside < 2 * 4 * n * dim
    assert store == "float32" or peak < 4 * n * dim


def test_only_what_may_be_among_the_answers_is_read():
    present = dict(enumerate(rows(2000)))
    read, seen = reader(present), []
    config = SearchConfig(method="exact", store="int8")
    index = ChangingIndex(np.arange(2000), lambda ids: seen.append(len(ids)) or read(ids), config)
    for query in rows(5):
        seen.clear()
        index.search(query, 10)
        assert 10 <= sum(seen) < 200


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("method", ["ah", "tree_ah"])
def test_recall_after_twenty_rounds_is_that_of_a_fresh_build(method, store):
    pytest.importorskip("scann")
    differences = []
    for _ in range(5):  # ScaNN trains on several threads, so that no two trees over the same rows are the same
        index, present = changed(method, store=store)
        fresh = ChangingIndex(np.array(sorted(present)), reader(present), SearchConfig(method=method, store=store))
        queries = rows(100)
        recall, expected = (
            np.mean([np.isin(exhaustive(present, q, 10), of.search(q, 10)[0]).mean() for q in queries])
            for of in (index, fresh)
        )
        differences.append(recall - expected)
        for query in queries[:10]:
            found, scores = index.search(query, 5)
            np.testing.assert_allclose(scores, [present[id] @ query for id in found.tolist()], atol=1e-5)
    assert np.mean(differences) >= -0.01


def test_brute_force_has_no_codes():
    with pytest.raises(UserError, match='set config.search.method="exact"'):
        over(rows(20), SearchConfig(method="brute_force", store="int8"))


@pytest.mark.parametrize("store", STORES)
def test_equal_rows_come_in_the_order_of_their_numbers(store):
    x = np.repeat(rows(2), 5, axis=0)
    index = over(x, SearchConfig(store=store), np.array([9, 3, 5, 1, 7, 8, 2, 4, 0, 6]))
    assert index.search(x[0], 3)[0].tolist() == [1, 3, 5]
    assert index.search(x[0], 5)[0].tolist() == [1, 3, 5, 7, 9]


def test_an_empty_index_finds_nothing_and_can_be_filled():
    x = rows(3)
    index = ChangingIndex(np.empty(0, np.int64), reader({4: x[0], 5: x[1], 6: x[2]}))
    assert len(index.search(rows(1)[0], 5)[0]) == 0
    index.insert(np.array([4, 5, 6]))
    assert index.search(x[1], 10)[0][0] == 5 and len(index.search(x[1], 10)[0]) == 3 and 5 in index
    index.delete(np.array([4, 5, 6]))
    assert len(index) == 0 and 5 not in index


def test_method_follows_the_size_and_says_when_it_is_outgrown(monkeypatch):
    monkeypatch.setattr(changing_index, "choose_method", lambda method, n: "ah" if n >= 100 else "brute_force")
    read = reader(dict(enumerate(rows(301))))
    index = ChangingIndex(np.arange(99), read)
    assert index.method == "exact" and not index.outgrown
    index.insert(np.array([99]))
    assert index.outgrown
    index = ChangingIndex(np.arange(200), read)
    assert index.method == "ah" and not index.outgrown
    index.insert(np.arange(200, 301))
    assert index.outgrown


@pytest.mark.parametrize("store", STORES)
def test_saved_index_goes_on_where_it_was(store, tmp_path):
    index, present = changed("tree_ah", rounds=2, store=store)
    folder, read, config = tmp_path / "index", reader(present), SearchConfig(store=store)
    index.save(folder, "one")
    loaded = ChangingIndex.load(folder, "one", read, config)
    assert ChangingIndex.load(folder, "another", read, config) is None
    assert ChangingIndex.load(tmp_path / "no", "", read, config) is None
    for other in set(STORES) - {store}:
        assert ChangingIndex.load(folder, "one", read, SearchConfig(store=other)) is None
    present[5000] = CENTRES[0].astype(np.float32) / np.linalg.norm(CENTRES[0])
    for own in (index, loaded):
        own.delete(np.array(sorted(present)[:10]))
        own.insert(np.array([5000]))
    for query in rows(10):
        np.testing.assert_array_equal(index.search(query, 10)[0], loaded.search(query, 10)[0])
    (folder / "ids.npy").write_bytes(b"no")
    with pytest.raises(DamagedError):
        ChangingIndex.load(folder, "one", read, config)


def test_an_index_kept_before_there_were_stores_is_of_float32(tmp_path):
    index, present = changed("ah", rounds=0)
    index.save(tmp_path / "index", "one")
    about = json.loads((tmp_path / "index/index.json").read_text())
    assert about.pop("store") == "float32"
    write_json(tmp_path / "index/index.json", about)
    seal_folder(tmp_path / "index")
    assert ChangingIndex.load(tmp_path / "index", "one", reader(present)).method == "ah"
    assert ChangingIndex.load(tmp_path / "index", "one", reader(present), SearchConfig(store="int8")) is None
