"""Where a collection is kept, and what is written of it there: `collection.json`."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sret_jax.collection.local import NONE, SOURCES, LocalFinder, check_source
from sret_jax.collection.shard import NOTES, SHARDS, Shard
from sret_jax.config.names import STORES
from sret_jax.data.folders import plain_name
from sret_jax.data.remote import is_address
from sret_jax.data.sources import PhotoSource, source_of
from sret_jax.errors import UserError, choices
from sret_jax.models.weights.shipped import DEFAULT, shipped_names
from sret_jax.retriever import Retriever, load
from sret_jax.storage.artifacts import (
    SEAL,
    ChangedError,
    DamagedError,
    lock_folder,
    read_sealed,
    unavailable,
    write_sealed,
)
from sret_jax.storage.refusals import plainly

log = logging.getLogger(__name__)

FORMAT = "sret_jax collection 1"


def read_about(folder: Path) -> dict[str, Any]:
    """What is written of a collection: where its photographs are, what describes them, when it was brought up to date.

    Raises `UserError` where there is none, and `DamagedError` where it is not what was written.
    """
    path = folder / "collection.json"
    try:
        about = {"local": NONE} | read_sealed(path)
        if about["format"] != FORMAT or not isinstance(about["retriever"], str) or about["local"] not in SOURCES:
            raise ValueError(f"written as {about['format']!r}")
        if about.get("store", STORES[0]) not in STORES:
            raise ValueError(f"searched by {about['store']!r}")
        if not (Path(about["root"]).is_absolute() or is_address(about["root"])):
            raise ValueError(f"photographs at {about['root']!r}")
    except ChangedError as error:
        raise DamagedError(
            f'{error}; where it says the right things again, take its "{SEAL}" out, or else delete {folder} and '
            "index again"
        ) from None
    except FileNotFoundError:
        raise UserError(f"no collection {str(folder)!r}; `sret index PHOTOS` makes one") from None
    except (DamagedError, IsADirectoryError, NotADirectoryError, ValueError, LookupError, TypeError) as error:
        raise DamagedError(
            f"{path}: not of a collection of this version ({error}); delete {folder} and index again"
        ) from None
    except OSError as error:
        raise unavailable(error) from None
    return about


def folder_of(source: PhotoSource, workdir: Path, name: str) -> Path:
    """Where the collection of a source is, or is to be.

    Raises `UserError` for a name that is none, or that something else has.
    """
    root = source.address
    taken: dict[str, str | None] = {
        path.name: None for path in workdir.glob("*") if path.resolve() == source.folder or not _is_begun(path)
    }
    of_shards = sorted(workdir.glob(f"*/{SHARDS}/*/collection.json"))
    for about in (*of_shards, *sorted(workdir.glob("*/collection.json"))):
        try:
            taken[about.relative_to(workdir).parts[0]] = str(read_about(about.parent)["root"])
        except UserError as error:
            log.warning("%s", error)
    if not name:
        for own, other in taken.items():
            if other == root:
                return workdir / own
        name = wanted = plain_name(source.name) or "photos"
        number = 1
        while name in taken:
            number += 1
            name = f"{wanted}-{number}"
    elif name != plain_name(name):
        raise UserError(f"--name={name}: letters, digits, - and _ only, 40 at most")
    elif (other := taken.get(name)) is not None and other != root and not _is_gone(other):
        raise UserError(f"--name={name}: the collection of {other} has this name; choose another")
    elif name in taken and other is None:
        raise UserError(f"--name={name}: {workdir / name} is no collection; choose another name")
    return workdir / name


def _is_gone(root: str) -> bool:
    try:
        return source_of(root).is_gone()
    except UserError:  # its package is not installed here
        return False


def kept_folders(folder: Path, shard: Shard | None) -> list[Path]:
    """Those of all collections beside one, and of their shards: none of them holds photographs of anybody."""
    workdir = folder.parents[2] if shard else folder.parent
    return [folder, *(path.parent for path in workdir.glob("*/collection.json")), *workdir.glob(f"*/{SHARDS}")]


def _is_begun(folder: Path) -> bool:
    """Whether nothing is there but what a process that makes a collection writes first."""
    if not folder.is_dir():
        return False
    return all(path.name.startswith(".") or path.name in ("retriever", SHARDS, NOTES) for path in folder.iterdir())


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a collection for this process; what a writer that was killed left half written is deleted.

    Raises `UserError` as `lock_folder`.
    """
    with lock_folder(folder):
        for path in folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)
        yield


def place_of(
    root: str | Path,
    workdir: Path,
    name: str,
    retriever: Retriever | str | Path | None,
    local: str | None,
    shard: Shard | None = None,
    store: str | None = None,
) -> tuple[Path, PhotoSource]:
    """The folder of a collection, made where there is none, with what is written of it as `Collection.open` was given;
    and the source of the photographs.

    That the photographs of a collection are elsewhere now is not written here, but by the update that finds them there.

    Raises `UserError` as `Collection.open`.
    """
    if local is not None:
        check_source(local)
    if store is not None and store not in STORES:
        raise UserError(f"--store: no store {choices(store, STORES)}")
    source = source_of(root)
    if source.is_folder and source.is_gone():
        raise UserError(f"no folder {str(root)!r}: give the folder of the photographs")
    source.check()
    root = source.address
    folder = folder_of(source, workdir, name)
    if shard:
        folder = folder / SHARDS / shard.folder
    below = source.folder
    if below is not None and (below == folder.resolve() or folder.resolve() in below.parents):
        raise UserError(f"{root}: is kept by a collection itself; choose another --workdir or --name")
    before = _about_of(folder)
    changes: dict[str, Any] = {}
    own: Retriever | None = None
    if isinstance(retriever, Retriever):
        own, changes["retriever"] = retriever, ""
    elif retriever is not None and str(retriever) in shipped_names() and not Path(retriever).exists():
        changes["retriever"] = str(retriever)
    elif retriever is not None:
        own, changes["retriever"] = load(retriever), ""
    if local is not None:
        changes["local"] = local
    if store is not None:
        changes["store"] = store
    if changes and before.get("root", root) != root:  # or a mistaken name would change what is not meant
        raise UserError(
            f"{root}: first bring the collection {folder.name} up to date here without another retriever, store or "
            "local features; they can be given after that"
        )
    new: dict[str, Any] = {"retriever": DEFAULT, "local": NONE, "format": FORMAT, "root": root}
    new |= {"shard": str(shard)} if shard else {}
    about = new | before | changes
    if about == before and not own:
        return folder, source
    if about["local"] == "head" and (local or retriever):  # whether it has one
        LocalFinder(own or load(about["retriever"] or folder / "retriever"), "head")
    with locked(folder):
        now = _about_of(folder)
        if now.get("root", root) == before.get("root", root):
            if own:
                with plainly(folder):
                    own.save(folder / "retriever")
            write_about(folder, new | now | changes)
            return folder, source
    # While a retriever was loaded, another process has given the name to other photographs.
    return place_of(root, workdir, name, own or retriever, local, shard, store)


def _about_of(folder: Path) -> dict[str, Any]:
    """What is written of a collection; nothing where there is none yet."""
    return read_about(folder) if (folder / "collection.json").exists() else {}


def write_about(folder: Path, about: dict[str, Any]) -> None:
    """Writes what `read_about` reads; of whoever holds the lock of the collection."""
    with plainly(folder):
        write_sealed(folder / "collection.json", about)
