"""A file to which one line is appended for every change, so that a reader sees all of a change or nothing of it.

Each line is JSON, a tab, and a digest of it and of every line before it:

    {"add": [...]}\\t1f0c9a...\\n

A kill in the middle of a line leaves a tail without an end, which no reader takes for a line and the next writer cuts
off. A line that does not fit those before it, with others behind it, is damage, and is never passed over.
"""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sret_jax.storage.artifacts import DamagedError

Entry = dict[str, Any]
ATTEMPTS = 3


class Journal:
    """The entries of a journal, read as far as they are committed.

    Attributes:
      path: of the file; one that does not exist holds nothing.
      size: bytes of the entries read so far.
    """

    def __init__(self, path: Path):
        self.path, self.size, self._digest = Path(path), 0, ""

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
        entries, start, so_far = [], 0, self._digest
        while (end := data.find(b"\n", start)) >= 0:
            text, _, digest = data[start:end].rpartition(b"\t")
            so_far = _digest_of(so_far, text)
            if digest != so_far.encode():
                raise DamagedError(f"{self.path}: changed since it was written, at byte {self.size + start}")
            entries.append(json.loads(text))
            start = end + 1
        self._digest, self.size = so_far, self.size + start
        return entries

    def append(self, entries: Sequence[Entry]) -> None:
        """Commits entries after those that were read; what a killed writer left behind them is cut off.

        One writer at a time, who has read to the end: `artifacts.lock_folder`.
        """
        lines = Journal.lines(entries, self._digest)
        append_at(self.path, self.size, lines)
        self._digest, self.size = _last_digest(lines, self._digest), self.size + len(lines)

    @staticmethod
    def lines(entries: Sequence[Entry], digest: str = "") -> bytes:
        """What entries look like in the file, behind the line of that digest; "" at its beginning."""
        lines = bytearray()
        for entry in entries:
            text = json.dumps(entry, separators=(",", ":")).encode("utf-8", "surrogateescape")
            digest = _digest_of(digest, text)
            lines += text + b"\t" + digest.encode() + b"\n"
        return bytes(lines)


def _last_digest(lines: bytes, before: str) -> str:
    return lines[:-1].rpartition(b"\t")[2].decode() if lines else before


def _digest_of(before: str, text: bytes) -> str:
    return hashlib.sha256(before.encode() + text).hexdigest()[:16]


def append_at(path: Path, offset: int, data: bytes) -> None:
    """Writes `data` behind the first `offset` bytes of a file, instead of whatever is there, and waits for the disk."""
    new = not path.exists()
    with open(path, "ab") as file:
        file.truncate(offset)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    if new:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
