"""What the journal of a collection says: which photographs there are, and where what is stored of them begins."""

from dataclasses import dataclass, field
from typing import Any

from sret_jax.extraction.local_features import feature_dtype
from sret_jax.storage.journal import Entry


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


@dataclass(frozen=True, slots=True)
class LocalRow:
    """The local features of one photograph: how many, their CRC-32, and where they begin, bytes."""

    count: int
    check: int
    at: int


@dataclass
class State:
    """What the journal says so far.

    photos    of every row, also of those that were removed
    live      name -> row
    contents  digest -> sound rows of it, also of what was removed: what was only moved is not described again
    skipped   name -> (reason, stamp)
    excluded  name -> digest of what a person took out; "" where it is not known
    local     row -> its local features, of what the header says that they are; empty where it says nothing

    `map_bytes` and `local_bytes` count everything that was ever appended.
    """

    header: dict[str, Any] = field(default_factory=dict)
    photos: list[StoredPhoto] = field(default_factory=list)
    live: dict[str, int] = field(default_factory=dict)
    contents: dict[str, list[int]] = field(default_factory=dict)
    skipped: dict[str, tuple[str, tuple[int, int]]] = field(default_factory=dict)
    excluded: dict[str, str] = field(default_factory=dict)
    local: dict[int, LocalRow] = field(default_factory=dict)
    map_bytes: int = 0
    local_bytes: int = 0

    @property
    def feature_bytes(self) -> int:
        """Of one local feature; 0 where the header says that there are none."""
        about = self.header.get("local")
        return feature_dtype(about["dim"]).itemsize if about else 0

    def apply(self, entry: Entry) -> None:
        """Makes one change of the journal."""
        self.header |= entry.get("header", {})
        if "local" in entry.get("header", {}):
            self.local = {}  # those there were are of something else
        self.excluded |= dict(entry.get("exclude", ()))
        for name in entry.get("remove", ()):
            self.live.pop(name, None)
        for name, *rest in entry.get("add", ()):
            size, digest, stamp, positions, checks = rest
            own = StoredPhoto(name, tuple(size), digest, tuple(stamp), tuple(positions), tuple(checks), self.map_bytes)
            row = len(self.photos)
            self.photos.append(own)  # first: threads that read look up rows by their content meanwhile
            self.live[name] = row
            self.contents.setdefault(digest, []).append(row)
            self.skipped.pop(name, None)
            self.map_bytes += positions[0] * positions[1] * self.header["channels"]
        for row, count, check in entry.get("local", ()):
            self.local[row] = LocalRow(count, check, self.local_bytes)
            self.local_bytes += count * self.feature_bytes
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
