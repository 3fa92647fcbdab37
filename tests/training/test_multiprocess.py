"""Two processes with two devices each train, save, die, resume and end like one process with four devices."""

import json
import socket

import jax
import numpy as np
import pytest

from sret_jax.training.checkpoint import Checkpoints
from tests.support import train_driver
from tests.support.commands import start_driver, wait_for


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


def drive(workdir, cache, *endings, flags=("--plain=yes",)):
    """What the drivers of one run printed, per process one `[ending, status, digest]` for each of its `endings`."""
    port, started = free_ports(len(endings[0])), []
    for index, own in enumerate(endings):
        own = [*own, *flags, f"--process={index}/{len(endings)}", f"--port={port}"]
        started.append(start_driver(workdir, cache, *own))
    return [wait_for(driver)[0] for driver in started]


@pytest.mark.slow
def test_two_processes_are_killed_and_stopped_and_end_like_one(tmp_path):
    """Both die at step 5; then one of them gets SIGTERM, and both save and stop; then both finish."""
    ((alone,),) = drive(tmp_path / "alone", tmp_path / "cache", ["done"])
    assert alone[1] == "0"
    two = ["kill@step:5", "term@step:1", "done"], ["kill@step:5", "done", "done"]
    first, second = drive(tmp_path / "two", tmp_path / "cache", *two)
    assert first[0][1] != "0" and second[0][1] != "0"
    assert first[1][1] == second[1][1] == "143"
    assert first[2][1] == second[2][1] == "0"
    assert first[2][2] == second[2][2]  # the same bits in both processes

    one, two = (Checkpoints(tmp_path / name / "checkpoints", 2).latest() for name in ("alone", "two"))
    assert one.step == two.step == train_driver.STEPS
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6),
        one.arrays["state"]["params"],
        two.arrays["state"]["params"],
    )
    lines = [json.loads(line) for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, train_driver.STEPS + 1))


@pytest.mark.slow
def test_two_processes_mine_the_tuples_of_one(tmp_path):
    flags = "--plain=yes", "--tuples=yes"
    ((alone,),) = drive(tmp_path / "alone", tmp_path / "cache", ["done"], flags=flags)
    first, second = drive(tmp_path / "two", tmp_path / "cache", ["done"], ["done"], flags=flags)
    assert alone[1] == first[0][1] == second[0][1] == "0" and first[0][2] == second[0][2]
    one, two = (Checkpoints(tmp_path / name / "checkpoints", 2).latest() for name in ("alone", "two"))
    assert one.record["data"] == two.record["data"] and one.record["data"]["epoch"] == 2
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6),
        one.arrays["state"]["params"],
        two.arrays["state"]["params"],
    )


@pytest.mark.slow
def test_two_processes_go_on_by_shard_map_with_the_bits_of_pmap(tmp_path):
    pmap = drive(tmp_path / "pmap", tmp_path / "cache", ["done"], ["done"])
    killed = drive(tmp_path / "both", tmp_path / "cache", ["kill@step:5"], ["kill@step:5"])
    assert killed[0][0][1] != "0"
    flags = "--plain=yes", "--parallel=shard_map"
    both = drive(tmp_path / "both", tmp_path / "cache", ["done"], ["done"], flags=flags)
    assert [own[0][1] for own in (*pmap, *both)] == ["0"] * 4
    assert len({own[0][2] for own in (*pmap, *both)}) == 1


@pytest.mark.slow
def test_two_processes_train_parts_that_do_not_come_with_the_package_as_one(tmp_path):
    flags = "--plain=yes", "--own=yes"
    ((alone,),) = drive(tmp_path / "alone", tmp_path / "cache", ["done"], flags=flags)
    killed = ["kill@step:5", "done"]
    first, second = drive(tmp_path / "two", tmp_path / "cache", killed, killed, flags=flags)
    assert alone[1] == first[1][1] == second[1][1] == "0" and first[1][2] == second[1][2]
    one, two = (Checkpoints(tmp_path / name / "checkpoints", 2).latest() for name in ("alone", "two"))
    assert (
        "proxies" in one.arrays["state"]["params"]["loss"] and "smoothing" in one.arrays["state"]["params"]["network"]
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6),
        one.arrays["state"]["params"],
        two.arrays["state"]["params"],
    )
