"""Manifests and sealed JSON: whatever is changed in them is damage, and nothing else is."""

import errno
import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from sret_jax.storage.artifacts import (
    MANIFEST,
    DamagedError,
    clear_temporaries,
    lock_folder,
    read_sealed,
    seal_folder,
    unavailable,
    verify_folder,
    write_array,
    write_file,
    write_rows,
    write_sealed,
)
from tests.support.limits import largest_file


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "int64", [("a", "f4", 3), ("b", "i4")]])
def test_rows_are_written_as_numpy_writes_them(tmp_path, dtype):
    x = np.zeros((7, 3) if isinstance(dtype, str) else 7, dtype)
    x.reshape(-1).view(np.uint8)[:] = np.arange(x.nbytes) % 60
    np.save(tmp_path / "numpy.npy", x)
    write_rows(tmp_path / "own.npy", [x[:4], x[4:4], x[4:]], x.dtype, x.shape)
    assert (tmp_path / "own.npy").read_bytes() == (tmp_path / "numpy.npy").read_bytes()
    write_array(tmp_path / "turned.npy", np.asfortranarray(x))
    np.testing.assert_array_equal(np.load(tmp_path / "turned.npy"), x)


@pytest.fixture
def sealed(tmp_path):
    folder = tmp_path / "sealed"
    folder.mkdir()
    (folder / "a.json").write_text("{}")
    (folder / "b.npy").write_bytes(bytes(range(100)))
    seal_folder(folder)
    return folder


def test_every_flipped_bit_of_a_manifest_is_damage(sealed):
    whole = (sealed / MANIFEST).read_bytes()
    kept = json.loads(whole)
    silent = []
    for at in range(len(whole)):
        for bit in range(8):
            data = whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :]
            (sealed / MANIFEST).write_bytes(data)
            try:
                verify_folder(sealed)
                silent.append(data)
            except DamagedError:
                pass
    assert all(json.loads(data) == kept for data in silent)  # white space is no content


@pytest.mark.parametrize("files", [[], {"a.json": 3}, {"a.json": {"size": True, "sha256": "x"}}, None, "x"])
def test_a_manifest_of_another_form_is_damage(sealed, files):
    (sealed / MANIFEST).write_text(json.dumps({"files": files}))
    with pytest.raises(DamagedError):
        verify_folder(sealed)
    (sealed / MANIFEST).write_text("[" * 100_000)
    with pytest.raises(DamagedError, match="unreadable"):
        verify_folder(sealed)


def test_what_is_sealed_is_read_as_it_was_written_and_every_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "x.json"
    values = {"lengths": ((0, 3),), "name": "é", "rate": 0.1, "none": None, 3: "x"}
    write_sealed(path, values)
    as_json = json.loads(json.dumps(values))
    assert read_sealed(path) == as_json
    whole = path.read_bytes()
    unnoticed = set()
    for at in range(len(whole)):
        for bit in range(8):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
            try:
                found = read_sealed(path)
            except DamagedError:
                continue
            # Without the name of the digest there is none to compare with; what was written is all there.
            assert {name: value for name, value in found.items() if name in as_json} == as_json
            unnoticed |= found.keys() - as_json.keys()
    assert all(abs(len(name) - len("digest")) <= 1 for name in unnoticed)


@pytest.mark.parametrize("text", ["", "[]", "3", '{"a": 1', '{"a": 1, "digest": 3}', "[" * 100_000])
def test_a_sealed_file_of_another_form_is_damage(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DamagedError, match=r"x\.json: unreadable"):
        read_sealed(tmp_path / "x.json")


def test_temporary_files_of_processes_that_are_gone_are_cleared(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left = tmp_path / f".a.json.{socket.gethostname()}.{gone.pid}.tmp"
    ours = tmp_path / f".a.json.{socket.gethostname()}.{os.getpid()}.tmp"
    elsewhere, old = tmp_path / ".a.json.another-host.1.tmp", tmp_path / ".b.json.another-host.1.tmp"
    for path in (left, ours, elsewhere, old):
        path.write_text("half")
    os.utime(old, (0, 0))
    clear_temporaries(tmp_path)
    assert set(tmp_path.iterdir()) == {ours, elsewhere}
    left.write_text("half")
    with lock_folder(tmp_path):
        assert not left.exists()


def test_a_write_into_a_folder_that_is_gone_says_so(tmp_path):
    with pytest.raises(FileNotFoundError) as raised:
        write_file(tmp_path / "gone" / "x.json", b"")
    assert raised.value.filename == str(tmp_path / "gone" / "x.json")


def test_a_file_that_changed_but_not_in_size_is_damage_unless_only_sizes_count(sealed):
    data = np.frombuffer((sealed / "b.npy").read_bytes(), np.uint8).copy()
    data[3] ^= 1
    (sealed / "b.npy").write_bytes(data.tobytes())
    with pytest.raises(DamagedError, match=r"b\.npy: changed since it was written"):
        verify_folder(sealed)
    verify_folder(sealed, only_sizes=["b.npy"])


KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from sret_jax.storage.artifacts import commit_folder, recover_folder, verify_folder

def commit(path, text):
    with commit_folder(path) as built:
        (built / "a").write_text(text)

def strike(n):
    left = [n]
    for module, name in ((os, "rename"), (os, "replace"), (os, "fsync"), (os, "unlink"), (os, "rmdir"), (os, "mkdir")):
        def counted(*args, call=getattr(module, name), **more):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **more)
        setattr(module, name, counted)

for n in range(1, 100):
    path = Path(sys.argv[1]) / str(n) / "x"
    if sys.argv[2] == "old":
        commit(path, "old")
    elif sys.argv[2] == "empty":
        path.mkdir(parents=True)
    pid = os.fork()
    if not pid:
        strike(n)
        commit(path, "new")
        os._exit(0)
    if not os.waitpid(pid, 0)[1]:
        break  # it ended before it was killed
    recover_folder(path)
    if path.exists() and any(path.iterdir()):
        verify_folder(path)
    kept = (path / "a").read_text() if (path / "a").exists() else "nothing"
    beside = sorted(one.name for one in path.parent.iterdir()) if path.parent.exists() else []
    commit(path, "again")
    verify_folder(path)
    print(kept, (path / "a").read_text(), *beside, "|", *(one.name for one in path.parent.iterdir()))
"""


@pytest.mark.parametrize("before", ["old", "empty", "none"])
def test_a_kill_at_any_call_leaves_the_old_folder_or_the_new_one_and_nothing_beside(tmp_path, before):
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path, before], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    states = [line.split()[0] for line in lines]
    start = "old" if before == "old" else "nothing"
    assert set(states) == {start, "new"} and states == sorted(states, key=[start, "new"].index)
    for line in lines:
        state, again, *rest = line.split()
        beside, after = rest[: rest.index("|")], rest[rest.index("|") + 1 :]
        assert again == "again" and after == ["x"]
        assert set(beside) <= ({"x"} if state == "new" else {"x", ".x.building"})


def test_a_lock_that_cannot_be_written_is_named(tmp_path):
    with largest_file(0), pytest.raises(OSError, match=rf"File too large: .*{tmp_path.name}/.lock"):
        with lock_folder(tmp_path):
            raise AssertionError
    with lock_folder(tmp_path):
        assert (tmp_path / ".lock").read_text() == f"process {os.getpid()} on {socket.gethostname()}"


def test_a_file_that_cannot_be_opened_now_has_a_remedy():
    assert "; raise the limit of open files" in str(unavailable(OSError(errno.EMFILE, "too many", "/x")))
    assert "; nothing was changed" in str(unavailable(OSError(errno.EIO, "disk", "/x")))
