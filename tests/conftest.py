"""Strict numerics, four simulated devices, quick compilation and one cache of it for all tests."""

import os
import tempfile
from pathlib import Path

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_threefry_partitionable", True)
CACHE = os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "sret_jax_test_cache"))
jax.config.update("jax_compilation_cache_dir", CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
jax.config.update(
    "jax_disable_most_optimizations", True
)  # the tests' programs are tiny: compiling them is what takes time


@pytest.fixture
def photos() -> Path:
    """The folder of real photographs; tests marked `photos` ask for it."""
    root = os.environ.get("SRET_PHOTOS")
    if not root:
        pytest.skip("SRET_PHOTOS is not set")
    return Path(root).resolve()
