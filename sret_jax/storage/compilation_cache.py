"""Compiled programs are kept between processes: the second one that needs a program finds it on disk.

JAX keeps them if it is told to, and here it does so by files of its own names, but written, read and bounded by this
module. Its own way writes in place and never again, so that every later process would say of a program that a kill cut
short that it cannot be read. Its bound takes a lock for every program, so that a folder that can only be read is of no
use, and never evicts again once a process was killed between the two files that it has for each.
"""

import contextlib
import logging
import os
from pathlib import Path
from typing import Any

import jax

from sret_jax.storage.artifacts import clear_temporaries, write_file

log = logging.getLogger(__name__)

MOST = 1 << 30  # bytes of the programs in the folder that nobody has chosen
SHARE = 16  # of these bytes, the part that a process adds before it looks at all of them again
_SUFFIX, _OF_JAX = "-cache", "-atime"  # of a program, and of the time of its last use where JAX bounds its cache itself
_DEFAULT_LEAST = 1.0  # seconds, JAX's own, of compilation from which on a program is kept


def keep_compiled_programs() -> None:
    """Turns JAX's persistent compilation cache on, where neither `JAX_COMPILATION_CACHE_DIR` nor the caller has.

    The folder is `default_folder`, which holds at most `MOST` bytes; what was used longest ago gives way. One that was
    chosen is bounded by JAX's `jax_compilation_cache_max_size` alone. Programs of any size are kept, unless JAX is told
    otherwise: a command has a hundred that take milliseconds each. Where nothing can be written, what is there is used.
    """
    own = default_folder()
    chosen, most = _setting("jax_compilation_cache_dir"), _setting("jax_compilation_cache_max_size")
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ and chosen is None and own is not None:
        with contextlib.suppress(OSError):  # of a folder that can only be read, what is there is used
            own.mkdir(mode=0o700, parents=True, exist_ok=True)  # programs are run: they are nobody else's to write
        if own.is_dir():
            chosen = str(own)
            jax.config.update("jax_compilation_cache_dir", chosen)
    if not chosen or "://" in chosen:
        return
    least = "jax_persistent_cache_min_compile_time_secs"
    if least.upper() not in os.environ and _setting(least) == _DEFAULT_LEAST:
        jax.config.update(least, 0.0)
    clear_temporaries(Path(chosen))
    with contextlib.suppress(ImportError, AttributeError):  # another version of JAX may have another cache
        unbounded = None if chosen != str(own) else MOST
        _take_over(chosen, unbounded if most == -1 else most)


def default_folder() -> Path | None:
    """`sret_jax/compiled` in the user's cache folder, `$XDG_CACHE_HOME` or `~/.cache`; None for a user without one."""
    try:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    except RuntimeError:  # nobody's home
        return None
    return caches / "sret_jax" / "compiled"


def _setting(name: str) -> Any:
    return getattr(jax.config, name)  # mypy does not know them


def _take_over(folder: str, most: int | None) -> None:
    """Has JAX keep the programs of this folder by `Programs`."""
    from jax._src import compilation_cache

    theirs = compilation_cache.get_file_cache
    if getattr(theirs, "folder", None) == folder:
        return
    theirs = getattr(theirs, "theirs", theirs)

    def get_file_cache(path: str) -> Any:
        return (Programs(Path(path), most), path) if path == folder else theirs(path)

    get_file_cache.folder, get_file_cache.theirs = folder, theirs  # type: ignore[attr-defined]
    compilation_cache.get_file_cache = get_file_cache
    compilation_cache.reset_cache()  # JAX may have made its own before


class Programs:
    """The compiled programs in one folder, as JAX asks for them: bytes by a key that says what they were made of.

    Several processes may have one at once. A program is there whole or not at all, and may be gone at any time.

    Args:
      most: bytes that they may take; what was used longest ago is removed first. None is without bound.
    """

    def __init__(self, folder: Path, most: int | None):
        self._path = self._folder = folder  # JAX shows `_path` in its log
        self._most = most
        self._added, self._refused = 0, most == 0
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
        if most is not None:
            trim(folder, most)

    def get(self, key: str) -> bytes | None:
        """The program, or None: it was never kept, or another process has just removed it."""
        path = self._folder / (key + _SUFFIX)
        try:
            program = path.read_bytes()
        except OSError:
            return None
        with contextlib.suppress(OSError):  # a folder that can only be read
            os.utime(path)
        return program

    def put(self, key: str, value: bytes) -> None:
        """Keeps a program, in the place of one that could not be read; where nothing can be written, says so once."""
        if self._refused:
            return
        try:
            write_file(self._folder / (key + _SUFFIX), value)
        except OSError as error:
            self._refused = True
            log.warning(
                "compiled programs are not kept, and will be compiled again: %s: %s; JAX_COMPILATION_CACHE_DIR names "
                "another folder",
                self._folder,
                error.strerror,
            )
            return
        self._added += len(value)
        if self._most is not None and self._added > self._most // SHARE:
            self._added = 0
            trim(self._folder, self._most)


def trim(folder: Path, most: int) -> None:
    """Removes the programs that were used longest ago, until the others take at most so many bytes.

    Other processes may add, use and remove some meanwhile; a folder that cannot be read or changed stays as it is.
    """
    found: list[tuple[int, int, str]] = []  # time of the last use, bytes, path
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(_SUFFIX):
                with contextlib.suppress(OSError):  # removed since
                    about = entry.stat()
                    found.append((about.st_mtime_ns, about.st_size, entry.path))
    left = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if left <= most:
            return
        for one in (path, path.removesuffix(_SUFFIX) + _OF_JAX):
            with contextlib.suppress(OSError):
                os.unlink(one)
        left -= size
