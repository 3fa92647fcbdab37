"""Files that anybody may have made, read whole: regular ones only, and none larger than its kind may be."""

import os
import stat

from sret_jax.errors import UserError

MAX_BYTES = 64 * 2**20


class Unreadable(UserError):
    """A file that cannot be used; `reason` says why, in a few words and without the file's name."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


def read_file(path: str | os.PathLike[str], most: int = MAX_BYTES) -> bytes:
    """The bytes of a regular file of at most `most`. A pipe or a device is refused instead of waited for."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise Unreadable(f"cannot be opened: {getattr(error, 'strerror', None) or error}") from None
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable("not a regular file")
        if status.st_size > most:
            raise Unreadable(f"larger than {most // 2**20} MiB")
        with open(handle, "rb", closefd=False) as file:
            data = file.read(most + 1)
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror}") from None
    finally:
        os.close(handle)
    if len(data) > most:  # it grew meanwhile
        raise Unreadable(f"larger than {most // 2**20} MiB")
    return data
