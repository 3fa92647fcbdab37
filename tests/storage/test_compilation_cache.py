"""A compiled program is on disk whole or not at all: JAX never writes again what is there."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import os, sys
import jax, jax.numpy as jnp
from sret_jax.storage.compilation_cache import keep_compiled_programs
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
keep_compiled_programs()
if sys.argv[1] == "killed":
    os.fsync = lambda handle: os.kill(os.getpid(), 9)
print(float(jax.jit(lambda x: jnp.sin(x).sum())(jnp.arange(5.0))))
"""


def compute(folder, how=""):
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(folder), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", SCRIPT, how], env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr, {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


@pytest.mark.slow
def test_a_kill_as_a_program_is_written_leaves_none_that_cannot_be_read(tmp_path):
    status, _, _, begun = compute(tmp_path, "killed")
    assert status == -9 and [name for name in begun if name.endswith(".tmp")] == list(begun)
    status, value, said, kept = compute(tmp_path)
    assert status == 0 and "Error reading" not in said
    assert kept and not any(name.endswith(".tmp") for name in kept)
    assert compute(tmp_path) == (0, value, said, kept)  # found, and not written again
