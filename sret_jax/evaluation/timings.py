"""How long each part of an evaluation takes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Timings:
    """Seconds by name of what was done. What is done several times adds up, and what is timed inside something else is
    taken off it: every second counts once."""

    def __init__(self, **known: float):
        self._seconds, self._inner = dict(known), [0.0]

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        self._inner.append(0.0)
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            own = seconds - self._inner.pop()
            self._inner[-1] += seconds
            self._seconds[name] = self._seconds.get(name, 0.0) + own

    @property
    def seconds(self) -> dict[str, float]:
        return {name: round(value, 4) for name, value in self._seconds.items()}
