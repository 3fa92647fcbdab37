"""What is started ahead comes in its order, and no further ahead than was said."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from sret_jax.data.concurrency import MOST_THREADS, parts_ahead, run_ahead, thread_count
from sret_jax.errors import UserError


@pytest.mark.parametrize("count", [0, 1, 3, 10])
def test_what_is_started_ahead(count):
    started, handed_on = [], []
    for item in run_ahead((started.append(i) or i for i in range(6)), count):
        handed_on.append(item)
        assert len(started) == min(6, len(handed_on) + count)
    assert handed_on == list(range(6))


def test_nothing_is_started_of_nothing():
    assert list(run_ahead(iter(()), 2)) == []


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system gives processes all processors")
def test_only_processors_that_may_be_used_count():
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert thread_count() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert thread_count() == min(MOST_THREADS, len(before))


def test_the_next_part_is_made_while_one_is_used():
    read, all_of_two = [], threading.Barrier(5, timeout=20)

    def of(number: int) -> int:
        read.append(number)
        if number < 4:  # of the first two parts, which end together
            all_of_two.wait()
        return 10 * number

    with ThreadPoolExecutor(1) as waiting:
        met = waiting.submit(all_of_two.wait)
        many = parts_ahead(of, list(range(7)), 2, threads=4)
        assert next(many) == [0, 10] and sorted(read) == [0, 1, 2, 3]
        met.result()
        assert list(many) == [[20, 30], [40, 50], [60]]


def test_who_stops_early_waits_for_no_more_than_was_begun():
    read, begun, released = [], threading.Event(), threading.Event()

    def of(number: int) -> None:
        read.append(number)
        if number == 3:  # the first of the second part
            begun.set()
            released.wait(20)

    many = parts_ahead(of, list(range(1000)), 3, threads=1)
    next(many)
    assert begun.wait(20)
    closing = threading.Thread(target=many.close)
    closing.start()
    time.sleep(0.2)  # until what waits is taken back
    released.set()
    closing.join(20)
    assert read == [0, 1, 2, 3]


def test_a_part_is_let_go_of():
    class Large:
        there = 0

        def __init__(self, _: int):
            Large.there += 1

        def __del__(self):
            Large.there -= 1

    seen = 0
    for part in parts_ahead(Large, list(range(12)), 3, threads=1):
        seen += len(part)
        del part
        assert Large.there <= 3  # of the next part
    assert seen == 12


def test_a_failure_comes_in_its_turn():
    def of(number: int) -> int:
        if number == 5:
            raise UserError("5: gone")
        return number

    many = parts_ahead(of, list(range(9)), 2)
    assert [next(many), next(many)] == [[0, 1], [2, 3]]
    with pytest.raises(UserError, match="5: gone"):
        next(many)
