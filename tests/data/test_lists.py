"""Long lists are prepared in blocks: a kill costs one of them, and so does a photograph that cannot be used."""

import json

import numpy as np
import pytest
from PIL import Image

from sret_jax.data import lists as listed_photos
from sret_jax.data.lists import ListedPhotos, listed, prepare_listed
from sret_jax.data.photo_set import ConcatenatedRecords
from sret_jax.errors import UserError

NAMES = [f"{i:02d}" for i in range(10)]
INSTANCES = ["b", "a", None, "b", "c", "a", None, "c", "a", "b"]


@pytest.fixture
def found(tmp_path, monkeypatch):
    """Ten photographs, in blocks of four."""
    monkeypatch.setattr(listed_photos, "BLOCK", 4)
    (tmp_path / "photos").mkdir()
    for i, name in enumerate(NAMES):
        Image.fromarray(np.full((20 + i, 20, 3), 20 * i, np.uint8)).save(tmp_path / f"photos/{name}.png")
    return lambda: [
        listed(tmp_path / "photos", name, instance) for name, instance in zip(NAMES, INSTANCES, strict=True)
    ]


def prepare(tmp_path, found, cache="cache", builder=ListedPhotos):
    return prepare_listed("many", tmp_path / "photos", found(), tmp_path / cache, builder)


def same(a, b):
    assert a.names == b.names == NAMES and a.instances == b.instances == ["a", "b", "c"]
    np.testing.assert_array_equal(a.labels, b.labels)
    np.testing.assert_array_equal(a.sizes, b.sizes)
    assert a.digests == b.digests and a.fingerprint == b.fingerprint
    assert [a.source[i]["image"] for i in range(10)] == [b.source[i]["image"] for i in range(10)]


def test_blocks_are_one_set(tmp_path, found, monkeypatch):
    blocks = prepare(tmp_path, found)
    assert len(list((tmp_path / "cache/listed").glob("many-*"))) == 3
    assert [blocks.photo(i).shape[0] for i in range(10)] == list(range(20, 30))
    assert [blocks.instances[label] if label >= 0 else None for label in blocks.labels] == INSTANCES
    monkeypatch.setattr(listed_photos, "BLOCK", 100)
    same(prepare(tmp_path, found, "one"), blocks)
    assert len(list((tmp_path / "one/listed").glob("many-*"))) == 1


def test_after_an_interruption_only_the_rest_is_prepared(tmp_path, found):
    made = []

    def killed_in_the_second(benchmark, block, complete, index, data_dir):
        made.append([entry.name for entry in block])
        if len(made) == 2:
            raise KeyboardInterrupt
        return ListedPhotos(benchmark, block, complete, index, data_dir)

    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path, found, builder=killed_in_the_second)
    assert len(list((tmp_path / "cache/listed").glob("many-*"))) == 1
    again = prepare(tmp_path, found, builder=killed_in_the_second)
    assert made == [NAMES[:4], NAMES[4:8], NAMES[4:8], NAMES[8:]]
    same(again, prepare(tmp_path, found, "uninterrupted"))


def test_what_cannot_be_used_costs_its_block_and_is_named(tmp_path, found, caplog):
    (tmp_path / "photos/01.png").unlink()
    (tmp_path / "photos/05.png").write_bytes(b"no photograph")
    with pytest.raises(UserError, match="many: 2 of its 10 photographs cannot be used .01: not in .*; 05: "):
        prepare(tmp_path, found)
    assert "1 photographs are missing; blocks without them are prepared first" in caplog.text
    kept = list((tmp_path / "cache/listed").glob("many-*"))
    assert [json.loads((path / "index.json").read_text())["names"] for path in kept] == [NAMES[8:]]
    for name in ("01", "05"):
        Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / f"photos/{name}.png")
    assert prepare(tmp_path, found).names == NAMES
    assert kept[0] in list((tmp_path / "cache/listed").glob("many-*"))


def test_a_list_of_nothing_is_refused(tmp_path):
    with pytest.raises(UserError, match="many: its list names no photograph"):
        prepare_listed("many", tmp_path, [], tmp_path / "cache")


def test_a_chain_ends_where_its_parts_end():
    chain = ConcatenatedRecords([[{"image": b"0"}], [], [{"image": b"1"}, {"image": b"2"}]])
    assert len(chain) == 3 and [chain[i]["image"] for i in range(3)] == [b"0", b"1", b"2"]
    for outside in (-1, 3):
        with pytest.raises(IndexError):
            chain[outside]
    assert len(ConcatenatedRecords([])) == 0
