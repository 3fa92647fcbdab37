"""What the system refuses: a full disk, a limit, a folder that cannot be written to or is gone; in one line each."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from sret_jax.errors import UserError

_GOES_ON = "run the same command again, which goes on from what is saved"
_ELSEWHERE = "choose another folder (--workdir, --out, config.data.cache_dir)"
SPACE = {
    errno.ENOSPC: f"free space and {_GOES_ON}",
    errno.EDQUOT: f"free space and {_GOES_ON}",
    errno.EFBIG: f"raise the limit of a file's size (ulimit -f) and {_GOES_ON}",
}
REMEDIES = SPACE | {
    errno.EROFS: _ELSEWHERE,
    errno.EACCES: f"give yourself the permission, or {_ELSEWHERE}",
    errno.EPERM: f"give yourself the permission, or {_ELSEWHERE}",
    errno.EMFILE: f"raise the limit of open files (ulimit -n) and {_GOES_ON}",
    errno.ENFILE: f"close other programs, whose files are too many, and {_GOES_ON}",
    errno.ENOENT: f"put it back and {_GOES_ON}",
    errno.ENOTDIR: f"put the folder back and {_GOES_ON}",
    errno.ESTALE: f"mount it again and {_GOES_ON}",
    errno.EIO: f"look after the disk or the network, and {_GOES_ON}",
}


PLAIN = (*SPACE, errno.EROFS, errno.EMFILE, errno.ENFILE)  # mean the same whoever met them
MEMORY = (
    "lower config.extract.batch_size, config.data.image_size or what is searched at once (config.search.chunk_rows)"
)
NO_TEMPORARY = "No usable temporary directory"
SHOWN = 300  # characters of what a library says


def refusal(error: OSError, place: str | Path = "") -> UserError | None:
    """Path, cause and remedy of an error of the system; None of one that nobody can remedy.

    Args:
      place: what is named where the error names no file.
    """
    if NO_TEMPORARY in str(error):  # which Python looks for by writing to each
        return UserError(f"{error.strerror}; free space in one of these folders, or set TMPDIR to another")
    named = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else str(place)
    if error.errno not in REMEDIES or (not named and error.errno == errno.ENOENT):
        return None
    return UserError(f"{named or 'the system'}: {os.strerror(error.errno)}; {REMEDIES[error.errno]}")


def refusal_behind(error: BaseException, place: str | Path = "") -> UserError | None:
    """`refusal` of an error, or of the one behind it: libraries wrap what the system says, or only repeat its words."""
    if isinstance(error, OSError):
        return refusal(error, place)
    if out_of_memory(error):
        said = " ".join(str(error).split())[:SHOWN]
        return UserError(f"out of memory{said and f' ({said})'}; {MEMORY}")
    behind: BaseException | None = error
    while behind is not None:
        if isinstance(behind, OSError) and behind.errno in PLAIN:
            return refusal(behind, place)
        for number in PLAIN:
            if os.strerror(number) in str(behind):
                said = " ".join(str(behind).split())[:SHOWN]
                return refusal(OSError(number, "", str(place))) if place else UserError(f"{said}; {REMEDIES[number]}")
        behind = behind.__cause__ or behind.__context__
    return None


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of the machine, or of its device, is full."""
    of_device = type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError")
    full = "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()
    return isinstance(error, MemoryError) or (of_device and full)


def of_process(error: BaseException) -> bool:
    """Whether an error is of too few file descriptors, which says nothing about the file that it met."""
    numbers = errno.EMFILE, errno.ENFILE
    return getattr(error, "errno", None) in numbers or any(os.strerror(number) in str(error) for number in numbers)


@contextlib.contextmanager
def plainly(place: str | Path = "") -> Iterator[None]:
    """Turns what the system refuses, and what libraries make of that, into a `UserError`: path, cause and remedy.

    With parentheses it decorates a function as well. Other errors stay what they are.

    Args:
      place: as for `refusal`.
    """
    try:
        yield
    except Exception as error:
        refused = None if isinstance(error, UserError) else refusal_behind(error, place)
        if refused is None:
            raise
        raise refused from error
