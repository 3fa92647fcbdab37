"""The photographs that a benchmark lists, every one of them: on a part of a benchmark nothing is measured."""

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from sret_jax.data.folders import FolderEntry, content_key, plain_name, read_entry
from sret_jax.data.names import on_disk
from sret_jax.data.photo_set import PhotoSet
from sret_jax.data.prepared import PhotoBuilder, RecordIndex, in_order, open_prepared, prepared
from sret_jax.errors import UserError

log = logging.getLogger(__name__)

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".JPG", "")  # in which a listed name is looked for
NAMED, LOGGED = 5, 1000  # of the photographs that are missing, in the error and in the log
MAX_NAME, MAX_PART = 3000, 250  # letters of a path and bytes of a name in it, which a file system takes with an ending
BLOCK = 50_000  # photographs that are prepared at once: a kill costs no more


class Unusable(Exception):
    """`photos`: (name, reason) of those of a list that cannot be used, in the way of all others."""

    def __init__(self, photos: list[tuple[str, str]]) -> None:
        super().__init__(photos)
        self.photos = photos


class ListedPhotos(PhotoBuilder):
    """Writes the photographs of a list in its order, as they are.

    One that cannot be used is `Unusable` where the list has to be `complete`, otherwise among those skipped.
    """

    def __init__(
        self, benchmark: str, entries: Sequence[FolderEntry], complete: bool, index: RecordIndex, data_dir: Path
    ) -> None:
        self.benchmark, self.entries, self.complete = benchmark, entries, complete
        super().__init__(index, data_dir)

    def examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for entry, outcome in in_order(f"reading {self.benchmark}", read_entry, self.entries):
            if isinstance(outcome, str):
                self.index.skipped.append((entry.name, outcome))
            elif not (self.complete and self.index.skipped):
                data, size = outcome
                yield self.index.add(entry.name, entry.instance, size, data), {"image": data, "name": entry.name}
        self.check_complete()

    def check_complete(self) -> None:
        """Raises `Unusable` for a photograph that is not allowed to be skipped."""
        if self.index.skipped and (self.complete or not self.index.names):
            raise Unusable(self.index.skipped)


Builder = Callable[[str, Sequence[FolderEntry], bool, RecordIndex, Path], PhotoBuilder]


def prepare_listed(
    benchmark: str, root: Path, entries: Sequence[FolderEntry], cache_dir: str | Path, builder: Builder = ListedPhotos
) -> PhotoSet:
    """The photographs of a list, in its order, read and checked once and kept in `cache_dir`.

    They are prepared in blocks, each of which stays; one that cannot be used costs its own block, and is named when
    the others are done. The set is the same whichever `builder` writes it: `ListedPhotos` on this machine, or
    `data/beam.py` on many.

    Raises `UserError` that names what is listed twice, missing or no photograph.
    """
    _check_list(benchmark, entries)
    missing = sum(bool(entry.reason) for entry in entries)
    if missing and len(entries) > BLOCK:
        log.warning("%s: %d photographs are missing; blocks without them are prepared first", benchmark, missing)
    unusable, folders = [], []
    for start in range(0, len(entries), BLOCK):
        block = list(entries[start : start + BLOCK])
        lacking = [(entry.name, entry.reason) for entry in block if entry.reason]
        if not lacking:
            folder = Path(cache_dir) / "listed" / f"{plain_name(benchmark)}-{content_key(root, block, 'listed')}"
            try:
                folders.append(prepared(folder, partial(builder, benchmark, block, True)))
                log.info("%s: the photographs up to %d of %d are prepared", benchmark, start + len(block), len(entries))
            except Unusable as error:
                lacking = error.photos
        unusable += lacking
    if unusable:
        raise UserError(_incomplete(benchmark, len(entries), unusable))
    return open_prepared(folders, benchmark)


def check_listed(benchmark: str, entries: Sequence[FolderEntry]) -> None:
    """Raises `UserError` that names what is listed twice or missing, before any photograph is read."""
    _check_list(benchmark, entries)
    missing = [(entry.name, entry.reason) for entry in entries if entry.reason]
    if missing:
        raise UserError(_incomplete(benchmark, len(entries), missing))


def _check_list(benchmark: str, entries: Sequence[FolderEntry]) -> None:
    seen: set[str] = set()
    for entry in entries:
        if entry.name in seen:
            raise UserError(f"{benchmark}: {entry.name!r} is listed twice; every photograph has one place in the list")
        seen.add(entry.name)
    if not entries:
        raise UserError(f"{benchmark}: its list names no photograph; fetch it again from its authors")


def listed(folder: Path, name: str, instance: str | None = None) -> FolderEntry:
    """The entry of a list for the photograph `name` below `folder`, given there with or without its ending."""
    parts = PurePosixPath(name).parts
    long = len(name) > MAX_NAME or any(len(part.encode(errors="replace")) > MAX_PART for part in parts)
    if name.startswith("/") or ".." in parts or not name.isprintable() or long:
        return FolderEntry(name, "", instance, "not a name below the photo folder")
    for ending in ENDINGS:
        path = on_disk(folder, name + ending)
        if path.is_file():
            return FolderEntry(name, str(path), instance)
    return FolderEntry(name, str(folder / name), instance, f"not in {folder}")


def dataset_folder(root: str | Path, *names: str) -> Path:
    """The first `<root>/<name>` that is a folder, else `root` itself: so one root serves several benchmarks."""
    return next((Path(root) / name for name in names if (Path(root) / name).is_dir()), Path(root))


def _incomplete(benchmark: str, count: int, unusable: list[tuple[str, str]]) -> str:
    """What is missing of a benchmark, in words, from (name, reason) of each."""
    for name, reason in unusable[NAMED:LOGGED]:
        log.warning("%s: %s: %s", benchmark, name, reason)
    examples = "; ".join(f"{name}: {reason}" for name, reason in unusable[:NAMED])
    more = "; …" if len(unusable) > NAMED else ""
    return (
        f"{benchmark}: {len(unusable)} of its {count} photographs cannot be used ({examples}{more}); "
        "it is measured on all of them or not at all, so complete the folder"
    )
