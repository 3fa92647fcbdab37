"""Files that anybody may have made: regular ones only, none larger than its kind may be, and none that is all holes.

What is inside of them is read by `foreign`.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from io import BufferedReader

from sret_jax.errors import UserError
from sret_jax.storage.refusals import of_process

MAX_BYTES = 64 * 2**20
HOLLOW = 16 * 2**20  # bytes from which on holes are looked for
FULL = 1 / 64  # of a file that has to be on disk; numbers are never so many zeros


class Unreadable(UserError):
    """A file that cannot be used; `reason` says why, in a few words and without the file's name."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


@contextlib.contextmanager
def named(path: str | os.PathLike[str], remedy: str) -> Iterator[None]:
    """What cannot be read within becomes a `UserError` that names the file and the remedy."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{os.fspath(path)}: cannot be read: {error.strerror or error}; {remedy}") from None
    except Unreadable as rejected:
        raise UserError(f"{os.fspath(path)}: {rejected.reason}; {remedy}") from None


@contextlib.contextmanager
def open_file(path: str | os.PathLike[str], most: int = MAX_BYTES) -> Iterator[BufferedReader]:
    """A regular file of at most `most` bytes, opened to read; else `Unreadable`. No pipe or device is waited for.

    An `OSError` where it is not the file's fault: too few file descriptors.
    """
    try:
        # What kind of file it is can only be asked once it is open: a name may stand for another one a moment later.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError) as error:
        if of_process(error):
            raise
        raise Unreadable(f"cannot be opened: {getattr(error, 'strerror', None) or error}") from None
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable("not a regular file")
        if status.st_size > most:
            raise Unreadable(_larger(most))
        if status.st_size >= HOLLOW and (there := _on_disk(handle, status.st_size)) < FULL * status.st_size:
            raise Unreadable(f"mostly holes: of its {status.st_size} bytes {there} are on disk")
        with open(handle, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(handle)


def read_file(path: str | os.PathLike[str], most: int = MAX_BYTES) -> bytes:
    """The bytes of a file as `open_file` takes it."""
    try:
        with open_file(path, most) as file:
            data = file.read(min(most, os.fstat(file.fileno()).st_size) + 1)
    except OSError as error:
        if of_process(error):
            raise
        raise Unreadable(f"cannot be read: {error.strerror}") from None
    if len(data) > most:  # it grew meanwhile
        raise Unreadable(_larger(most))
    return data


def _larger(most: int) -> str:
    return f"larger than {most >> 20} MiB" if most >> 20 else f"larger than {most} bytes"


def _on_disk(handle: int, size: int) -> int:
    """Bytes of a file that are no holes, counted until it is known that they are enough."""
    there = at = 0
    while there < FULL * size:
        try:
            start = os.lseek(handle, at, os.SEEK_DATA)
        except OSError as error:  # only a hole is left; or a file system that cannot tell
            there = there if error.errno == errno.ENXIO else size
            break
        at = os.lseek(handle, start, os.SEEK_HOLE)
        there += at - start
    os.lseek(handle, 0, os.SEEK_SET)
    return there
