"""Photographs of strangers crash nothing, and each is decoded or rejected, soon, and in little memory."""

import subprocess
import sys

import pytest

from tests.support.commands import REPOSITORY


@pytest.mark.slow
def test_no_photograph_hurts_the_decoder():
    """The command prints three tables, and ends with 1 where any photograph fell short."""
    command = [sys.executable, REPOSITORY / "benchmarks" / "faults" / "photographs.py", "--half"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    last = done.stdout.split("| all |")[-1].split("|")
    assert int(last[0]) == 3000 and int(last[1]) > 300
