"""Exact search against numpy, ScaNN against exact search, and indexes that are damaged or hostile on disk."""

import json
import os
import pickle
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sret_jax.config import SearchConfig
from sret_jax.errors import UserError
from sret_jax.retrieval import exact
from sret_jax.retrieval import index as search
from sret_jax.retrieval.index import Index
from sret_jax.retrieval.recall import index_recall
from sret_jax.storage.artifacts import MANIFEST, DamagedError, seal_folder

scann = pytest.importorskip("scann") if os.uname().sysname == "Linux" else None
METHODS = ["exact", "brute_force", "ah", "tree_ah"]


def data(n: int, d: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def names(n: int) -> list[str]:
    return [f"castle/{i:04d}.jpg" for i in range(n)]


def build(x, method="exact", **settings) -> Index:
    return Index.build(x, names(len(x)), SearchConfig(method=method, **settings))


def in_numpy(queries: np.ndarray, x: np.ndarray) -> np.ndarray:
    q, x = (v.astype(np.float64) / np.linalg.norm(v.astype(np.float64), axis=1, keepdims=True) for v in (queries, x))
    return np.argsort(-np.round(q @ x.T, 12), axis=1, kind="stable")


@pytest.mark.parametrize("chunk_rows", [7, 64, 1000])
@pytest.mark.parametrize("k", [1, 10, 300])
def test_exact_is_the_full_sort(chunk_rows, k):
    x, queries = data(300), data(5, seed=1)
    result = build(x, chunk_rows=chunk_rows).search(queries, k)
    np.testing.assert_array_equal(result.ids, in_numpy(queries, x)[:, :k])
    assert (np.diff(result.scores, axis=1) <= 0).all()


@pytest.mark.parametrize("k", [1, 20, 2000])
def test_exact_and_brute_force_give_the_same_ids(k):
    x, queries = data(2000, 64), data(50, 64, seed=1)
    exact, brute = build(x, chunk_rows=300).search(queries, k), build(x, "brute_force").search(queries, k)
    np.testing.assert_array_equal(exact.ids, brute.ids)
    np.testing.assert_array_equal(exact.scores, brute.scores)


@pytest.mark.parametrize("n", [1, 15, 16, 200, 1023, 5000])
@pytest.mark.parametrize("k", [1, 7, 50])
@pytest.mark.parametrize("kinds", [2, 40, 10**6], ids=["ties", "some ties", "distinct"])
def test_the_largest_by_blocks_are_the_largest_of_all(n, k, kinds):
    x = np.random.default_rng(n).integers(0, kinds, (6, n)).astype(np.float32)
    x[x == 0] = -np.inf
    k = min(k, n)
    scores, index = exact.top_k(jnp.asarray(x), k)
    expected = np.argsort(-x, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(index, expected)
    np.testing.assert_array_equal(scores, np.take_along_axis(x, expected, 1))


@pytest.mark.parametrize("method", ["exact", "brute_force"])
@pytest.mark.parametrize("k", [3, 40, 100])
def test_equal_scores_come_in_the_order_of_the_index(method, k):
    x = np.tile(data(4), (60, 1))  # 60 copies of each photo
    result = build(x, method, chunk_rows=37).search(x[:4], k)
    np.testing.assert_array_equal(result.ids[:, : min(k, 60)], np.arange(4)[:, None] + 4 * np.arange(min(k, 60))[None])


@pytest.mark.parametrize("method", METHODS)
def test_the_descriptors_are_saved_once_and_mapped_when_loaded(method, tmp_path):
    index = build(data(2000, 128), method)
    index.save(tmp_path / "index")
    saved = sum(file.stat().st_size for file in (tmp_path / "index").rglob("*") if file.is_file())
    assert saved < 1.5 * 2000 * 128 * 4  # beside them: the names, and 2 bits a number to search by
    loaded = Index.load(tmp_path / "index").descriptors
    assert isinstance(loaded.base, np.memmap)
    np.testing.assert_array_equal(loaded, index.descriptors)


@pytest.mark.parametrize("method", METHODS)
def test_a_photo_finds_itself_first(method):
    x = data(400)
    result = build(x, method).search(x[:20], 5)
    np.testing.assert_array_equal(result.ids[:, 0], np.arange(20))
    np.testing.assert_allclose(result.scores[:, 0], 1, atol=1e-6)
    assert result.names(3)[0] == "castle/0003.jpg"


def test_missing_results_are_masked_and_never_photo_0():
    x = data(400)
    index = build(x, "tree_ah", leaves_to_search=1)
    result = index.search(x[1:9], 400)
    missing = result.ids < 0
    assert missing.any() and not missing.all()
    assert (result.ids[missing] == -1).all() and np.isneginf(result.scores[missing]).all()
    for i in range(8):
        found = result.ids[i][~missing[i]]
        assert len(set(found)) == len(found) == len(result.names(i))
        assert not missing[i][: len(found)].any(), "what is missing comes last"


def test_length_does_not_matter():
    x, queries = data(50), data(3, seed=1)
    one, other = build(x).search(queries, 50), build(x * 7).search(queries * 1e-3, 50)
    np.testing.assert_array_equal(one.ids, other.ids)


@pytest.mark.parametrize(("n", "method"), [(19_999, "brute_force"), (20_000, "ah"), (100_000, "tree_ah")])
def test_auto_follows_the_size_rules(n, method):
    assert search.choose_method("auto", n) == method
    leaves = search.method_settings("tree_ah", n, SearchConfig())["leaves"]
    assert (leaves / 2) ** 2 <= n < (leaves / 2 + 1) ** 2


def test_the_description_says_what_was_built():
    assert build(data(30), "auto").description == "ScaNN brute force, 30 photos x 32"
    assert "tree of 40 leaves, 40 searched" in build(data(400), "tree_ah", leaves_to_search=99).description


def test_without_scann_exact_search_says_so(monkeypatch, caplog):
    monkeypatch.setattr(search, "has_scann", lambda: False)
    index = build(data(30), "auto")
    assert index.method == "exact" and "exact search takes its place" in caplog.text


def test_an_index_saved_with_scann_loads_without_it(tmp_path, monkeypatch):
    x = data(30)
    before = build(x, "brute_force")
    before.save(tmp_path / "index")
    monkeypatch.setattr(search, "has_scann", lambda: False)
    after = Index.load(tmp_path / "index")
    assert after.method == "exact"
    np.testing.assert_array_equal(after.search(x, 30).ids, before.search(x, 30).ids)


def test_add_appends():
    x = data(60)
    index = build(x[:40], "brute_force").add(x[40:] * 3, names(60)[40:])
    np.testing.assert_array_equal(index.search(x[:5], 60).ids, build(x, "brute_force").search(x[:5], 60).ids)
    with pytest.raises(UserError, match="occurs twice"):
        index.add(x[:1], names(1))
    with pytest.raises(UserError, match="length 3 added to an index of 32"):
        index.add(np.ones((1, 3), np.float32), ["new"])


@pytest.mark.parametrize(
    ("k", "queries", "text"),
    [
        (31, data(2), "k=31: the index has 30 photos; choose 1 to 30, or add photos"),
        (0, data(2), "k=0: the index has"),
        (1, data(2, 8), "queries of length 8 but an index of 32"),
        (1, np.zeros((1, 32), np.float32), "query 0: its descriptor is zero"),
        (1, np.full((1, 32), np.nan, np.float32), "query 0: its descriptor is not finite"),
    ],
)
def test_bad_searches_name_the_remedy(k, queries, text):
    with pytest.raises(UserError, match=text):
        build(data(30)).search(queries, k)


def test_bad_descriptors_are_refused_by_name():
    x = data(5)
    x[3] = np.inf
    with pytest.raises(UserError, match="castle/0003.jpg: its descriptor is not finite"):
        build(x)
    with pytest.raises(UserError, match="'a' occurs twice"):
        Index.build(data(2), ["a", "a"])
    with pytest.raises(UserError, match="2 descriptors but 1 names"):
        Index.build(data(2), ["a"])
    with pytest.raises(UserError, match="no photo"):
        Index.build(data(0), [])
    with pytest.raises(UserError, match="at least 16 photos"):
        build(data(15), "tree_ah")


@pytest.mark.parametrize("method", METHODS)
def test_a_saved_index_can_be_moved_and_searched(tmp_path, method):
    x = data(400)
    before = build(x, method)
    before.save(tmp_path / "index")
    assert not list(tmp_path.rglob("*.pkl"))
    (tmp_path / "elsewhere").mkdir()
    shutil.move(tmp_path / "index", tmp_path / "elsewhere" / "moved")
    after = Index.load(tmp_path / "elsewhere" / "moved")
    assert after.names == before.names and after.description == before.description
    one, other = before.search(x[:9], 20), after.search(x[:9], 20)
    np.testing.assert_array_equal(one.ids, other.ids)
    np.testing.assert_array_equal(one.scores, other.scores)


def test_every_damage_is_refused_before_scann_sees_it(tmp_path, monkeypatch):
    from scann import scann_ops_pybind

    build(data(400), "tree_ah").save(tmp_path / "index")
    monkeypatch.setattr(scann_ops_pybind, "load_searcher", lambda *a, **k: pytest.fail("the loader was reached"))
    rng = np.random.default_rng(0)
    files = sorted(p.relative_to(tmp_path / "index") for p in (tmp_path / "index").rglob("*") if p.is_file())
    assert len(files) > 8
    for file in files:
        for damage in ("flip", "cut", "delete", "grow"):
            copy = tmp_path / "copy"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(tmp_path / "index", copy)
            content = bytearray((copy / file).read_bytes())
            if damage == "delete":
                (copy / file).unlink()
            else:
                if damage == "flip":
                    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
                (copy / file).write_bytes(content[:-1] if damage == "cut" else content + b"\0" * (damage == "grow"))
            if file.name == MANIFEST and damage in ("flip", "cut"):
                continue  # white space at its end, or a letter of a key: json may still read the same
            with pytest.raises(DamagedError):
                Index.load(copy)


class Bomb:
    def __reduce__(self):
        return (os.mkdir, (os.environ["BOMB"],))


def test_a_hostile_index_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("BOMB", str(tmp_path / "exploded"))
    build(data(30), "brute_force").save(tmp_path / "index")
    (tmp_path / "index/scann/scann_docids.pkl").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(DamagedError, match="not in"):
        Index.load(tmp_path / "index")
    seal_folder(tmp_path / "index")  # even where the manifest lists it
    with pytest.raises(DamagedError, match="scann_docids.pkl: not a file that an index has"):
        Index.load(tmp_path / "index")
    assert not (tmp_path / "exploded").exists()


def test_an_index_that_points_outside_is_refused(tmp_path):
    build(data(30), "brute_force").save(tmp_path / "index")
    assets = tmp_path / "index/scann/scann_assets.pbtxt"
    assets.write_text(assets.read_text().replace("dataset.npy", "/etc/passwd"))
    seal_folder(tmp_path / "index")
    with pytest.raises(DamagedError, match="'/etc/passwd', outside of itself"):
        Index.load(tmp_path / "index")


def test_an_index_whose_parts_do_not_belong_together_is_refused(tmp_path):
    build(data(30), "brute_force").save(tmp_path / "index")
    build(data(40), "brute_force").save(tmp_path / "other")
    shutil.rmtree(tmp_path / "index/scann")
    shutil.copytree(tmp_path / "other/scann", tmp_path / "index/scann")
    seal_folder(tmp_path / "index")
    with pytest.raises(DamagedError, match="dataset.npy has 40 rows for 30 names"):
        Index.load(tmp_path / "index")
    (tmp_path / "index/index.json").write_text(json.dumps({"names": []}))
    seal_folder(tmp_path / "index")
    with pytest.raises(DamagedError, match="not an index that this version wrote"):
        Index.load(tmp_path / "index")


@pytest.mark.parametrize("file", ["hashed_dataset.npy", "datapoint_to_token.npy"])
def test_parts_of_another_size_never_reach_scann_which_would_end_the_process(file, tmp_path):
    for n in (30, 40):
        build(data(n), "tree_ah").save(tmp_path / str(n))
    shutil.copy(tmp_path / "40/scann" / file, tmp_path / "30/scann" / file)
    seal_folder(tmp_path / "30")
    with pytest.raises(DamagedError, match=f"{file} has 40 rows for 30 names"):
        Index.load(tmp_path / "30")


def test_ids_out_of_range_are_refused(monkeypatch):
    index = build(data(30), "brute_force")

    class Liar:
        def size(self):
            return 30

        def search_batched_parallel(self, queries, **_):
            return np.full((len(queries), 17), 30, np.uint32), np.ones((len(queries), 17), np.float32)

    monkeypatch.setattr(index, "_scann", Liar())
    with pytest.raises(DamagedError, match="not in the index"):
        index.search(data(2), 1)


def test_no_index_there(tmp_path):
    with pytest.raises(UserError, match="no such index"):
        Index.load(tmp_path / "nothing")


def test_the_memory_of_exact_search_is_bounded_by_chunk_rows(monkeypatch):
    monkeypatch.setattr(exact, "SCORES_AT_ONCE", 4096)
    compiled, bounds = {}, {}
    merge = exact._merge_top_k

    def noted(best, queries, rows, first, seen, k):
        compiled[n, chunk_rows] = merge.lower(best, queries, rows, first, seen, k=k).compile().memory_analysis()
        return merge(best, queries, rows, first, seen, k)

    monkeypatch.setattr(exact, "_merge_top_k", noted)
    for n, chunk_rows in [(300, 100), (1000, 100), (1000, 1000)]:
        build(data(n), chunk_rows=chunk_rows).search(data(50, seed=1), 5)
        bounds[n, chunk_rows] = 4 * (32 * (chunk_rows + 50) + 8 * 4096)  # a chunk, the queries, a few arrays of scores
    used = {
        key: m.argument_size_in_bytes + m.temp_size_in_bytes + m.output_size_in_bytes for key, m in compiled.items()
    }
    assert used[300, 100] == used[1000, 100] < used[1000, 1000]
    assert all(used[key] <= bounds[key] for key in used), (used, bounds)


def test_rows_are_searched_where_they_are():
    x = build(data(1000)).descriptors
    assert x.ctypes.data % exact.ALIGNED == 0
    assert jax.device_put(x, may_alias=True).unsafe_buffer_pointer() == x.ctypes.data


def test_the_recall_of_an_index_is_that_of_its_ids():
    x, queries = data(3000, 16), data(40, 16, seed=1)
    index = build(x, "tree_ah", leaves_to_search=6)
    told = index_recall(index, queries, 200)
    found, true = index.search(queries, 200).ids, in_numpy(queries, x)
    for r in (10, 100):
        share = np.mean([np.isin(t[:r], f[:r]).mean() for f, t in zip(found, true, strict=True)])
        assert told[f"recall@{r}"] == pytest.approx(100 * share) and 20 < told[f"recall@{r}"] < 100
    assert told["queries"] == 40 and told["asked"] == 200
    assert set(index_recall(index, queries, 5)) == {"recall@5", "queries", "asked"}
    # All leaves, and all photos scored exactly, so that only the order of equal photos is left to chance.
    twice = build(np.concatenate([x, x]), "tree_ah", leaves_to_search=108, reorder=6000)
    assert index_recall(twice, queries, 101)["recall@10"] == 100
    assert index_recall(build(x), queries, 10) == index_recall(build(x, "brute_force"), queries, 10) == {}
