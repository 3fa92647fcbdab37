"""Files in object stores and on web servers, through fsspec: listed, told apart by their tags, and read in parts.

Credentials and settings are those that fsspec and the store's own package find: the cloud's environment variables and
files, `FSSPEC_<PROTOCOL>_<SETTING>`. Only the protocols below are opened, never one chained to another.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from sret_jax.errors import UserError
from sret_jax.storage.files import MAX_BYTES, Unreadable
from sret_jax.storage.tar import Read

# Protocol -> the package beside fsspec that speaks it.
PROTOCOLS = {
    "s3": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "https": "aiohttp",
    "http": "aiohttp",
    "memory": "",
}
TRIES, PAUSE = 4, 0.5  # of a request that fails, and seconds before the second one; twice as many before each other
BUSY = (408, 425, 429)  # what servers answer that may be asked again later
AHEAD = 1 << 20  # bytes that are asked for at once while an archive is listed
# What stores say of an object that another one has not: its own tag, or when it was written.
TAGS = ("ETag", "etag", "generation", "md5Hash", "content_md5", "Content-MD5", "Digest")
TIMES = ("LastModified", "last_modified", "Last-Modified", "mtime", "updated", "created")
T = TypeVar("T")


@dataclass(frozen=True)
class RemoteFile:
    """What a store says of a file; `tag` is "" where it says nothing by which a change could be told."""

    size: int
    tag: str


@dataclass(frozen=True)
class Listed:
    """An entry of a folder, with "/" between parts below the store's own; `about` is None for a folder."""

    name: str
    about: RemoteFile | None


def is_address(text: str) -> bool:
    """Whether a text is the address of something that is no file of this machine."""
    return "://" in text


def read_address(address: str) -> bytes:
    """The bytes of one file. Raises as `RemoteFolder` and its `read`."""
    folder, _, name = address.rpartition("/")
    store = RemoteFolder(folder)
    if (size := store.about(name).size) > MAX_BYTES:
        raise Unreadable(f"{size} bytes, larger than {MAX_BYTES >> 20} MiB")
    return store.read(name)


class RemoteFolder:
    """All that lies below an address.

    Attributes:
      address: without "/" at its end.
    """

    def __init__(self, address: str):
        """Raises `UserError` for a protocol that is not known, or whose package is not installed."""
        self.address = address.rstrip("/")
        protocol = address.partition("://")[0]
        if protocol not in PROTOCOLS:
            raise UserError(f"{address}: no known protocol; give a folder, or one of {', '.join(PROTOCOLS)}")
        try:
            import fsspec

            self._files: Any = fsspec.filesystem(protocol, use_listings_cache=False)
        except ImportError as error:
            needs = " and ".join(filter(None, ("fsspec", PROTOCOLS[protocol])))
            raise UserError(
                f'{address}: needs {needs}: pip install "sret_jax[remote]", or {needs} alone ({error})'
            ) from None
        self._root = str(self._files._strip_protocol(self.address)).rstrip("/")

    def listed(self, folder: str = "") -> list[Listed]:
        """What lies in a folder, sorted. Raises `UserError` where it is not there or the store cannot be reached."""
        place = self._place(folder)
        found = self._tried(folder, lambda: self._files.ls(place, detail=True))
        entries = []
        for info in found:
            own = str(self._files._strip_protocol(str(info["name"]))).rstrip("/")
            name = own[len(self._root) :].lstrip("/")
            if not name or not own.startswith(f"{place}/") or "?" in name or "#" in name:
                continue  # a folder's own mark; of a page a link elsewhere, or to itself in another order
            entries.append(Listed(name, None if info.get("type") == "directory" else self._about(name, info)))
        return sorted({entry.name: entry for entry in entries}.values(), key=lambda entry: entry.name)

    def matching(self, pattern: str) -> list[str]:
        """Names of the files that fit a pattern with `*` and its kind, sorted."""
        found = self._tried(pattern, lambda: self._files.glob(self._place(pattern)))
        return sorted(str(self._files._strip_protocol(str(path)))[len(self._root) :].lstrip("/") for path in found)

    def about(self, name: str) -> RemoteFile:
        """What the store says of a file. Raises as `read`."""
        return self._about(name, {})

    def read(self, name: str, start: int = 0, size: int | None = None) -> bytes:
        """The bytes of a file, or so many of them.

        Raises `Unreadable` where it is not there or may not be read, and `UserError` where the store cannot be reached.
        """
        place = self._place(name)
        if size is None:
            return bytes(self._tried(name, lambda: self._files.cat_file(place)))
        data = bytes(self._tried(name, lambda: self._files.cat_file(place, start=start, end=start + size)))
        return data if len(data) <= size else data[start : start + size]  # of a server that sends all of it

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[Read]:
        """Reads parts of a file that follow each other, a few of them with every request. Raises as `read`."""
        place = self._place(name)
        file = self._tried(
            name, lambda: self._files.open(place, "rb", block_size=AHEAD, cache_type="readahead", compression=None)
        )

        def read(start: int, size: int) -> bytes:
            file.seek(start)
            return bytes(file.read(size))

        with file:
            yield lambda start, size: self._tried(name, lambda: read(start, size))

    def has(self, name: str) -> bool:
        return bool(self._tried(name, lambda: self._files.exists(self._place(name))))

    def _place(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _about(self, name: str, info: dict[str, Any]) -> RemoteFile:
        if info.get("size") is None:  # a web page lists names alone
            info = self._tried(name, lambda: self._files.info(self._place(name)))
        said = [f"{key} {info[key]}" for keys in (TAGS, TIMES) for key in keys if info.get(key)]
        return RemoteFile(int(info.get("size") or 0), said[0] if said else "")

    def _tried(self, name: str, ask: Callable[[], T]) -> T:
        """What a request gives, made again where it fails for a reason that may pass."""
        place = f"{self.address}/{name}" if name else self.address
        for pause in [PAUSE * 2**i for i in range(TRIES - 1)] + [0.0]:
            try:
                return ask()
            except FileNotFoundError as error:
                if not _may_pass(error.__cause__):
                    raise Unreadable("not there") from None
                failure: BaseException | None = error.__cause__
            except PermissionError as error:
                raise Unreadable(f"may not be read ({_said(error)})") from None
            except (NotImplementedError, ImportError, MemoryError):
                raise
            except Exception as error:  # of whichever package speaks to the store
                status = getattr(error, "status", None)
                if isinstance(status, int) and 400 <= status < 500 and status not in BUSY:
                    raise Unreadable(f"refused by the server ({status})") from None
                failure = error
            time.sleep(pause)
        raise UserError(
            f"{place}: cannot be reached ({_said(failure)}); look after the network and the credentials, and run the "
            "same command again, which goes on from what is saved"
        ) from failure


def _may_pass(cause: BaseException | None) -> bool:
    """Whether a file is only said not to be there because the server did not answer, as fsspec has it of the web."""
    status = getattr(cause, "status", None)
    if isinstance(status, int):
        return status >= 500 or status in BUSY
    return isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError)


def _said(error: BaseException | None) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
