"""Compiled programs are kept between processes: the second one that needs a program finds it on disk."""

import contextlib
import os
from pathlib import Path

import jax

from sret_jax.storage.artifacts import clear_temporaries, write_file

FOLDER = "~/.cache/sret_jax/compiled"


def keep_compiled_programs() -> None:
    """Turns JAX's persistent compilation cache on, where neither `JAX_COMPILATION_CACHE_DIR` nor the caller has.

    Programs are written whole or not at all, wherever they are kept.
    """
    chosen = getattr(jax.config, "jax_compilation_cache_dir")  # noqa: B009  # mypy does not know it
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ and chosen is None:
        chosen = str(Path(FOLDER).expanduser())
        jax.config.update("jax_compilation_cache_dir", chosen)
    if chosen and "://" not in chosen:
        clear_temporaries(Path(chosen))
    with contextlib.suppress(ImportError, AttributeError):  # another version of JAX may have another cache
        _write_whole()


def _write_whole() -> None:
    """JAX writes in place, and never writes again what is there: of a program that a kill cut short every later process
    would say that it cannot be read, and compile it anew."""
    from jax._src.lru_cache import LRUCache

    in_place = LRUCache.put

    def put(cache: LRUCache, key: str, value: bytes) -> None:
        folder = os.fspath(cache.path)
        if cache.eviction_enabled or "://" in folder:
            in_place(cache, key, value)
        elif not (path := Path(folder) / f"{key}-cache").exists():
            write_file(path, value)

    if in_place.__module__ != __name__:
        LRUCache.put = put  # type: ignore[assignment, method-assign]
