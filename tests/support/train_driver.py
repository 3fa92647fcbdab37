"""Trains the same small run several times over, each time in a process of its own that ends in its own way.

    python -m tests.support.train_driver WORKDIR CACHE ENDING [ENDING ...]
        [--plain=yes] [--tuples=yes] [--own=yes] [--parallel=shard_map] [--steps=N] [--process=I/N --port=P]

An ending is `done`, or what strikes when: `kill@step:3` (SIGKILL before the third step of that process is dispatched),
`kill@seal:2` (inside its second save, before the manifest), `kill@rename:2` (before the second rename of a save),
`term@step:3` (SIGTERM). Every process is forked before anything of JAX runs in this one, which saves its imports.
`--plain` starts from random whitening and takes SGD steps: PCA and Adam divide by small numbers, which makes large
differences of the rounding in which runs on different devices differ. `--tuples` mines hard negatives before every
third step, instead of the batches of instances. `--own` smooths, pools and trains with the examples of parts of one's
own. `--parallel` and `--steps` set the fields of `config.train`.

Prints a line `ENDING STATUS DIGEST` for each, STATUS as `subprocess` gives it, DIGEST of the final parameters.
"""

import hashlib
import os
import signal
import sys
import traceback
from pathlib import Path

import jax
import numpy as np

from sret_jax.config import Config, EvalConfig, MiningConfig, ModelConfig, SmoothingConfig, TrainConfig
from sret_jax.storage import artifacts
from sret_jax.training import loop, parallel
from sret_jax.training.loop import train
from sret_jax.training.stopping import Stopped
from tests.support.own_parts import use_examples
from tests.support.photos import drawn_data

STEPS, SAVE_EVERY = 8, 2


def small_config(cache: str | Path, plain: bool = False) -> Config:
    """Every part of a state matters in it: moments, running statistics, the loss's weights, two batches a step."""
    return Config(
        data=drawn_data(cache),
        model=ModelConfig(weights="none", stage="c2", whitening_dim=8, whitening_init="random" if plain else "pca"),
        train=TrainConfig(
            steps=STEPS,
            optimizer="sgd" if plain else "adamw",
            loss="arcface",
            margin=0.2,
            scale=8.0,
            warmup_steps=2,
            accumulate=2,
            train_from="all",
            batch_stats="updated",
            log_every=1,
            save_every=SAVE_EVERY,
        ),
        eval=EvalConfig(benchmarks=()),
    )


def driven_config(cache: str | Path, plain: bool = False) -> Config:
    """What the driver trains: of the backbone only the stem and one block, since every process traces the step anew."""
    config = small_config(cache, plain)
    config.model.stage = "c1"
    return config


def mined(config: Config) -> Config:
    config.data.sampling, config.train.loss, config.train.negatives, config.train.margin = "tuples", "solar", 2, 1.25
    config.mining = MiningConfig(queries=12, pool=20, tuples_per_batch=2)
    return config


def arm(ending: str) -> None:
    """Wraps the function whose n-th call is the end."""
    what, _, when = ending.partition("@")
    if not when:
        return
    place, _, count = when.partition(":")
    module, name = {"step": (parallel, "shard"), "seal": (artifacts, "seal_folder"), "rename": (os, "rename")}[place]
    call, left = getattr(module, name), [int(count)]

    def counted(*args):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL if what == "kill" else signal.SIGTERM)
        return call(*args)

    setattr(module, name, counted)


def with_own_parts(config: Config) -> Config:
    use_examples("pooling", "refinement", "loss")
    config.model.pool, config.train.loss = "strongest", "proxies"
    config.model.smoothing = SmoothingConfig(enabled=True, form="blend")
    return config


def digest(tree) -> str:
    out = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        out.update(np.asarray(leaf).tobytes())
    return out.hexdigest()


def child(workdir: Path, config: Config, ending: str, process: tuple[int, int], address: str, report: int) -> int:
    index, count = process
    jax.config.update("jax_num_cpu_devices", 4 // count)
    jax.config.update("jax_threefry_partitionable", True)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_disable_most_optimizations", True)  # as in tests/conftest.py, so that bits can be compared
    if count > 1:
        jax.distributed.initialize(address, count, index, heartbeat_timeout_seconds=10)
    loop.prepare_photos(config, workdir)  # before the counting of calls begins
    arm(ending)
    try:
        state = train(config, workdir)
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return 128 + stopped.number
    os.write(report, digest((state.params, state.batch_stats)).encode())
    if count > 1:
        jax.distributed.shutdown()
    return 0


def main(words: list[str]) -> None:
    flags = dict(word[2:].split("=") for word in words if word.startswith("--"))
    workdir, cache, *endings = [word for word in words if not word.startswith("--")]
    config = driven_config(cache, "plain" in flags)
    config = mined(config) if "tuples" in flags else config
    config.train.parallel = flags.get("parallel", config.train.parallel)
    config.train.steps = int(flags.get("steps", config.train.steps))
    config = with_own_parts(config) if "own" in flags else config
    index, count = (int(x) for x in flags.get("process", "0/1").split("/"))
    for i, ending in enumerate(endings):
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            address = f"localhost:{int(flags.get('port', 0)) + i}"
            try:
                os._exit(child(Path(workdir), config, ending, (index, count), address, writing))
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        os.close(writing)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(ending, status, os.read(reading, 100).decode() or "-", flush=True)
        os.close(reading)


if __name__ == "__main__":
    main(sys.argv[1:])
