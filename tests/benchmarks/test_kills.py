"""The shorter half of `benchmarks/faults/kills.py`: what is killed ends with the same bits, a lost peer is named."""

import shutil
import subprocess
import sys

import pytest

from tests.support.commands import REPOSITORY


def killed(*flags):
    """The rows of the table, by command, and what was said. In a process of its own: it forks, and JAX runs here."""
    done = subprocess.run(
        [sys.executable, "benchmarks/faults/kills.py", *flags, "--seed=1"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=600,
    )
    lines = [line.split("|")[1:-1] for line in done.stdout.splitlines() if line.startswith("| ")]
    head, *rows = [[cell.strip() for cell in line] for line in lines]
    assert done.returncode == 0, done.stdout + done.stderr
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}, done.stderr


NOTHING = ("bits different", "lines doubled or missing", "left-over files", "other faults")


@pytest.mark.slow
def test_what_is_killed_goes_on_to_the_same_bits_and_leaves_nothing():
    rows, said = killed("--kills=4", "--peers=0")
    assert len(rows) == 6 and rows["training"]["kills"] == "4"
    for row in rows.values():
        assert row["kills"] == row["went on"] != "0" and all(row[name] == "0" for name in NOTHING)
    assert "killed after" in said and ("killed at" in said) == (shutil.which("strace") is not None)


@pytest.mark.slow
def test_a_lost_peer_is_named_and_a_second_writer_is_refused():
    rows, _ = killed("--kills=0", "--peers=1")
    assert list(rows) == ["SIGTERM", "SIGTERM, any", "two writers", "peer killed", "peer stopped"]
    for row in rows.values():
        assert row["kills"] == row["went on"] == "1" and all(row[name] == "0" for name in NOTHING)
