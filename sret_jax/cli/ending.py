"""How a command ends that does not come to its own end: one line on stderr, and an exit status."""

import contextlib
import os
import sys
from collections.abc import Iterator

from sret_jax.training.stopping import Stopped, stoppable


@contextlib.contextmanager
def ending_by_signals() -> Iterator[None]:
    """SIGTERM and SIGUSR1 end the command with a line, and an exit status by which a script knows that it goes on."""

    def leave_at_once(stopped: Stopped) -> None:
        print(stopped, file=sys.stderr, flush=True)
        os._exit(stopped.status)

    try:
        with stoppable(leave_at_once):
            yield
    except Stopped as stopped:
        leave(stopped.status, str(stopped))


def leave(code: int, text: str) -> None:
    """Ends this process. One of several ends at once: on the usual way out it would wait minutes for the others."""
    print(text, file=sys.stderr, flush=True)
    if is_of_several():
        os._exit(code)
    sys.exit(code)


def is_of_several() -> bool:
    """Whether this is one of several processes of a run. One that has not imported JAX is not."""
    return "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized()
