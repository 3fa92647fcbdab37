"""A photo set on disk: ArrayRecord files written by a tfds builder, beside an index that opens at once.

<cache>/<name>-<key>/                    the key identifies the content
    <builder>/<version>/*.array_record   the encoded photographs, read without TensorFlow
    index.json                           names, labels, sizes and digests, in the order of the records
    skipped.json                         [{"photo": file, "reason": why it is not used}, ...]
    MANIFEST.json                        written last; without it the folder is made again
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from rich.console import Console
from rich.progress import track

from sret_jax.data.concurrency import run_ahead, thread_count
from sret_jax.data.photo_set import ConcatenatedRecords, PhotoSet, RecordSource
from sret_jax.errors import UserError
from sret_jax.storage.artifacts import (
    DamagedError,
    commit_folder,
    read_manifest,
    recover_folder,
    verify_folder,
    wait_for,
    write_json,
)
from sret_jax.storage.refusals import of_process, refusal_behind

log = logging.getLogger(__name__)
T = TypeVar("T")
R = TypeVar("R")


@runtime_checkable
class Entry(Protocol):
    """A photograph that may be copied."""

    @property
    def name(self) -> str: ...

    @property
    def instance(self) -> str | None: ...


E = TypeVar("E", bound=Entry)
RECORDS = ".array_record"  # in the names of files of records
AT_ONCE = 2**28
"""Bytes of records that are compared with their digests when a cache is opened, 0.15 s a cache. Of more, the sizes are
compared, and each photograph with its own digest when it is read: `data.records`."""
SPLIT = "photos"  # the one tfds split; which instances train and which test is decided when a set is opened


class RecordIndex:
    """What a builder notes about every record while it writes them, in order."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.instances: list[str | None] = []
        self.sizes: list[tuple[int, int]] = []
        self.digests: list[str] = []
        self.skipped: list[tuple[str, str]] = []

    def add(self, name: str, instance: str | None, size: tuple[int, int], data: bytes) -> int:
        """Notes a record and returns its number."""
        self.names.append(name)
        self.instances.append(instance)
        self.sizes.append((int(size[0]), int(size[1])))
        self.digests.append(hashlib.sha256(data).hexdigest())
        return len(self.names) - 1

    def write(self, folder: Path) -> None:
        write_json(folder / "skipped.json", [{"photo": photo, "reason": reason} for photo, reason in self.skipped])
        columns = {"names": self.names, "instances": self.instances, "sizes": self.sizes, "digests": self.digests}
        (folder / "index.json").write_text(json.dumps(columns), encoding="utf-8")


class PhotoBuilder:
    """Writes encoded photographs with their names, and masks where `MASKS`, in the order in which they are generated.

    A subclass has `examples`.
    """

    MASKS = False

    def __init__(self, index: RecordIndex, data_dir: Path) -> None:
        self.index, self.data_dir = index, data_dir

    def examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Notes each record in `self.index` and yields it under the number it got."""
        raise NotImplementedError

    def copies(
        self, what: str, read: Callable[[E], tuple[bytes, tuple[int, int]] | str], entries: Sequence[E]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """The records of photographs as they are, nothing re-encoded; those that cannot be read are noted as skipped.

        Args:
          what: is said to be done, on a terminal.
          read: an entry's bytes and upright size, or why there are none.
        """
        for entry, outcome in in_order(what, read, entries):
            if isinstance(outcome, str):
                self.index.skipped.append((entry.name, outcome))
                continue
            data, size = outcome
            yield self.index.add(entry.name, entry.instance, size, data), {"image": data, "name": entry.name}

    def write(self) -> None:
        """Fills the folder `data_dir`."""
        from sret_jax.data.records import PhotoRecords

        PhotoRecords(self).write()


def prepared(folder: Path, make: Callable[[RecordIndex, Path], PhotoBuilder]) -> Path:
    """`folder`, made first if it is not there whole. `make(index, data_dir)` returns the builder that fills it.

    Of several processes one makes it and the others wait. A kill leaves nothing that is later taken for whole. A cache
    that cannot be written to is used as it is where it holds the folder.

    Raises `UserError` where it would have to be made and the cache cannot be written to, or is full.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = open(_lock(folder), "w")
    except OSError as error:
        if _whole(folder):
            return folder  # of a cache that others share, to read only
        if of_process(error):
            raise
        raise UserError(
            f"cannot write the data cache {folder.parent}: {error.strerror}; choose another config.data.cache_dir"
        ) from None
    with lock:
        wait_for(lock, folder.parent)
        recover_folder(folder)
        _clear_orphans(folder.parent)
        if not _whole(folder):
            try:
                with commit_folder(folder) as building:
                    index = RecordIndex()
                    make(index, building).write()
                    index.write(building)
            except (OSError, RuntimeError, ValueError) as error:
                raise refusal_behind(error, folder.parent) or error from error
    return folder


def in_order(what: str, function: Callable[[T], R], items: Sequence[T]) -> Iterator[tuple[T, R]]:
    """`(item, function(item))` in the order of `items`, on threads that run only a little ahead of the reader.

    On a terminal a line says `what` is being done and how far it is.
    """
    threads = thread_count()
    screen = Console(stderr=True)
    with ThreadPoolExecutor(threads) as pool:
        tracked = track(items, what, console=screen, transient=True, disable=not screen.is_terminal)
        submitted = ((item, pool.submit(function, item)) for item in tracked)
        for item, future in run_ahead(submitted, 2 * threads):
            yield item, future.result()


def open_prepared(folders: Sequence[Path], name: str) -> PhotoSet:
    """The whole photo set of prepared folders, one after the other."""
    from sret_jax.data.records import Records

    columns: dict[str, list[Any]] = {"names": [], "instances": [], "sizes": [], "digests": []}
    skipped: list[tuple[str, str]] = []
    sources: list[RecordSource] = []
    for folder in folders:
        index, unused = _read_index(folder)
        for key, column in columns.items():
            column += index[key]
        skipped += unused
        sources.append(Records(folder, index["digests"]))
    instances = sorted({instance for instance in columns["instances"] if instance is not None})
    number = {instance: label for label, instance in enumerate(instances)} | {None: -1}
    return PhotoSet(
        name=name,
        names=columns["names"],
        labels=np.array([number[instance] for instance in columns["instances"]], np.int32),
        instances=instances,
        sizes=np.array(columns["sizes"], np.int32).reshape(-1, 2),
        digests=columns["digests"],
        source=sources[0] if len(sources) == 1 else ConcatenatedRecords(sources),
        skipped=skipped,
    )


def _whole(folder: Path) -> bool:
    """Whether the folder is what was written, as far as `AT_ONCE` bytes of records; see `AT_ONCE`."""
    if not folder.exists():
        return False
    try:
        files = read_manifest(folder)
        records = sum(entry.size for name, entry in files.items() if RECORDS in name)
        large = [name for name in files if RECORDS in name and records > AT_ONCE]
        verify_folder(folder, only=files, only_sizes=large)
    except DamagedError as error:
        log.warning("%s; it is prepared again", str(error).partition(";")[0])
        return False
    return True


def _read_index(folder: Path) -> tuple[dict[str, list[Any]], list[tuple[str, str]]]:
    """The columns of index.json, and the photographs that were skipped with the reason.

    Raises `DamagedError` where these are not what `RecordIndex.write` writes.
    """
    try:
        index = json.loads((folder / "index.json").read_bytes())
        columns = {key: index[key] for key in ("names", "instances", "sizes", "digests")}
        texts = [*columns["names"], *columns["digests"]]
        texts += [name for name in columns["instances"] if name is not None]
        skipped = [(entry["photo"], entry["reason"]) for entry in json.loads((folder / "skipped.json").read_bytes())]
        texts += [text for entry in skipped for text in entry]
        numbers = [number for height, width in columns["sizes"] for number in (height, width)]
        sound = all(type(text) is str for text in texts) and all(type(n) is int and 0 < n < 2**31 for n in numbers)
        if not sound or len({len(column) for column in columns.values()}) != 1:
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise DamagedError(f"{folder}: its index.json or skipped.json is not what was written; delete it") from None
    return columns, skipped


def _lock(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")


def _clear_orphans(cache: Path) -> None:
    """Removes what killed processes had begun to build in a cache, of whatever photographs."""
    for building in cache.glob(".*.building"):
        with open(_lock(building.with_name(building.name[1 : -len(".building")])), "w") as lock:
            with contextlib.suppress(BlockingIOError):  # it is being built
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(building, ignore_errors=True)
