"""What is known of photos on disk, in chunks that are written whole or not at all, and never read unchecked."""

import contextlib
import hashlib
import io
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Shaped

from sret_jax.errors import UserError
from sret_jax.storage.artifacts import DamagedError, file_digest, lock_folder, write_file
from sret_jax.storage.journal import Entry, Journal
from sret_jax.storage.refusals import plainly

log = logging.getLogger(__name__)

STORE = "STORE"
PARTS = "parts"  # folder of those of a store that other processes fill


class RowStore:
    """One row of numbers, or one record, for every photo of a list.

    Chunk i is the file `<i>.npy`, of any dtype without objects, with the photos i * chunk_rows onwards in their order:
    float32 [rows d] of global descriptors, [rows] records of local ones. A chunk counts once the journal `STORE`
    has its sha256, which is appended after it: a kill at any moment costs the chunk that was being made and nothing
    else. What is filled in afterwards is byte for byte what an uninterrupted run writes.

    Attributes:
      fingerprint: of everything the descriptors depend on (network, photos, how they were extracted).
      names: of the photos, in order.
      chunk_rows: photos per chunk; the last chunk has the rest.
      retriever: fingerprint of what described the photos, of descriptors; "" if unknown.
    """

    def __init__(
        self,
        folder: Path,
        names: list[str],
        fingerprint: str,
        chunk_rows: int,
        digests: dict[str, str],
        retriever: str = "",
    ):
        self.folder, self.names, self.fingerprint, self.chunk_rows = Path(folder), names, fingerprint, chunk_rows
        self.retriever = retriever
        self._digests, self._journal = digests, Journal(self.folder / STORE)

    @classmethod
    def resume(
        cls, folder: Path, names: list[str], fingerprint: str, chunk_rows: int, retriever: str = ""
    ) -> "RowStore":
        """The store in `folder` for these photos: with the chunks that are there and sound, or empty.

        A store of other photos or of another network is discarded, and a damaged chunk is taken out, both with a line
        in the log; the caller fills in what `missing` lists.
        """
        folder = Path(folder)
        digests: dict[str, str] = {}
        if (folder / STORE).exists():
            try:
                found = cls.load(folder)
            except DamagedError as error:
                log.warning("%s; every descriptor is extracted again", error)
            else:
                same = (found.fingerprint, found.names, found.chunk_rows) == (fingerprint, names, chunk_rows)
                if same:
                    for name in found._damaged():
                        log.warning("%s: damaged, it is extracted again", folder / name)
                        del found._digests[name]
                    digests = found._digests
                else:
                    log.info("%s: of another network or other photos, extracted again", folder)
        folder.mkdir(parents=True, exist_ok=True)
        store = cls(folder, list(names), fingerprint, chunk_rows, digests, retriever)
        store._begin()
        for path in folder.glob("[0-9]*.npy"):
            if path.name not in digests:
                path.unlink()
        return store

    @classmethod
    def load(cls, folder: Path, fingerprint: str | None = None) -> "RowStore":
        """The store in `folder`.

        Raises:
          UserError: there is none, or it has another fingerprint.
          DamagedError: its list of chunks is not what was written.
        """
        path = Path(folder) / STORE
        if not path.is_file():
            raise UserError(f"{folder}: no descriptors there; run eval.py to extract them")
        journal = Journal(path)
        try:
            about, *chunks = journal.read()
            found = about["names"], about["fingerprint"], about["chunk_rows"]
            store = cls(folder, *found, _chunks_of([about, *chunks]), str(about.get("retriever", "")))
        except DamagedError as error:
            raise DamagedError(f"{error}; delete {folder} and run again") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DamagedError(f"{path}: unreadable; delete {folder} and run again") from None
        store._journal = journal
        if fingerprint is not None and store.fingerprint != fingerprint:
            raise UserError(
                f"{folder}: these descriptors are of another network or other photos ({store.fingerprint}, expected "
                f"{fingerprint}); extract them again"
            )
        return store

    @classmethod
    def complete(cls, folder: Path, names: list[str], fingerprint: str) -> "RowStore | None":
        """The store in `folder`, which is only read, where it is whole and of these photographs; None where it is not.

        A damaged one is none, which is said in one line.
        """
        try:
            store = cls.load(folder, fingerprint)
            damaged = store._damaged()
        except DamagedError as error:
            log.warning("%s", error)
            return None
        except UserError:
            return None
        if damaged:
            log.warning("%s: damaged, what is stored beside it is not used", Path(folder) / damaged[0])
        return store if store.names == names and not store.missing() and not damaged else None

    def chunks(self) -> list[tuple[int, int, int]]:
        """`(chunk, first photo, one past the last photo)` of every chunk there has to be."""
        starts = range(0, len(self.names), self.chunk_rows)
        return [(i, start, min(start + self.chunk_rows, len(self.names))) for i, start in enumerate(starts)]

    def missing(self) -> list[tuple[int, int, int]]:
        """The chunks that have yet to be written."""
        return [chunk for chunk in self.chunks() if _file(chunk[0]) not in self._digests]

    def write(self, chunk: int, descriptors: Shaped[np.ndarray, "m *d"]) -> None:
        """Commits one chunk. A non-finite number is an error that names the photo."""
        _, start, stop = self.chunks()[chunk]
        if len(descriptors) != stop - start:
            raise ValueError(f"chunk {chunk} has {stop - start} photos, got {len(descriptors)} descriptors")
        check_finite(descriptors, self.names[start:stop])
        buffer = io.BytesIO()
        np.save(buffer, descriptors)
        path = self.folder / _file(chunk)
        write_file(path, buffer.getvalue())
        self._digests[path.name] = file_digest(path)
        self._journal.append([{"chunks": {path.name: self._digests[path.name]}}])

    def take(self, chunk: int, other: "RowStore") -> bool:
        """Commits the chunk that another store of the same photographs has; False where it has none.

        Raises `DamagedError` where that is not what was written.
        """
        name = _file(chunk)
        if name not in other._digests:
            return False
        path = other.folder / name
        data = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        if hashlib.sha256(data).hexdigest() != other._digests[name]:
            raise DamagedError(f"{path}: gone, or changed since it was written")
        write_file(self.folder / name, data)
        self._digests[name] = other._digests[name]
        self._journal.append([{"chunks": {name: self._digests[name]}}])
        return True

    def read(self) -> Shaped[np.ndarray, "n *d"]:
        """All rows, in the order of the photos: `joined`.

        Raises:
          UserError: the store is not complete.
          DamagedError: a chunk is not what was written; the text names it.
        """
        return joined(self.parts())

    def parts(self) -> list[Shaped[np.ndarray, "m *d"]]:
        """The chunks, checked once and mapped: what is not touched is not read. Raises as `read` does."""
        if self.missing():
            _, start, stop = self.missing()[0]
            raise UserError(f"{self.folder}: photos {start} to {stop - 1} are not extracted yet; run it to its end")
        damaged = self._damaged()
        if damaged:
            raise DamagedError(f"{self.folder / damaged[0]}: changed since it was written; run the extraction again")
        parts = [np.load(self.folder / _file(i), mmap_mode="r", allow_pickle=False) for i, _, _ in self.chunks()]
        shapes = {(part.dtype, part.shape[1:]) for part in parts}
        if len(shapes) > 1 or [len(part) for part in parts] != [stop - start for _, start, stop in self.chunks()]:
            raise DamagedError(f"{self.folder}: its chunks do not fit together; delete it and run again")
        return parts

    def _damaged(self) -> list[str]:
        def sound(name: str, digest: str) -> bool:
            path = self.folder / name
            return path.is_file() and not path.is_symlink() and file_digest(path) == digest

        return [name for name, digest in sorted(self._digests.items()) if not sound(name, digest)]

    def _begin(self) -> None:
        """A journal with what is there now, unless it is that already."""
        written = Journal(self.folder / STORE)
        about = {"fingerprint": self.fingerprint, "chunk_rows": self.chunk_rows, "names": self.names}
        about |= {"retriever": self.retriever} if self.retriever else {}
        entries: list[Entry] = [about, *([{"chunks": self._digests}] if self._digests else [])]
        with contextlib.suppress(DamagedError):
            listed = written.read()
            if listed[:1] == [about] and _chunks_of(listed) == self._digests:
                self._journal = written
                return
        write_file(self.folder / STORE, Journal.lines(entries))
        self._journal = Journal(self.folder / STORE)
        self._journal.read()


def fill_store(
    folder: Path,
    names: list[str],
    fingerprint: str,
    chunk_rows: int,
    make_rows: Callable[[range], Shaped[np.ndarray, "m *d"]],
    retriever: str = "",
    shared: Path | None = None,
) -> RowStore:
    """The complete store in `folder`: what is missing of it is made and committed chunk by chunk.

    Chunks that `fill_part` has made are taken over; what parts lack, or have damaged, is said and made here.

    Args:
      folder: of the store; one process at a time.
      names: of the photos, in order.
      fingerprint: of everything that the rows depend on. A store with another one is discarded.
      chunk_rows: photos per chunk; a kill costs one chunk.
      make_rows: the rows of a range of photos.
      retriever: fingerprint of what describes them, of descriptors.
      shared: of another store, which is only read: it is returned instead where it has all of these rows.

    Raises:
      UserError: a row is not finite (the photo is named), another process writes to `folder`, or the system refuses to
        write there, as on a full disk; what is in the store stays.
    """
    folder = Path(folder)
    if shared is not None and (found := RowStore.complete(shared, names, fingerprint)):
        return found
    with plainly(folder), lock_folder(folder):
        store = RowStore.resume(folder, names, fingerprint, chunk_rows, retriever)
        missing, parts = store.missing(), _parts_of(store)
        lacking = [stop - start for chunk, start, stop in missing if not any(_file(chunk) in p._digests for p in parts)]
        if parts and lacking:
            log.warning("%s: its parts lack %d photographs, which are described here", folder, sum(lacking))
        for chunk, start, stop in missing:
            if not any(_taken(store, chunk, part) for part in parts):
                store.write(chunk, make_rows(range(start, stop)))
        return store


class Part(NamedTuple):
    """One of `of` parts of a store, from 0 on: every `of`-th chunk, made by a process that knows nothing of the others.

    It is a store of its own in `parts/<number>-of-<of>` of the store's folder. Chunks are the same bytes whoever makes
    them, so the store that takes them over is byte for byte the one that a single process fills.
    """

    number: int
    of: int


def fill_part(
    folder: Path,
    names: list[str],
    fingerprint: str,
    chunk_rows: int,
    make_rows: Callable[[range], Shaped[np.ndarray, "m *d"]],
    part: Part,
    retriever: str = "",
) -> int:
    """Makes what is missing of a part of the store in `folder`; how many photographs fall to the part.

    The arguments, and what is raised, are those of `fill_store`.
    """
    own = Path(folder) / PARTS / f"{part.number}-of-{part.of}"
    with plainly(own), lock_folder(own):
        store = RowStore.resume(own, names, fingerprint, chunk_rows, retriever)
        for chunk, start, stop in store.missing():
            if chunk % part.of == part.number:
                store.write(chunk, make_rows(range(start, stop)))
        return sum(stop - start for chunk, start, stop in store.chunks() if chunk % part.of == part.number)


def _parts_of(store: RowStore) -> list[RowStore]:
    """The parts beside a store that are of the same photographs, described alike; others are named in the log."""
    found = []
    for folder in sorted((store.folder / PARTS).glob("*-of-*")):
        try:
            part = RowStore.load(folder)
        except UserError as error:
            log.warning("%s: not used: %s", folder, error)
            continue
        if (part.fingerprint, part.names, part.chunk_rows) == (store.fingerprint, store.names, store.chunk_rows):
            found.append(part)
        else:
            log.warning("%s: not used: of another network or other photographs", folder)
    return found


def _taken(store: RowStore, chunk: int, part: RowStore) -> bool:
    try:
        return store.take(chunk, part)
    except DamagedError as error:
        log.warning("%s; its photographs are described again", error)
        return False


def joined(parts: Sequence[Shaped[np.ndarray, "_ *d"]]) -> Shaped[np.ndarray, "n *d"]:
    """The rows of chunks one after the other, copied once; of a single chunk the chunk itself, which may be mapped."""
    return np.asarray(parts[0]) if len(parts) == 1 else np.concatenate(parts)


def check_finite(rows: Shaped[np.ndarray, "m *d"], names: Sequence[str]) -> None:
    """Raises `UserError`, which names the photo, where a number of a row is not finite."""
    bad = np.flatnonzero(~_finite(rows))
    if len(bad):
        raise UserError(
            f"{names[bad[0]]}: its descriptor is not finite ({len(bad)} such in a chunk of {len(rows)}); check the "
            "photo and the network's parameters"
        )


def is_begun(folder: Path, names: list[str], fingerprint: str) -> bool:
    """Whether a store of these rows is in `folder`, or parts of one, whole or not."""
    for place in (folder, *(Path(folder) / PARTS).glob("*-of-*")):
        with contextlib.suppress(UserError):
            if RowStore.load(place, fingerprint).names == names:
                return True
    return False


class StoredRows:
    """The rows of stores, one store after the other, read from the disk on demand."""

    def __init__(self, stores: Sequence[RowStore]):
        self._parts = [part for store in stores for part in store.parts()]
        self._ends = np.cumsum([len(part) for part in self._parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self._parts)

    def __getitem__(self, rows: Int[np.ndarray, "b"]) -> Shaped[np.ndarray, "b *d"]:
        """These rows, in this order."""
        parts = np.searchsorted(self._ends, rows, side="right")
        own = rows - (self._ends - [len(part) for part in self._parts])[parts]
        return np.stack([self._parts[part][row] for part, row in zip(parts, own, strict=True)])


def _finite(x: Shaped[np.ndarray, "m *d"]) -> Bool[np.ndarray, "m"]:
    """Of every row, or record, whether all its numbers are."""
    fields = [x[name] for name in x.dtype.names] if x.dtype.names else [x]
    return np.all([np.isfinite(field).reshape(len(x), -1).all(1) for field in fields], 0)


def _chunks_of(entries: Sequence[Entry]) -> dict[str, str]:
    return {chunk: digest for entry in entries[1:] for chunk, digest in entry["chunks"].items()}


def _file(chunk: int) -> str:
    return f"{chunk:05d}.npy"
