"""Under Slurm and Open MPI `--coordinator=auto` is enough: with a lost task and a requeue, or a signal, a run ends with
the bits of one that nothing happened to."""

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess

import jax
import numpy as np
import pytest

from sret_jax.training.checkpoint import Checkpoints
from sret_jax.training.stopping import AGAIN
from tests.support.commands import REPOSITORY
from tests.support.launchers import LONG, STEPS, Training, needs, slurm, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the prepared photographs and the compiled programs of all these runs are."""
    return tmp_path_factory.mktemp("launched")


@contextlib.contextmanager
def mpirun(training, log):
    """Two processes; whatever is still there at the end is killed."""
    words = ["mpirun", "-n", "2", "--allow-run-as-root", "--oversubscribe", *training.words]
    with open(log, "w") as file:
        run = subprocess.Popen(words, env=training.environment, stdout=file, stderr=subprocess.STDOUT)
    try:
        yield run
    finally:
        run.terminate()
        run.wait(30)


@pytest.fixture(scope="module")
def whole(folder):
    """A run of two processes that nothing happens to."""
    training = Training(folder, "whole")
    with mpirun(training, folder / "whole.log") as run:
        assert run.wait(LONG) == 0, (folder / "whole.log").read_text()
    return training


def assert_same_bits(training, whole):
    ours, theirs = (Checkpoints(one.workdir / "checkpoints", 2).latest() for one in (training, whole))
    assert ours.step == theirs.step == STEPS and ours.record["processes"] == 2
    jax.tree.map(np.testing.assert_array_equal, ours.arrays, theirs.arrays)
    lines = [json.loads(line) for line in (training.workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))


@needs("mpirun")
def test_open_mpi_passes_a_signal_on_and_the_same_command_goes_on(folder, whole):
    training = Training(folder, "mpi")
    log = folder / "mpi.log"
    with mpirun(training, log) as run:
        wait_until(lambda: training.step > 30 or run.poll() is not None, "steps")
        run.send_signal(signal.SIGUSR1)
        assert run.wait(LONG) == AGAIN, log.read_text()
    said = log.read_text()
    (step,) = set(re.findall(r"stopped by SIGUSR1 after step (\d+), which is saved", said))
    assert (training.workdir / "checkpoints" / step).is_dir() and "Traceback" not in said
    with mpirun(training, log) as run:
        assert run.wait(LONG) == 0, log.read_text()
    assert f"going on after step {step}" in log.read_text()
    assert_same_bits(training, whole)


def job_of(training):
    """The script that the documentation shows for Slurm, whose command alone is another."""
    page = (REPOSITORY / "docs/training.md").read_text()
    recipe = re.search(r"```bash\n(#!/bin/bash\n#SBATCH.*?)```", page, re.DOTALL)[1]
    text, count = re.subn(r"sret train .*", shlex.join(training.words), recipe)
    assert count == 1
    text = re.sub(r"(?m)^#SBATCH --(time|gpus|cpus|signal).*\n", "", text)
    script = training.folder / f"{training.workdir.name}.sh"
    script.write_text(text)
    return script


@contextlib.contextmanager
def requeued(folder, name, whole):
    """`(cluster, job, log)` of a job in its steps; what is done inside requeues it, and it ends as the whole run."""
    training, log = Training(folder, name), folder / f"{name}.log"
    with slurm(folder / f"{name}_in") as cluster:
        job = cluster.submit(job_of(training), f"--output={log}", environment=training.environment)
        wait_until(lambda: training.step > 30, "steps")
        yield cluster, job, log
        cluster.wait_for_requeue(job, 1)
        wait_until(lambda: cluster.about(job)["JobState"] == "COMPLETED", "end")
    assert "going on after step" in log.read_text() and "Traceback" not in log.read_text()
    assert_same_bits(training, whole)


@needs("mpirun", "munged", "slurmctld", "slurmd")
def test_under_slurm_the_script_of_the_documentation_requeues_what_has_lost_a_task(folder, whole):
    with requeued(folder, "lost", whole) as (cluster, job, log):
        tasks = [line.split() for line in cluster("scontrol", "listpids", f"{job}.0").splitlines()]
        (main,) = (int(task[0]) for task in tasks if task[-1] == "0")  # by its number in the job
        os.kill(main, signal.SIGKILL)
    assert re.search(r"error: process 0 \(pid \d+ on .*\) is lost: .* the run goes on after step", log.read_text())


@needs("mpirun", "munged", "slurmctld", "slurmd")
def test_under_slurm_a_job_that_has_to_make_way_saves_and_goes_on_when_there_is_room(folder, whole):
    other = folder / "urgent.sh"
    other.write_text("#!/bin/bash\nsleep 1\n")
    with requeued(folder, "preempted", whole) as (cluster, _, log):
        words = ["--partition=urgent", "--ntasks=2", f"--output={folder / 'urgent.log'}"]
        urgent = cluster.submit(other, *words, environment=dict(os.environ))
        wait_until(lambda: cluster.about(urgent)["JobState"] == "COMPLETED", "the urgent job")
    assert "stopped by SIGTERM after step" in log.read_text()


@needs("mpirun", "munged", "slurmctld", "slurmd")
def test_under_slurm_a_job_whose_time_is_nearly_over_saves_and_goes_on(folder, whole):
    """The signal of `--signal` goes to the tasks and not to the script, as that of `scancel --signal` does."""
    with requeued(folder, "short", whole) as (cluster, job, log):
        cluster("scancel", "--signal=USR1", job)
    assert "stopped by SIGUSR1 after step" in log.read_text()
