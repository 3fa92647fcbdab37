"""Strict numerics, four simulated devices, quick compilation and one cache of it for all tests; which tests run."""

import gc
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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves slow tests out, except under `-m EXPRESSION` and where the command line names one: `FILE::TEST`.

    A file or folder alone names none of its tests. `-m "slow or not slow"` runs all.
    """
    if config.option.markexpr:
        return
    named = [argument.split("::", 1) for argument in config.args if "::" in argument]
    named = [((config.invocation_params.dir / file).resolve(), test) for file, test in named]

    def is_named(item: pytest.Item) -> bool:
        test = item.nodeid.split("::", 1)[1]
        return any(
            item.path.resolve() == file and (test == name or test.startswith((f"{name}[", f"{name}::")))
            for file, name in named
        )

    kept, left_out = [], []
    for item in items:
        (left_out if item.get_closest_marker("slow") and not is_named(item) else kept).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=left_out)


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Drops compiled programs before they end the process: each maps memory, and Linux allows a process 65,530 maps."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > 15_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def photos() -> Path:
    """The folder of real photographs; tests marked `photos` ask for it."""
    root = os.environ.get("SRET_PHOTOS")
    if not root:
        pytest.skip("SRET_PHOTOS is not set")
    return Path(root).resolve()
