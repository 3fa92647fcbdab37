"""Commit, versions and device: what a figure depends on beside its config; and the device's memory running out."""

import contextlib
import platform
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from sret_jax.errors import UserError
from sret_jax.storage.refusals import out_of_memory

PACKAGES = ("sret_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pillow", "scann")


def environment() -> dict[str, Any]:
    """`{"commit", "versions": {package: version}, "device"}`, as JSON values."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    device = jax.devices()[0]
    return {"commit": _commit(), "versions": versions, "device": f"{jax.device_count()} x {device.device_kind}"}


@contextlib.contextmanager
def enough_memory(remedy: str) -> Iterator[None]:
    """Turns the error of a full memory, the device's or the machine's, into a `UserError` that has the remedy."""
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise UserError(f"out of memory {remedy}") from error


def _commit() -> str:
    """The git commit of the code, with "+changes" when files differ from it; "" outside a repository."""

    def git(*arguments: str) -> str | None:
        here = Path(__file__).parent
        try:
            done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", "__init__.py") is None:
        return ""
    changed = git("status", "--porcelain", "--untracked-files=no")
    return f"{git('rev-parse', 'HEAD')}{'+changes' if changed else ''}"
