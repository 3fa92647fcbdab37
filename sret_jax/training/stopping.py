"""A command that is asked to end goes on when it is given again, and says so by its exit status.

A person sends SIGINT, by Ctrl+C. A machine that shuts down and a cluster that takes it back send SIGTERM, and so does
Slurm before a job is killed; with `--signal=USR1@120` it sends SIGUSR1 two minutes earlier. Between the steps of a
training they are kept for the end of the step, which is saved. Everywhere else there is nothing to save: everything on
disk is written whole or not at all, and the command ends as soon as it can.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

AGAIN = 75  # exit status, EX_TEMPFAIL of sysexits.h: nothing is wrong with the command, which goes on if given again
GRACE = 10.0  # seconds in which the main thread comes to its end, before it is not waited for
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Stopped(BaseException):
    """A signal asked the command to end, and nothing is lost. No `except Exception` takes it for an error.

    number  of the signal
    agreed  whether all processes of a run stop, as after a step
    """

    def __init__(self, number: int, text: str = "", *, agreed: bool = False):
        self.number, self.agreed = number, agreed
        kept = "what was saved stays; run the same command again to go on"
        super().__init__(text or f"stopped by {signal.Signals(number).name}; {kept}")

    @property
    def status(self) -> int:
        """With which the command ends: as by any Ctrl+C, or so that a script knows it has to be given again."""
        return 128 + self.number if self.number == signal.SIGINT else AGAIN


class Recorded:
    """The numbers of the signals that wait for the end of a step, which they do from `begin` on."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.begun = False

    def begin(self) -> None:
        self.begun = True


_recorded: list[Recorded] = []  # of the training that runs, if any


@contextlib.contextmanager
def recorded() -> Iterator[Recorded]:
    """Keeps signals until the step has ended in which they come; a second one does what it always would.

    In a command that is `stoppable`, it is that what they do before `begin` as well: the first step is compiled, which
    takes minutes, and there is nothing yet to save.
    """
    found = Recorded()
    before = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGINT)}
    outside = before[signal.SIGTERM] is _raise

    def handle(number: int, frame: Any) -> None:
        usual = before[signal.Signals(number)]
        if outside and not found.begun and callable(usual):
            usual(number, frame)
            return
        found.numbers.append(number)
        for other, handler in before.items():
            signal.signal(other, handler)

    for number in before:
        signal.signal(number, handle)
    _recorded.append(found)
    try:
        yield found
    finally:
        _recorded.remove(found)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def stoppable(leave: Callable[[Stopped], object]) -> Iterator[None]:
    """Has SIGTERM and SIGUSR1 raise `Stopped` in the main thread, which runs this.

    No signal interrupts one that waits for a compiler, a device or another process. Where it has not come to its end
    `GRACE` seconds later, `leave` is called in another thread, to end the process.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    ended = threading.Event()

    def watch() -> None:
        with os.fdopen(reading, "rb", buffering=0) as pipe:
            while data := pipe.read(64):
                for number in data:
                    waits = any(one.begun for one in _recorded)
                    if number in SIGNALS and not waits and not ended.wait(GRACE):
                        leave(Stopped(number))

    threading.Thread(target=watch, name="signals", daemon=True).start()
    before = {number: signal.signal(number, _raise) for number in SIGNALS}
    woken = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield
    finally:
        ended.set()
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(woken)
        os.close(writing)


def _raise(number: int, _: Any) -> None:
    raise Stopped(number)
