"""The paired test and the tables of the benchmarks, where the answer is known."""

import runpy

import numpy as np
import pytest

from tests.support.commands import REPOSITORY

comparison = runpy.run_path(str(REPOSITORY / "benchmarks/comparison.py"))


def test_a_constant_difference_has_no_spread():
    a = np.random.default_rng(0).normal(50, 20, 40)
    assert comparison["paired_bootstrap"](a + 2, a) == pytest.approx((2, 2, 2))


def test_the_interval_is_that_of_the_normal_approximation():
    rng = np.random.default_rng(1)
    shared, noise = rng.normal(50, 20, 400), rng.normal(1, 3, 400)
    mean, low, high = comparison["paired_bootstrap"](shared + noise, shared)
    half = 1.96 * noise.std() / np.sqrt(400)  # the spread that both have in common is gone
    assert mean == pytest.approx(noise.mean())
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.03)


def test_a_table_has_a_dash_where_a_row_lacks_a_column():
    text = comparison["markdown"]({"a": {"mAP": "1", "time": "2"}, "b": {"mAP": "3"}})
    assert text.splitlines()[2:] == ["| a | 1 | 2 |", "| b | 3 | – |"]
    text = comparison["markdown"]({"as it is": {"mAP": "1"}, "b": {"mAP": "3", "kept": "2 of 3"}})
    assert text.splitlines()[::2] == ["| row | mAP | kept |", "| as it is | 1 | – |"]
    assert comparison["mean_and_deviation"]([1.0, 3.0]) == "2.00 ± 1.41"


def test_one_is_not_plural():
    assert [comparison["counted"](n, "seed") for n in (0, 1, 3)] == ["0 seeds", "1 seed", "3 seeds"]
