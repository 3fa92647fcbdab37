"""Bringing a collection up to date with its folder: what is new or changed is described, what is gone is forgotten."""

import hashlib
import logging
from collections.abc import Callable, Collection, Generator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from sret_jax.collection.local import LocalFinder
from sret_jax.collection.reading import ReadPhoto, Rejected, pixel_set, read_photo
from sret_jax.collection.scan import Changes, FoundFile
from sret_jax.collection.state import StoredPhoto
from sret_jax.collection.store import AT_ONCE, Described, Store
from sret_jax.data.concurrency import parts_ahead
from sret_jax.data.sources import PhotoSource
from sret_jax.errors import UserError
from sret_jax.extraction.descriptors import Extractor
from sret_jax.models.backbones import BACKBONES
from sret_jax.retriever import Retriever
from sret_jax.storage.files import Unreadable

log = logging.getLogger(__name__)


@dataclass
class Update:
    """What an update did, by name.

    added, changed  photographs that are searched from now on, and those whose file was another one before
    removed         that are no longer there
    skipped         (name, reason) of what cannot be used, where that is new
    reused          how many of the added and changed were known by their content, and not described again
    completed       photographs that were known, of which local features were found
    renamed         (before, after) of those removed that are the same, byte for byte, as one that was added
    """

    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    reused: int = 0
    completed: list[str] = field(default_factory=list)
    renamed: list[tuple[str, str]] = field(default_factory=list)

    @property
    def anything(self) -> bool:
        return bool(self.added or self.changed or self.removed)


Progress = Callable[[int, int], None]  # files done, and all that have to be read


def update_store(
    store: Store,
    changes: Changes,
    source: PhotoSource,
    extractor: Extractor,
    stage: str,
    progress: Progress,
    finder: LocalFinder | None = None,
) -> Update:
    """Makes the changes, a hundred files at a time; what is committed stays when it is interrupted.

    While a part is described and written, the next one is read and decoded. The photographs that are gone are
    forgotten last, so that one that was moved is known by its content; then local features are found of those that
    have none.

    Args:
      extractor: what describes photographs.
      stage: of the backbone whose maps are kept.
      finder: of the local features that the store says it keeps.

    Raises:
      UserError: the disk is full.
    """
    out, read = Update(), len(changes.read)
    unread = {file.name for file in changes.read} | set(changes.gone)
    total = read + len(_incomplete(store, unread) if finder else ())
    done = 0
    progress(done, total)
    with closing(_read(changes.read, store, source, extractor, finder)) as parts:
        for outcomes in parts:
            _add_part(store, outcomes, source, extractor, stage, out, finder)
            done += len(outcomes)
            del outcomes  # before the next ones are waited for
            progress(done, total)
    skipped = [list(entry) for entry in changes.skipped]
    out.renamed = _renamed(store, changes.gone, out.added)
    store.change({"remove": changes.gone, "skip": skipped, "unskip": changes.unskipped})
    out.removed += changes.gone
    out.skipped += [(name, reason) for name, reason, _ in changes.skipped]
    if finder:
        _complete(store, source, extractor, finder, out, lambda done: progress(read + done, max(total, read + done)))
    return out


def _renamed(store: Store, gone: list[str], added: list[str]) -> list[tuple[str, str]]:
    before: dict[str | None, list[str]] = {}
    for name in reversed(gone):
        before.setdefault(_digest_of(store, name), []).append(name)
    pairs = [(before.get(_digest_of(store, name)), name) for name in added]
    return [(names.pop(), name) for names, name in pairs if names]


def _incomplete(store: Store, but: Collection[str] = ()) -> list[str]:
    """Names of the photographs whose local features are to be found yet."""
    state = store.state
    return [name for name, row in state.live.items() if row not in state.local and name not in but]


def _complete(
    store: Store,
    source: PhotoSource,
    extractor: Extractor,
    finder: LocalFinder,
    out: Update,
    progress: Callable[[int], None],
) -> None:
    """Finds the local features of the photographs that have none, without describing them again.

    What cannot be read, or is another photograph by now, is left to the update that notices it.
    """
    state, done = store.state, 0
    rows = {name: state.live[name] for name in _incomplete(store)}
    files = [FoundFile(name, state.photos[row].stamp) for name, row in rows.items()]
    with closing(_read(files, None, source, extractor, finder)) as parts:
        for outcomes in parts:
            photos = [
                one
                for one in outcomes
                if isinstance(one, ReadPhoto) and one.digest == state.photos[rows[one.file.name]].digest
            ]
            found = finder.find([one.look for one in photos])
            store.add_local({rows[one.file.name]: own for one, own in zip(photos, found, strict=True)})
            out.completed += [one.file.name for one in photos]
            done += len(outcomes)
            del outcomes, photos
            progress(done)


def store_for_update(
    folder: Path, store: Store | None, retriever: Retriever, stage: str, finder: LocalFinder | None
) -> Store:
    """The store of a collection that is added to: the one that was opened, or another where it is of no use.

    It has no photographs yet where another retriever described those that there were, and says which local features are
    kept from now on.
    """
    described, local = {"retriever": retriever.fingerprint, "stage": stage}, finder.about if finder else {}
    excluded: dict[str, str] = {}
    if store:
        if all(store.state.header.get(name) == value for name, value in described.items()):
            if store.local_about != local:
                store.keep_local(local)
            return store
        log.warning("%s: its photographs were described by another retriever, and are described again", folder.name)
        excluded = store.state.excluded
    channels = BACKBONES[retriever.config.model.backbone].channels[stage]
    return Store.create(folder, retriever.descriptor_length, channels, described | {"local": local}, excluded)


def check_there(store: Store, changes: Changes, source: PhotoSource, moved: bool) -> None:
    """Raises `UserError` where photographs were there and none is any more, as of a disk that is not mounted.

    One that was renamed is there, and one of which nothing is left but an empty file is not. Where the collection is
    said to have `moved`, which may be a mistake, a file that only has the name of one is none.
    """
    live, read = store.state.live, {file.name: file for file in changes.read}
    lost = {*changes.gone, *(name for name, _, _ in changes.skipped)}
    lost |= {name for name, file in read.items() if moved or not file.stamp[0]}
    if not live or live.keys() - lost:
        return
    for file in sorted(changes.read, key=lambda file: file.name not in live):
        try:
            if hashlib.sha256(source.read(file.name, apart=True)).hexdigest() in store.state.contents:
                return
        except Unreadable:
            continue
    if moved:
        raise UserError(
            f"{source}: none of the {len(live)} photographs of the collection {store.folder.name} is there; without "
            "--name this folder gets a collection of its own, and with --forget that one loses them"
        )
    raise UserError(
        f"{source}: none of its {len(live)} photographs is there any more, or all are empty; is the disk mounted? If "
        "they are really gone, `sret index --forget`"
    )


def _read(
    files: list[FoundFile],
    store: Store | None,
    source: PhotoSource,
    extractor: Extractor,
    finder: LocalFinder | None,
) -> Generator[list[ReadPhoto | Rejected], None, None]:
    """What each file is, in parts; of those whose content `store` has, the row of it instead of the pixels."""

    def row_of(digest: str) -> int | None:
        return _sound_row(store, digest) if store else None

    def read(file: FoundFile) -> ReadPhoto | Rejected:
        look = finder.look if finder else None
        return read_photo(file, source=source, extractor=extractor, row_of=row_of, look=look)

    return parts_ahead(read, files, _part_size(extractor))


def _part_size(extractor: Extractor) -> int:
    """Fewer photographs, where each is kept as large as its file, because several scales are made of it."""
    return AT_ONCE if tuple(extractor.config.extract.scales) == (1.0,) else max(1, AT_ONCE // 8)


def _sound_row(store: Store, digest: str) -> int | None:
    """Of what a content was described as before."""
    return next((row for row in store.state.contents.get(digest, ()) if store.is_sound(row)), None)


def _known_by_now(store: Store, photo: ReadPhoto) -> ReadPhoto:
    """With the row of its content, if the part before, which was not added yet when this one was read, had it too."""
    row = _sound_row(store, photo.digest) if photo.row is None else None
    return photo if row is None else replace(photo, size=(0, 0), pixels=None, row=row, look=None)


def _add_part(
    store: Store,
    outcomes: list[ReadPhoto | Rejected],
    source: PhotoSource,
    extractor: Extractor,
    stage: str,
    out: Update,
    finder: LocalFinder | None,
) -> None:
    outcomes = [_known_by_now(store, one) if isinstance(one, ReadPhoto) else one for one in outcomes]
    taken_out = {digest for digest in store.state.excluded.values() if digest}
    again = [one for one in outcomes if isinstance(one, ReadPhoto) and one.digest in taken_out]
    again = [one for one in again if _digest_of(store, one.file.name) != one.digest]  # not a twin that was left in
    replaced = [one.file.name for one in again if one.file.name in store.state.live]
    store.change({"remove": replaced, "exclude": [[one.file.name, one.digest] for one in again]})  # it was only moved
    out.removed += replaced
    photos = [one for one in outcomes if isinstance(one, ReadPhoto) and one not in again]
    fresh = _unchanged_left_out(store, photos)
    described = _described(store, fresh, extractor, stage, finder)
    out.reused += sum(one.pixels is None for one in fresh)
    for one in fresh:
        (out.changed if one.file.name in store.state.live else out.added).append(one.file.name)
    if fresh:
        store.add(described)
    # One that vanished since the folder was listed is left to the next update, which believes no empty folder.
    rejected = [one for one in outcomes if isinstance(one, Rejected) and source.has(one.file.name)]
    rejected = [one for one in rejected if store.state.skipped.get(one.file.name) != (one.reason, one.stamp)]
    out.removed += [one.file.name for one in rejected if one.file.name in store.state.live]
    out.skipped += [(one.file.name, one.reason) for one in rejected]
    store.change({"skip": [[one.file.name, one.reason, list(one.stamp)] for one in rejected]})


def _digest_of(store: Store, name: str) -> str | None:
    """Of what is stored under a name."""
    row = store.state.live.get(name)
    return None if row is None else store.state.photos[row].digest


def _unchanged_left_out(store: Store, photos: list[ReadPhoto]) -> list[ReadPhoto]:
    """Those whose content is new under their name; of the others only the stamp is kept."""
    live, known = store.state.live, store.state.photos
    same = [one for one in photos if _digest_of(store, one.file.name) == one.digest]
    touched = [one.file for one in same if known[live[one.file.name]].stamp != one.file.stamp]
    store.change({"touch": [[file.name, list(file.stamp)] for file in touched]})
    return [one for one in photos if one not in same]


def _described(
    store: Store, photos: list[ReadPhoto], extractor: Extractor, stage: str, finder: LocalFinder | None
) -> Described:
    """Descriptors, maps and local features, computed, or copied from the row of the same content."""
    new = [one for one in photos if one.pixels is not None]
    x = np.empty((0, store.dim), np.float32)
    maps: list[np.ndarray] = []
    if new:
        shown = pixel_set([one.pixels for one in new if one.pixels is not None], [one.size for one in new])
        # Always by the program of a whole batch: that of one photograph may sum in another order, and what parts and
        # resumed updates come to would differ in the last bit from what one process does at once.
        x, maps = extractor.describe_with_maps(shown, range(len(new)), stage)
        _check_finite(x, new)
    computed = {id(one): (x[i], maps[i], one.size) for i, one in enumerate(new)}
    rows = []
    for one in photos:
        if one.row is not None:
            row = one.row
            rows.append((store.descriptor(row), store.map(row), store.state.photos[row].size))
        else:
            rows.append(computed[id(one)])
    stored = [
        StoredPhoto(one.file.name, size, one.digest, one.file.stamp, (len(own), own.shape[1]), (0, 0))
        for one, (_, own, size) in zip(photos, rows, strict=True)
    ]
    descriptors = np.stack([own for own, _, _ in rows]) if rows else x
    local = {
        i: own for i, one in enumerate(photos) if one.row is not None and (own := store.local(one.row)) is not None
    }
    if finder:
        places = [i for i, one in enumerate(photos) if one.row is None]
        local |= zip(places, finder.find([photos[i].look for i in places]), strict=True)
    return Described(stored, descriptors, [own for _, own, _ in rows], local)


def _check_finite(x: np.ndarray, photos: list[ReadPhoto]) -> None:
    bad = np.flatnonzero(~np.isfinite(x).all(1) | (np.linalg.norm(x, axis=1) < 0.5))
    if len(bad):
        raise UserError(
            f"{photos[bad[0]].file.name}: its descriptor is no direction ({len(bad)} such); take the photograph "
            "out, or choose other weights"
        )
