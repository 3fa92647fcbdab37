"""Compiled programs are kept whole or not at all, within a bound, by several processes, and wherever that cannot be
they are compiled again."""

import errno
import logging
import os
import stat
import subprocess
import sys

import pytest

from sret_jax.storage import compilation_cache
from sret_jax.storage.compilation_cache import MOST, SHARE, Programs, default_folder, trim

SCRIPT = """
import os, sys, warnings
import jax, jax.numpy as jnp
from sret_jax.storage.compilation_cache import keep_compiled_programs
warnings.simplefilter("error")  # JAX warns of what it cannot read or write
keep_compiled_programs()
found = []
jax.monitoring.register_event_listener(lambda event, **_: found.append(event.rsplit("/", 1)[1]))
if "killed" in sys.argv:
    os.fsync = lambda handle: os.kill(os.getpid(), 9)
sizes = range(5, 45) if "many" in sys.argv else [5]
print([float(jax.jit(lambda x: jnp.sin(x).sum())(jnp.ones(size))) for size in sizes])
print(found.count("compile_requests_use_cache") - found.count("cache_hits"))
"""


def start(folder, *how, **environment):
    about = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    about |= {"JAX_PLATFORMS": "cpu"} | ({"JAX_COMPILATION_CACHE_DIR": str(folder)} if folder else {}) | environment
    command = [sys.executable, "-c", SCRIPT, *how]
    return subprocess.Popen(command, env=about, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def compute(folder, *how, **environment):
    """The exit status, the values, how many programs were compiled, and what was said."""
    with start(folder, *how, **environment) as process:
        out, said = process.communicate(timeout=300)
    values, missed = (out.splitlines() + ["", "-1"])[:2]
    return process.returncode, values, int(missed), said


def kept(folder):
    return {path.name: path.stat().st_ino for path in folder.iterdir()}


@pytest.mark.slow
def test_a_kill_as_a_program_is_written_leaves_none_that_cannot_be_read(tmp_path):
    status, _, _, _ = compute(tmp_path, "killed")
    assert status == -9 and [name for name in kept(tmp_path) if name.endswith(".tmp")] == list(kept(tmp_path))
    status, value, missed, said = compute(tmp_path)
    assert (status, said) == (0, "") and missed > 0
    before = kept(tmp_path)
    assert before and not any(name.endswith(".tmp") for name in before)
    assert compute(tmp_path) == (0, value, 0, "") and kept(tmp_path) == before  # found, and not written again


@pytest.mark.slow
def test_without_a_choice_the_users_own_cache_folder_is_taken(tmp_path):
    status, value, missed, _ = compute(None, XDG_CACHE_HOME=str(tmp_path))
    folder = tmp_path / "sret_jax/compiled"
    assert status == 0 and missed > 0 and any(folder.iterdir()) and stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert compute(None, XDG_CACHE_HOME=str(tmp_path)) == (0, value, 0, "")


@pytest.mark.slow
def test_two_processes_keep_one_folder_within_its_bound(tmp_path):
    most = 40_000  # of 40 programs that take more
    both = [start(tmp_path, "many", JAX_COMPILATION_CACHE_MAX_SIZE=str(most)) for _ in range(2)]
    ended = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], ended
    assert ended[0][0].splitlines()[0] == ended[1][0].splitlines()[0] and not ended[0][1] + ended[1][1]
    taken = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert most / 2 < taken <= most * (1 + 3 / SHARE)
    _, value, missed, _ = compute(tmp_path, "many")
    assert value == ended[0][0].splitlines()[0] and missed > 0  # some had given way


@pytest.mark.slow
def test_where_nothing_can_be_written_it_says_so_once_and_computes(tmp_path):
    (tmp_path / "file").write_text("")
    status, value, missed, said = compute(tmp_path / "file" / "below")
    assert status == 0 and value and missed > 1
    assert said.count("\n") == 1 and "compiled programs are not kept" in said and "Not a directory" in said
    home = {"HOME": str(tmp_path / "file"), "XDG_CACHE_HOME": ""}
    assert compute(None, **home)[:2] == (0, value)  # a home that is none


def test_what_was_used_longest_ago_gives_way(tmp_path):
    programs = Programs(tmp_path, 16_000)
    programs.put("first", b"1" * 1000)
    for number in range(100):
        programs.put(f"program {number}", bytes(1000))
        os.utime(tmp_path / f"program {number}-cache", (number, number))
        assert programs.get("first") == b"1" * 1000  # used now
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 16_000 + 16_000 // SHARE
    assert programs.get("program 99") and programs.get("program 10") is None
    left = sorted(int(path.name[8:10]) for path in tmp_path.iterdir() if path.name != "first-cache")
    assert left == list(range(100 - len(left), 100)) and 14 <= len(left) <= 16


def test_a_bound_that_has_become_smaller_is_kept_from_the_beginning(tmp_path):
    for number in range(8):
        Programs(tmp_path, None).put(str(number), bytes(1000))
        (tmp_path / f"{number}-atime").write_bytes(bytes(8))  # as JAX leaves them beside its own
    Programs(tmp_path, 3000)
    assert len(list(tmp_path.glob("*-cache"))) == len(list(tmp_path.glob("*-atime"))) == 3


def test_a_program_that_could_not_be_read_is_replaced(tmp_path):
    programs = Programs(tmp_path, None)
    (tmp_path / "key-cache").write_bytes(b"cut short")
    programs.put("key", b"whole")
    assert programs.get("key") == b"whole" and programs.get("another") is None


def test_a_full_disk_ends_the_writing_and_not_the_reading(tmp_path, monkeypatch, caplog):
    programs = Programs(tmp_path, MOST)
    programs.put("key", b"kept")

    def full(path, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(compilation_cache, "write_file", full)
    with caplog.at_level(logging.WARNING):
        programs.put("one", b"1")
        programs.put("two", b"2")
    (record,) = caplog.records
    assert "No space left on device" in record.getMessage() and "JAX_COMPILATION_CACHE_DIR" in record.getMessage()
    assert programs.get("key") == b"kept"


def test_a_folder_that_others_change_meanwhile_is_trimmed(tmp_path, monkeypatch):
    for number in range(4):
        (tmp_path / f"{number}-cache").write_bytes(bytes(1000))
    unlink = os.unlink

    def by_another(path):
        unlink(path)
        raise FileNotFoundError(path)

    monkeypatch.setattr(os, "unlink", by_another)
    trim(tmp_path, 2000)
    trim(tmp_path / "gone", 0)
    assert len(list(tmp_path.iterdir())) == 2


def test_the_folder_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "sret_jax/compiled"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_folder() == tmp_path / "home/.cache/sret_jax/compiled"
