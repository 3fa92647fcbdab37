"""The files below a folder of this machine, or below an address: walked, told apart by their stamps, and read.

A stamp is a size in bytes and a number: the modification time, in ns, of a file of this machine, and a negative tag of
everything else. What is found with another stamp may be another file.
"""

import contextlib
import glob
import hashlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from sret_jax.data.apart import read_apart, read_photo_apart, size_apart
from sret_jax.data.archives import is_archive
from sret_jax.data.folders import walk
from sret_jax.data.patterns import expanded, is_wild
from sret_jax.data.remote import RemoteFile, RemoteFolder
from sret_jax.data.side_files import lies_beside
from sret_jax.errors import UserError
from sret_jax.storage.files import MAX_BYTES, Unreadable, open_file, read_file
from sret_jax.storage.tar import Read

UNCERTAIN = 2 * 10**9  # ns: a file changed that shortly before it was read may change again within the clock's step
UNLISTED = "cannot be listed"  # how the reason begins of what has photographs below it that may be there still
Stamp = tuple[int, int]


@dataclass(frozen=True)
class FileEntry:
    """A file that was found, of this machine or not; `reason` says why it cannot be a photograph, whatever it holds."""

    name: str
    path: str = ""
    about: RemoteFile | None = None
    reason: str = ""


@runtime_checkable
class Files(Protocol):
    """Every `read...` raises `Unreadable` of that file alone, and `UserError` where nothing can be read any more."""

    def check(self) -> None:
        """Raises `UserError` where there is nothing that could be read."""

    def walk(self, leave_out: Sequence[Path]) -> Iterator[FileEntry]: ...

    def stamp(self, entry: FileEntry) -> Stamp: ...

    def has(self, name: str) -> bool: ...

    def is_file(self, name: str) -> bool: ...

    def read(self, name: str, apart: bool) -> bytes: ...

    def read_photo(self, name: str) -> tuple[bytes, tuple[int, int]]: ...

    def read_part(self, name: str, start: int, size: int) -> bytes: ...

    def opened(self, name: str) -> contextlib.AbstractContextManager[Read]: ...


def tag_of(*parts: object) -> int:
    """A negative number that stands for what a file is told apart by."""
    return -(int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1) - 1


def tag_of_now() -> int:
    """One that stands for nothing that will be found again: what has it is read the next time too."""
    return tag_of(time.time_ns(), os.getpid())


@dataclass(frozen=True)
class LocalFiles:
    """Those below a folder of this machine, or that patterns below it name."""

    base: Path
    pattern: str = ""

    def check(self) -> None:
        if not self.base.is_dir():
            raise UserError(
                f"{self.base}: not there; is the disk mounted? If the folder was moved, open it by its new path"
            )
        if self.pattern and not any(self.has(name) for name in self._named()):
            raise UserError(f"{self.base / self.pattern}: no such file")

    def walk(self, leave_out: Sequence[Path]) -> Iterator[FileEntry]:
        left_out = tuple(os.fspath(folder.resolve()) + os.sep for folder in leave_out)
        if self.pattern:
            entries = [
                FileEntry(
                    name,
                    os.path.join(self.base, name),
                    reason="" if self.has(name) or is_wild(self.pattern) else f"{UNLISTED}: not there",
                )
                for name in self._named()
            ]
        else:
            entries = [FileEntry(entry.name, entry.path, reason=entry.reason) for entry in walk(self.base)]
        usable = {entry.name for entry in entries if not entry.reason}
        for entry in entries:
            if entry.reason and entry.name in usable:  # a name that is not UTF-8 is written as another file's is
                continue
            if not os.path.realpath(entry.path).startswith(left_out):
                yield entry

    def stamp(self, entry: FileEntry) -> Stamp:
        try:
            status = os.stat(entry.path)
        except OSError:
            return 0, 0
        return status.st_size, status.st_mtime_ns

    def has(self, name: str) -> bool:
        return os.path.lexists(self.base / name)

    def is_file(self, name: str) -> bool:
        return os.path.isfile(self.base / name)

    def read(self, name: str, apart: bool) -> bytes:
        return read_apart(self.base / name) if apart else read_file(self.base / name)

    def read_photo(self, name: str) -> tuple[bytes, tuple[int, int]]:
        return read_photo_apart(self.base / name)

    def read_part(self, name: str, start: int, size: int) -> bytes:
        with self.opened(name) as read:
            return read(start, size)

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[Read]:
        with open_file(self.base / name, sys.maxsize) as file:
            try:
                yield lambda start, size: os.pread(file.fileno(), size, start)
            except OSError as error:
                raise Unreadable(f"cannot be read: {error.strerror}") from None

    def _named(self) -> list[str]:
        found: list[str] = []
        for part in expanded(self.pattern):
            found += sorted(glob.glob(part, root_dir=self.base)) if is_wild(part) else [part]
        return [name for name in dict.fromkeys(found) if not (self.base / name).is_dir()]


@dataclass(frozen=True)
class RemoteFiles:
    """Those below an address, or that patterns below it name."""

    folder: RemoteFolder
    pattern: str = ""

    def check(self) -> None:
        try:
            if not self.pattern:
                self.folder.listed()
            elif not self._named():
                raise Unreadable("no file of such a name")
        except Unreadable as error:
            raise UserError(f"{self.folder.address}{'/' if self.pattern else ''}{self.pattern}: {error}") from None

    def walk(self, leave_out: Sequence[Path]) -> Iterator[FileEntry]:
        if not self.pattern:
            yield from self._walk("")
            return
        for name in self._named():
            try:
                yield FileEntry(name, about=self.folder.about(name))
            except Unreadable as error:
                yield FileEntry(name, reason=f"{UNLISTED}: {error.reason}")

    def _walk(self, folder: str) -> Iterator[FileEntry]:
        try:
            entries = self.folder.listed(folder)
        except Unreadable as error:
            if not folder:
                raise UserError(f"{self.folder.address}: {error.reason}") from None
            yield FileEntry(folder, reason=f"{UNLISTED}: {error.reason}")
            return
        for entry in entries:
            if lies_beside(entry.name.rpartition("/")[2], entry.about is None):
                continue
            if entry.about is None and is_archive(entry.name):  # of its files nobody could tell whether they lie in it
                yield FileEntry(entry.name, reason="a folder with the name of an archive: give it another name")
            elif entry.about is None:
                yield from self._walk(entry.name)
            else:
                too_large = entry.about.size > MAX_BYTES and not is_archive(entry.name)
                reason = f"larger than {MAX_BYTES >> 20} MiB" if too_large else ""
                yield FileEntry(entry.name, about=entry.about, reason=reason)

    def stamp(self, entry: FileEntry) -> Stamp:
        if entry.about is None:
            return 0, 0
        return entry.about.size, tag_of(entry.about.tag) if entry.about.tag else tag_of_now()

    def has(self, name: str) -> bool:
        return self.folder.has(name)

    def is_file(self, name: str) -> bool:
        return True

    def read(self, name: str, apart: bool) -> bytes:
        return self.folder.read(name)

    def read_photo(self, name: str) -> tuple[bytes, tuple[int, int]]:
        data = self.read(name, apart=True)
        return data, size_apart(data)

    def read_part(self, name: str, start: int, size: int) -> bytes:
        return self.folder.read(name, start, size)

    def opened(self, name: str) -> contextlib.AbstractContextManager[Read]:
        return self.folder.opened(name)

    def _named(self) -> list[str]:
        found: list[str] = []
        for part in expanded(self.pattern):
            found += self.folder.matching(part) if is_wild(part) else [part]
        return list(dict.fromkeys(found))
