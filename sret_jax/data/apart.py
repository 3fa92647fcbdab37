"""Photographs of strangers, read and decoded in processes of their own.

A file that crashes a decoder, never ends, or lies on a share that does not answer costs that photograph, and not the
run: it is rejected with what happened. Whoever goes through many files reads them here first. What has been decoded
once so is known, and its digest compared; later, threads decode it again.

Each thread that asks gets a process, started when there is none to spare (0.3 s). They are started as programs, neither
forked nor spawned, so that a script needs no guard and JAX's threads do no harm, and they end with this process. Where
none can be started, this process decodes itself, with a line in the log.
"""

import atexit
import contextlib
import errno
import fcntl
import logging
import os
import select
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

import sret_jax
from sret_jax.data import decoder_process
from sret_jax.data.decoder_process import (
    ANSWER,
    DECODE,
    DONE,
    LIMITED,
    PHOTO,
    READ,
    REJECTED,
    REQUEST,
    SIZE,
    UNREADABLE,
    Body,
)
from sret_jax.data.decoding import PhotoRejected
from sret_jax.data.formats import MAX_PIXELS
from sret_jax.storage.files import MAX_BYTES, Unreadable

log = logging.getLogger(__name__)
PROGRAM = ["-P", "-m", "sret_jax.data.decoder_process"]  # -P: nothing is imported from the working directory
ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    # glibc keeps what a photograph of a few megapixels took for the next one: else half of the time is the system's.
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**26),
}
PATIENCE = 20  # seconds for a photograph: those of the processor, and those in which its process does nothing
STARTING = 60  # seconds for a process


class DecoderFailed(PhotoRejected):
    """The decoder did not answer, or died twice: another time it may."""


class _Died(Exception):
    pass


class _Hung(Exception):
    pass


def read_apart(path: str | os.PathLike[str]) -> bytes:
    """`read_file`. Raises `Unreadable`, also where the file system does not answer."""
    return bytes(_ask(READ, _path(path))[1])


def read_photo_apart(path: str | os.PathLike[str]) -> tuple[bytes, tuple[int, int]]:
    """The bytes of a photograph that can be decoded, and its upright (height, width). Raises `Unreadable`."""
    size, data = _ask(PHOTO, _path(path))
    return bytes(data), size


def size_apart(data: bytes) -> tuple[int, int]:
    """(height, width), upright, of a photograph that can be decoded. Raises `PhotoRejected`."""
    return _ask(SIZE, data)[0]


def decode_apart(data: bytes, at_least: int | None = None) -> UInt8[np.ndarray, "h w 3"]:
    """`decode_photo`."""
    (height, width), pixels = _ask(DECODE, data, at_least or 0)
    return np.frombuffer(pixels, np.uint8).reshape(height, width, 3)


def _path(path: str | os.PathLike[str]) -> bytes:
    """Absolute: the processes were started somewhere else."""
    name = os.fsencode(path)
    return name if os.path.isabs(name) else os.path.join(os.getcwdb(), name)


def _ask(wanted: bytes, payload: bytes, at_least: int = 0) -> tuple[tuple[int, int], Body]:
    """As `decoder_process.answer`. One that dies may have been killed for what others did, so another one is asked.

    An `OSError` where too few files may be open, here or there.
    """
    died = ""
    for _ in range(2):
        decoder = _processes.borrow()
        if decoder is None:
            return decoder_process.answer(wanted, payload, at_least)
        try:
            outcome, size, body = decoder.ask(wanted, payload, at_least)
        except _Hung:
            decoder.end()
            raise DecoderFailed(f"took longer than {PATIENCE} s") from None
        except _Died:
            died = decoder.end()
            continue
        except BaseException:  # an answer may be on its way
            decoder.end()
            raise
        _processes.give_back(decoder)
        if outcome == DONE:
            return size, body
        if outcome == LIMITED:  # which says nothing about the photograph
            named = [os.fsdecode(payload)] if wanted in (READ, PHOTO) else []
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), *named)
        reason = bytes(body).decode("utf-8", "replace")
        raise PhotoRejected(reason) if outcome == REJECTED else Unreadable(reason)
    raise DecoderFailed(f"its decoder ended with {died}")


class _Decoder:
    """A process, and how it is talked to. Raises `OSError` where it cannot be started."""

    def __init__(self) -> None:
        if not sys.executable:
            raise OSError("the Python interpreter is not known")
        # What is imported here is found there, but nothing that only happens to lie in the working directory.
        own = os.fspath(Path(sret_jax.__file__).resolve().parents[1])
        places = os.pathsep.join([own, *(place for place in sys.path if os.path.isabs(place))])
        self.process = subprocess.Popen(
            [sys.executable, *PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd="/",
            env=os.environ | ENVIRONMENT | {"PYTHONPATH": places},
        )
        assert self.process.stdin and self.process.stdout
        self.requests, self.answers = self.process.stdin.fileno(), self.process.stdout.fileno()
        for pipe in (self.requests, self.answers):
            os.set_blocking(pipe, False)
            with contextlib.suppress(OSError, AttributeError):
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 2**20)
        self.left = float(STARTING)
        self.used: float | None = None  # of the processor, when it was last looked at
        try:
            if self._receive_answer()[0] != DONE:
                raise _Died
        except (_Died, _Hung):
            raise OSError(f"{sys.executable} ended with {self.end()}") from None

    def ask(self, wanted: bytes, payload: bytes, at_least: int) -> tuple[bytes, tuple[int, int], Body]:
        """Raises `_Died` or `_Hung`."""
        self.left, self.used = float(PATIENCE), None
        self._send(REQUEST.pack(wanted, at_least, len(payload)))
        self._send(payload)
        outcome, size, body = self._receive_answer()
        if outcome == DONE and wanted == DECODE and len(body) != size[0] * size[1] * 3:
            raise _Died
        return outcome, size, body

    def end(self) -> str:
        """Kills it unless it has ended, and says how. One that waits for a dead disk stays until that is back."""
        assert self.process.stdin and self.process.stdout
        self.process.kill()
        self.process.stdin.close()
        self.process.stdout.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(0.5)
        code = self.process.returncode or 0
        return f"signal {-code}" if code < 0 else f"exit {code}"

    def _send(self, data: Body) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self.requests, rest) :]
            except BlockingIOError:
                self._wait(self.requests, select.POLLOUT)
            except OSError:
                raise _Died from None

    def _receive_answer(self) -> tuple[bytes, tuple[int, int], Body]:
        outcome, height, width, length = ANSWER.unpack(self._receive(ANSWER.size))
        if outcome not in (DONE, REJECTED, UNREADABLE, LIMITED) or length > max(MAX_BYTES, 3 * MAX_PIXELS):
            raise _Died
        return outcome, (height, width), self._receive(length)

    def _receive(self, length: int) -> memoryview:
        data = rest = np.empty(length, np.uint8).data
        while rest:
            try:
                count = os.readv(self.answers, [rest])
            except BlockingIOError:
                self._wait(self.answers, select.POLLIN)
                continue
            except OSError:
                count = 0
            if not count:
                raise _Died
            rest = rest[count:]
        return data

    def _wait(self, pipe: int, event: int) -> None:
        """A second in which the process waits for a processor is not the photograph's, nor is one of a suspension."""
        waiting = select.poll()
        waiting.register(pipe, event)
        while not waiting.poll(1000):
            used = self._processor_seconds()
            self.left -= used - (used if self.used is None else self.used) or 1
            self.used = used
            if self.left <= 0:
                raise _Hung

    def _processor_seconds(self) -> float:
        """That the process has used; always 0 where the system does not say."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # of the user and of the system


class _Processes:
    """Those that nobody uses."""

    def __init__(self) -> None:
        self.idle: list[_Decoder] = []
        self.none_start = False
        self.lock = threading.Lock()

    def borrow(self) -> _Decoder | None:
        """None: none can be started."""
        while True:
            with self.lock:
                if self.none_start:
                    return None
                if not self.idle:
                    break
                decoder = self.idle.pop()
            if decoder.process.poll() is None:
                return decoder
            decoder.end()
        try:
            return _Decoder()
        except OSError as error:
            with self.lock:
                first, self.none_start = not self.none_start, True
            if first:
                log.warning("photographs are decoded without a process of their own: none can be started (%s)", error)
            return None

    def give_back(self, decoder: _Decoder) -> None:
        with self.lock:
            self.idle.append(decoder)

    def forget(self) -> None:
        self.idle, self.lock = [], threading.Lock()

    def end(self) -> None:
        """Of all that are idle."""
        with self.lock:
            idle, self.idle = self.idle, []
        for decoder in idle:
            decoder.process.kill()
        for decoder in idle:
            decoder.end()


_processes = _Processes()
atexit.register(_processes.end)
# A fork shares the pipes with its parent, and must not speak into them.
os.register_at_fork(after_in_child=_processes.forget)
