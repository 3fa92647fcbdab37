"""What is known of a collection's photographs, on disk: added to and taken from, never rewritten.

<folder>/
    CURRENT                  the name of the generation that counts
    photos-<number>/
        journal              one line for each change: photographs added, removed, skipped, excluded
        descriptors          float32 [rows d], row after row
        maps                 int8 [height width c] of each row, one after the other
        local                local features of each row that has them, in the order in which they were found; not
                             there in a generation without them

Rows are appended, and count once the journal says so; a photograph that is removed leaves its row behind. A kill
between any two writes leaves the state before the change or the one after it. `compact` writes a new generation without
what is no longer there; readers of the old one keep it until they look again.

Which local features are kept, the header says. Other ones, or none, can be said later: what was appended stays, and
counts no longer. They are added with their photograph or after it.
"""

import contextlib
import errno
import math
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int, Int8, Shaped

from sret_jax.collection.generations import Files, begin, current_generation, next_generation, publish, said
from sret_jax.collection.state import State, StoredPhoto
from sret_jax.extraction.local_features import feature_dtype
from sret_jax.storage.artifacts import DamagedError, unavailable
from sret_jax.storage.journal import Entry, Journal, append_at
from sret_jax.storage.refusals import plainly

FORMAT = 1
ATTEMPTS = 5  # at opening a generation while another process puts others in its place
AT_ONCE = 128  # photographs of an update between two commits: what a kill costs
COPIED_AT_ONCE = 1024  # rows
COMPACT_ABOVE = 1000  # rows left behind, and more than there are photographs
COMPACT_LOCAL_ABOVE = 1 << 26  # bytes of local features that do not count any more, and more than all others that do


@dataclass(frozen=True)
class Described:
    """Photographs to be added, with what was computed of them; `local`: of their places, where they have any."""

    photos: list[StoredPhoto]
    descriptors: Float[np.ndarray, "n d"]
    maps: list[Int8[np.ndarray, "_ _ c"]]
    local: Mapping[int, Shaped[np.ndarray, "_"]] = field(default_factory=dict)


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
        begin(Path(folder), entries)
        return cls(folder)

    def _open(self) -> None:
        """Opens the generation that counts. What was open stays so where it cannot be."""
        for attempt in range(ATTEMPTS):
            current = current_generation(self.folder)
            try:
                files = Files(self.folder / current)
                state, pending = State(), files.journal.read()
                if not pending:
                    raise FileNotFoundError(errno.ENOENT, "not there", str(files.journal.path))
                files.open_local(pending)
                for entry in pending:
                    state.apply(entry)
                if state.header.get("format") != FORMAT:
                    raise DamagedError(f"{files.folder}: not of this version")
            except (DamagedError, FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
                if attempt < ATTEMPTS - 1 and current_generation(self.folder) != current:  # compacted meanwhile
                    continue
                raise DamagedError(f"{said(error)}; delete {self.folder} and index again") from None
            except OSError as error:
                raise unavailable(error) from None
            self._current, self.generation, self.state, self._files = current, files.folder, state, files
            self._pending: list[Entry] = []
            return

    def refresh(self) -> bool:
        """Reads what was committed meanwhile, by this process or another; whether there was anything.

        Raises as `Store`; what was read before is kept then, and the next call reads on.
        """
        if self.is_current:
            with contextlib.suppress(FileNotFoundError):  # another generation since
                return self.read_on()
        self._open()
        return True

    @property
    def is_current(self) -> bool:
        """Whether its generation is the one that counts."""
        return current_generation(self.folder) == self._current

    def read_on(self) -> bool:
        """`refresh` within this generation; one that does not count any more stays as it was.

        Raises as `Store`, but `FileNotFoundError` where the generation may be gone.
        """
        try:
            self._pending += self._files.journal.read()
            self._files.open_local(self._pending)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise unavailable(error) from None
        entries, self._pending = self._pending, []
        for entry in entries:
            self.state.apply(entry)
        return bool(entries)

    @property
    def dim(self) -> int:
        return int(self.state.header["dim"])

    @property
    def channels(self) -> int:
        return int(self.state.header["channels"])

    @property
    def local_about(self) -> dict[str, Any]:
        """What the header says of local features: their `source`, the `key` of what finds them, the `dim` of one."""
        return self.state.header.get("local") or {}

    def descriptors(self, start: int = 0) -> Float32[np.ndarray, "n d"]:
        """Those of all rows from `start` on, checked where the photograph is there.

        Raises `DamagedError` that names the photograph.
        """
        return self._descriptors(start, len(self.state.photos) - start)

    def descriptors_of(self, rows: Int[np.ndarray, "n"]) -> Float32[np.ndarray, "n d"]:
        """Those of some rows, in their order, checked as by `descriptors`; consecutive ones are read at once."""
        out = np.empty((len(rows), self.dim), np.float32)
        starts = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
        for start, stop in pairwise(starts):
            if stop > start:
                out[start:stop] = self._descriptors(int(rows[start]), stop - start)
        return out

    def _descriptors(self, start: int, count: int) -> Float32[np.ndarray, "n d"]:
        photos, live, width = self.state.photos, self.state.live, 4 * self.dim
        data = memoryview(self._files.descriptors.read(start * width, count * width))
        for i, photo in enumerate(photos[start : start + count]):
            if live.get(photo.name) == start + i:
                self._check("descriptor", photo, data[i * width : (i + 1) * width], width, photo.checks[0])
        return np.frombuffer(data, np.float32).reshape(count, self.dim)

    def descriptor(self, row: int) -> Float32[np.ndarray, "d"]:
        """That of one row, checked."""
        photo = self.state.photos[row]
        data = self._files.descriptors.read(4 * self.dim * row, 4 * self.dim)
        self._check("descriptor", photo, data, 4 * self.dim, photo.checks[0])
        return np.frombuffer(data, np.float32)

    def map(self, row: int) -> Int8[np.ndarray, "_ _ c"]:
        """The map of one row, checked."""
        photo = self.state.photos[row]
        shape = (*photo.map, self.channels)
        data = self._files.maps.read(photo.at, math.prod(shape))
        self._check("map", photo, data, math.prod(shape), photo.checks[1])
        return np.frombuffer(data, np.int8).reshape(shape)

    def local(self, row: int) -> Shaped[np.ndarray, "n"] | None:
        """The local features of one row, as `local_features.real_features` has them, checked; None where it has none.

        A photograph in which nothing was found has 0 of them.
        """
        own = self.state.local.get(row)
        if own is None or self._files.local is None:
            return None
        size = own.count * self.state.feature_bytes
        data = self._files.local.read(own.at, size)
        self._check("local features", self.state.photos[row], data, size, own.check)
        return np.frombuffer(data, feature_dtype(self.local_about["dim"]))

    def _check(self, what: str, photo: StoredPhoto, data: bytes | memoryview, size: int, check: int) -> None:
        if len(data) != size or zlib.crc32(data) != check:
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
        with plainly(self.folder):
            append_at(path / "descriptors", 4 * self.dim * len(state.photos), rows.tobytes())
            append_at(path / "maps", state.map_bytes, b"".join(x.tobytes() for x in maps))
            added = [
                [photo.name, photo.size, photo.digest, photo.stamp, x.shape[:2], check]
                for photo, x, check in zip(described.photos, maps, checks, strict=True)
            ]
            first = len(state.photos)
            local = self._append_local({first + place: own for place, own in described.local.items()})
            self.change({"remove": list(removed), "add": added, "local": local})

    def add_local(self, local: Mapping[int, Shaped[np.ndarray, "_"]]) -> None:
        """Commits local features of rows that are there, in one change."""
        with plainly(self.folder):
            self.change({"local": self._append_local(local)})

    def _append_local(self, local: Mapping[int, Shaped[np.ndarray, "_"]]) -> list[tuple[int, int, int]]:
        """What the journal is to say of them."""
        if not local:
            return []
        parts = {row: own.tobytes() for row, own in local.items()}
        append_at(self.generation / "local", self.state.local_bytes, b"".join(parts.values()))
        return [(row, len(local[row]), zlib.crc32(part)) for row, part in parts.items()]

    def keep_local(self, about: dict[str, Any]) -> None:
        """Commits which local features are kept from now on, {} for none; those there were count no longer."""
        if about:
            append_at(self.generation / "local", self.state.local_bytes, b"")
        entry: Entry = {"header": {"local": about}}
        self._files.open_local([entry])
        self.change(entry)

    def change(self, entry: Entry) -> None:
        """Commits one change; what is empty in it is left out."""
        entry = {key: value for key, value in entry.items() if value}
        if entry:
            with plainly(self.folder):
                self._files.journal.append([entry])
            self.state.apply(entry)

    def unsound(self) -> list[int]:
        """Rows of which something is not what was written, also of photographs that are gone; every byte is read."""
        rows = sorted(row for own in self.state.contents.values() for row in own)
        return [row for row in rows if not self.is_sound(row)]

    def check_end(self) -> None:
        """Raises `DamagedError` where more is stored than the journal says and a kill between two writes leaves.

        Descriptors are written first, and all are of one size: they tell whether a kill left what is behind the rest.
        Where none is left of them, maps and local features count by the largest there are.
        """
        state, width = self.state, 4 * self.dim
        largest = max((p.map[0] * p.map[1] for p in state.photos), default=0) * self.channels
        counted = max((own.count for own in state.local.values()), default=0)
        most = self.local_about.get("most", counted) * state.feature_bytes
        begun = 0
        for name, size, one in (
            ("descriptors", width * len(state.photos), width),
            ("maps", state.map_bytes, largest),
            ("local", state.local_bytes, most),
        ):
            path = self.generation / name
            beyond = path.stat().st_size - size if one else 0
            begun = beyond if name == "descriptors" else begun
            if beyond > AT_ONCE * one and (name == "descriptors" or begun <= 0):
                raise DamagedError(
                    f"{path}: holds more than the journal says, of which the end is missing; `sret index` describes "
                    "again what is lost, and what was taken out last has to be taken out again"
                )

    def cut_end(self) -> None:
        """Deletes what the journal does not speak of; of whoever holds the lock of the collection."""
        sizes = {"descriptors": 4 * self.dim * len(self.state.photos), "maps": self.state.map_bytes}
        if self.local_about:
            sizes["local"] = self.state.local_bytes
        for name, size in sizes.items():
            path = self.generation / name
            if path.stat().st_size > size:
                append_at(path, size, b"")

    def is_sound(self, row: int) -> bool:
        """Whether a row is what was written."""
        try:
            self.descriptor(row), self.map(row), self.local(row)
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
        state = self.state
        if self.left_behind > max(COMPACT_ABOVE, len(state.live)):
            return True
        counted = sum(own.count for own in state.local.values()) * state.feature_bytes
        others = 4 * self.dim * len(state.photos) + state.map_bytes
        return state.local_bytes - counted > max(COMPACT_LOCAL_ABOVE, counted + others)

    @property
    def left_behind(self) -> int:
        """Rows of photographs that are no longer there."""
        return len(self.state.photos) - len(self.state.live)

    def compact(self) -> None:
        """A new generation with the photographs that are there, by name; nothing that a search finds changes."""
        state = self.state
        rows = [(self, state.live[name]) for name in sorted(state.live)]
        write_generation(self.folder, state.header, rows, state.skipped, state.excluded)
        self._open()


def write_generation(
    folder: Path,
    header: dict[str, Any],
    rows: Sequence[tuple[Store, int]],
    skipped: Mapping[str, tuple[str, tuple[int, int]]],
    excluded: Mapping[str, str],
) -> None:
    """A generation of rows of stores, in their order, checked while they are copied; it counts from now on.

    Args:
      folder: of the collection.
      header: of its journal, and of those of all stores.
      skipped: as `State` has it.
      excluded: as `State` has it.

    Raises:
      DamagedError: a row is not what was written; nothing has changed then.
      UserError: the disk is full.
    """
    name = next_generation(folder)
    built = folder / name
    shutil.rmtree(built, ignore_errors=True)
    with plainly(folder):
        try:
            built.mkdir()
            _write_rows(built, header, rows, skipped, excluded)
        except (OSError, DamagedError):
            shutil.rmtree(built, ignore_errors=True)  # which may be what fills the disk
            raise
        publish(folder, name)


def _write_rows(
    built: Path,
    header: dict[str, Any],
    rows: Sequence[tuple[Store, int]],
    skipped: Mapping[str, tuple[str, tuple[int, int]]],
    excluded: Mapping[str, str],
) -> None:
    journal, at = Journal(built / "journal"), [0, 0, 0]
    journal.append([{"header": header}])
    files: list[tuple[str, Callable[[Store, int], np.ndarray | None]]]
    files = [("descriptors", Store.descriptor), ("maps", Store.map)]
    if header.get("local"):
        files.append(("local", Store.local))
    for file, _ in files:  # also where no row is left to be written
        append_at(built / file, 0, b"")
    for start in range(0, len(rows), COPIED_AT_ONCE):
        part = rows[start : start + COPIED_AT_ONCE]
        for i, (file, row_of) in enumerate(files):
            data = b"".join(own.tobytes() for store, row in part if (own := row_of(store, row)) is not None)
            append_at(built / file, at[i], data)
            at[i] += len(data)
        photos = [store.state.photos[row] for store, row in part]
        kept = [(start + i, store.state.local[row]) for i, (store, row) in enumerate(part) if row in store.state.local]
        local = [[row, one.count, one.check] for row, one in kept]
        added = [[p.name, p.size, p.digest, p.stamp, p.map, p.checks] for p in photos]
        journal.append([{"add": added} | ({"local": local} if local else {})])
    last = {"skip": [[own, *rest] for own, rest in sorted(skipped.items())], "exclude": sorted(excluded.items())}
    journal.append([{key: value for key, value in last.items() if value}])
