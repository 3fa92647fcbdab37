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
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from rich.console import Console
from rich.progress import track

from sret_jax.data.photo_set import ConcatenatedRecords, PhotoSet, RecordSource
from sret_jax.errors import UserError
from sret_jax.storage.artifacts import MANIFEST, commit_folder, recover_folder, write_json

log = logging.getLogger(__name__)
T = TypeVar("T")
R = TypeVar("R")
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

    def write(self) -> None:
        """Fills the folder `data_dir`."""
        from sret_jax.data.records import PhotoRecords

        PhotoRecords(self).write()


def prepared(folder: Path, make: Callable[[RecordIndex, Path], PhotoBuilder]) -> Path:
    """`folder`, made first if it is not there whole. `make(index, data_dir)` returns the builder that fills it.

    Of several processes one makes it and the others wait. A kill leaves nothing that is later taken for whole.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write the data cache {folder.parent}: {error.strerror}; choose another config.data.cache_dir"
        ) from None
    with _wait_for(folder.with_name(f".{folder.name}.lock")):
        recover_folder(folder)
        if not _whole(folder):
            with commit_folder(folder) as building:
                index = RecordIndex()
                make(index, building).write()
                index.write(building)
    return folder


def in_order(what: str, function: Callable[[T], R], items: Sequence[T]) -> Iterator[tuple[T, R]]:
    """`(item, function(item))` in the order of `items`, on threads that run only a little ahead of the reader.

    On a terminal a line says `what` is being done and how far it is.
    """
    threads = min(8, os.cpu_count() or 1)
    screen = Console(stderr=True)
    with ThreadPoolExecutor(threads) as pool:
        ahead: deque[tuple[T, Future[R]]] = deque()
        for item in track(items, what, console=screen, transient=True, disable=not screen.is_terminal):
            ahead.append((item, pool.submit(function, item)))
            if len(ahead) > 2 * threads:
                first, future = ahead.popleft()
                yield first, future.result()
        for first, future in ahead:
            yield first, future.result()


def open_prepared(folders: Sequence[Path], name: str) -> PhotoSet:
    """The whole photo set of prepared folders, one after the other."""
    from sret_jax.data.records import Records

    columns: dict[str, list[Any]] = {"names": [], "instances": [], "sizes": [], "digests": []}
    skipped: list[dict[str, str]] = []
    sources: list[RecordSource] = []
    for folder in folders:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        for key, column in columns.items():
            column += index[key]
        skipped += json.loads((folder / "skipped.json").read_text(encoding="utf-8"))
        sources.append(Records(next(path.parent for path in sorted(folder.glob("*/*/dataset_info.json")))))
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
        skipped=[(entry["photo"], entry["reason"]) for entry in skipped],
    )


def _whole(folder: Path) -> bool:
    """Whether every file of the manifest has its size. ArrayRecord checks its own content whenever it is read."""
    if not folder.exists():
        return False
    try:
        files = json.loads((folder / MANIFEST).read_bytes())["files"]
        damaged = [name for name, entry in files.items() if (folder / name).stat().st_size != entry["size"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        damaged = [str(error)]
    if damaged:
        log.warning("%s is not whole (%s): it is prepared again", folder, damaged[0])
    return not damaged


@contextlib.contextmanager
def _wait_for(path: Path) -> Iterator[None]:
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another process prepares %s; waiting for it", path.parent)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
