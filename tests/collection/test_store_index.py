"""An index over a store follows it, whatever descriptors are held as, and reads of the disk what it does not hold."""

import numpy as np
import pytest

from sret_jax.collection.store import Store
from sret_jax.collection.store_index import StoreIndex, kept_about
from sret_jax.config import SearchConfig
from sret_jax.retrieval import changing_index
from sret_jax.storage.artifacts import DamagedError
from tests.support.stores import add_drawn, drawn_store

DIM = 16
STORES = ["float32", "float16", "int8"]


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture
def store(tmp_path) -> Store:
    return drawn_store(tmp_path, DIM)


def exact(store: Store, by: str) -> StoreIndex:
    return StoreIndex(store, SearchConfig(method="exact", store=by))


@pytest.mark.parametrize("by", ["float16", "int8"])
def test_answers_are_those_of_float32_while_photographs_come_and_go(store, by, monkeypatch):
    indexes = [exact(store, "float32"), exact(store, by)]

    def refused(*_) -> None:
        raise AssertionError("all descriptors at once")

    monkeypatch.setattr(Store, "descriptors", refused)
    for round in range(1, 8):
        for seed in range(3):
            query = unit(np.random.default_rng(100 + seed).normal(size=DIM))
            for k in (1, 10, 500):
                right, found = (own.follow().search(query, k) for own in indexes)
                for one, other in zip(right, found, strict=True):
                    np.testing.assert_array_equal(other, one)
        live = sorted(store.state.live)
        add_drawn(store, 10 * round, round, removed=tuple(live[:: 3 + round]))


@pytest.mark.parametrize("by", ["float16", "int8"])
def test_a_candidate_that_changed_on_the_disk_is_named(store, by):
    index, query = exact(store, by).follow(), store.descriptor(7).copy()
    path = store.generation / "descriptors"
    content = bytearray(path.read_bytes())
    content[4 * DIM * 7] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedError, match="the descriptor of '0/7.jpg' changed since it was written"):
        index.search(query, 3)


@pytest.mark.parametrize("by", STORES)
def test_rows_that_could_not_be_read_are_read_again(store, by, monkeypatch):
    monkeypatch.setattr(changing_index, "INSERTED_AT_ONCE", 4)
    index = exact(store, by)
    index.follow()
    add_drawn(store, 20, 1)
    path = store.generation / "descriptors"
    sound = path.read_bytes()
    path.write_bytes(sound[: 4 * DIM * 70])
    with pytest.raises(DamagedError):
        index.follow()
    path.write_bytes(sound)
    assert sorted(index.follow().ids.tolist()) == list(range(80))
    query = store.descriptor(75)
    np.testing.assert_array_equal(index.follow().search(query, 9)[0], exact(store, by).follow().search(query, 9)[0])


def test_what_was_kept_by_another_store_is_built_again(store):
    pytest.importorskip("scann")
    rows = range(60)
    queries = [store.descriptor(row) for row in rows]
    config = SearchConfig(method="ah", reorder=60, store="int8")
    index = StoreIndex(store, config)
    index.follow()
    index.keep()
    assert kept_about(store)[0] == "ah" and StoreIndex(store, config).method == "ah"
    other = StoreIndex(store, SearchConfig(method="ah", reorder=60))
    assert other.method == ""
    for query in queries[:5]:
        right = exact(store, "float32").follow().search(query, 5)
        for own in (StoreIndex(store, config), other):
            ids, scores = own.follow().search(query, 5)
            np.testing.assert_array_equal(ids, right[0])
            np.testing.assert_allclose(scores, right[1], rtol=0, atol=1e-6)
    other.keep()
    assert StoreIndex(store, config).method == ""
