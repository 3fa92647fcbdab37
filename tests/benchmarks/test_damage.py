"""The shorter half of `benchmarks/faults/damage.py`: whatever is damaged is noticed, made again or refused."""

from collections import Counter

import pytest

from benchmarks.faults.damage import KINDS, damaged_outcomes


@pytest.mark.slow
def test_no_damage_of_a_run_is_believed_or_traces_back():
    told: list[str] = []
    table = damaged_outcomes(3 * len(KINDS), seed=1, tell=told.append)
    sums = sum(table.values(), Counter())
    bad = [line for line in told if ": traceback" in line or ": silent" in line]
    assert not bad and sums["traceback"] == sums["silent"] == 0, "\n".join(bad)
    assert sums["made again"] >= len(KINDS) // 2 and sums["refused"] >= len(KINDS) // 2
