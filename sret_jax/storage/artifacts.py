"""How everything that a run leaves on disk is written: whole or not at all, and checked before it is read.

A kill at any moment leaves either the old artefact or the new one. `commit_folder` builds beside the target,
syncs, lists every file with its sha256 in `MANIFEST.json`, and renames; `verify_folder` refuses what has changed.
"""

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import logging
import os
import shutil
import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np

from sret_jax.errors import UserError
from sret_jax.storage.refusals import REMEDIES

log = logging.getLogger(__name__)

MANIFEST = "MANIFEST.json"
TEMPORARY = ".tmp"


class InUseError(UserError):
    """Another process holds a folder; it may be free a moment later."""


class DamagedError(UserError):
    """An artefact on disk is not what was written."""


class ChangedError(DamagedError):
    """A file that can be read, but does not say what was written."""


def unavailable(error: OSError) -> UserError:
    """What is said of a file that the system does not give now, which says nothing about what is in it."""
    waits = "nothing was changed, so try again when this has passed"
    remedy = REMEDIES[error.errno] if error.errno in (errno.EMFILE, errno.ENFILE) else waits
    return UserError(f"{error.filename}: {error.strerror}; {remedy}")


def fingerprint(*parts: Any) -> str:
    """16 hexadecimal digits that identify JSON values, in order."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def file_digest(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_file(path: Path, data: bytes) -> None:
    """Replaces `path` by `data`, atomically and durably."""
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}{TEMPORARY}")
    try:
        with open(temporary, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except OSError as error:
        error.filename = os.fspath(path)  # a write that fails names none
        raise
    finally:
        with contextlib.suppress(OSError):  # it is not there, or its folder is not
            temporary.unlink()
    _sync(path.parent)


def write_whole(file: io.FileIO, data: bytes) -> None:
    """Writes all of it to a file that is open without a buffer, whose `OSError` names it.

    Of a buffer an error would come again with the closing of the file.
    """
    left = memoryview(data)
    try:
        while left:
            left = left[file.write(left) :]
    except OSError as error:
        error.filename = file.name
        raise


def clear_temporaries(folder: Path) -> None:
    """Removes what `write_file` left in a folder when it was killed: files of processes that are gone.

    Whether those of another machine are gone cannot be asked, so theirs are removed after a day.
    """
    for path in folder.glob(f".*{TEMPORARY}"):
        host, _, process = path.name[: -len(TEMPORARY)].rpartition(".")
        with contextlib.suppress(OSError):  # another process may remove it too
            gone = host.endswith(f".{socket.gethostname()}") and process.isdigit() and not _lives(int(process))
            if gone or time.time() - path.stat().st_mtime > 86_400:
                path.unlink()


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def write_json(path: Path, value: Any) -> None:
    write_file(path, (json.dumps(value, indent=1) + "\n").encode("utf-8", "surrogateescape"))


def write_rows(path: Path, parts: Iterable[np.ndarray], dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """A .npy file, in a folder that is being built, of arrays one after the other along their first axis.

    By plain writes: numpy's own do not say why one failed, and where a page of a mapped file finds no room on the disk
    the process ends.

    Raises `OSError` that names the file.
    """
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    try:
        with open(path, "wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for part in parts:
                file.write(np.ascontiguousarray(part, dtype).data)
    except OSError as error:
        error.filename = error.filename or os.fspath(path)
        raise


def write_array(path: Path, x: np.ndarray) -> None:
    """`write_rows` of one array."""
    write_rows(path, [x], x.dtype, x.shape)


SEAL = "digest"  # the last key of an object that `write_sealed` wrote


def write_sealed(path: Path, values: dict[str, Any]) -> None:
    """`write_json` of an object with a digest of all of it, which `read_sealed` checks."""
    plain = json.loads(json.dumps(values))  # keys are strings and tuples are lists, as they will be read
    write_json(path, plain | {SEAL: fingerprint(plain)})


def read_sealed(path: Path) -> dict[str, Any]:
    """The object that `write_sealed` wrote; one without a digest, as earlier versions wrote it, is taken as it is.

    Raises:
        FileNotFoundError: there is none.
        ChangedError: its digest is another one's.
        DamagedError: it is no such object.
    """
    try:
        values = json.loads(path.read_bytes())
        if not isinstance(values, dict):
            raise ValueError("no object")
        if not isinstance(values.get(SEAL, ""), str):
            raise ValueError("its digest is no text")
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path}: unreadable ({error})") from None
    sealed = values.pop(SEAL, None)
    if sealed is not None and sealed != fingerprint(values):
        raise ChangedError(f"{path}: changed since it was written")
    return values


def seal_folder(folder: Path) -> None:
    """Syncs every file below `folder` and writes the manifest that `verify_folder` checks."""
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST):
        _sync(path)
        files[path.relative_to(folder).as_posix()] = {"size": path.stat().st_size, "sha256": file_digest(path)}
    for path in sorted(p for p in folder.rglob("*") if p.is_dir()):
        _sync(path)
    write_json(folder / MANIFEST, {"files": files})


def publish_folder(built: Path, path: Path) -> None:
    """Moves a sealed folder to its name; what stood there before is replaced."""
    replaced = _replaced(path)
    try:
        os.rename(built, path)  # where nothing is, or an empty folder
    except OSError:
        if not path.exists():
            raise
        shutil.rmtree(replaced, ignore_errors=True)
        os.rename(path, replaced)
        os.rename(built, path)
    _sync(path.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _replaced(path: Path) -> Path:
    return path.with_name(f".{path.name}.replaced")


def recover_folder(path: Path) -> None:
    """Puts the old folder back when a kill fell between the two renames of `publish_folder`, or deletes what is left of
    it when the kill came later."""
    replaced = _replaced(path)
    if not replaced.exists():
        return
    if path.exists():
        shutil.rmtree(replaced, ignore_errors=True)
    else:
        os.rename(replaced, path)


@contextlib.contextmanager
def commit_folder(path: Path) -> Iterator[Path]:
    """Yields an empty folder to fill; on success it becomes `path`, on an exception it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    recover_folder(path)
    built = path.with_name(f".{path.name}.building")
    shutil.rmtree(built, ignore_errors=True)
    built.mkdir()
    try:
        yield built
        seal_folder(built)
        publish_folder(built, path)
    finally:
        shutil.rmtree(built, ignore_errors=True)


def new_folder(folder: str | Path) -> Path:
    """The whole path of a folder that a person wants written by `commit_folder`: new, or empty.

    Raises `UserError` where it holds something, or is the current one, which cannot be replaced under a shell's feet.
    """
    path = Path(folder).expanduser().resolve()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{folder}: holds something; choose a new folder, or delete it")
    if path == Path.cwd():
        raise UserError(f"{folder}: is the current folder; give the name of a new one")
    return path


def verify_folder(path: Path, only: Collection[str] = (), only_sizes: Collection[str] = ()) -> None:
    """Raises `DamagedError` naming the first file that is missing, changed or not in the manifest.

    With `only` these files are checked, and what else lies there is not looked at: in a folder that is passed on,
    others put files and change words. Of the files `only_sizes` the content is not read.
    """
    recover_folder(path)
    files = read_manifest(path)
    present = {p.relative_to(path).as_posix() for p in path.rglob("*") if not p.is_dir()} - {MANIFEST}
    if only:
        present, files = present & set(only), {name: files[name] for name in only if name in files}
    if present != set(files):
        odd = sorted(present ^ set(files))[0]
        raise DamagedError(f"{path / odd}: {'not in' if odd in present else 'missing, but in'} {MANIFEST}; run again")
    for name, expected in files.items():
        file = path / name
        linked = file.is_symlink() and not only  # a hub's cache holds links
        same = not linked and file.stat().st_size == expected.size
        if not same or (name not in only_sizes and file_digest(file) != expected.sha256):
            raise DamagedError(f"{file}: changed since it was written; delete {path} and run again")


class Listed(NamedTuple):
    """What a manifest says of a file."""

    size: int  # bytes
    sha256: str


def read_manifest(path: Path) -> dict[str, Listed]:
    """The files of a sealed folder, by their paths in it; nothing but the manifest is read.

    Raises `DamagedError` where there is no manifest, or it is not one that `seal_folder` wrote.
    """
    try:
        found = json.loads((path / MANIFEST).read_bytes())["files"]
        files = {name: Listed(entry["size"], entry["sha256"]) for name, entry in found.items()}
        if not all(type(size) is int and type(digest) is str for size, digest in files.values()):
            raise TypeError
    except FileNotFoundError:
        raise DamagedError(f"{path}: no {MANIFEST}, so it was never finished; delete it and run again") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DamagedError(f"{path / MANIFEST}: unreadable; delete {path} and run again") from None
    return files


@runtime_checkable
class Fingerprinted(Protocol):
    """An artifact that knows what it was built from."""

    @property
    def fingerprint(self) -> str: ...


F = TypeVar("F", bound=Fingerprinted)


def open_or_build(
    folder: Path, key: str, load: Callable[[Path], F], build: Callable[[], F], shared: Path | None = None
) -> F:
    """What `load` finds in `folder` if it is sound and has the fingerprint `key`, else what `build` makes and saves.

    `shared`: a folder that is only read, which is looked into as well.
    """
    for place in filter(None, (folder, shared)):
        if place.is_dir():
            try:
                found = load(place)
            except DamagedError as error:
                log.warning("%s; it is built again", error)
            else:
                if found.fingerprint == key:
                    return found
                log.info("%s: was built from something else, it is built again", place)
    return build()


@contextlib.contextmanager
def lock_folder(path: Path) -> Iterator[None]:
    """Holds `path` for this process; a second one gets an `InUseError` that names the holder. Dies with the process."""
    path.mkdir(parents=True, exist_ok=True)
    with open(path / ".lock", "ab+", buffering=0) as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            f.seek(0)
            holder = f.read().decode(errors="replace").strip() or "another process"
            raise InUseError(f"{path} is in use by {holder}; wait for it or choose another folder") from None
        f.truncate(0)
        write_whole(f, f"process {os.getpid()} on {socket.gethostname()}".encode())
        clear_temporaries(path)
        yield


def wait_for(lock: IO[str], path: Path) -> None:
    """Holds an open lock file for this process, once nobody else does; the log names `path` where it has to wait."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log.info("another process prepares %s; waiting for it", path)
        fcntl.flock(lock, fcntl.LOCK_EX)
