"""Two processes with two devices each train, save, die, resume and end like one process with four devices."""

import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import train_driver

from sret_jax.training.checkpoint import Checkpoints


def free_ports(count):
    """The first of `count` free ports in a row."""
    for first in range(20000, 60000, 50):
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("localhost", port))
        except OSError:
            continue
        return first
    raise RuntimeError("no free ports")


def drive(workdir, cache, processes, *endings):
    """What each of `processes` drivers printed, one `[ending, status, digest]` per run."""
    port = free_ports(len(endings))
    started = []
    for index in range(processes):
        command = [sys.executable, train_driver.__file__, str(workdir), str(cache), *endings]
        command += [f"--process={index}/{processes}", f"--port={port}"]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    out = []
    for process in started:
        text, errors = process.communicate(timeout=400)
        assert process.returncode == 0, errors
        out.append([line.split() for line in text.splitlines() if "@" in line or line.startswith("done")])
    return out


@pytest.mark.slow
def test_two_processes_train_die_and_resume_like_one(tmp_path):
    ((alone,),) = drive(tmp_path / "alone", tmp_path / "cache", 1, "done")
    assert alone[1] == "0"
    first, second = drive(tmp_path / "two", tmp_path / "cache", 2, "kill@step:5", "done")
    assert first[0][1] != "0" and second[0][1] != "0"
    assert first[1][:2] == second[1][:2] == ["done", "0"]
    assert first[1][2] == second[1][2]  # the same bits in both processes

    one, two = (Checkpoints(Path(tmp_path / name / "checkpoints"), 2).latest() for name in ("alone", "two"))
    assert one.step == two.step == train_driver.STEPS
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6),
        one.arrays["state"]["params"],
        two.arrays["state"]["params"],
    )
    steps = [
        line.split('"step": ')[1].split(",")[0] for line in (tmp_path / "two/metrics.jsonl").read_text().splitlines()
    ]
    assert steps == [str(step) for step in range(1, train_driver.STEPS + 1)]


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_after_the_same_step(tmp_path):
    first, second = drive(tmp_path / "two", tmp_path / "cache", 2, "term@step:2", "done")
    assert [run[1] for run in first] == [run[1] for run in second] == ["143", "0"]
    assert first[1][2] == second[1][2]
