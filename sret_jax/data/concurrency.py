"""What goes on while something else is computed."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
MOST_THREADS = 32  # each may have a decoder's process of its own


def thread_count() -> int:
    """Threads that go through photographs: one for each processor that this process may use.

    Where it is bound to some of them, as by a scheduler, these are fewer than the machine has.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MOST_THREADS, allowed)


def run_ahead(started: Iterable[T], count: int) -> Iterator[T]:
    """The items in their order, each once `count` more were taken: what taking them starts goes on meanwhile."""
    waiting: deque[T] = deque()
    for item in started:
        waiting.append(item)
        if len(waiting) > count:
            yield waiting.popleft()
    yield from waiting


def parts_ahead(
    function: Callable[[T], R], items: Sequence[T], size: int, threads: int = 0
) -> Generator[list[R], None, None]:
    """What a function makes of the items, so many at a time and in their order, on threads.

    While a part is used the next one is made: two are in memory, if the caller lets go of a part before it asks for the
    next one. Closed early, it makes no more.

    Args:
      threads: 0: one for each processor.
    """
    pool = ThreadPoolExecutor(threads or thread_count())
    try:
        parts = (items[start : start + size] for start in range(0, len(items), size))
        for part in run_ahead((deque(pool.submit(function, item) for item in part) for part in parts), 1):
            yield [part.popleft().result() for _ in range(len(part))]  # a future keeps its result
    finally:
        pool.shutdown(cancel_futures=True)
