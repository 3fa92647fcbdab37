"""A signal ends a command in one line with a status of its own, wherever its main thread is; in a step it waits."""

import os
import signal
import subprocess
import sys
import time

import pytest

from sret_jax.training import stopping
from sret_jax.training.stopping import AGAIN, Stopped, recorded, stoppable
from tests.support.commands import REPOSITORY

COMMAND = """
import os, sys, time
from sret_jax.cli.ending import ending_by_signals
from sret_jax.training import stopping

stopping.GRACE = {grace}
with ending_by_signals():
    try:
        print("ready", flush=True)
        {act}
    except Exception:
        print("taken for an error")
    finally:
        print("left in order", flush=True)
"""
SLEEPS = "time.sleep(60)"
WAITS_IN_C = "os.system('kill -TERM $PPID; exec sleep 20 >/dev/null 2>&1')"  # no handler of Python's runs meanwhile


def stopped(number, act, grace=30):
    """The exit status, what was printed and what was said of a command that gets a signal, from itself if None."""
    command = [sys.executable, "-c", COMMAND.format(act=act, grace=grace)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=REPOSITORY, **pipes) as process:
        assert process.stdout.readline() == "ready\n"
        if number:
            process.send_signal(number)
        out, said = process.communicate(timeout=60)
    return process.returncode, out, said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_a_command_in_order(number):
    status, out, said = stopped(number, SLEEPS)
    assert (status, out) == (AGAIN, "left in order\n")
    assert said.startswith(f"stopped by {number.name}; what was saved stays") and said.count("\n") == 1


def test_a_signal_ends_what_cannot_be_interrupted():
    status, out, said = stopped(None, WAITS_IN_C, grace=0.3)
    assert (status, out) == (AGAIN, "") and said.startswith("stopped by SIGTERM") and said.count("\n") == 1


@pytest.fixture
def left(monkeypatch):
    """What a command that is stoppable was ended by in another thread; none is waited for longer than 0.2 s."""
    monkeypatch.setattr(stopping, "GRACE", 0.2)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    yield []
    signal.signal(signal.SIGINT, before)


def send(number):
    os.kill(os.getpid(), number)
    time.sleep(0.01)  # until the handler has run


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_in_a_step_a_signal_waits_and_a_second_one_does_not(left, number):
    other = KeyboardInterrupt if number == signal.SIGINT else Stopped
    with stoppable(left.append):
        with pytest.raises(other), recorded() as found:
            found.begin()
            send(number)
            time.sleep(0.5)  # longer than the command would be given elsewhere
            assert found.numbers == [number] and not left
            send(number)
        assert signal.getsignal(signal.SIGTERM) is stopping._raise
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL and signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_before_the_first_step_has_ended_there_is_nothing_to_wait_for(left, number):
    other = KeyboardInterrupt if number == signal.SIGINT else Stopped
    with stoppable(left.append), pytest.raises(other), recorded() as found:
        send(number)
    assert not found.numbers


def test_a_training_that_no_command_runs_keeps_every_signal_for_the_end_of_the_step():
    with recorded() as found:
        send(signal.SIGUSR1)
    assert found.numbers == [signal.SIGUSR1] and signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def test_a_step_that_has_ended_makes_the_command_stoppable_again(left):
    with stoppable(left.append), pytest.raises(Stopped) as raised:
        with recorded() as found:
            found.begin()
        send(signal.SIGTERM)
    assert raised.value.status == AGAIN and not raised.value.agreed


def test_the_status_says_whether_to_go_on():
    assert Stopped(signal.SIGTERM).status == Stopped(signal.SIGUSR1).status == AGAIN == os.EX_TEMPFAIL
    assert Stopped(signal.SIGINT).status == 130
