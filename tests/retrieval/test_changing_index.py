"""An index from which rows are taken and to which others are added finds what one over the present rows finds."""

import numpy as np
import pytest

from sret_jax.config import SearchConfig
from sret_jax.retrieval import changing_index
from sret_jax.retrieval.changing_index import ChangingIndex
from sret_jax.storage.artifacts import DamagedError

RNG = np.random.default_rng(0)
CENTRES = RNG.normal(size=(40, 32))


def rows(n: int) -> np.ndarray:
    x = CENTRES[RNG.integers(0, len(CENTRES), n)] + 0.7 * RNG.normal(size=(n, 32))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def exhaustive(present: dict[int, np.ndarray], query: np.ndarray, k: int) -> list[int]:
    return sorted(present, key=lambda id: (-float(np.float32(present[id] @ query)), id))[:k]


def changed(method: str, n: int = 600, rounds: int = 20) -> tuple[ChangingIndex, dict[int, np.ndarray]]:
    x = rows(n)
    present = dict(enumerate(x))
    index, following = ChangingIndex(np.arange(n), x, SearchConfig(method=method)), n
    for _ in range(rounds):
        new = rows(30)
        ids = np.arange(following, following + 30)
        index.insert(ids, new)
        present |= dict(zip(ids.tolist(), new, strict=True))
        following += 30
        gone = RNG.choice(sorted(present), 30, replace=False)
        index.delete(gone)
        for id in gone.tolist():
            del present[id]
    return index, present


def test_exact_search_after_twenty_rounds_is_exhaustive():
    index, present = changed("exact")
    assert len(index) == 600 and sorted(index.ids.tolist()) == sorted(present)
    for query in rows(20):
        ids, scores = index.search(query, 25)
        assert ids.tolist() == exhaustive(present, query, 25)
        np.testing.assert_allclose(scores, [present[id] @ query for id in ids.tolist()], atol=1e-6)


@pytest.mark.parametrize("method", ["ah", "tree_ah"])
def test_recall_after_twenty_rounds_is_that_of_a_fresh_build(method):
    index, present = changed(method)
    ids = np.array(sorted(present))
    fresh = ChangingIndex(ids, np.stack([present[id] for id in ids.tolist()]), SearchConfig(method=method))

    def recall(of: ChangingIndex, queries: np.ndarray) -> float:
        return np.mean([np.isin(exhaustive(present, q, 10), of.search(q, 10)[0]).mean() for q in queries])

    queries = rows(100)
    assert recall(index, queries) >= recall(fresh, queries) - 0.01
    for query in queries[:10]:
        found, scores = index.search(query, 5)
        np.testing.assert_allclose(scores, [present[id] @ query for id in found.tolist()], atol=1e-5)


def test_equal_rows_come_in_the_order_of_their_numbers():
    x = np.repeat(rows(2), 5, axis=0)
    index = ChangingIndex(np.array([9, 3, 5, 1, 7, 8, 2, 4, 0, 6]), x)
    assert index.search(x[0], 3)[0].tolist() == [1, 3, 5]
    assert index.search(x[0], 5)[0].tolist() == [1, 3, 5, 7, 9]


def test_an_empty_index_finds_nothing_and_can_be_filled():
    index = ChangingIndex(np.empty(0, np.int64), np.empty((0, 32), np.float32))
    assert len(index.search(rows(1)[0], 5)[0]) == 0
    x = rows(3)
    index.insert(np.array([4, 5, 6]), x)
    assert index.search(x[1], 10)[0][0] == 5 and len(index.search(x[1], 10)[0]) == 3 and 5 in index
    index.delete(np.array([4, 5, 6]))
    assert len(index) == 0 and 5 not in index


def test_method_follows_the_size_and_says_when_it_is_outgrown(monkeypatch):
    monkeypatch.setattr(changing_index, "choose_method", lambda method, n: "ah" if n >= 100 else "brute_force")
    index = ChangingIndex(np.arange(99), rows(99))
    assert index.method == "exact" and not index.outgrown
    index.insert(np.array([99]), rows(1))
    assert index.outgrown
    index = ChangingIndex(np.arange(200), rows(200))
    assert index.method == "ah" and not index.outgrown
    index.insert(np.arange(200, 301), rows(101))
    assert index.outgrown


def test_saved_index_goes_on_where_it_was(tmp_path):
    index, present = changed("tree_ah", rounds=2)
    index.save(tmp_path / "index", "one")
    loaded = ChangingIndex.load(tmp_path / "index", "one")
    assert ChangingIndex.load(tmp_path / "index", "another") is None and ChangingIndex.load(tmp_path / "no", "") is None
    for own in (index, loaded):
        own.delete(np.array(sorted(present)[:10]))
        own.insert(np.array([5000]), CENTRES[:1].astype(np.float32) / np.linalg.norm(CENTRES[0]))
    for query in rows(10):
        np.testing.assert_array_equal(index.search(query, 10)[0], loaded.search(query, 10)[0])
    (tmp_path / "index" / "ids.npy").write_bytes(b"no")
    with pytest.raises(DamagedError):
        ChangingIndex.load(tmp_path / "index", "one")
