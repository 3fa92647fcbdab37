"""Photographs that are decoded in processes of their own: the same pixels, and no process's end is the run's."""

import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from sret_jax.data import apart
from sret_jax.data.apart import DecoderFailed, decode_apart, read_apart, read_photo_apart, size_apart
from sret_jax.data.decoding import PhotoRejected, decode_photo
from sret_jax.data.folders import prepare_folder
from sret_jax.data.opening import open_photos
from sret_jax.errors import UserError
from sret_jax.storage.files import Unreadable
from sret_jax.storage.refusals import plainly
from tests.support import odd_decoder, photo_files
from tests.support.commands import REPOSITORY

PLAIN = photo_files.ACCEPTED["plain.jpg"][0]


@pytest.fixture
def processes(monkeypatch):
    own = apart._Processes()
    monkeypatch.setattr(apart, "_processes", own)
    yield own
    own.end()


@pytest.fixture
def odd(processes, monkeypatch, tmp_path):
    """Processes that some photographs hurt, and 2 s of patience."""
    monkeypatch.setattr(apart, "PROGRAM", ["-P", "-m", "tests.support.odd_decoder"])
    monkeypatch.setattr(apart, "PATIENCE", 2)
    monkeypatch.setenv(odd_decoder.MARK, str(tmp_path / "mark"))


def test_outcomes_are_those_of_the_decoder():
    for data, *_ in photo_files.ACCEPTED.values():
        expected = decode_photo(data)
        np.testing.assert_array_equal(decode_apart(data), expected)
        assert size_apart(data) == expected.shape[:2]
    for data, _ in photo_files.REJECTED.values():
        with pytest.raises(PhotoRejected) as expected:
            decode_photo(data)
        with pytest.raises(PhotoRejected) as found:
            decode_apart(data)
        assert found.value.reason == expected.value.reason
    large = photo_files.encode(photo_files.Image.fromarray(photo_files.quadrants()).resize((1200, 900)), "JPEG")
    np.testing.assert_array_equal(decode_apart(large, at_least=100), decode_photo(large, at_least=100))
    assert decode_apart(large).flags.writeable


def test_files_are_read_where_they_lie(tmp_path, monkeypatch):
    (tmp_path / "photo.jpg").write_bytes(PLAIN)
    monkeypatch.chdir(tmp_path)
    assert read_apart("photo.jpg") == PLAIN
    assert read_photo_apart(tmp_path / "photo.jpg") == (PLAIN, (photo_files.H, photo_files.W))
    for name, reason in (("none.jpg", "cannot be opened"), (".", "not a regular file"), ("a\0b", "cannot be opened")):
        with pytest.raises(Unreadable, match=reason):
            read_apart(name)


def test_threads_share_the_processes(processes):
    threads = [threading.Thread(target=lambda: [size_apart(PLAIN) for _ in range(5)]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= len(processes.idle) <= 3


def test_a_crash_costs_the_photograph(odd):
    with pytest.raises(DecoderFailed, match="its decoder ended with signal 11"):
        size_apart(PLAIN + odd_decoder.CRASHES)
    assert size_apart(PLAIN) == (photo_files.H, photo_files.W)


def test_a_photograph_that_hangs_is_given_up(odd, processes):
    size_apart(PLAIN)
    (hung,) = processes.idle
    started = time.monotonic()
    with pytest.raises(DecoderFailed, match="took longer than 2 s"):
        size_apart(PLAIN + odd_decoder.HANGS)
    assert 1 < time.monotonic() - started < 10
    assert hung.process.returncode == -signal.SIGKILL
    assert size_apart(PLAIN) == (photo_files.H, photo_files.W)


def test_a_photograph_whose_process_was_killed_is_decoded_by_another(odd):
    data = PLAIN + odd_decoder.CRASHES_ONCE
    np.testing.assert_array_equal(decode_apart(data), decode_photo(data))


def test_a_photograph_that_takes_all_memory_is_rejected_by_a_process_that_lives_on(odd, processes):
    size_apart(PLAIN)
    (process,) = processes.idle
    with pytest.raises(PhotoRejected, match="takes more memory"):
        size_apart(PLAIN + odd_decoder.GREEDY)
    assert size_apart(PLAIN) and processes.idle == [process]


def test_a_process_that_may_open_too_few_files_says_nothing_about_the_photograph(odd, processes, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(PLAIN + odd_decoder.LACKS_FILES)
    with pytest.raises(OSError, match="Too many open files: .*photo.jpg"):
        read_photo_apart(tmp_path / "photo.jpg")
    with pytest.raises(UserError, match=f"{tmp_path}/photo.jpg: Too many open files; raise the limit"), plainly():
        open_photos(tmp_path)
    assert size_apart(PLAIN) and len(processes.idle) == 1  # it lives on


def test_what_a_library_prints_is_no_answer(odd):
    data = PLAIN + odd_decoder.CHATTERS
    np.testing.assert_array_equal(decode_apart(data), decode_photo(data))


@pytest.mark.parametrize("labelled", [True, False], ids=["prepared", "opened"])
def test_a_run_goes_on_without_the_photographs_that_hurt(odd, tmp_path, labelled):
    root = tmp_path / "photos" / "thing"
    root.mkdir(parents=True)
    good = {f"good {i}.png": photo_files.ACCEPTED["plain.png"][0] for i in range(4)}
    bad = {"b crash.jpg": PLAIN + odd_decoder.CRASHES, "a hang.jpg": PLAIN + odd_decoder.HANGS}
    for name, data in (good | bad).items():
        (root / name).write_bytes(data)
    photos = prepare_folder(root.parent, tmp_path / "cache") if labelled else open_photos(root.parent)
    assert photos.names == [f"thing/{name}" for name in good]
    assert dict(photos.skipped) == {
        "thing/a hang.jpg": "took longer than 2 s",
        "thing/b crash.jpg": "its decoder ended with signal 11",
    }
    for row, data in enumerate(good.values()):
        np.testing.assert_array_equal(photos.photo(row), decode_photo(data))


def test_one_that_ended_while_it_was_idle_is_replaced(processes):
    size_apart(PLAIN)
    processes.idle[0].process.kill()
    processes.idle[0].process.wait()
    assert size_apart(PLAIN) == (photo_files.H, photo_files.W)


@pytest.mark.parametrize("how", ["no interpreter", "a program that ends"])
def test_where_no_process_starts_this_one_decodes(processes, monkeypatch, caplog, how):
    if how == "no interpreter":
        monkeypatch.setattr(sys, "executable", "")
    else:
        monkeypatch.setattr(apart, "PROGRAM", ["-c", "raise SystemExit(3)"])
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            np.testing.assert_array_equal(decode_apart(PLAIN), decode_photo(PLAIN))
        with pytest.raises(PhotoRejected, match="empty file"):
            size_apart(b"")
    assert sum("none can be started" in line for line in caplog.messages) == 1


def test_seconds_without_a_processor_are_not_the_photographs(odd, processes):
    size_apart(PLAIN)
    decoder = processes.borrow()
    decoder.left, decoder.used = 2.0, 0.0
    clock = iter([0.001 * second for second in range(1, 6)])  # of a process that hardly gets on, and then ends
    decoder._processor_seconds = lambda: next(clock)
    with pytest.raises(StopIteration):
        decoder._wait(decoder.answers, select.POLLIN)
    assert decoder.left > 1.9
    decoder.end()


PARENT = """
import sys
from sret_jax.data import apart
apart.PROGRAM = ["-P", "-m", "tests.support.odd_decoder"]
data = open(sys.argv[1], "rb").read()
decoder = apart._processes.borrow()
print(decoder.process.pid, flush=True)
decoder.ask(apart.SIZE, data, 0)
apart._processes.give_back(decoder)
"""


@pytest.mark.parametrize("end", ["killed", "ends"])
def test_no_process_outlives_the_command(tmp_path, end):
    (tmp_path / "photo.jpg").write_bytes(PLAIN + (odd_decoder.HANGS if end == "killed" else b""))
    words = [sys.executable, "-c", PARENT, tmp_path / "photo.jpg"]
    parent = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    if end == "killed":
        time.sleep(1)  # its decoder has begun
        parent.kill()
    _, errors = parent.communicate(timeout=20)
    assert end == "killed" or errors == ""
    for _ in range(100):
        if not os.path.exists(f"/proc/{pid}") or "\nState:\tZ" in open(f"/proc/{pid}/status").read():
            return
        time.sleep(0.05)
    pytest.fail("it is still there")


def test_it_imports_nothing_that_computes_and_nothing_from_the_working_directory(tmp_path):
    mark = tmp_path / "mark"
    for name in ("PIL", "numpy", "sret_jax"):
        (tmp_path / f"{name}.py").write_text(f"open({str(mark)!r}, 'w')")
    code = "import sys; from sret_jax.data import apart; apart.size_apart(open(sys.argv[1], 'rb').read())"
    (tmp_path / "photo.jpg").write_bytes(PLAIN)
    own = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, "-P", "-c", code, "photo.jpg"], cwd=tmp_path, env=own, check=True)
    assert not mark.exists()
    code = "import sys; import sret_jax.data.decoder_process; print('jax' in sys.modules, 'grain' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
