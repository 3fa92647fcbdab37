"""Compiled programs are kept between processes: the second one that needs a program finds it on disk."""

import os
from pathlib import Path

import jax

FOLDER = "~/.cache/sret_jax/compiled"


def keep_compiled_programs() -> None:
    """Turns JAX's persistent compilation cache on, where neither `JAX_COMPILATION_CACHE_DIR` nor the caller has."""
    chosen = getattr(jax.config, "jax_compilation_cache_dir")  # noqa: B009  # mypy does not know it
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ and chosen is None:
        jax.config.update("jax_compilation_cache_dir", str(Path(FOLDER).expanduser()))
