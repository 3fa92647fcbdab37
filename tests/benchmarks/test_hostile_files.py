"""Hostile files execute nothing, and each is answered in one line, soon, and in little memory."""

import subprocess
import sys

import pytest

from tests.support.commands import REPOSITORY


@pytest.mark.slow
def test_no_loader_is_hurt_by_a_hostile_file():
    """The command prints a row for each loader and ends with 1 where any file fell short."""
    command = [sys.executable, REPOSITORY / "benchmarks" / "faults" / "hostile.py", "--half"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    last = done.stdout.splitlines()[-1].split("|")
    assert last[1].strip() == "all" and int(last[2]) > 600
