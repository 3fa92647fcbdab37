"""What the system refuses becomes one line with path, cause and remedy; everything else stays what it is."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from sret_jax.config import SearchConfig
from sret_jax.errors import UserError
from sret_jax.export.descriptors import write_descriptors
from sret_jax.retrieval.approximate import build_scann, load_scann, save_scann
from sret_jax.retrieval.index import Index
from sret_jax.retriever import Retriever
from sret_jax.storage.artifacts import lock_folder, write_file
from sret_jax.storage.provenance import enough_memory
from sret_jax.storage.refusals import REMEDIES, plainly, refusal, refusal_behind
from sret_jax.storage.row_store import fill_store
from tests.support.limits import largest_file
from tests.support.networks import NETWORK
from tests.support.tiny_training import config, start

POSSIBLE = [(name, getattr(errno, name)) for name in ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EMFILE", "EIO")]


@pytest.mark.parametrize("name, number", POSSIBLE)
def test_path_cause_and_remedy_are_said_in_one_line(name, number):
    text = str(refusal(OSError(number, os.strerror(number), "/runs/a/x.npy")))
    assert text.startswith(f"/runs/a/x.npy: {os.strerror(number)}; ") and text.endswith(REMEDIES[number])
    assert "\n" not in text
    assert str(refusal(OSError(number, "no name"), "/runs/a")).startswith("/runs/a: ")


def test_what_nobody_can_remedy_stays_an_error():
    assert refusal(OSError(errno.EBADF, "x", "/y")) is None
    assert refusal(FileNotFoundError(errno.ENOENT, "no name")) is None
    assert refusal_behind(ValueError("something else")) is None
    with pytest.raises(UserError), plainly(Path("/x")):
        raise OSError(errno.EFBIG, "large")


def test_what_a_library_makes_of_it_is_found():
    try:
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/runs/a")
        except OSError as error:
            raise RuntimeError("could not write") from error
    except RuntimeError as error:
        assert str(refusal_behind(error)).startswith("/runs/a: No space left on device; free space")
    told = refusal_behind(RuntimeError("INTERNAL: write failed\nNo space left on device [/cache/x]"))
    assert "No space left on device [/cache/x]; free space" in str(told) and "\n" not in str(told)
    # What came up while something that is no matter of the system's was handled says nothing about it.
    try:
        try:
            raise FileNotFoundError(errno.ENOENT, "x", "/optional")
        except OSError:
            raise KeyError("a mistake") from None
    except KeyError as error:
        assert refusal_behind(error) is None


FULL = "INTERNAL: Failed to allocate 17179869184 bytes: Out of memory"


@pytest.mark.parametrize("error", [MemoryError("Unable to allocate 9 TiB"), jax.errors.JaxRuntimeError(FULL)])
def test_a_full_memory_is_said_in_one_line(error):
    with pytest.raises(UserError, match="^out of memory .*allocate.*; lower config.extract.batch_size"), plainly():
        raise error
    with pytest.raises(UserError, match="^out of memory making maps; lower that$"), plainly():
        with enough_memory("making maps; lower that"):
            raise error
    with pytest.raises(jax.errors.JaxRuntimeError), plainly(), enough_memory("x"):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")


def test_a_file_that_may_not_grow_leaves_what_was_there(tmp_path):
    write_file(tmp_path / "a", b"before")
    with largest_file(1000), pytest.raises(OSError) as raised:
        write_file(tmp_path / "a", bytes(5000))
    assert f"{tmp_path / 'a'}: File too large; raise the limit" in str(refusal(raised.value))
    assert (tmp_path / "a").read_bytes() == b"before" and len(list(tmp_path.iterdir())) == 1


UNPRIVILEGED = """
import os, sys
from pathlib import Path
from sret_jax.storage.artifacts import lock_folder
from sret_jax.storage.refusals import refusal
os.setuid(65534)
try:
    with lock_folder(Path(sys.argv[1])):
        pass
except OSError as error:
    print(refusal(error))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_a_folder_of_somebody_else_is_named(tmp_path):
    folder = tmp_path / "theirs"
    with lock_folder(folder):
        pass
    tmp_path.chmod(0o755)
    folder.chmod(0o555)
    (folder / ".lock").chmod(0o444)
    # By a relative path: the folders above a temporary folder are often closed to others.
    command = [sys.executable, "-c", UNPRIVILEGED, folder.name]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert said.stdout.startswith(f"{folder.name}/.lock: Permission denied; give yourself the permission"), said.stderr


X = np.eye(20, 8, dtype=np.float32)[np.arange(20) % 8]
LIBRARY = {
    "Retriever.save": lambda folder: Retriever(NETWORK, start(), config()).save(folder / "out"),
    "Index.save": lambda folder: Index.build(X, list(map(str, range(20)))).save(folder / "out"),
    "an exact Index.save": lambda folder: Index.build(X, list("abcdefghijklmnopqrst"), EXACT).save(folder / "out"),
    "write_descriptors": lambda folder: write_descriptors(folder / "out", X, list(map(str, range(20)))),
    "fill_store": lambda folder: fill_store(folder / "out", list("ab"), "key", 1, lambda rows: X[:1]),
}
EXACT = SearchConfig(method="exact")


@pytest.mark.parametrize("name", LIBRARY)
@pytest.mark.parametrize("size", [0, 100])
def test_who_calls_the_library_meets_the_same_line(tmp_path, name, size):
    with largest_file(size), pytest.raises(UserError, match=f"^{tmp_path}/[^;]*: File too large; raise the limit"):
        LIBRARY[name](tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".") and path.name != ".lock"]
    LIBRARY[name](tmp_path)


@pytest.mark.parametrize("method, size", [("brute_force", 200), ("ah", 20), ("ah", 300)])
def test_a_file_of_scann_that_was_cut_is_noticed(tmp_path, method, size):
    searcher = build_scann(np.eye(64, 16, dtype=np.float32)[np.arange(64) % 16], method, {})
    with largest_file(size), pytest.raises(OSError, match="File too large"):
        save_scann(searcher, tmp_path / "cut")
    save_scann(searcher, tmp_path / "whole")
    assert load_scann(tmp_path / "whole", 64).size() == 64
