"""For which platform a network is traced: where one form of a computation is faster, the result being the same.

The platform is where JAX runs, unless `traced_for` says otherwise: a program can then be lowered, compiled and looked
at for a device that is not there.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import jax

_PLATFORM: ContextVar[str] = ContextVar("platform", default="")


def on_cpu() -> bool:
    """Whether what is being traced is for a CPU."""
    return (_PLATFORM.get() or jax.default_backend()) == "cpu"


@contextlib.contextmanager
def traced_for(platform: str) -> Iterator[None]:
    """What is traced inside is for this platform: "cpu", "cuda" or "tpu".

    JAX keeps what it has traced of a function, and does not know of this: give `jax.jit` a function of one's own here.
    """
    token = _PLATFORM.set(platform)
    try:
        yield
    finally:
        _PLATFORM.reset(token)
