"""Chunks survive kills, and whatever is damaged or of another network is made again."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from sret_jax.errors import UserError
from sret_jax.storage.artifacts import DamagedError, seal_folder
from sret_jax.storage.journal import Journal
from sret_jax.storage.row_store import STORE, Part, RowStore, fill_part, fill_store, joined

NAMES = [f"église/{i}.jpg" for i in range(10)]
X = np.random.default_rng(0).normal(size=(10, 8)).astype(np.float32)


def fill(store: RowStore, limit: int = 99) -> int:
    for chunk, start, stop in store.missing()[:limit]:
        store.write(chunk, X[start:stop])
    return len(store.missing())


def resume(folder, fingerprint="net") -> RowStore:
    return RowStore.resume(folder, NAMES, fingerprint, 4)


def content(folder) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_what_is_written_is_read_in_the_order_of_the_photos(tmp_path):
    store = resume(tmp_path / "s")
    assert store.chunks() == [(0, 0, 4), (1, 4, 8), (2, 8, 10)]
    for chunk in (2, 0, 1):
        store.write(chunk, X[slice(*store.chunks()[chunk][1:])])
    np.testing.assert_array_equal(store.read(), X)
    np.testing.assert_array_equal(RowStore.load(tmp_path / "s", "net").read(), X)


def test_a_single_chunk_is_not_copied(tmp_path):
    assert np.shares_memory(joined([X]), X)
    np.testing.assert_array_equal(joined([X[:3], X[3:]]), X)
    store = RowStore.resume(tmp_path / "s", NAMES, "net", 100)
    store.write(0, X)
    found = store.read()
    np.testing.assert_array_equal(found, X)
    with pytest.raises(ValueError, match="read-only"):  # it is the file, which nobody may write to
        found[0] = 0


def test_a_whole_store_elsewhere_is_used_and_not_written_to(tmp_path, caplog):
    other, own, made = tmp_path / "other", tmp_path / "own", []

    def rows_of(rows):
        made.append(rows)
        return X[rows.start : rows.stop]

    def filled(names=NAMES, fingerprint="net"):
        made.clear()
        return fill_store(own, names, fingerprint, 3, rows_of, shared=other)

    fill(resume(other))
    before = content(other)
    np.testing.assert_array_equal(filled().read(), X)
    assert not made and not own.exists() and content(other) == before
    assert filled(fingerprint="other net").folder == own and len(made) == 4
    assert filled(names=NAMES[::-1]).folder == own and len(made) == 4
    (other / "00001.npy").write_bytes(bytes(10))
    assert filled().folder == own and len(made) == 4 and "00001.npy" in caplog.text
    fill(resume(tmp_path / "half"), limit=2)
    assert fill_store(own, NAMES, "net", 3, rows_of, shared=tmp_path / "half").folder == own


def test_an_interrupted_store_goes_on_and_ends_the_same(tmp_path):
    fill(resume(tmp_path / "whole"))
    fill(resume(tmp_path / "s"), limit=2)
    with pytest.raises(UserError, match="photos 8 to 9 are not extracted yet"):
        RowStore.load(tmp_path / "s").read()
    store = resume(tmp_path / "s")
    assert [chunk for chunk, _, _ in store.missing()] == [2]
    fill(store)
    assert content(tmp_path / "s") == content(tmp_path / "whole")


def test_a_complete_store_is_not_written_again(tmp_path):
    fill(resume(tmp_path / "s"))
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "s").glob("*.npy")}
    assert resume(tmp_path / "s").missing() == []
    assert before == {p.name: p.stat().st_mtime_ns for p in (tmp_path / "s").glob("*.npy")}


def test_a_store_learns_which_retriever_filled_it_without_being_filled_again(tmp_path):
    fill(resume(tmp_path / "s"))
    assert RowStore.load(tmp_path / "s").retriever == ""
    assert RowStore.resume(tmp_path / "s", NAMES, "net", 4, "abc").missing() == []
    assert RowStore.load(tmp_path / "s").retriever == "abc"


@pytest.mark.parametrize("damage", ["flip", "cut", "delete", "swap"])
def test_a_damaged_chunk_is_named_and_alone_made_again(tmp_path, damage, caplog):
    folder = tmp_path / "s"
    fill(resume(folder))
    chunk = folder / "00001.npy"
    data = bytearray(chunk.read_bytes())
    if damage == "flip":
        data[-3] ^= 16
        chunk.write_bytes(data)
    elif damage == "cut":
        chunk.write_bytes(data[:-1])
    elif damage == "delete":
        chunk.unlink()
    else:
        chunk.write_bytes((folder / "00000.npy").read_bytes())
    with pytest.raises(DamagedError, match="00001.npy"):
        RowStore.load(folder).read()
    store = resume(folder)
    assert [i for i, _, _ in store.missing()] == [1] and "00001.npy: damaged" in caplog.text
    fill(store)
    np.testing.assert_array_equal(RowStore.load(folder).read(), X)


@pytest.mark.parametrize("position", range(0, 400, 23))
def test_a_changed_list_is_never_trusted(tmp_path, position):
    folder = tmp_path / "s"
    fill(resume(folder))
    data = bytearray((folder / STORE).read_bytes())
    data[position % len(data)] ^= 1
    (folder / STORE).write_bytes(data)
    try:
        store = RowStore.load(folder)
    except UserError:
        pass
    else:  # white space
        np.testing.assert_array_equal(store.read(), X)
    fill(resume(folder))
    np.testing.assert_array_equal(RowStore.load(folder, "net").read(), X)


def test_another_network_or_other_photos_start_anew(tmp_path):
    fill(resume(tmp_path / "s"))
    with pytest.raises(UserError, match="another network or other photos"):
        RowStore.load(tmp_path / "s", "other net")
    assert len(resume(tmp_path / "s", "other net").missing()) == 3
    assert not list((tmp_path / "s").glob("*.npy"))
    fill(resume(tmp_path / "s"))
    assert len(RowStore.resume(tmp_path / "s", NAMES[::-1], "net", 4).missing()) == 3


def test_a_descriptor_that_is_not_finite_is_refused_by_name(tmp_path):
    store = resume(tmp_path / "s")
    bad = X[4:8].copy()
    bad[2, 0] = np.nan
    with pytest.raises(UserError, match="église/6.jpg: its descriptor is not finite"):
        store.write(1, bad)
    with pytest.raises(ValueError, match="chunk 2 has 2 photos"):
        store.write(2, X[:3])
    assert len(store.missing()) == 3


def test_no_store_there(tmp_path):
    with pytest.raises(UserError, match="no descriptors there"):
        RowStore.load(tmp_path)
    seal_folder(tmp_path)
    for content in (b"", Journal.lines([{"chunks": {}}])):
        (tmp_path / STORE).write_bytes(content)
        with pytest.raises(DamagedError, match="unreadable"):
            RowStore.load(tmp_path)


def test_bytes_written_for_a_chunk_do_not_grow_with_the_list(tmp_path):
    """Of a million photographs the list of their names alone would be written thousands of times."""
    names = [f"a long name of a photograph/{i:09}.jpg" for i in range(20000)]
    store = RowStore.resume(tmp_path / "s", names, "net", 10)
    before = (tmp_path / "s" / STORE).stat()
    for chunk, start, stop in store.missing()[:50]:
        store.write(chunk, np.ones((stop - start, 1), np.float32))
    after = (tmp_path / "s" / STORE).stat()
    assert after.st_ino == before.st_ino and after.st_size - before.st_size < 50 * 150
    assert len(RowStore.load(tmp_path / "s").missing()) == 1950


WRITER = """
import sys, numpy as np
from sret_jax.storage.journal import Journal
from sret_jax.storage.row_store import RowStore
store = RowStore.resume(sys.argv[1], [str(i) for i in range(3000)], "net", 5)
print("ready", flush=True)
for chunk, start, stop in store.missing():
    store.write(chunk, np.arange(start, stop, dtype=np.float32)[:, None] + np.ones((1, 3), np.float32))
"""


def test_kills_lose_nothing_that_was_committed(tmp_path):
    folder, rng, done = tmp_path / "s", np.random.default_rng(0), 0
    for _ in range(6):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0, 0.2))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        store = RowStore.load(folder, "net")
        present = 600 - len(store.missing())
        assert present >= done and not store._damaged()
        for i, start, stop in store.chunks():
            if f"{i:05d}.npy" in store._digests:
                np.testing.assert_array_equal(np.load(folder / f"{i:05d}.npy")[:, 0], np.arange(start, stop) + 1)
        done = present
    assert done


# ---- Parts ---------------------------------------------------------------------------------------------------------


def rows_of(rows):
    return X[rows.start : rows.stop]


def nobody(rows):
    raise AssertionError(f"{rows} is described again")


def filled(folder, make=rows_of, fingerprint="net"):
    return fill_store(folder, NAMES, fingerprint, 2, make, "retriever")


def fill_parts(folder, of, fingerprint="net", but=()):
    counts = [
        fill_part(folder, NAMES, fingerprint, 2, rows_of, Part(number, of), "retriever")
        for number in reversed(range(of))
        if number not in but
    ]
    return sum(counts)


@pytest.mark.parametrize("of", [1, 2, 3, 7])
def test_parts_make_byte_for_byte_the_store_of_one_process(tmp_path, of):
    whole = filled(tmp_path / "whole")
    assert fill_parts(tmp_path / "parts", of) == len(NAMES)
    assert fill_part(tmp_path / "parts", NAMES, "net", 2, nobody, Part(0, of), "retriever")  # it is there
    merged = filled(tmp_path / "parts", nobody)
    files = [
        {path.name: path.read_bytes() for path in own.folder.iterdir() if path.is_file()} for own in (whole, merged)
    ]
    files[0].pop(".lock"), files[1].pop(".lock")
    assert files[0] == files[1] and len(files[0]) == 6
    np.testing.assert_array_equal(filled(tmp_path / "parts", nobody).read(), X)


def test_what_parts_lack_is_said_and_described(tmp_path, caplog):
    fill_parts(tmp_path / "s", 3, but=[1])
    (tmp_path / "s/parts/0-of-3/00000.npy").write_bytes(b"damaged")
    made = []
    store = filled(tmp_path / "s", lambda rows: made.append(rows) or rows_of(rows))
    assert made == [range(0, 2), range(2, 4), range(8, 10)]
    np.testing.assert_array_equal(store.read(), X)
    assert "its parts lack 4 photographs, which are described here" in caplog.text
    assert "parts/0-of-3/00000.npy: gone, or changed since it was written" in caplog.text


def test_parts_of_another_network_are_named_and_not_used(tmp_path, caplog):
    fill_parts(tmp_path / "s", 2, fingerprint="other")
    (tmp_path / "s/parts/9-of-9").mkdir()
    made = []
    filled(tmp_path / "s", lambda rows: made.append(rows) or rows_of(rows))
    assert len(made) == 5
    assert "parts/0-of-2: not used: of another network or other photographs" in caplog.text
    assert "parts/9-of-9: not used" in caplog.text


def test_a_part_that_was_killed_goes_on(tmp_path):
    def dies(rows):
        if rows.start == 6:
            raise KeyboardInterrupt
        return rows_of(rows)

    with pytest.raises(KeyboardInterrupt):
        fill_part(tmp_path / "s", NAMES, "net", 2, dies, Part(1, 2))
    made = []
    fill_part(tmp_path / "s", NAMES, "net", 2, lambda rows: made.append(rows) or rows_of(rows), Part(1, 2))
    assert made == [range(6, 8)]
