"""Where photographs come from: a folder, tar archives, an object store or a web server; each walked and read alike.

A photograph has a name below its source, with "/", and one of an archive the archive's name before its own:
`shards/0007.tar/cat/12.jpg`. What has changed is told without reading photographs, by the stamp of each: see `files`.
That of an archive's member changes with the archive.
"""

import hashlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path

from sret_jax.data.apart import size_apart
from sret_jax.data.archives import PACKED, PACKED_REASON, is_archive, photographs_of
from sret_jax.data.files import (
    UNCERTAIN,
    UNLISTED,
    FileEntry,
    Files,
    LocalFiles,
    RemoteFiles,
    Stamp,
    tag_of,
    tag_of_now,
)
from sret_jax.data.patterns import is_pattern, split_pattern
from sret_jax.data.remote import RemoteFolder, is_address
from sret_jax.errors import UserError
from sret_jax.storage.artifacts import DamagedError, read_sealed, write_sealed
from sret_jax.storage.files import MAX_BYTES, Unreadable
from sret_jax.storage.tar import TarMember, list_tar, read_member

KEPT = 32  # archives of which the members are remembered


@dataclass(frozen=True)
class SourceEntry:
    """One photograph of a source, or what is none; `reason` says why, whatever it holds.

    unit       the file that it lies in: its own name, or that of its archive
    instance   the first folder of its name, in its archive if it is in one; None where it lies in none
    """

    name: str
    stamp: Stamp
    unit: str
    instance: str | None = None
    reason: str = ""


@dataclass(frozen=True)
class Archive:
    """What is known of an archive.

    stamp    of the file; its number 0 where it may change again unnoticed
    members  those that may be photographs, by name
    problem  why it could not be listed to its end; "" where it was
    """

    stamp: Stamp
    members: dict[str, TarMember]
    problem: str


class PhotoSource:
    """Photographs that are read where they lie.

    Attributes:
      address: by which it is opened again: an absolute path, with a pattern or without, or an address.
      name: a short one.
      files: that it has.
      notes: a folder in which it is written what archives of other machines hold, so that they are listed once; None
        for no notes. May be set.
    """

    def __init__(self, files: Files, address: str, name: str):
        self.files, self.address, self.name = files, address, name
        self.notes: Path | None = None
        self._archives: OrderedDict[str, Archive] = OrderedDict()
        self._lock = threading.Lock()

    def __str__(self) -> str:
        return self.address

    @property
    def folder(self) -> Path | None:
        """That of this machine whose files it reads; None where they are elsewhere."""
        return self.files.base if isinstance(self.files, LocalFiles) else None

    @property
    def is_folder(self) -> bool:
        """Whether it is all that lies below a folder of this machine."""
        return isinstance(self.files, LocalFiles) and not self.files.pattern

    def check(self) -> None:
        """Raises `UserError` where nothing is there, or it cannot be reached."""
        self.files.check()

    def is_gone(self) -> bool:
        """Whether it is known, without asking anybody else, that it is not there."""
        return self.folder is not None and not self.folder.is_dir()

    def entries(
        self, wanted: Callable[[str], bool] | None = None, leave_out: Sequence[Path] = ()
    ) -> Iterator[SourceEntry]:
        """Everything that is there, each file behind the other.

        Args:
          wanted: of units; archives that are not are not read. What cannot be listed is named all the same.
          leave_out: folders of this machine that are not looked into, wherever they are.

        Raises `UserError` where files cannot be reached any more.
        """
        for entry in self.files.walk(leave_out):
            if entry.reason.startswith(UNLISTED):
                yield SourceEntry(entry.name, (0, 0), entry.name, reason=entry.reason)
            elif wanted is None or wanted(entry.name):
                yield from self._entries_of(entry)

    def _entries_of(self, entry: FileEntry) -> Iterator[SourceEntry]:
        stamp, reason = self.files.stamp(entry), entry.reason
        if reason or not is_archive(entry.name):
            if not reason and entry.name.lower().endswith(PACKED):
                reason = PACKED_REASON
            yield SourceEntry(entry.name, stamp, entry.name, _first_folder(entry.name), reason)
            return
        try:
            archive = self._listed(entry.name, stamp)
        except Unreadable as error:
            yield SourceEntry(entry.name, (0, 0), entry.name, reason=f"{UNLISTED}: {error.reason}")
            return
        for name, member in archive.members.items():
            reason = member.reason or (f"larger than {MAX_BYTES >> 20} MiB" if member.size > MAX_BYTES else "")
            tag = tag_of(archive.stamp, member.at, member.header) if archive.stamp[1] else tag_of_now()
            full = f"{entry.name}/{name}"
            yield SourceEntry(full, (member.size, tag), entry.name, _first_folder(name), reason)
        if archive.problem:
            yield SourceEntry(entry.name, stamp, entry.name, reason=f"{UNLISTED} to its end: {archive.problem}")

    def has(self, name: str) -> bool:
        """Whether the file, or the archive, of a photograph is there."""
        return self.files.has(self._parts(name)[0])

    def read(self, name: str, apart: bool = False) -> bytes:
        """The bytes of a photograph.

        Args:
          apart: a file of this machine is read by another process, see `data.apart`.

        Raises:
          Unreadable: it is not there, or not a file that can be one.
          UserError: nothing can be reached any more.
        """
        file, member = self._parts(name)
        return self._read_member(file, member) if member else self.files.read(file, apart)

    def read_photo(self, name: str) -> tuple[bytes, tuple[int, int]]:
        """The bytes of a photograph that can be decoded, and its upright (height, width). Raises as `read`."""
        file, member = self._parts(name)
        if not member:
            return self.files.read_photo(file)
        data = self._read_member(file, member)
        return data, size_apart(data)

    def _parts(self, name: str) -> tuple[str, str]:
        """The file, and the name in it of a member of an archive."""
        at = name.find("/")
        while at >= 0:
            if is_archive(name[:at]) and self.files.is_file(name[:at]):
                return name[:at], name[at + 1 :]
            at = name.find("/", at + 1)
        return name, ""

    def _read_member(self, file: str, name: str) -> bytes:
        for again in (False, True):
            member = self._known(file, again).members.get(name)
            if member is None or member.reason:
                raise Unreadable(member.reason if member else "not in its archive")
            if member.size > MAX_BYTES:
                raise Unreadable(f"larger than {MAX_BYTES >> 20} MiB")
            try:
                return read_member(partial(self.files.read_part, file), member)
            except Unreadable:
                if again:
                    raise
        raise AssertionError("unreachable")

    def _known(self, file: str, again: bool) -> Archive:
        """An archive as it was listed last, or as it is now."""
        with self._lock:
            if not again and file in self._archives:
                self._archives.move_to_end(file)
                return self._archives[file]
        return self._listed(file, self._stamp_of(file))

    def _stamp_of(self, file: str) -> Stamp:
        if isinstance(self.files, RemoteFiles):
            return self.files.stamp(FileEntry(file, about=self.files.folder.about(file)))
        assert isinstance(self.files, LocalFiles)
        return self.files.stamp(FileEntry(file, os.fspath(self.files.base / file)))

    def _listed(self, file: str, stamp: Stamp) -> Archive:
        """An archive of this stamp: as it is remembered, noted, or written in its headers."""
        if stamp[1] > 0 and time.time_ns() - stamp[1] <= UNCERTAIN:
            stamp = stamp[0], 0
        with self._lock:  # which other threads wait for, and not for each other's headers
            known = self._archives.get(file)
            if known is None or known.stamp != stamp or not stamp[1]:
                known = self._noted(file, stamp)
                if known is None:
                    with self.files.opened(file) as read:
                        listing = list_tar(read, stamp[0])
                    known = Archive(stamp, photographs_of(listing), listing.problem)
                    self._note(file, known)
            self._archives[file] = known
            self._archives.move_to_end(file)
            while len(self._archives) > KEPT:
                self._archives.popitem(last=False)
            return known

    def _note_of(self, file: str) -> Path | None:
        if self.notes is None or not isinstance(self.files, RemoteFiles):
            return None
        return self.notes / f"{hashlib.sha256(file.encode()).hexdigest()[:32]}.json"

    def _noted(self, file: str, stamp: Stamp) -> Archive | None:
        path = self._note_of(file)
        if path is None or not path.is_file():
            return None
        try:
            note = read_sealed(path)
            if note["archive"] != file or tuple(note["stamp"]) != stamp:
                return None
            return Archive(stamp, {name: TarMember(*rest) for name, *rest in note["members"]}, "")
        except (DamagedError, LookupError, TypeError, ValueError):
            return None  # it is listed again, which costs time only

    def _note(self, file: str, archive: Archive) -> None:
        path = self._note_of(file)
        if path is None or archive.problem or not archive.stamp[1]:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        members = [[name, *astuple(member)] for name, member in archive.members.items()]
        write_sealed(path, {"archive": file, "stamp": list(archive.stamp), "members": members})


def source_of(source: str | os.PathLike[str]) -> PhotoSource:
    """The source that a person means: a folder, a tar archive, a pattern of either's files, an address of any of them.

    Whether it is there is not asked. Raises `UserError` for an address that cannot be opened.
    """
    text = os.fspath(source)
    if is_address(text):
        protocol, _, rest = text.partition("://")
        if "?" in rest or "#" in rest:
            raise UserError(f"{text}: give the address without ? and #; credentials belong into the environment")
        base, pattern = split_pattern(rest) if is_pattern(rest) else (rest, "")
        if not pattern and is_archive(rest.rstrip("/")):
            base, _, pattern = rest.rstrip("/").rpartition("/")
        remote = RemoteFolder(f"{protocol}://{base}")
        address = f"{remote.address}/{pattern}" if pattern else remote.address
        return PhotoSource(RemoteFiles(remote, pattern), address, _short(pattern, base))
    path = Path(text).expanduser()
    if path.is_dir() or not (is_pattern(text) or is_archive(text)):
        folder, pattern = path.resolve(), ""
    elif path.exists() or not is_pattern(text):
        folder, pattern = path.parent.resolve(), path.name
    else:
        base, pattern = split_pattern(os.fspath(path))
        folder = Path(base or ("/" if path.is_absolute() else "")).resolve()
    return PhotoSource(LocalFiles(folder, pattern), os.fspath(folder / pattern), _short(pattern, os.fspath(folder)))


def archives_as_source(paths: Sequence[str]) -> PhotoSource:
    """Tar archives that are named one by one, of this machine or one store, as one source.

    Raises `UserError` where they have no folder in common.
    """
    if any(is_address(path) for path in paths):
        protocols = {path.partition("://")[0] for path in paths}
        if len(protocols) > 1 or not all(is_address(path) for path in paths):
            raise UserError("open_photos: archives of several places; open those of each place alone")
        (protocol,), rests = protocols, [path.partition("://")[2] for path in paths]
        base = os.path.commonpath([rest.rpartition("/")[0] for rest in rests])
    else:
        protocol, rests = "", [os.fspath(Path(path).expanduser().absolute()) for path in paths]
        base = os.path.commonpath([os.path.dirname(rest) for rest in rests])
    names = [rest[len(base) :].lstrip("/") for rest in rests]
    if any(is_pattern(name) or "," in name for name in names):
        raise UserError("open_photos: give one pattern instead of a list, or names without braces, commas and stars")
    pattern = f"{{{','.join(names)}}}" if len(names) > 1 else names[0]
    return source_of(f"{protocol}://{base}/{pattern}" if protocol else f"{base}/{pattern}")


def _first_folder(name: str) -> str | None:
    return name.partition("/")[0] if "/" in name else None


def _short(pattern: str, base: str) -> str:
    own = pattern.rpartition("/")[2] if pattern and not is_pattern(pattern) else base.rstrip("/").rpartition("/")[2]
    return own.removesuffix(".tar") or "photos"
