"""Descriptors that leave come back, in 32 bits as they were and in fewer within half a step."""

import json

import numpy as np
import pytest

from sret_jax.cli import export_descriptors
from sret_jax.config import SearchConfig
from sret_jax.errors import UserError
from sret_jax.export.descriptors import read_descriptors, write_descriptors
from sret_jax.extraction.origin import retriever_of
from sret_jax.retrieval.index import Index
from sret_jax.storage.artifacts import DamagedError
from tests.support.exported import small_retriever
from tests.support.photos import photo_set

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 12)).astype(np.float32) * np.linspace(0.2, 3, 12, dtype=np.float32)
X /= np.linalg.norm(X, axis=1, keepdims=True)
NAMES = [f"tower\n{i}/ä.jpg" for i in range(30)]


@pytest.mark.parametrize("form", ["npy", "parquet"])
@pytest.mark.parametrize(
    ("dtype", "per"), [("float32", "dimension"), ("float16", "dimension"), ("int8", "dimension"), ("int8", "vector")]
)
def test_what_is_written_is_read(tmp_path, form, dtype, per):
    if form == "parquet":
        pytest.importorskip("pyarrow")
    chunks = [X[:7], X[7:8], X[8:]]
    write_descriptors(tmp_path / "out", chunks, NAMES, dtype=dtype, per=per, form=form, retriever="abc")
    x, names = read_descriptors(tmp_path / "out")
    assert names == NAMES and retriever_of(x) == "abc" and x.dtype == np.float32
    largest = np.abs(X).max(0)[None] if per == "dimension" else np.abs(X).max(1)[:, None]
    within = {"float32": 0, "float16": np.abs(X) * 2**-11 + 1e-7, "int8": largest / 127 / 2 + 1e-7}[dtype]
    assert (np.abs(np.asarray(x) - X) <= within).all()


@pytest.mark.parametrize("per", ["dimension", "vector"])
def test_chunks_may_be_empty_and_dimensions_and_vectors_zero(tmp_path, per):
    x = X.copy()
    x[:, 3] = x[5] = 0
    write_descriptors(tmp_path / "out", [x[:0], x[:7], x[:0], x[7:]], NAMES, dtype="int8", per=per)
    found = np.asarray(read_descriptors(tmp_path / "out")[0])
    assert (found[:, 3] == 0).all() and (found[5] == 0).all()
    np.testing.assert_allclose(found, x, atol=np.abs(x).max() / 127)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_a_descriptor_that_is_not_finite_is_named(tmp_path, dtype, value):
    x = X.copy()
    x[11, 3] = value
    with pytest.raises(UserError, match=r"tower\n11/ä.jpg: its descriptor is not finite"):
        write_descriptors(tmp_path / "out", [x[:7], x[7:]], NAMES, dtype=dtype)
    assert not (tmp_path / "out").exists()


def test_the_current_folder_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in (".", tmp_path, "../" + tmp_path.name):
        with pytest.raises(UserError, match="is the current folder; give the name of a new one"):
            write_descriptors(folder, X, NAMES)
    write_descriptors("./out", X, NAMES)
    assert read_descriptors("out")[1] == NAMES


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_an_index_over_them_finds_what_the_exact_one_finds(tmp_path, dtype):
    write_descriptors(tmp_path / "out", X, NAMES, dtype=dtype)
    found = Index.build(*read_descriptors(tmp_path / "out"), SearchConfig(method="exact")).search(X, 1)
    assert found.ids[:, 0].tolist() == list(range(30))
    assert np.load(tmp_path / "out" / "descriptors.npy").dtype == dtype


def test_queries_of_another_retriever_are_refused(tmp_path):
    from sret_jax.extraction.origin import Descriptors

    write_descriptors(tmp_path / "out", X, NAMES, retriever="abc")
    index = Index.build(*read_descriptors(tmp_path / "out"), SearchConfig(method="exact"))
    with pytest.raises(UserError, match="described by different retrievers"):
        index.search(Descriptors.of(X[:1], "xyz"), 1)


def test_parquet_is_a_list_of_fixed_length_and_says_enough_alone(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    write_descriptors(tmp_path / "out", X, NAMES, dtype="int8", form="parquet")
    table = parquet.read_table(tmp_path / "out" / "descriptors.parquet")
    assert table.column("name").to_pylist() == NAMES
    assert table.schema.field("descriptor").type.list_size == 12
    about = json.loads(table.schema.metadata[b"sret_jax"])
    stored = np.array(table.column("descriptor").to_pylist(), np.float32)
    np.testing.assert_allclose(stored * np.array(about["scale"], np.float32), X, atol=np.abs(X).max() / 127)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"dtype": "float61"}, "dtype 'float61'; did you mean 'float16'"),
        ({"per": "row"}, "per 'row'; choose one of dimension, vector"),
        ({"form": "csv"}, "form 'csv'; choose one of npy, parquet"),
        ({"names": NAMES[:3]}, "30 rows for 3 names"),
    ],
)
def test_bad_choices_are_refused(tmp_path, wrong, says):
    with pytest.raises(UserError, match=says):
        write_descriptors(tmp_path / "out", X, **({"names": NAMES} | wrong))
    assert not (tmp_path / "out").exists()


def test_a_damaged_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="no descriptors there; `sret export-descriptors` writes them"):
        read_descriptors(tmp_path)
    write_descriptors(tmp_path / "out", X, NAMES)
    path = tmp_path / "out" / "descriptors.npy"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DamagedError, match="descriptors.npy: changed since it was written"):
        read_descriptors(tmp_path / "out")
    with pytest.raises(UserError, match="holds something"):
        write_descriptors(tmp_path / "out", X, NAMES)


def test_what_an_evaluation_left_knows_its_retriever(tmp_path):
    retriever, photos = small_retriever(stage="c2"), photo_set(n=5)
    retriever.extract(photos, tmp_path / "run/descriptors/folder")
    export_descriptors.main([str(tmp_path / "run/descriptors/folder"), str(tmp_path / "out")])
    x, names = read_descriptors(tmp_path / "out")
    assert names == photos.names and retriever_of(x) == retriever.fingerprint
    index = Index.build(x, names, SearchConfig(method="exact"))
    assert index.search(retriever.describe(photos), 1).ids[:, 0].tolist() == [0, 1, 2, 3, 4]
    other = small_retriever(stage="c2", pool="mac")
    with pytest.raises(UserError, match="described by different retrievers"):
        index.search(other.describe(photos), 1)


def test_nothing_is_described_for_a_folder_that_holds_something(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/letter.txt").write_text("dear")
    with pytest.raises(UserError, match="out: holds something"):
        export_descriptors.main([str(tmp_path / "no such photographs"), str(tmp_path / "out")])
