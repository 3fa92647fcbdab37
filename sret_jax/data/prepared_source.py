"""Photographs of archives and stores, read once and kept on this machine, as those of folders are."""

import hashlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from sret_jax.data.folders import plain_name
from sret_jax.data.photo_set import PhotoSet
from sret_jax.data.prepared import PhotoBuilder, RecordIndex, open_prepared, prepared
from sret_jax.data.sources import PhotoSource, SourceEntry
from sret_jax.errors import UserError
from sret_jax.storage.files import Unreadable


class SourceCopy(PhotoBuilder):
    """Writes the photographs of a source as they are; nothing is re-encoded."""

    def __init__(self, source: PhotoSource, entries: Sequence[SourceEntry], index: RecordIndex, data_dir: Path) -> None:
        self.photos, self.entries = source, entries
        super().__init__(index, data_dir)

    def examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        yield from self.copies("reading photographs", partial(read_entry, self.photos), self.entries)
        if not self.index.names:
            raise UserError(nothing_usable(self.photos, self.index.skipped))


def prepare_source(source: PhotoSource, cache_dir: str | Path) -> PhotoSet:
    """The photographs of a source, read and checked once and kept in `cache_dir` while what is there stays as it is.

    Raises `UserError` where nothing is there, cannot be reached, or can be used.
    """
    source.check()
    entries = list(source.entries())
    known_by = repr((source.address, [(entry.name, entry.stamp, entry.reason) for entry in entries]))
    key = hashlib.sha256(known_by.encode("utf-8", "backslashreplace")).hexdigest()[:16]
    folder = Path(cache_dir) / "sources" / f"{plain_name(source.name)}-{key}"
    prepared(folder, partial(SourceCopy, source, entries))
    return open_prepared([folder], source.name)


def read_entry(source: PhotoSource, entry: SourceEntry) -> tuple[bytes, tuple[int, int]] | str:
    """The photograph's bytes and upright size, or why there is none."""
    if entry.reason:
        return entry.reason
    try:
        return source.read_photo(entry.name)
    except Unreadable as rejected:
        return rejected.reason


def labelled(folders: Sequence[str | None]) -> tuple[Int[np.ndarray, " n"], list[str]]:
    """Labels, and the instances that they count: the folder of each photograph, -1 for none."""
    instances = sorted({folder for folder in folders if folder is not None})
    label = {instance: i for i, instance in enumerate(instances)}
    return np.array([-1 if folder is None else label[folder] for folder in folders], np.int32), instances


def nothing_usable(source: PhotoSource, skipped: Sequence[tuple[str, str]]) -> str:
    examples = "; ".join(f"{file}: {reason}" for file, reason in skipped[:3])
    return f"{source}: none of its {len(skipped)} files is a photograph{': ' if examples else ''}{examples}"
