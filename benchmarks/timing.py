"""Fair timings: all contenders in turn, many rounds, so that a busy moment of the machine hits all of them."""

import os
import platform
import re
import shlex
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import jax
import numpy as np


def interleaved(calls: dict[str, Callable[[], Any]], rounds: int, pause: float = 0.0) -> dict[str, np.ndarray]:
    """Seconds of each call in each round, results awaited; the order is reversed every other round.

    `pause`: seconds before each call, so that nothing of the one before still runs.
    """
    for call in calls.values():
        jax.block_until_ready(call())
    seconds = {name: np.zeros(rounds) for name in calls}
    for i in range(rounds):
        for name in list(calls)[:: 1 if i % 2 == 0 else -1]:
            time.sleep(pause)
            start = time.perf_counter()
            jax.block_until_ready(calls[name]())
            seconds[name][i] = time.perf_counter() - start
    return seconds


def machine() -> str:
    """The device with its name, the cores of the host and how busy they are, the versions, the day."""
    device = jax.devices()[0]
    name = device.device_kind
    if device.platform == "cpu":
        info = Path("/proc/cpuinfo")
        models = [s for s in info.read_text().splitlines() if s.startswith("model name")] if info.exists() else []
        model = models[0].split(":")[1].strip() if models else platform.processor()
        name = f"{model}, {len(models) or '?'} cores"
    name += f", load {os.getloadavg()[0]:.1f} before the run"
    return f"{name}; jax {jax.__version__}, Python {platform.python_version()}, {date.today()}"


def command() -> str:
    """The command line that runs this benchmark, in Markdown; of a path of this host the last two names."""
    words = ["python", f"benchmarks/{Path(sys.argv[0]).name}"]
    words += [shlex.quote(re.sub(r"(?<![^=,;])/[^,;]+", _short, word)) for word in sys.argv[1:] if word != "--save"]
    return f"`{' '.join(words)}`"


def _short(path: re.Match[str]) -> str:
    return "/".join(Path(path[0]).parts[1:][-2:])


def save(name: str, text: str) -> Path:
    """Writes `results/<name>_<device>.md` beside this file."""
    kind = jax.devices()[0].device_kind.lower().replace(" ", "_")
    path = Path(__file__).parent / "results" / f"{name}_{kind}.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path
