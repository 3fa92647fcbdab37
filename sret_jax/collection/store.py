"""What is known of a collection's photographs, on disk: added to and taken from, never rewritten.

<folder>/
    CURRENT                  the name of the generation that counts
    photos-<number>/
        journal              one line for each change: photographs added, removed, skipped, excluded
        descriptors          float32 [rows d], row after row
        maps                 int8 [height width c] of each row, one after the other

Rows are appended, and count once the journal says so; a photograph that is removed leaves its row behind. A kill
between any two writes leaves the state before the change or the one after it. `compact` writes a new generation without
what is no longer there; readers of the old one keep it until they look again.
"""

import math
import os
import re
import shutil
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int8

from sret_jax.storage.artifacts import DamagedError, enough_space, write_file
from sret_jax.storage.journal import Entry, Journal, append_at

FORMAT = 1
CURRENT = "CURRENT"
COPIED_AT_ONCE = 1024  # rows
COMPACT_ABOVE = 1000  # rows left behind, and more than there are photographs


@dataclass(frozen=True, slots=True)
class StoredPhoto:
    """One photograph.

    name    path below the root of the collection, with "/"
    size    (height, width), pixels, upright
    digest  sha256 of the file
    stamp   (bytes, modification time in ns) of the file when it was read; of an uncertain time 0
    map     (height, width) of its map, positions
    checks  CRC-32 of its descriptor and of its map
    at      where its map begins, bytes
    """

    name: str
    size: tuple[int, int]
    digest: str
    stamp: tuple[int, int]
    map: tuple[int, int]
    checks: tuple[int, int]
    at: int = 0


@dataclass(frozen=True)
class Described:
    """Photographs to be added, with what was computed of them."""

    photos: list[StoredPhoto]
    descriptors: Float[np.ndarray, "n d"]
    maps: list[Int8[np.ndarray, "_ _ c"]]


@dataclass
class State:
    """What the journal says so far.

    photos    of every row, also of those that were removed
    live      name -> row
    contents  digest -> sound rows of it, also of what was removed: what was only moved is not described again
    skipped   name -> (reason, stamp)
    excluded  name -> digest of what a person took out; "" where it is not known
    """

    header: dict[str, Any] = field(default_factory=dict)
    photos: list[StoredPhoto] = field(default_factory=list)
    live: dict[str, int] = field(default_factory=dict)
    contents: dict[str, list[int]] = field(default_factory=dict)
    skipped: dict[str, tuple[str, tuple[int, int]]] = field(default_factory=dict)
    excluded: dict[str, str] = field(default_factory=dict)
    map_bytes: int = 0

    def apply(self, entry: Entry) -> None:
        """Makes one change of the journal."""
        self.header |= entry.get("header", {})
        self.excluded |= dict(entry.get("exclude", ()))
        for name in entry.get("remove", ()):
            self.live.pop(name, None)
        for name, *rest in entry.get("add", ()):
            size, digest, stamp, positions, checks = rest
            own = StoredPhoto(name, tuple(size), digest, tuple(stamp), tuple(positions), tuple(checks), self.map_bytes)
            self.live[name] = len(self.photos)
            self.contents.setdefault(digest, []).append(len(self.photos))
            self.skipped.pop(name, None)
            self.photos.append(own)
            self.map_bytes += positions[0] * positions[1] * self.header["channels"]
        for name, stamp in entry.get("touch", ()):
            row = self.live[name]
            old = self.photos[row]
            self.photos[row] = StoredPhoto(name, old.size, old.digest, tuple(stamp), old.map, old.checks, old.at)
        for name, reason, stamp in entry.get("skip", ()):
            self.live.pop(name, None)
            self.skipped[name] = reason, tuple(stamp)
        for name in entry.get("unskip", ()):
            self.skipped.pop(name, None)
        for name in entry.get("include", ()):
            self.excluded.pop(name, None)
        for row in entry.get("unsound", ()):
            self.contents[self.photos[row].digest].remove(row)


class Store:
    """The generation of a collection that counts, read as far as it is committed.

    Attributes:
      folder: of the collection.
      state: what the journal says; `refresh` reads on.
    """

    def __init__(self, folder: Path):
        """Opens what is there.

        Raises `FileNotFoundError` where nothing is, and `DamagedError` where it is not what was written.
        """
        self.folder = Path(folder)
        self._open()

    @classmethod
    def create(
        cls, folder: Path, dim: int, channels: int, about: dict[str, Any], excluded: Mapping[str, str] | None = None
    ) -> "Store":
        """A new generation without photographs, which counts from now on; the one before is deleted."""
        entries: list[Entry] = [{"header": {"format": FORMAT, "dim": dim, "channels": channels} | about}]
        if excluded:
            entries.append({"exclude": sorted(excluded.items())})
        _begin(Path(folder), entries)
        return cls(folder)

    def _open(self) -> None:
        self._current = current_generation(self.folder)
        self.generation = self.folder / self._current
        self.state, self._journal = State(), Journal(self.generation / "journal")
        try:  # held open, so that a compaction by another process takes nothing away from this one
            self._descriptors, self._maps = (_Rows(self.generation / name) for name in ("descriptors", "maps"))
        except FileNotFoundError as error:
            if current_generation(self.folder) != self._current:
                return self._open()
            raise DamagedError(f"{error.filename}: not there; delete {self.folder} and index again") from None
        except OSError as error:
            raise DamagedError(f"{error.filename}: {error.strerror}; delete {self.folder} and index again") from None
        try:
            self._read_on()
        except DamagedError as error:
            raise DamagedError(f"{error}; delete {self.folder} and index again") from None
        if self.state.header.get("format") != FORMAT:
            raise DamagedError(f"{self.generation}: not of this version; delete {self.folder} and index again")

    def refresh(self) -> bool:
        """Reads what was committed meanwhile, by this process or another; whether there was anything."""
        if current_generation(self.folder) == self._current:
            return self._read_on()
        self._open()
        return True

    def _read_on(self) -> bool:
        entries = self._journal.read()
        for entry in entries:
            self.state.apply(entry)
        return bool(entries)

    @property
    def dim(self) -> int:
        return int(self.state.header["dim"])

    @property
    def channels(self) -> int:
        return int(self.state.header["channels"])

    def descriptors(self, start: int = 0) -> Float32[np.ndarray, "n d"]:
        """Those of all rows from `start` on, checked where the photograph is there.

        Raises `DamagedError` that names the photograph.
        """
        photos, width = self.state.photos[start:], 4 * self.dim
        data = memoryview(self._descriptors.read(start * width, len(photos) * width))
        for i, photo in enumerate(photos):
            if self.state.live.get(photo.name) != start + i:
                continue
            self._check("descriptor", photo, data[i * width : (i + 1) * width], width)
        return np.frombuffer(data, np.float32).reshape(len(photos), self.dim)

    def descriptor(self, row: int) -> Float32[np.ndarray, "d"]:
        """That of one row, checked."""
        data = self._descriptors.read(4 * self.dim * row, 4 * self.dim)
        self._check("descriptor", self.state.photos[row], data, 4 * self.dim)
        return np.frombuffer(data, np.float32)

    def map(self, row: int) -> Int8[np.ndarray, "_ _ c"]:
        """The map of one row, checked."""
        photo = self.state.photos[row]
        shape = (*photo.map, self.channels)
        data = self._maps.read(photo.at, math.prod(shape))
        self._check("map", photo, data, math.prod(shape))
        return np.frombuffer(data, np.int8).reshape(shape)

    def _check(self, what: str, photo: StoredPhoto, data: bytes | memoryview, size: int) -> None:
        if len(data) != size or zlib.crc32(data) != photo.checks[what == "map"]:
            raise DamagedError(
                f"{self.generation}: the {what} of {photo.name!r} changed since it was written; `sret verify --mend`, "
                "and then `sret index`, describes it again"
            )

    def add(self, described: Described, removed: Sequence[str] = ()) -> None:
        """Commits photographs, instead of those of the same names and of `removed`, in one change."""
        state, path = self.state, self.generation
        rows = np.ascontiguousarray(described.descriptors, np.float32)
        maps = [np.ascontiguousarray(x) for x in described.maps]
        checks = [(zlib.crc32(x.data), zlib.crc32(m.data)) for x, m in zip(rows, maps, strict=True)]
        with enough_space(self.folder):
            append_at(path / "descriptors", 4 * self.dim * len(state.photos), rows.tobytes())
            append_at(path / "maps", state.map_bytes, b"".join(x.tobytes() for x in maps))
            added = [
                [photo.name, photo.size, photo.digest, photo.stamp, x.shape[:2], check]
                for photo, x, check in zip(described.photos, maps, checks, strict=True)
            ]
            self.change({"remove": list(removed), "add": added})

    def change(self, entry: Entry) -> None:
        """Commits one change; what is empty in it is left out."""
        entry = {key: value for key, value in entry.items() if value}
        if entry:
            with enough_space(self.folder):
                self._journal.append([entry])
            self.state.apply(entry)

    def unsound(self) -> list[int]:
        """Rows of which something is not what was written, also of photographs that are gone; every byte is read."""
        rows = sorted(row for own in self.state.contents.values() for row in own)
        return [row for row in rows if not self.is_sound(row)]

    def is_sound(self, row: int) -> bool:
        """Whether a row is what was written."""
        try:
            self.descriptor(row), self.map(row)
        except DamagedError:
            return False
        return True

    def forget(self, rows: Sequence[int]) -> None:
        """Commits that these rows are not to be used any more, and removes the photographs that they are of."""
        photos, live = self.state.photos, self.state.live
        names = [photos[row].name for row in rows if live.get(photos[row].name) == row]
        self.change({"remove": names, "unsound": list(rows)})

    def rows_of(self, digest: str) -> list[int]:
        """Of the photographs that are there and have this content."""
        photos, live = self.state.photos, self.state.live
        return [row for row in self.state.contents.get(digest, ()) if live.get(photos[row].name) == row]

    @property
    def outgrown(self) -> bool:
        """Whether more is left behind than is there."""
        return self.left_behind > max(COMPACT_ABOVE, len(self.state.live))

    @property
    def left_behind(self) -> int:
        """Rows of photographs that are no longer there."""
        return len(self.state.photos) - len(self.state.live)

    def compact(self) -> None:
        """A new generation with the photographs that are there, by name; nothing that a search finds changes."""
        state = self.state
        name = _next_generation(self.folder)
        built = self.folder / name
        shutil.rmtree(built, ignore_errors=True)
        built.mkdir()
        journal, at = Journal(built / "journal"), [0, 0]
        journal.append([{"header": state.header}])
        rows = [state.live[own] for own in sorted(state.live)]
        with enough_space(self.folder):
            for start in range(0, len(rows), COPIED_AT_ONCE):
                part = rows[start : start + COPIED_AT_ONCE]
                for i, (file, row_of) in enumerate((("descriptors", self.descriptor), ("maps", self.map))):
                    data = b"".join(row_of(row).tobytes() for row in part)
                    append_at(built / file, at[i], data)
                    at[i] += len(data)
                photos = [state.photos[row] for row in part]
                journal.append([{"add": [[p.name, p.size, p.digest, p.stamp, p.map, p.checks] for p in photos]}])
            skipped = [[own, *rest] for own, rest in state.skipped.items()]
            last = {"skip": skipped, "exclude": sorted(state.excluded.items())}
            journal.append([{key: value for key, value in last.items() if value}])
        _publish(self.folder, name)
        self._open()


class _Rows:
    """A file that only grows, read at any place by any thread."""

    def __init__(self, path: Path):
        self._handle = open(path, "rb", buffering=0)

    def read(self, start: int, size: int) -> bytes:
        """So many bytes, or what there is of them."""
        parts = []
        while size > 0 and (part := os.pread(self._handle.fileno(), min(size, 1 << 30), start)):
            parts.append(part)
            start, size = start + len(part), size - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _begin(folder: Path, entries: list[Entry]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    name = _next_generation(folder)
    shutil.rmtree(folder / name, ignore_errors=True)
    (folder / name).mkdir()
    Journal(folder / name / "journal").append(entries)
    for file in ("descriptors", "maps"):
        append_at(folder / name / file, 0, b"")
    _publish(folder, name)


def current_generation(folder: Path) -> str:
    """The name of the generation that counts.

    Raises `FileNotFoundError` where there is none yet, and `DamagedError` where the file does not name one, or is gone
    while photographs are there.
    """
    path = folder / CURRENT
    try:
        name = path.read_bytes().decode("ascii", "replace").strip()
    except FileNotFoundError:
        kept = sorted(place.parent.name for place in folder.glob("photos-*/descriptors") if place.stat().st_size)
        if kept:
            raise DamagedError(
                f"{path}: gone; write {kept[-1]!r} into it, or delete {folder} and index again"
            ) from None
        raise
    except OSError as error:
        raise DamagedError(f"{path}: {error.strerror}; delete {folder} and index again") from None
    if not re.fullmatch(r"photos-[0-9]{6,9}", name):
        raise DamagedError(f"{path}: names no generation; write the name of a folder photos-<number> beside it into it")
    return name


def _next_generation(folder: Path) -> str:
    try:
        now = int(current_generation(folder).removeprefix("photos-"))
    except FileNotFoundError:
        now = 0
    return f"photos-{now + 1:06d}"


def _publish(folder: Path, name: str) -> None:
    """Makes a generation the one that counts, and deletes the others."""
    write_file(folder / CURRENT, f"{name}\n".encode())
    for other in folder.glob("photos-*"):
        if other.name != name:
            shutil.rmtree(other, ignore_errors=True)
