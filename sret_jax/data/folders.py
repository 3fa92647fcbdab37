"""Any folder of photographs, `<root>/<instance>/<photo>`, or several of them, as a photo set.

Every file that is found is either in the set or in its report of skipped files with the reason; hidden files and what
cameras and systems write beside photographs, see `side_files`, are not looked at.
"""

import dataclasses
import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sret_jax.config.paths import listed_paths
from sret_jax.data.apart import read_photo_apart
from sret_jax.data.formats import decoder, written
from sret_jax.data.names import RowsByName, on_disk
from sret_jax.data.photo_set import PhotoSet, joined, named_sources, one_instance_each
from sret_jax.data.prepared import PhotoBuilder, RecordIndex, open_prepared, prepared
from sret_jax.data.side_files import lies_beside
from sret_jax.errors import UserError
from sret_jax.storage.files import Unreadable, named
from sret_jax.storage.foreign import a_list, a_text, an_object, read_json
from sret_jax.storage.refusals import of_process

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FolderEntry:
    """One entry of a photo folder, or of a list; `reason` is set when it cannot be a photograph whatever it holds."""

    name: str  # below the root, with "/"
    path: str
    instance: str | None
    reason: str = ""


class ImageFolder(PhotoBuilder):
    """Writes the photographs of a folder as they are; nothing is re-encoded."""

    def __init__(self, root: Path, entries: list[FolderEntry], index: RecordIndex, data_dir: Path) -> None:
        self.root, self.entries = root, entries
        super().__init__(index, data_dir)

    def examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        yield from self.copies("reading photographs", read_entry, self.entries)
        if not self.index.names:
            raise UserError(_nothing_left(self.root, self.index.skipped))


def prepare_folder(
    root: str | Path,
    cache_dir: str | Path,
    *,
    splits: str | Path = "",
    split: str = "",
    labelled: bool = True,
) -> PhotoSet:
    """The photographs below `root`, read and checked once and kept in `cache_dir` while the folder stays as it is.

    splits    JSON file {split: [instance, ...]}; then only the instances of `split`
    labelled  False: `root` holds photographs at any depth that belong to no instance, or is one photograph

    Where every instance is named `<source>__<name>`, of two sources at least, the set has these sources.

    Raises `UserError` when there is no such folder, split or instance, or no photograph that can be used.
    """
    if not str(root):
        raise UserError("no photo folder given: name it by --config.data.root=DIR, or eval.py by --root=DIR")
    root = on_disk(Path(), os.fspath(root))
    if root.is_file() and not labelled:
        return _prepare(root.parent, [FolderEntry(root.name, os.fspath(root), None)], cache_dir, labelled, root.stem)
    if not root.is_dir():
        raise UserError(f"no photo folder {str(root)!r}: give a folder of <instance>/<photo>")
    if not os.access(root, os.R_OK | os.X_OK):
        raise UserError(f"photo folder {str(root)!r} may not be listed: give yourself permission to read it")
    wanted = _read_split(Path(splits), split) if splits else None
    entries = list(_walk_instances(root) if labelled else walk(root))

    photos = _prepare(root, entries, cache_dir, labelled, root.resolve().name or "photos")
    if wanted is not None:
        photos = dataclasses.replace(photos, name=f"{photos.name}:{split}").select_instances(wanted)
        if not len(photos):
            raise UserError(f"split {split!r} of {splits}: " + _nothing_left(root, photos.skipped))
    _tell(photos, wanted)
    return dataclasses.replace(photos, sources=named_sources(photos.instances))


def prepare_folders(
    roots: str | Path, cache_dir: str | Path, *, splits: str = "", split: str = "", labelled: bool = True
) -> PhotoSet:
    """`prepare_folder` of one folder, or of several as one set, each kept in `cache_dir` on its own.

    Names of several get the prefix `<folder>/`: instances of two folders are different ones, whatever their names. It
    is the folder's name, or where two have the same, that and more: see `folder_names`. It is the source of its
    instances too, as `<folder>/<source>` where the folder has several. Photographs that lie in two instances are warned
    of.

    roots     one folder, or several separated by commas; one with a comma in its name can only be given alone
    splits    "", or as many JSON files, separated by commas, and nothing for a folder all of whose instances are used

    Raises `UserError` as `prepare_folder`, and where there are not as many split files as folders or a folder is given
    twice.
    """
    pairs = folders_and_splits(roots, splits)
    parts = [
        prepare_folder(folder, cache_dir, splits=file, split=split, labelled=labelled) for folder, file in pairs.items()
    ]
    if len(parts) == 1:
        return parts[0]
    photos = joined(parts, folder_names(list(pairs)))
    _tell_duplicates(photos)
    return photos


def is_sorted(root: str | Path) -> bool:
    """Whether all that a folder holds lies in it as `<instance>/<photo>`; what is no folder is left to its reader."""
    root = Path(root)
    unsorted = ("not in an instance folder", "a folder inside an instance folder")
    return not root.is_dir() or not any(entry.reason in unsorted for entry in _walk_instances(root))


def prepare_single_photos(roots: str | Path, cache_dir: str | Path) -> PhotoSet:
    """Every photograph at any depth below a folder, or several as in `prepare_folders`, as an instance of its own.

    Photographs that are there twice, byte for byte, are warned of.

    Raises `UserError` as `prepare_folders`.
    """
    folders = list(folders_and_splits(roots))
    parts = [one_instance_each(prepare_folder(folder, cache_dir, labelled=False)) for folder in folders]
    photos = parts[0] if len(parts) == 1 else joined(parts, folder_names(folders))
    _tell_duplicates(photos)
    return photos


def folders_and_splits(roots: str | Path, splits: str = "", field: str = "data.root") -> dict[str, str]:
    """The folders that `roots` names, in this order, and the split file of each; "" for one without.

    Raises `UserError`, about `config.<field>`, for an empty entry, a folder that is there twice, or another number of
    split files.
    """
    folders = listed_paths(roots)
    files = listed_paths(splits) if splits else [""] * len(folders)
    if "" in folders and len(folders) > 1:
        raise UserError(f"config.{field}={str(roots)!r}: an entry is empty; name a folder between two commas")
    places = [Path(folder).resolve() for folder in folders]
    twice = next((folder for i, folder in enumerate(folders) if places[i] in places[:i]), None)
    if twice is not None:
        raise UserError(f"config.{field}={str(roots)!r}: {twice!r} is there twice; name each folder once")
    if len(files) != len(folders):
        raise UserError(
            f"config.data.splits={splits!r} names {len(files)} files, config.{field}={str(roots)!r} {len(folders)} "
            'folders; give a file for each folder, and nothing for one that is used whole, as in "A.json,"'
        )
    return dict(zip(folders, files, strict=True))


def folder_names(folders: Sequence[str | Path]) -> list[str]:
    """A name for each folder: its own; `<parent>-<name>` where two are equal, and a number where these are too."""
    places = [Path(folder).resolve() for folder in folders]
    own = [_printable(place.name) or "photos" for place in places]
    out: list[str] = []
    for name, place in zip(own, places, strict=True):
        name = wanted = name if own.count(name) == 1 else f"{_printable(place.parent.name)}-{name}"
        number = 1
        while name in out:
            number += 1
            name = f"{wanted}-{number}"
        out.append(name)
    return out


def _prepare(root: Path, found: list[FolderEntry], cache_dir: str | Path, labelled: bool, name: str) -> PhotoSet:
    key = content_key(root, found, labelled)
    folder = Path(cache_dir) / "image_folder" / f"{plain_name(name)}-{key}"
    prepared(folder, partial(ImageFolder, root, found))
    return open_prepared([folder], name)


def has_split(splits: str | Path, split: str) -> bool:
    """Whether a splits file names such a split; an unreadable file is left to whoever reads it."""
    try:
        table = read_json(splits)
    except Unreadable:
        return False
    return isinstance(table, dict) and split in table


def _read_split(path: Path, split: str) -> list[str]:
    if not path.exists():
        raise UserError(f"no splits file {str(path)!r}: give a JSON file {{split: [instance, ...]}}")
    with named(f"splits file {path}", "give a JSON file {split: [instance, ...]}"):
        table = an_object(read_json(path), "it")
        if split not in table:
            raise UserError(f"splits file {path} has no split {split!r}; known: {', '.join(sorted(table)[:20])}")
        return [a_text(name, f"an instance of {split!r}") for name in a_list(table[split], f"the split {split!r}")]


def _entries(folder: str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        found = [entry for entry in entries if not lies_beside(entry.name, _is_folder(entry))]
    return sorted(found, key=lambda entry: entry.name)


def _printable(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _refusal(name: str) -> str:
    return "" if _printable(name) == name else "its name is not UTF-8"


def _walk_instances(root: Path) -> Iterator[FolderEntry]:
    """`<instance>/<photo>`, sorted. An instance may be a link to a folder."""
    for entry in _entries(os.fspath(root)):
        name, reason = _printable(entry.name), _refusal(entry.name)
        if reason or not _is_folder(entry):
            yield FolderEntry(name, entry.path, None, reason or "not in an instance folder")
            continue
        try:
            inside = _entries(entry.path)
        except OSError as error:
            if of_process(error):
                raise
            yield FolderEntry(name, entry.path, None, f"cannot be listed: {error.strerror}")
            continue
        if not inside:
            yield FolderEntry(name, entry.path, None, "an empty folder")
        for photo in inside:
            reason = _refusal(photo.name)
            if not reason and _is_folder(photo):
                reason = "a folder inside an instance folder"
            yield FolderEntry(f"{name}/{_printable(photo.name)}", photo.path, name, reason)


def walk(folder: str | Path, prefix: str = "") -> Iterator[FolderEntry]:
    """Every file at any depth, sorted. Links to folders are not followed: they may lead in circles."""
    try:
        entries = _entries(os.fspath(folder))
    except OSError as error:
        if of_process(error):
            raise
        yield FolderEntry(prefix.rstrip("/"), os.fspath(folder), None, f"cannot be listed: {error.strerror}")
        return
    for entry in entries:
        name, reason = prefix + _printable(entry.name), _refusal(entry.name)
        if not reason and _is_folder(entry):
            if not entry.is_symlink():
                yield from walk(entry.path, name + "/")
                continue
            reason = "a link to a folder"
        yield FolderEntry(name, entry.path, None, reason)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads in a circle
        return False


def content_key(root: Path, entries: list[FolderEntry], *kind: Any) -> str:
    """16 hexadecimal digits that change with `kind`, with any file's name, size or modification time, and with whether
    its format can be decoded here."""
    digest = hashlib.sha256(repr((os.fspath(root.resolve()), *kind)).encode("utf-8", "backslashreplace"))
    for entry in entries:
        try:
            status = os.stat(entry.path)
            state: tuple[int | None, ...] = (status.st_mode, status.st_size, status.st_mtime_ns)
        except OSError as error:
            state = (error.errno,)
        known: tuple[Any, ...] = (entry.name, entry.reason, state)
        if needed := decoder(entry.name):  # it may have been skipped where it could not be decoded
            known = (*known, needed)
        digest.update(repr(known).encode("utf-8", "backslashreplace"))
    return digest.hexdigest()[:16]


def read_entry(entry: FolderEntry) -> tuple[bytes, tuple[int, int]] | str:
    """The photograph's bytes and upright size, or why there is none."""
    if entry.reason:
        return entry.reason
    try:
        return read_photo_apart(entry.path)
    except Unreadable as rejected:
        return rejected.reason


def _nothing_left(root: Path, skipped: list[tuple[str, str]]) -> str:
    examples = "; ".join(f"{file}: {reason}" for file, reason in skipped[:3])
    return f"{root} has no usable photograph (<instance>/<photo>, {written()}); {len(skipped)} skipped" + (
        f": {examples}" if skipped else ""
    )


def _tell(photos: PhotoSet, wanted: list[str] | None) -> None:
    """Says what was skipped and which instances are too small to learn from or to be measured."""
    if photos.skipped:
        file, reason = photos.skipped[0]
        log.warning("%s: %d files skipped, the first %s: %s", photos.name, len(photos.skipped), file, reason)
    used = RowsByName(photos.instances)
    empty = sorted(name for name in set(wanted or ()) if name not in used)
    if empty:
        log.warning("%s: %d instances without a usable photograph: %s", photos.name, len(empty), ", ".join(empty[:5]))
    counts = Counter(photos.labels.tolist())
    single = [instance for label, instance in enumerate(photos.instances) if counts[label] == 1]
    if single:
        log.warning(
            "%s: %d instances with one photograph only, which are no queries, and trained on only with "
            "config.data.singles=True: %s",
            photos.name,
            len(single),
            ", ".join(single[:5]),
        )


def _tell_duplicates(photos: PhotoSet) -> None:
    """Says which photographs lie in two instances, byte for byte: a loss would push them away from themselves."""
    labels = photos.labels.tolist()
    first: dict[str, int] = {}
    shared: dict[str, tuple[int, int]] = {}  # digest -> the first two rows of different instances
    for row, digest in enumerate(photos.digests):
        if labels[row] >= 0 and labels[first.setdefault(digest, row)] != labels[row]:
            shared.setdefault(digest, (first[digest], row))
    if shared:
        log.warning(
            "%s: %d photographs lie in two instances or more, and are negatives of themselves: %s",
            photos.name,
            len(shared),
            "; ".join(" = ".join(photos.names[row] for row in rows) for rows in list(shared.values())[:2]),
        )


def plain_name(name: str) -> str:
    """A name that every file system takes."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in name)[:40]
