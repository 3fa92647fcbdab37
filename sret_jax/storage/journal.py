"""A file to which one line is appended for every change, so that a reader sees all of a change or nothing of it.

Each line is JSON, a tab, and a digest of it and of every line before it:

    {"add": [...]}\\t1f0c9a...\\n

A kill in the middle of a line leaves a tail without an end, which no reader takes for a line and the next writer cuts
off. A last line of which all is there but the newline counts. A line that does not fit those before it, with others
behind it, is damage, and is never passed over.
"""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sret_jax.storage.artifacts import DamagedError, write_whole

Entry = dict[str, Any]
ATTEMPTS = 3
DIGITS = 16


class Journal:
    """The entries of a journal, read as far as they are committed.

    Attributes:
      path: of the file; one that does not exist holds nothing.
      size: bytes of the entries read so far.
    """

    def __init__(self, path: Path):
        self.path, self.size, self._digest = Path(path), 0, ""
        self._is_ended = True  # whether the last line that was read has its newline

    def read(self) -> list[Entry]:
        """The entries committed since the last call.

        Raises:
          DamagedError: a line is not what was written.
        """
        for attempt in range(ATTEMPTS):
            try:
                return self._read()
            except DamagedError:
                if attempt == ATTEMPTS - 1:
                    raise
                time.sleep(0.05)  # a writer may just have cut off what another had left
        raise AssertionError

    def _read(self) -> list[Entry]:
        try:
            with open(self.path, "rb") as file:
                file.seek(self.size)
                data = file.read()
        except FileNotFoundError:
            return []
        entries, start, so_far, ended = [], 0, self._digest, self._is_ended
        if not ended and data.startswith(b"\n"):
            start, ended = 1, True
        elif not ended and len(data) > 1:
            raise DamagedError(f"{self.path}: changed since it was written, at byte {self.size}")
        while (end := data.find(b"\n", start)) >= 0:
            text, _, digest = data[start:end].rpartition(b"\t")
            so_far = _digest_of(so_far, text)
            if digest != so_far.encode():
                raise DamagedError(f"{self.path}: changed since it was written, at byte {self.size + start}")
            entries.append(json.loads(text))
            start = end + 1
        if ended and (size := _whole_line(data[start:], so_far)):
            text = data[start : start + size].rpartition(b"\t")[0]
            entries.append(json.loads(text))
            start, so_far, ended = start + size, _digest_of(so_far, text), False
        self._digest, self.size, self._is_ended = so_far, self.size + start, ended
        return entries

    def append(self, entries: Sequence[Entry]) -> None:
        """Commits entries after those that were read; what a killed writer left behind them is cut off.

        One writer at a time, who has read to the end: `artifacts.lock_folder`.
        """
        lines = Journal.lines(entries, self._digest)
        written = lines if self._is_ended else b"\n" + lines
        append_at(self.path, self.size, written)
        self._digest, self.size, self._is_ended = _last_digest(lines, self._digest), self.size + len(written), True

    @staticmethod
    def lines(entries: Sequence[Entry], digest: str = "") -> bytes:
        """What entries look like in the file, behind the line of that digest; "" at its beginning."""
        lines = bytearray()
        for entry in entries:
            text = json.dumps(entry, separators=(",", ":")).encode("utf-8", "surrogateescape")
            digest = _digest_of(digest, text)
            lines += text + b"\t" + digest.encode() + b"\n"
        return bytes(lines)


def _whole_line(tail: bytes, before: str) -> int:
    """Bytes of the line that a tail without a newline is: all of it, or all but one byte that was its newline; or 0."""
    for size in (len(tail), len(tail) - 1):
        text, tab, digest = tail[: max(0, size)].rpartition(b"\t")
        if tab and len(digest) == DIGITS and digest == _digest_of(before, text).encode():
            return size
    return 0


def _last_digest(lines: bytes, before: str) -> str:
    return lines[:-1].rpartition(b"\t")[2].decode() if lines else before


def _digest_of(before: str, text: bytes) -> str:
    return hashlib.sha256(before.encode() + text).hexdigest()[:DIGITS]


def append_at(path: Path, offset: int, data: bytes) -> None:
    """Writes `data` behind the first `offset` bytes of a file, instead of whatever is there, and waits for the disk.

    Where the disk is full, nothing stays behind them, and the `OSError` names the file.
    """
    new = not path.exists()
    try:
        with open(path, "ab", buffering=0) as file:
            file.truncate(offset)
            try:
                write_whole(file, data)
                os.fsync(file.fileno())
            except OSError:
                file.truncate(offset)
                raise
    except OSError as error:
        error.filename = error.filename or os.fspath(path)
        raise
    if new:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
