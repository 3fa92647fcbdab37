"""Every second counts once, whatever is timed inside of what."""

from types import SimpleNamespace

import pytest

from sret_jax.evaluation import timings as module
from sret_jax.evaluation.timings import Timings


@pytest.fixture
def wait(monkeypatch):
    """Moves the clock."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: clock.now))

    def wait(seconds: float) -> None:
        clock.now += seconds

    return wait


def test_what_is_timed_inside_is_taken_off(wait):
    timings = Timings()
    with timings("outer"):
        wait(1)
        with timings("inner"):
            wait(2)
            with timings("innermost"):
                wait(16)
        wait(4)
        with timings("inner"):
            wait(8)
    wait(1000)  # not timed
    assert timings.seconds == {"innermost": 16, "inner": 10, "outer": 5}


def test_what_is_done_again_adds_up_and_what_is_known_counts(wait):
    timings = Timings(prepare=0.5)
    for seconds in (1, 2):
        with timings("search"):
            wait(seconds)
    with timings("prepare"):
        wait(0.25)
    assert timings.seconds == {"prepare": 0.75, "search": 3}


def test_a_name_inside_of_itself_counts_once(wait):
    timings = Timings()
    with timings("extract"):
        wait(1)
        with timings("extract"):
            wait(2)
    assert timings.seconds == {"extract": 3}


def test_what_ends_with_an_error_has_taken_its_time(wait):
    timings = Timings()
    with pytest.raises(KeyError), timings("outer"):
        wait(1)
        with timings("inner"):
            wait(2)
            raise KeyError
    with timings("after"):
        wait(4)
    assert timings.seconds == {"inner": 2, "outer": 1, "after": 4}
