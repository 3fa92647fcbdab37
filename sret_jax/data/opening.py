"""Whatever a person calls photographs, as a photo set: a folder, paths, bytes, Pillow images, arrays."""

import dataclasses
import hashlib
import io
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from sret_jax.data.apart import read_apart, size_apart
from sret_jax.data.archives import is_archive, is_photograph
from sret_jax.data.colour import in_srgb
from sret_jax.data.concurrency import thread_count
from sret_jax.data.decoding import PhotoRejected, decode_photo
from sret_jax.data.folders import prepare_folder
from sret_jax.data.formats import written
from sret_jax.data.names import on_disk
from sret_jax.data.patterns import is_pattern
from sret_jax.data.photo_set import PhotoSet
from sret_jax.data.prepared_source import labelled, nothing_usable, prepare_source, read_entry
from sret_jax.data.remote import is_address, read_address
from sret_jax.data.sources import PhotoSource, SourceEntry, archives_as_source, source_of
from sret_jax.errors import UserError
from sret_jax.storage.files import Unreadable, read_file
from sret_jax.storage.refusals import plainly

log = logging.getLogger(__name__)

FEW = 16  # photographs that a person named one by one, for which no process is started
CHANGED = "changed since it was opened; open the photographs again"
Photo = str | os.PathLike[str] | bytes | Image.Image | np.ndarray


@dataclass(frozen=True, eq=False)
class OpenedPhotos:
    """Photographs in memory, encoded, or where they lie on disk: each of these is read again when it is needed, and has
    to be the one that was opened."""

    photos: Sequence[bytes | str]  # of those on disk the path
    digests: Sequence[str]

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> Mapping[str, bytes]:
        photo = self.photos[index]
        if isinstance(photo, bytes):
            return {"image": photo}
        data = read_apart(photo)
        if hashlib.sha256(data).hexdigest() != self.digests[index]:
            raise PhotoRejected(CHANGED)
        return {"image": data}


@dataclass(frozen=True, eq=False)
class SourcePhotos:
    """Photographs where they lie in a source; each is read again when it is needed, and has to be the one there was."""

    source: PhotoSource
    names: Sequence[str]
    digests: Sequence[str]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Mapping[str, bytes]:
        data = self.source.read(self.names[index], apart=True)
        if hashlib.sha256(data).hexdigest() != self.digests[index]:
            raise PhotoRejected(CHANGED)
        return {"image": data}


@plainly()
def open_photos(
    source: Photo | Iterable[Photo], *, names: Sequence[str] | None = None, cache: str | Path | None = None
) -> PhotoSet:
    """Photographs to describe or to search, in the order of their names or of the list.

    Each is decoded once now, so that what cannot be used is known. Photographs on disk stay there and are read again
    when they are needed; everything else is kept in memory, encoded.

    Args:
      source: a folder, whose photographs may lie at any depth, also in tar archives, and of which files that are no
        photographs are skipped (`PhotoSet.skipped` has each with the reason); a tar archive, a list of them, or a
        pattern ("shards/{000..099}.tar", "shards/*.tar"); the address of any of these in an object store or on a web
        server ("s3://bucket/photos", which takes the extra `remote`); or one photograph or a list of them: paths,
        addresses, encoded bytes, Pillow images, uint8 arrays [h w 3] or [h w].
      names: of the photographs of a list; by default their paths, and "photo 0" and so on for what has none.
      cache: where a copy of the photographs of a folder, archives or an address is kept as ArrayRecord, as training and
        benchmarks keep theirs.

    Returns:
      A photo set. Photographs of a folder that lie in folders of it belong to the instance of the first one's name, and
      those of an archive to that of the first one in it.

    Raises:
      UserError: no such folder, none of its files is a photograph, or one of a list is none (it is named); a store that
        cannot be reached.
    """
    opened = _source(source)
    if opened is not None:
        if names is not None:
            raise UserError(
                "open_photos: names are for a list of photographs; those of a folder are named by their paths"
            )
        if cache is None:
            return _opened(opened)
        if opened.is_folder and opened.folder is not None:
            return _labelled_by_folder(prepare_folder(opened.folder, cache, labelled=False))
        return prepare_source(opened, cache)
    several = isinstance(source, Iterable) and not isinstance(source, str | bytes | os.PathLike | np.ndarray)
    several = several or (isinstance(source, np.ndarray) and source.ndim == 4)
    return _listed(list(source) if several else [source], names)  # type: ignore[arg-type]  # narrowed just above


def _source(source: object) -> PhotoSource | None:
    """The folder, or what takes the place of one; None for photographs that are named one by one."""
    if isinstance(source, list | tuple) and source and all(isinstance(own, str | os.PathLike) for own in source):
        paths = [os.fspath(own) for own in source]
        return archives_as_source(paths) if all(map(is_archive, paths)) else None
    if not isinstance(source, str | os.PathLike):
        return None
    text = os.fspath(source)
    if is_address(text):
        return None if is_photograph(text) and not is_pattern(text) else source_of(text)
    found = _found(source)
    if found.is_dir():
        return source_of(found)
    return source_of(source) if is_archive(text) or (is_pattern(text) and not found.exists()) else None


def _opened(source: PhotoSource) -> PhotoSet:
    source.check()
    entries = list(source.entries())

    def checked(entry: SourceEntry) -> tuple[str, tuple[int, int]] | str:
        outcome = read_entry(source, entry)
        return outcome if isinstance(outcome, str) else (hashlib.sha256(outcome[0]).hexdigest(), outcome[1])

    with ThreadPoolExecutor(thread_count()) as threads:
        outcomes = list(threads.map(checked, entries))
    used = [(entry, found) for entry, found in zip(entries, outcomes, strict=True) if not isinstance(found, str)]
    skipped = [(entry.name, found) for entry, found in zip(entries, outcomes, strict=True) if isinstance(found, str)]
    if not used:
        raise UserError(nothing_usable(source, skipped))
    if skipped:
        log.warning("%s: %d files skipped, the first %s: %s", source, len(skipped), *skipped[0])
    names, digests = [entry.name for entry, _ in used], [found[0] for _, found in used]
    labels, instances = labelled([entry.instance for entry, _ in used])
    return PhotoSet(
        name=source.name,
        names=names,
        labels=labels,
        instances=instances,
        sizes=np.array([found[1] for _, found in used], np.int32).reshape(-1, 2),
        digests=digests,
        source=SourcePhotos(source, names, digests),
        skipped=skipped,
    )


def _labelled_by_folder(photos: PhotoSet) -> PhotoSet:
    """Each photograph belongs to the instance that the folder below the root is named after, if it lies in one."""
    labels, instances = labelled([name.partition("/")[0] if "/" in name else None for name in photos.names])
    return dataclasses.replace(photos, labels=labels, instances=instances)


def _listed(photos: list[Any], names: Sequence[str] | None) -> PhotoSet:
    if not photos:
        raise UserError("open_photos: the list is empty; give at least one photograph")
    names = [_name(photo, i) for i, photo in enumerate(photos)] if names is None else list(names)
    if len(names) != len(photos):
        raise UserError(f"open_photos: {len(names)} names for {len(photos)} photographs; give one name each")
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise UserError(f"open_photos: {twice!r} is there twice; every photograph needs a name of its own")
    kept: list[bytes | str] = []
    sizes, digests = [], []
    size_of = size_apart if len(photos) > FEW else lambda data: decode_photo(data).shape[:2]
    for name, photo in zip(names, photos, strict=True):
        try:
            data = encoded(photo)
            sizes.append(size_of(data))
        except Unreadable as rejected:
            raise UserError(f"{name}: {rejected.reason}; give a photograph, {written()}") from None
        digests.append(hashlib.sha256(data).hexdigest())
        on_this_machine = isinstance(photo, str | os.PathLike) and not is_address(os.fspath(photo))
        kept.append(_absolute(_found(photo)) if on_this_machine else data)
    return PhotoSet(
        name="photos",
        names=names,
        labels=np.full(len(names), -1, np.int32),
        instances=[],
        sizes=np.array(sizes, np.int32).reshape(-1, 2),
        digests=digests,
        source=OpenedPhotos(kept, digests),
        skipped=[],
    )


def _found(photo: str | os.PathLike[str]) -> Path:
    return on_disk(Path(), os.fspath(Path(photo).expanduser()))


def _absolute(path: str | Path) -> str:
    """So that it is found from another working directory too."""
    return os.fspath(Path(path).absolute())


def _name(photo: Any, number: int) -> str:
    return os.fspath(photo) if isinstance(photo, str | os.PathLike) else f"photo {number}"


def encoded(photo: Any) -> bytes:
    """The bytes of a photograph; of pixels, a lossless PNG, so that every photograph meets the same decoder."""
    if isinstance(photo, str) and is_address(photo):
        return read_address(photo)
    if isinstance(photo, str | os.PathLike):
        return read_file(_found(photo))
    if isinstance(photo, bytes):
        return photo
    if isinstance(photo, np.ndarray):
        if photo.dtype != np.uint8 or not (photo.ndim == 2 or (photo.ndim == 3 and photo.shape[2] == 3)):
            raise UserError(f"an array {photo.dtype} {list(photo.shape)} is no photograph: give uint8 [h w 3] or [h w]")
        photo = Image.fromarray(photo)
    if not isinstance(photo, Image.Image):
        kinds = "a path, bytes, a Pillow image or an array"
        raise UserError(f"{type(photo).__name__} is no photograph: give {kinds}, or a list of these")
    file = io.BytesIO()
    image = ImageOps.exif_transpose(photo)
    if image.mode == "CMYK":
        image = in_srgb(image, image.info.get("icc_profile"))
    image = image if image.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16") else image.convert("RGB")
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()
