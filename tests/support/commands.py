"""The project's commands, each run in a process of its own as somebody types it."""

import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from sret_jax.cli import main

REPOSITORY = Path(__file__).parents[2]


# A config file of an untrained network, for `--config=FILE`.
CONFIG = """
from sret_jax.config import Config, DataConfig, ExtractConfig, ModelConfig, RefinementConfig, SmoothingConfig

def get_config():
    return Config(
        data=DataConfig(image_size=64, bucket_ratios=(), threads=1),
        model=ModelConfig(
            weights="none",
            stage="c3",
            smoothing=SmoothingConfig(enabled=True),
            refinement=RefinementConfig(enabled=True, nodes=8, neighbours=2, blocks=1),
        ),
        extract=ExtractConfig(batch_size=4),
    )
"""


def called(monkeypatch, capsys, *words: str) -> tuple[int, str, str]:
    """Exit status and what was printed, of a command of `sret` that needs no process of its own."""
    monkeypatch.setattr(sys, "argv", ["sret", *words])
    status = 0
    try:
        main.main()
    except SystemExit as ending:
        status = ending.code or 0
    return status, *capsys.readouterr()


def run_command(script: str, *flags: str, cwd: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(REPOSITORY / script), *flags]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


@cache
def _server() -> subprocess.Popen:
    """One for this process; it ends when this one does."""
    command = [sys.executable, "-m", "tests.support.command_server"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    server = subprocess.Popen(command, cwd=REPOSITORY, env=environment, **pipes)
    assert server.stdout.readline() == "ready\n"
    return server


def run_forked(name: str, *words: str, cwd: Path, environment: dict[str, str] | None = None):
    """`sret NAME WORDS` without its imports, in a process of its own: see `command_server`."""
    server = _server()
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        request = {"name": name, "words": words, "cwd": str(cwd), "environment": environment or {}}
        print(json.dumps(request | {"out": str(out), "err": str(err)}), file=server.stdin, flush=True)
        status = int(server.stdout.readline())
        return subprocess.CompletedProcess([name, *words], status, out.read_text(), err.read_text())


def run_eval(*flags: str, cwd: Path) -> subprocess.CompletedProcess:
    return run_forked("eval", *flags, cwd=cwd)


def start_driver(workdir: Path, cache: Path, *words: str) -> subprocess.Popen:
    """A process of `train_driver`, which trains the same small run several times over."""
    command = [sys.executable, "-m", "tests.support.train_driver", str(workdir), str(cache), *words]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(driver: subprocess.Popen) -> tuple[list[list[str]], str]:
    """`[ending, status, digest]` of each run of a driver, and its log."""
    text, log = driver.communicate(timeout=500)
    assert driver.returncode == 0, log
    return [line.split() for line in text.splitlines() if "@" in line or line.startswith("done")], log
