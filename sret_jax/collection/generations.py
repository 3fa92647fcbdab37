"""The generations of a collection's store: folders of which one counts, and which another one can take the place of.

`CURRENT` names the one that counts. A new one is written beside it and then published; whoever has the files of the old
one open keeps them.
"""

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from sret_jax.storage.artifacts import DamagedError, unavailable, write_file
from sret_jax.storage.journal import Entry, Journal, append_at
from sret_jax.storage.refusals import plainly

CURRENT = "CURRENT"


def current_generation(folder: Path) -> str:
    """The name of the generation that counts.

    Raises `FileNotFoundError` where there is none yet, and `DamagedError` where the file does not name one, or is gone
    while photographs are there.
    """
    path = folder / CURRENT
    try:
        name = path.read_bytes().decode("ascii", "replace").strip()
    except FileNotFoundError:
        kept = sorted(place.parent.name for place in folder.glob("photos-*/descriptors") if _holds_anything(place))
        if kept:
            raise DamagedError(
                f"{path}: gone; write {kept[-1]!r} into it, or delete {folder} and index again"
            ) from None
        raise
    except (IsADirectoryError, NotADirectoryError) as error:
        raise DamagedError(f"{said(error)}; delete {folder} and index again") from None
    except OSError as error:
        raise unavailable(error) from None
    if not re.fullmatch(r"photos-[0-9]{6,9}", name):
        raise DamagedError(f"{path}: names no generation; write the name of a folder photos-<number> beside it into it")
    return name


def next_generation(folder: Path) -> str:
    """The name of the one that comes behind it."""
    try:
        now = int(current_generation(folder).removeprefix("photos-"))
    except FileNotFoundError:
        now = 0
    return f"photos-{now + 1:06d}"


def begin(folder: Path, entries: list[Entry]) -> None:
    """A new generation of these entries of a journal, without photographs, which counts from now on."""
    folder.mkdir(parents=True, exist_ok=True)
    name = next_generation(folder)
    shutil.rmtree(folder / name, ignore_errors=True)
    with_local = bool(entries[0]["header"].get("local"))
    with plainly(folder):
        (folder / name).mkdir()
        Journal(folder / name / "journal").append(entries)
        for file in ("descriptors", "maps", "local")[: 2 + with_local]:
            append_at(folder / name / file, 0, b"")
        publish(folder, name)


def publish(folder: Path, name: str) -> None:
    """Makes a generation the one that counts, and deletes the others."""
    write_file(folder / CURRENT, f"{name}\n".encode())
    for other in folder.glob("photos-*"):
        if other.name != name:
            shutil.rmtree(other, ignore_errors=True)


class Files:
    """Those of a generation, held open, so that a compaction by another process takes nothing away from this one."""

    def __init__(self, folder: Path):
        self.folder, self.journal = folder, Journal(folder / "journal")
        self.descriptors, self.maps = (Rows(folder / name) for name in ("descriptors", "maps"))
        self.local: Rows | None = None

    def open_local(self, entries: Sequence[Entry]) -> None:
        """Opens the local features, where one of these entries is the first that says that there are some."""
        if self.local is None and any(entry.get("header", {}).get("local") for entry in entries):
            self.local = Rows(self.folder / "local")


class Rows:
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


def said(error: DamagedError | OSError) -> str:
    """Which file is not as it was written, for an error."""
    if isinstance(error, DamagedError):
        return str(error)
    return f"{error.filename}: {'not there' if isinstance(error, FileNotFoundError) else error.strerror}"


def _holds_anything(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:  # another process is deleting its generation
        return False
