"""The project's commands, each run in a process of its own as somebody types it."""

import os
import subprocess
import sys
from pathlib import Path

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
            refinement=RefinementConfig(enabled=True, nodes=8, neighbours=2, blocks=1, width=8),
        ),
        extract=ExtractConfig(batch_size=4),
    )
"""


def run_command(script: str, *flags: str, cwd: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(REPOSITORY / script), *flags]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def run_eval(*flags: str, cwd: Path) -> subprocess.CompletedProcess:
    return run_command("eval.py", *flags, cwd=cwd)


def start_driver(workdir: Path, cache: Path, *words: str) -> subprocess.Popen:
    """A process of `train_driver`, which trains the same small run several times over."""
    command = [sys.executable, "-m", "tests.support.train_driver", str(workdir), str(cache), *words]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(driver: subprocess.Popen) -> tuple[list[list[str]], str]:
    """`[ending, status, digest]` of each run of a driver, and its log."""
    text, log = driver.communicate(timeout=500)
    assert driver.returncode == 0, log
    return [line.split() for line in text.splitlines() if "@" in line or line.startswith("done")], log
