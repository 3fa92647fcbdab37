"""A part of `benchmarks/faults/system.py`: every limit of the system ends in one line, and nothing is lost."""

import pytest

from benchmarks.faults.system import KINDS, World, as_text, outcomes


@pytest.mark.slow
def test_no_limit_of_the_system_loses_anything_or_traces_back(tmp_path):
    told: list[str] = []
    world = World(tmp_path, told.append)
    table = outcomes(world, ["train"], KINDS, 1) | outcomes(world, ["export"], KINDS[:3], 1)
    assert all(row.is_good for row in table.values()), "\n".join([as_text(table), *told])
    if not world.mounts:
        pytest.skip("no file system can be mounted here: " + ", ".join(line for line in told if "SKIPPED" in line))
