"""Slurm on this machine alone, as root: its authentication, its controller and its node, with all they write in one
folder. And what both launchers start: a training of two processes as a person types it."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.commands import REPOSITORY

LONG = 600  # seconds after which something hangs
STEPS, SAVE_EVERY = 400, 20  # so many that a cluster has the time to do something to a run
CONFIG = """
from sret_jax.config import Config, DataConfig, EvalConfig, ModelConfig, TrainConfig

def get_config():
    return Config(
        data=DataConfig(
            cache_dir={cache!r}, dataset="synthetic", synthetic_instances=4, synthetic_photos=2, image_size=64,
            threads=1, instances_per_batch=4, photos_per_instance=2,
        ),
        model=ModelConfig(weights="none", stage="c1", whitening_dim=8, whitening_init="random"),
        train=TrainConfig(
            steps={steps}, save_every={save_every}, loss="contrastive", margin=0.7, optimizer="adamw", log_every=1,
        ),
        eval=EvalConfig(benchmarks=()),
    )
"""


def missing(*programs: str) -> str:
    """Why a launcher cannot be tried here; "" where it can."""
    absent = [program for program in programs if not _found(program)]
    if absent:
        return f"not installed: {', '.join(absent)}"
    return "" if os.geteuid() == 0 else "only root may start it in a folder of its own"


def _found(program: str) -> str | None:
    return shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/sbin")


def needs(*programs: str) -> pytest.MarkDecorator:
    reason = missing(*programs)
    return pytest.mark.skipif(bool(reason), reason=reason)


class Training:
    """`sret train` of two processes in a folder; `words` is what a launcher starts in each."""

    def __init__(self, folder: Path, name: str):
        self.folder, self.workdir = folder, folder / name
        config = folder / "config.py"
        config.write_text(CONFIG.format(cache=str(folder / "cache"), steps=STEPS, save_every=SAVE_EVERY))
        self.words = [sys.executable, "-m", "sret_jax.cli.main", "train", f"--config={config}"]
        self.words += [f"--workdir={self.workdir}", "--coordinator=auto"]
        tiny = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(REPOSITORY)}
        self.environment = os.environ | tiny | {"JAX_COMPILATION_CACHE_DIR": str(folder / "compiled")}

    @property
    def step(self) -> int:
        """The last that is logged."""
        log = self.workdir / "metrics.jsonl"
        lines = log.read_text().splitlines() if log.exists() else []
        return json.loads(lines[-1])["step"] if lines else 0


def wait_until(reached: Callable[[], object], what: str, seconds: float = LONG) -> None:
    late = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < late, f"not within {seconds} s: {what}"
        time.sleep(0.05)


class Slurm:
    """Its commands, by which a test speaks to it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}

    def __call__(self, *words: str) -> str:
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=LONG)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
        return done.stdout.strip()

    def submit(self, script: Path, *words: str, environment: dict[str, str]) -> str:
        """The number of the job."""
        command = ["sbatch", "--parsable", *words, str(script)]
        merged = environment | {"SLURM_CONF": self.environment["SLURM_CONF"]}
        done = subprocess.run(command, env=merged, capture_output=True, text=True, timeout=LONG)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def about(self, job: str) -> dict[str, str]:
        """What `scontrol show job` says: JobState, Restarts, ..."""
        return dict(word.split("=", 1) for word in self("scontrol", "show", "job", job).split() if "=" in word)

    def wait_for_requeue(self, job: str, times: int) -> None:
        """Until a job was requeued so often; then it begins soon, not two minutes later, as it would by itself.

        Not in the same second: Slurm may take it for the one that has ended, "Job credential revoked".
        """

        def has_ended() -> bool:
            about = self.about(job)
            return (about["Restarts"], about["JobState"], about["Reason"]) == (str(times), "PENDING", "BeginTime")

        wait_until(has_ended, f"requeued {times} times")
        self("scontrol", "update", f"JobId={job}", "StartTime=now+3")


@contextlib.contextmanager
def slurm(folder: Path) -> Iterator[Slurm]:
    """Slurm with one node, this machine, which runs two tasks at once."""
    folder.mkdir(parents=True)
    host, controller, node = socket.gethostname(), *_free_ports(2)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key, spoken = folder / "munge.key", folder / "munge.socket"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    settings = {
        "ClusterName": "one",
        "SlurmctldHost": f"{host}(127.0.0.1)",
        "SlurmctldPort": controller,
        "SlurmdPort": node,
        "SlurmUser": "root",
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={spoken}",
        "CredType": "cred/munge",
        "StateSaveLocation": folder / "state",
        "SlurmdSpoolDir": folder / "spool",
        "SlurmctldPidFile": folder / "slurmctld.pid",
        "SlurmdPidFile": folder / "slurmd.pid",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "SwitchType": "switch/none",
        "MpiDefault": "none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_CPU",
        "SlurmdParameters": "config_overrides",
        "ReturnToService": 2,
        "KillWait": 60,
        "PreemptType": "preempt/partition_prio",
        "PreemptMode": "REQUEUE",
        "SchedulerParameters": "batch_sched_delay=0,sched_interval=5",
    }
    lines = [f"{name}={value}" for name, value in settings.items()]
    lines.append(f"NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN")
    lines.append("PartitionName=usual Nodes=ALL Default=YES PriorityTier=1 GraceTime=60")
    lines.append("PartitionName=urgent Nodes=ALL PriorityTier=2 PreemptMode=OFF")
    (folder / "slurm.conf").write_text("\n".join(lines) + "\n")
    files = {"key-file": key, "socket": spoken, "pid-file": folder / "munged.pid", "seed-file": folder / "seed"}
    started: list[subprocess.Popen] = []

    def start(program: str, *words: str) -> None:
        with open(folder / f"{program}.log", "w") as log:
            command = [_found(program) or program, *words]
            streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
            started.append(subprocess.Popen(command, env=one.environment, **streams))

    one = Slurm(folder)
    try:
        log = f"--log-file={folder / 'munge.log'}"
        start("munged", "--foreground", "--force", *(f"--{name}={path}" for name, path in files.items()), log)
        wait_until(spoken.exists, "munged", 30)
        start("slurmctld", "-D")
        start("slurmd", "-D", "-N", host)
        wait_until(lambda: _is_idle(one), f"slurmd; see {folder}", 60)
        yield one
    finally:
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _is_idle(one: Slurm) -> bool:
    done = subprocess.run(["sinfo", "-h", "-o", "%t"], env=one.environment, capture_output=True, text=True)
    return done.stdout.strip() == "idle"


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
