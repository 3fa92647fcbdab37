"""The parts of an index searched at once, each by a process of its own that maps its rows: asked together, and merged.

Exact search finds what one index finds, bit for bit, for scores do not depend on where a row lies. The processes are
programs, neither forked nor spawned, so that a script needs no guard. One that dies is named, started again and asked
again; they end with this process, however that ends.
"""

import contextlib
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

import sret_jax
from sret_jax.errors import UserError
from sret_jax.retrieval.exact import queries_at_once
from sret_jax.retrieval.index_parts import Part
from sret_jax.retrieval.searcher import Found, best_first
from sret_jax.retrieval.shard_process import ANSWER, DONE, HEAD, REQUEST

log = logging.getLogger(__name__)

PROGRAM = ["-P", "-m", "sret_jax.retrieval.shard_process"]  # -P: nothing is imported from the working directory
ATTEMPTS = 3  # at one search by one shard
PATIENCE = 10  # seconds until a process that has nothing more to do must have ended


class _Died(Exception):
    pass


class Shards:
    """Processes over the parts of an index; started with the first search.

    Args:
      parts: in the order of their rows.
      temporary: a folder of theirs that is removed when they end.
    """

    def __init__(self, parts: Sequence[Part], temporary: Path | None = None):
        self.parts = list(parts)
        self._temporary = temporary
        self._processes: list[_Process | None] = [None] * len(parts)
        self._lock = threading.Lock()
        self._finalizer = weakref.finalize(self, _end, self._processes, temporary, os.getpid())

    def search(self, queries: Float[np.ndarray, "q d"], k: int) -> Found:
        """As `Searcher.search` of all rows.

        Raises `UserError` where a shard cannot answer, with which photos it has, how its process ended or what it said.
        """
        ids, scores = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
        step = queries_at_once(self.parts[0].total, k, self.parts[0].config.chunk_rows)
        with self._lock:
            for start in range(0, len(queries), step):
                some = slice(start, start + step)
                ids[some], scores[some] = self._search(queries[some], k)
        return ids, scores

    def _search(self, queries: np.ndarray, k: int) -> Found:
        numbers = range(len(self.parts))
        try:
            for i in numbers:
                with contextlib.suppress(_Died):  # met again where its answer is read
                    self._ask(i, queries, k)
            found = [self._answer(i, queries, k) for i in numbers]
        except BaseException:  # answers may be on their way
            self._end_all()
            raise
        ids = [np.where(own < 0, -1, own + part.start) for (own, _), part in zip(found, self.parts, strict=True)]
        return best_first(np.concatenate(ids, 1), np.concatenate([scores for _, scores in found], 1), k)

    def close(self) -> None:
        """Ends the processes, and removes what was temporary."""
        self._finalizer()

    def _ask(self, i: int, queries: np.ndarray, k: int) -> None:
        own = self._processes[i] = self._processes[i] or _Process(self.parts[i], self._temporary)
        own.ask(queries, min(k, self.parts[i].stop - self.parts[i].start))

    def _answer(self, i: int, queries: np.ndarray, k: int) -> Found:
        part = self.parts[i]
        for attempt in range(ATTEMPTS):
            process = self._processes[i]
            assert process is not None
            try:
                if attempt:
                    process.ask(queries, min(k, part.stop - part.start))
                outcome, body = process.answer()
            except _Died:
                name = f"shard {i + 1} of {len(self.parts)} (photos {part.start} to {part.stop - 1})"
                ended = f"its process {process.pid} ended with {process.end()}"
                if attempt == ATTEMPTS - 1:
                    raise UserError(f"{name}: {ended}, {ATTEMPTS} times; free memory, or set search.shards=1") from None
                log.warning("%s: %s; it is started and asked again", name, ended)
                self._processes[i] = _Process(part, self._temporary)
                continue
            if outcome != DONE:
                raise UserError(f"shard {i + 1} of {len(self.parts)}: {bytes(body).decode('utf-8', 'replace')}")
            count, wanted = len(queries), min(k, part.stop - part.start)
            ids = np.frombuffer(body, np.int64, count * wanted).reshape(count, wanted)
            return ids, np.frombuffer(body, np.float32, offset=ids.nbytes).reshape(count, wanted)
        raise AssertionError

    def _end_all(self) -> None:
        for i, process in enumerate(self._processes):
            if process is not None:
                process.end()
            self._processes[i] = None


class _Process:
    """A program that searches one part; it may have ended whenever it is asked."""

    def __init__(self, part: Part, temporary: Path | None):
        # What is imported here is found there, but nothing that only happens to lie in the working directory.
        own = os.fspath(Path(sret_jax.__file__).resolve().parents[1])
        places = os.pathsep.join([own, *(place for place in sys.path if os.path.isabs(place))])
        self._process = subprocess.Popen(
            [sys.executable, *PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=os.environ | {"PYTHONPATH": places, "JAX_PLATFORMS": "cpu"},  # several cannot share an accelerator
        )
        self.pid, self._is_ready = self._process.pid, False
        told = json.dumps({"part": part.said(), "temporary": str(temporary) if temporary else ""}).encode()
        with contextlib.suppress(_Died):
            self._send(HEAD.pack(len(told)) + told)

    def ask(self, queries: np.ndarray, k: int) -> None:
        """Raises `_Died`."""
        data = np.ascontiguousarray(queries, np.float32)
        self._send(REQUEST.pack(*data.shape, k) + data.tobytes())

    def answer(self) -> tuple[bytes, bytes]:
        """What became of what was asked, and the answer. Raises `_Died`."""
        outcome, body = self._receive()
        if not self._is_ready and outcome == DONE:
            self._is_ready = True
            outcome, body = self._receive()
        return outcome, body

    def end(self) -> str:
        """Kills it unless it has ended, and says how."""
        self._process.kill()
        return self.leave()

    def leave(self) -> str:
        """Lets it end, and says how it did."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe
            with contextlib.suppress(OSError):
                pipe.close()
        try:
            code = self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        return f"signal {-code}" if code < 0 else f"exit {code}"

    def _send(self, data: bytes) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except OSError:
            raise _Died from None

    def _receive(self) -> tuple[bytes, bytes]:
        assert self._process.stdout
        head = self._process.stdout.read(ANSWER.size)
        if len(head) < ANSWER.size:
            raise _Died
        outcome, length = ANSWER.unpack(head)
        body = self._process.stdout.read(length)
        if len(body) < length:
            raise _Died
        return outcome, body


def _end(processes: list[_Process | None], temporary: Path | None, owner: int) -> None:
    if os.getpid() != owner:  # a fork shares the pipes with its parent, and must leave them alone
        return
    for process in processes:
        if process is not None:
            process.end()
    processes[:] = [None] * len(processes)
    if temporary is not None:
        shutil.rmtree(temporary, ignore_errors=True)
