"""Search by codes of fewer bits finds what float32 finds, bit for bit, and holds less."""

import numpy as np
import pytest

from sret_jax.config import SearchConfig
from sret_jax.errors import UserError
from sret_jax.retrieval import exact, searcher
from sret_jax.retrieval.codes import WIDENED, Codes, encode, widened
from sret_jax.retrieval.exact import cosines, exact_top_k, normalized
from sret_jax.retrieval.index import Index

STORES = ["float16", "int8"]


def data(n: int, d: int = 24, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def names(n: int) -> list[str]:
    return [f"castle/{i:04d}.jpg" for i in range(n)]


def build(x: np.ndarray, store: str, **settings) -> Index:
    return Index.build(x, names(len(x)), SearchConfig(method="exact", store=store, **settings))


def in_loops(x: np.ndarray, store: str) -> tuple[np.ndarray, float]:
    """What the codes stand for, and how far the farthest of them is off."""
    back = np.zeros(x.shape)
    for i, row in enumerate(x):
        for j, number in enumerate(row):
            scale = np.float32(max(abs(x[:, j])) / np.float32(127)) or np.float32(1)
            back[i, j] = (
                float(np.float16(number)) if store == "float16" else round(float(number / scale)) * float(scale)
            )
    return back, max(np.linalg.norm(x.astype(np.float64) - back, axis=1))


@pytest.mark.parametrize("store", STORES)
def test_codes_are_those_of_the_definition(store):
    x = normalized(data(40), names(40))
    x[3] = 0
    x[3, 5] = 1  # one number, and zeros
    x[:, 8] = 0  # a dimension of zeros
    codes = encode(x, store)
    back, error = in_loops(x, store)
    found = codes.rows.astype(np.float64) * (1 if codes.scales is None else codes.scales.astype(np.float64))
    np.testing.assert_allclose(found, back, atol=1e-12)
    assert codes.error == pytest.approx(error) and 0 < error < (1e-3 if store == "float16" else 0.02)
    assert codes.rows.itemsize == (2 if store == "float16" else 1)
    ids = np.array([[0, 7, -1], [39, -1, -1]])
    scores = codes.scores(x[:2], ids)
    np.testing.assert_allclose(scores[0, :2], back[[0, 7]] @ x[0], atol=1e-6)
    assert np.isneginf(scores[ids < 0]).all()
    assert (np.abs(scores[ids >= 0] - cosines(x[:2], x, np.maximum(ids, 0))[ids >= 0]) <= error + 1e-6).all()


def test_every_float16_is_widened_as_it_is():
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    every = every[np.isfinite(every)].reshape(-1, 2)
    out = np.empty(every.shape, np.float32)
    widened(every, out)
    np.testing.assert_array_equal(out / np.float32(WIDENED), every.astype(np.float32))


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("chunk_rows", [7, 1000])
def test_scores_of_codes_are_theirs_in_chunks_of_any_size(store, chunk_rows):
    x = normalized(data(50), names(50))
    codes = encode(x, store)
    ids, scores = exact_top_k(x[:4], codes, 9, chunk_rows)
    everything = np.array([[row @ query for row in in_loops(x, store)[0]] for query in x[:4]])
    np.testing.assert_allclose(scores, -np.sort(-everything, axis=1)[:, :9], atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(everything, ids, 1), scores, atol=1e-6)


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("k", [1, 10, 300])
def test_what_is_found_by_codes_is_what_float32_finds(store, k, tmp_path):
    x = data(300)
    x[7], x[11:40] = x[200], x[3]  # equal ones, more than are looked at first
    queries = np.concatenate([x[3:8], data(6, seed=1)])
    right = build(x, "float32").search(queries, k)
    index = build(x, store, chunk_rows=64)
    index.save(tmp_path / "index")
    for found in (index.search(queries, k), Index.load(tmp_path / "index").search(queries, k)):
        np.testing.assert_array_equal(found.ids, right.ids)
        np.testing.assert_array_equal(found.scores, right.scores)


@pytest.mark.parametrize("store", STORES)
def test_rows_that_codes_cannot_tell_apart_are_told_apart(store, monkeypatch):
    """Nearer to each other than the codes are to them: all are looked at, in more than one round."""
    rng = np.random.default_rng(0)
    x = (np.ones(24) + 1e-5 * rng.normal(size=(400, 24))).astype(np.float32)
    rounds = []
    top = searcher.exact_top_k
    monkeypatch.setattr(searcher, "exact_top_k", lambda q, rows, k, c: rounds.append(k) or top(q, rows, k, c))
    found = build(x, store).search(x[:5] + 1e-5, 3)
    assert len(rounds) > 1
    np.testing.assert_array_equal(found.ids, build(x, "float32").search(x[:5] + 1e-5, 3).ids)


@pytest.mark.parametrize("store", STORES)
def test_rows_without_a_direction_are_refused_by_name(store):
    for bad in (0, np.nan, np.inf):
        x = data(20)
        x[13] = bad
        with pytest.raises(UserError, match="castle/0013.jpg: its descriptor is"):
            build(x, store)


@pytest.mark.parametrize(("store", "size"), [("float16", 2), ("int8", 1)])
def test_a_loaded_index_is_mapped_and_says_what_it_searches_by(store, size, tmp_path):
    index = build(data(500), store)
    index.save(tmp_path / "index")
    loaded = Index.load(tmp_path / "index")
    assert loaded.description == f"exact search on the device, {store} re-scored by float32, 500 photos x 24"
    codes = loaded._codes
    assert isinstance(codes, Codes) and isinstance(codes.rows.base, np.memmap)
    assert codes.rows.nbytes == size * 500 * 24 and isinstance(loaded.descriptors.base, np.memmap)


@pytest.mark.parametrize("store", STORES)
def test_the_memory_of_search_by_codes_is_bounded_by_chunk_rows(store, monkeypatch):
    monkeypatch.setattr(exact, "SCORES_AT_ONCE", 4096)
    monkeypatch.setattr(exact, "SCORES_OF_A_STEP", 4096)
    merge, used = exact._merge_top_k, {}

    def noted(best, queries, rows, first, seen, k):
        analysis = merge.lower(best, queries, rows, first, seen, k=k).compile().memory_analysis()
        used[n, chunk_rows] = (
            analysis.argument_size_in_bytes + analysis.temp_size_in_bytes + analysis.output_size_in_bytes
        )
        return merge(best, queries, rows, first, seen, k)

    monkeypatch.setattr(exact, "_merge_top_k", noted)
    for n, chunk_rows in [(500, 50), (2000, 50)]:
        build(data(n), store, chunk_rows=chunk_rows).search(data(8, seed=1), 2)
    # A chunk as codes and as floats, the queries, and a few arrays of scores.
    assert used[500, 50] == used[2000, 50] <= 6 * 24 * 50 + 4 * 24 * 8 + 8 * 4 * 8 * (50 + 2)


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("method", ["ah", "tree_ah"])
def test_what_scann_proposes_is_scored_again_by_codes_and_float32(method, store, tmp_path):
    pytest.importorskip("scann")
    x = data(400)
    x[5] = x[9]
    config = SearchConfig(method=method, store=store, reorder=400, leaves_to_search=400)
    index, right = Index.build(x, names(400), config), build(x, "float32").search(x[:9], 20)
    index.save(tmp_path / "index")
    assert not (tmp_path / "index/scann/dataset.npy").exists()  # it holds no descriptors of its own
    for found in (index.search(x[:9], 20), Index.load(tmp_path / "index").search(x[:9], 20)):
        np.testing.assert_array_equal(found.ids, right.ids)
        np.testing.assert_array_equal(found.scores, right.scores)
    few = Index.build(x, names(400), SearchConfig(method=method, store=store, leaves_to_search=1)).search(x[:9], 400)
    missing = few.ids < 0
    assert np.isneginf(few.scores[missing]).all() and np.isfinite(few.scores[~missing]).all()


def test_brute_force_has_no_codes():
    with pytest.raises(UserError, match="config.search.store='int8': .* set config.search.method=\"exact\""):
        Index.build(data(20), names(20), SearchConfig(method="brute_force", store="int8"))
    assert Index.build(data(20), names(20), SearchConfig(store="int8")).method == "exact"


def test_codes_are_searched_on_the_device_as_they_are(monkeypatch):
    seen = []
    merge = exact._merge_top_k
    monkeypatch.setattr(exact, "_merge_top_k", lambda b, q, rows, *rest: seen.append(rows) or merge(b, q, rows, *rest))
    build(data(40), "int8").search(data(2, seed=1), 3)
    assert seen and all(isinstance(rows, np.ndarray) and rows.dtype == np.int8 for rows in seen)
