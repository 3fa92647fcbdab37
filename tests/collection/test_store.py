"""A store has the state before a change or after it, never another, and notices every byte that has changed."""

import dataclasses
import errno
import io
import os
import shutil

import numpy as np
import pytest

from sret_jax.collection import store as module
from sret_jax.collection.generations import CURRENT
from sret_jax.collection.state import StoredPhoto
from sret_jax.collection.store import Described, Store
from sret_jax.errors import UserError
from sret_jax.extraction.local_features import feature_dtype
from sret_jax.storage.artifacts import DamagedError

DIM, CHANNELS = 4, 3
RNG = np.random.default_rng(0)


def described(*names: str) -> Described:
    shapes = [(1 + i % 3, 2) for i in range(len(names))]
    photos = [
        StoredPhoto(name, (30, 20), f"content of {name}", (7, 9), shape, (0, 0))
        for name, shape in zip(names, shapes, strict=True)
    ]
    maps = [RNG.integers(-127, 128, (*shape, CHANNELS)).astype(np.int8) for shape in shapes]
    return Described(photos, RNG.normal(size=(len(names), DIM)).astype(np.float32), maps)


@pytest.fixture
def store(tmp_path):
    return Store.create(tmp_path, DIM, CHANNELS, {"retriever": "r"})


LOCAL = {"source": "sift", "key": "k", "dim": 3}


def features(count: int) -> np.ndarray:
    return np.frombuffer(RNG.bytes(count * feature_dtype(3).itemsize), feature_dtype(3))


def with_local(*names: str) -> Described:
    """All but the second with local features, the first with none that is real."""
    local = {i: features(2 * i) for i in range(len(names)) if i != 1}
    return dataclasses.replace(described(*names), local=local)


@pytest.fixture
def keeping(store):
    """A store that keeps local features."""
    store.keep_local(LOCAL)
    return store


def contents(store: Store) -> dict[str, tuple]:
    def local(row: int) -> bytes | None:
        own = store.local(row)
        return None if own is None else own.tobytes()

    return {
        name: (store.descriptor(row).tolist(), store.map(row).tolist(), store.state.photos[row].size, local(row))
        for name, row in store.state.live.items()
    }


def test_what_is_added_is_read_back(store):
    first, second = described("a", "b"), described("c")
    store.add(first)
    store.add(second, removed=["a"])
    again = Store(store.folder)
    assert contents(again) == contents(store) and set(again.state.live) == {"b", "c"}
    np.testing.assert_array_equal(again.descriptors()[1:], np.concatenate([first.descriptors, second.descriptors])[1:])
    np.testing.assert_array_equal(again.map(again.state.live["c"]), second.maps[0])
    assert again.left_behind == 1 and again.rows_of("content of a") == [] and again.rows_of("content of c") == [2]


def test_a_photograph_that_changes_replaces_itself(store):
    store.add(described("a"))
    new = described("a")
    store.add(new)
    assert contents(Store(store.folder))["a"][0] == new.descriptors[0].tolist()


def test_skipped_and_excluded_names_are_kept(store):
    store.add(described("a", "b"))
    store.change({"skip": [["x", "empty", [0, 1]], ["a", "damaged", [5, 6]]]})
    store.change({"remove": ["b"], "exclude": [["b", "content of b"]]})
    state = Store(store.folder).state
    assert state.skipped == {"x": ("empty", (0, 1)), "a": ("damaged", (5, 6))}
    assert state.excluded == {"b": "content of b"}
    assert not state.live
    store.change({"unskip": ["x"], "include": ["b"]})
    assert Store(store.folder).state.skipped.keys() == {"a"} and not Store(store.folder).state.excluded


def test_a_kill_at_any_moment_leaves_one_state_or_the_next(store, tmp_path):
    """Every prefix of what each file was written to, as a kill may leave it, with the others before it whole."""
    store.add(described("a", "b"))
    before = contents(store)
    files = [store.generation / name for name in ("descriptors", "maps", "journal")]
    sizes = [path.stat().st_size for path in files]
    store.add(described("c", "d", "e"), removed=["a"])
    after = contents(store)
    whole = [path.read_bytes() for path in files]
    for i, path in enumerate(files):
        for size in range(sizes[i], len(whole[i]) + 1):
            for j, other in enumerate(files):
                other.write_bytes(whole[j] if j < i else whole[j][: sizes[j]])
            path.write_bytes(whole[i][:size])
            found = Store(tmp_path)
            finished = path.name == "journal" and size >= len(whole[i]) - 1
            assert contents(found) == (after if finished else before)
            if size == (sizes[i] + len(whole[i])) // 2:
                found.add(described("f"))
                assert set(Store(tmp_path).state.live) == {"a", "b", "f"} and Store(tmp_path).unsound() == []


@pytest.mark.parametrize("act", ["add", "add_local"])
def test_a_kill_leaves_local_features_of_one_state_or_the_next(keeping, tmp_path, act):
    keeping.add(with_local("a", "b"))
    before = contents(keeping)
    files = [keeping.generation / name for name in ("descriptors", "maps", "local", "journal")]
    sizes = [path.stat().st_size for path in files]
    if act == "add":
        keeping.add(with_local("c", "d", "e"))
    else:
        keeping.add_local({1: features(3)})
    after = contents(keeping)
    assert after != before and (len(after) == 5 or after["b"][3])
    whole = [path.read_bytes() for path in files]
    for i, path in enumerate(files):
        for size in [*range(sizes[i], len(whole[i]), 7), len(whole[i])]:
            for j, other in enumerate(files):
                other.write_bytes(whole[j] if j < i else whole[j][: sizes[j]])
            path.write_bytes(whole[i][:size])
            finished = path.name == "journal" and size >= len(whole[i]) - 1
            assert contents(Store(tmp_path)) == (after if finished else before)
    files[-1].write_bytes(whole[-1][:-2])
    found, new = Store(tmp_path), features(4)
    found.add_local({1: new})
    assert Store(tmp_path).local(1).tobytes() == new.tobytes() and Store(tmp_path).unsound() == []


def test_local_features_are_read_back(keeping):
    first, later = with_local("a", "b", "c"), features(5)
    keeping.add(first)
    keeping.add_local({1: later})
    again = Store(keeping.folder)
    assert contents(again) == contents(keeping)
    assert [again.local(row).tobytes() for row in range(3)] == [b"", later.tobytes(), first.local[2].tobytes()]
    np.testing.assert_array_equal(again.local(2)["features"], first.local[2]["features"])


@pytest.mark.parametrize("about", [{}, LOCAL | {"key": "other"}])
def test_other_local_features_or_none_leave_the_others_uncounted(keeping, about):
    keeping.add(with_local("a", "b", "c"))
    reader, before, new = Store(keeping.folder), contents(keeping), features(6)
    keeping.keep_local(about)
    assert not keeping.state.local and contents(reader) == before
    assert reader.refresh() and reader.local_about == about and reader.local(2) is None and reader.unsound() == []
    if about:
        keeping.add_local({2: new})
        assert reader.refresh() and reader.local(2).tobytes() == new.tobytes()
    keeping.compact()
    path = keeping.generation / "local"
    assert path.stat().st_size == new.nbytes if about else not path.exists()
    assert reader.refresh() and contents(reader) == contents(keeping)


def test_a_reader_of_a_store_without_local_features_sees_them_come(store):
    store.add(described("a", "b"))
    reader, late = Store(store.folder), Store(store.folder)
    store.keep_local(LOCAL)
    store.add_local({1: features(3)})
    assert reader.refresh() and contents(reader) == contents(store)
    store.compact()
    assert late.refresh() and contents(late) == contents(reader) == contents(store)


def test_changed_local_features_are_found_and_named(keeping):
    keeping.add(with_local("a", "b", "c", "d"))
    path = keeping.generation / "local"
    data = bytearray(path.read_bytes())
    data[keeping.state.local[3].at] ^= 8
    path.write_bytes(data)
    found = Store(keeping.folder)
    with pytest.raises(DamagedError, match="the local features of 'd' changed"):
        found.local(3)
    assert found.unsound() == [3]
    path.write_bytes(data[:-1])
    assert Store(keeping.folder).unsound() == [3]
    path.unlink()
    with pytest.raises(DamagedError, match="local: not there; delete"):
        Store(keeping.folder)


def test_local_features_that_count_no_longer_are_compacted(keeping, monkeypatch):
    monkeypatch.setattr(module, "COMPACT_LOCAL_ABOVE", 100)
    photos = described("a", "b", "c")
    keeping.add(dataclasses.replace(photos, local={i: features(20) for i in range(3)}))
    assert not keeping.outgrown
    keeping.keep_local({})
    assert keeping.outgrown
    keeping.compact()
    assert not keeping.outgrown and set(keeping.state.live) == {"a", "b", "c"}


def test_a_reader_sees_what_another_writes(store):
    reader = Store(store.folder)
    assert not reader.refresh()
    store.add(described("a"))
    assert reader.refresh() and contents(reader) == contents(store) and not reader.refresh()


def test_a_changed_byte_is_found_and_named(store):
    store.add(described("a", "b", "c"))
    for name, at, photo in (("descriptors", 4 * DIM + 1, "b"), ("maps", 1, "a")):
        path = store.generation / name
        data = bytearray(path.read_bytes())
        data[at] ^= 8
        path.write_bytes(data)
        with pytest.raises(DamagedError, match=f"of '{photo}' changed"):
            contents(Store(store.folder))
    assert Store(store.folder).unsound() == [0, 1]
    with pytest.raises(DamagedError, match="'b'"):
        Store(store.folder).descriptors()
    store.forget([0, 1])
    found = Store(store.folder)
    assert found.unsound() == [] and len(found.descriptors()) == 3 and not found.state.contents["content of a"]
    assert set(found.state.live) == {"c"}


def test_a_file_that_was_cut_is_damage(store):
    store.add(described("a", "b"))
    path = store.generation / "descriptors"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DamagedError, match="'b'"):
        Store(store.folder).descriptors()


@pytest.mark.parametrize("add", [described, with_local])
def test_compaction_changes_nothing_that_is_there(store, monkeypatch, add):
    monkeypatch.setattr(module, "COPIED_AT_ONCE", 2)
    store.keep_local(LOCAL if add is with_local else {})
    store.add(add(*"abcdefg"))
    store.change({"remove": ["b", "d"], "exclude": [["d", "content of d"]], "skip": [["x", "empty", [0, 1]]]})
    reader, before, state = Store(store.folder), contents(store), store.state
    store.compact()
    assert contents(store) == before == contents(Store(store.folder)) and store.left_behind == 0
    assert (store.state.skipped, store.state.excluded) == (state.skipped, state.excluded)
    assert contents(reader) == before  # it holds what it reads open
    store.add(described("h"))
    assert reader.refresh() and set(contents(reader)) == set("acefgh")
    assert [path.name for path in store.folder.glob("photos-*")] == [store.generation.name]


@pytest.mark.parametrize("add", [described, with_local])
def test_an_emptied_store_is_compacted_and_filled_again(store, add):
    store.keep_local(LOCAL if add is with_local else {})
    store.add(add("a", "b", "c"))
    store.change({"remove": ["a", "b", "c"], "exclude": [["a", "content of a"]]})
    store.compact()
    assert not store.state.photos and store.state.excluded == {"a": "content of a"}
    store.add(add("d", "e"))
    assert contents(Store(store.folder)) == contents(store) and set(store.state.live) == {"d", "e"}


@pytest.mark.parametrize("missing", [CURRENT, "journal", "descriptors", "maps", "local"])
def test_a_reader_that_runs_out_of_files_answers_as_before_and_reads_on_later(keeping, monkeypatch, missing):
    keeping.add(with_local(*"abcd"))
    keeping.change({"remove": ["a"]})
    reader, before = Store(keeping.folder), contents(keeping)
    keeping.compact()
    keeping.add(with_local("e"))
    with monkeypatch.context() as context:
        fail_to_open(context, missing)
        for _ in range(2):
            with pytest.raises(UserError, match=f"{missing}: Too many open files") as said:
                reader.refresh()
            assert "delete" not in str(said.value) and contents(reader) == before
        with pytest.raises(UserError, match=f"{missing}: Too many open files") as said:
            Store(keeping.folder)
        assert "delete" not in str(said.value)
    assert reader.refresh() and contents(reader) == contents(keeping)


def test_a_reader_that_cannot_open_new_local_features_does_so_later(store, monkeypatch):
    store.add(described("a", "b"))
    reader, before = Store(store.folder), contents(store)
    store.keep_local(LOCAL)
    store.add(with_local("c"))
    with monkeypatch.context() as context:
        fail_to_open(context, "local")
        with pytest.raises(UserError, match="local: Too many open files"):
            reader.refresh()
        assert contents(reader) == before
    assert reader.refresh() and contents(reader) == contents(store)


def fail_to_open(context, name: str) -> None:
    real = io.open

    def open_others(path, *arguments, **options):
        if str(path).endswith(f"/{name}"):
            raise OSError(errno.EMFILE, "Too many open files", str(path))
        return real(path, *arguments, **options)

    for place in ("builtins.open", "io.open"):
        context.setattr(place, open_others)


def test_a_store_that_is_compacted_while_it_is_opened_is_no_damage(store, monkeypatch):
    store.add(described("a", "b"))
    real, late = module.current_generation, [True, True]

    def outdated(folder):
        name = real(folder)
        if late:
            late.pop()
            store.compact()
        return name

    monkeypatch.setattr(module, "current_generation", outdated)
    assert contents(Store(store.folder)) == contents(store)


def test_a_compaction_that_is_killed_is_as_if_it_had_not_begun(store, monkeypatch):
    store.add(described("a", "b"))
    before = contents(store)
    with monkeypatch.context() as context:
        context.setattr(module, "publish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            store.compact()
    again = Store(store.folder)
    assert contents(again) == before
    again.compact()
    assert contents(Store(store.folder)) == before


def test_bytes_written_for_a_photograph_do_not_grow_with_the_collection(store):
    def written() -> int:
        return sum(path.stat().st_size for path in store.generation.iterdir())

    store.add(described(*(f"{i:06}" for i in range(100))))
    first = written()
    store.add(described(*(f"{i:06}" for i in range(100, 3000))))
    before = written()
    store.add(described(*(f"{i:06}" for i in range(3000, 3100))))
    assert written() - before < 1.1 * first


def test_a_full_disk_is_said_and_nothing_is_lost(store, monkeypatch):
    store.add(described("a"))
    before = contents(store)

    def full(path, offset, data):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(module, "append_at", full)
    with pytest.raises(UserError, match="free space"):
        store.add(described("b"))
    assert contents(Store(store.folder)) == before


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("act", ["create", "compact"])
def test_a_full_disk_is_said_with_the_file_while_a_generation_is_made(store, tmp_path, monkeypatch, number, act):
    store.add(described("a", "b"))
    before = contents(store)
    with monkeypatch.context() as context:
        context.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(number, os.strerror(number))))
        remedy = "raise the limit of a file" if number == errno.EFBIG else "free space"
        with pytest.raises(UserError, match=f"000002/journal: .*{remedy}"):
            store.compact() if act == "compact" else Store.create(tmp_path, DIM, CHANNELS, {})
    assert contents(Store(tmp_path)) == before
    store.compact()
    assert contents(Store(tmp_path)) == before


def test_a_change_is_not_undone_by_a_changed_newline(store):
    store.add(described("a", "b"))
    store.change({"remove": ["a"]})
    path = store.generation / "journal"
    path.write_bytes(path.read_bytes()[:-1] + b"\x0e")
    assert set(Store(store.folder).state.live) == {"b"}


@pytest.mark.parametrize("file", ["descriptors", "maps", "local"])
def test_a_journal_without_its_end_is_noticed(keeping, monkeypatch, file):
    monkeypatch.setattr(module, "AT_ONCE", 3)
    keeping.add(with_local("a", "b", "c"))
    journal, before = keeping.generation / "journal", contents(keeping)
    sizes = {path.name: path.stat().st_size for path in keeping.generation.iterdir()}
    for name in "ghij":
        keeping.add(with_local(name + "1", name + "2", name + "3"))
    os.truncate(journal, sizes["journal"])
    found = Store(keeping.folder)
    for name in {"descriptors", "maps", "local"} - {file}:  # each is noticed alone
        os.truncate(keeping.generation / name, sizes[name])
    with pytest.raises(DamagedError, match=f"{file}: holds more than the journal says"):
        found.check_end()
    found.cut_end()
    found.check_end()
    assert contents(Store(keeping.folder)) == before and Store(keeping.folder).unsound() == []


def test_what_a_kill_left_of_larger_photographs_is_no_damage(store, monkeypatch):
    monkeypatch.setattr(module, "AT_ONCE", 3)
    store.add(described("a"))
    size = (store.generation / "journal").stat().st_size
    large = described("b", "c", "d")
    store.add(dataclasses.replace(large, maps=[np.zeros((9, 9, CHANNELS), np.int8)] * 3))
    os.truncate(store.generation / "journal", size)
    Store(store.folder).check_end()


def test_a_store_of_another_format_is_refused(store):
    shutil.rmtree(store.generation)
    with pytest.raises(DamagedError, match="index again"):
        Store(store.folder)
    (store.folder / CURRENT).unlink()
    with pytest.raises(FileNotFoundError):
        Store(store.folder)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\0", b"a\0b", b"../photos", b"photos-1"])
def test_a_garbled_name_of_the_generation_is_said(store, content):
    store.add(described("a"))
    (store.folder / CURRENT).write_bytes(content)
    with pytest.raises(DamagedError, match="names no generation"):
        Store(store.folder)


def test_a_lost_name_of_the_generation_loses_nothing(store):
    store.add(described("a"))
    before = contents(store)
    (store.folder / CURRENT).unlink()
    for act in (lambda: Store(store.folder), lambda: Store.create(store.folder, DIM, CHANNELS, {})):
        with pytest.raises(DamagedError, match="write 'photos-000001' into it"):
            act()
    (store.folder / CURRENT).write_text("photos-000001")
    assert contents(Store(store.folder)) == before


@pytest.mark.parametrize("name", [CURRENT, "photos-000001/maps", "photos-000001/journal"])
def test_a_folder_in_the_place_of_a_file_is_said(store, name):
    store.add(described("a"))
    path = store.folder / name
    path.unlink()
    path.mkdir()
    with pytest.raises((DamagedError, IsADirectoryError), match=r"index again|Is a directory"):
        Store(store.folder)


def test_a_garbled_journal_names_the_remedy(store):
    store.add(described("a"))
    path = store.generation / "journal"
    path.write_bytes(path.read_bytes().replace(b"content", b"comment"))
    with pytest.raises(DamagedError, match=f"delete {store.folder} and index again"):
        Store(store.folder)


def test_stored_photo_is_what_the_journal_says(store):
    one = described("a")
    store.add(one)
    found = Store(store.folder).state.photos[0]
    assert dataclasses.replace(found, checks=(0, 0)) == one.photos[0]
    store.change({"touch": [["a", [1, 2]]]})
    assert Store(store.folder).state.photos[0].stamp == (1, 2)
