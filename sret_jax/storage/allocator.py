"""The memory of the process: what a step frees is kept for the next one."""

import ctypes
import sys

import jax

# Of <malloc.h>.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> None:
    """Has glibc keep freed memory instead of giving it back to the kernel, where the processor computes.

    Every step of a network asks for the same large blocks. By default each of them is mapped anew, and the kernel
    fills it with zeros page by page; a step that trains spends a third of its time there. The process stays as large
    as it was at its largest. Where there is no glibc or the work is done elsewhere, nothing is changed.
    """
    if sys.platform != "linux" or jax.default_backend() != "cpu":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(_MMAP_MAX, 0)
    mallopt(_ARENA_MAX, 1)  # arenas beside the first one cannot hold large blocks
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_TOP_PAD, 64 << 20)
