"""Trains the network of a config: `python train.py --config=configs/NAME.py --workdir=DIR [--config.field=value ...]`.

Stopped or killed, the same command goes on where it was. For several processes (one per host, or per group of
devices) start the same command in each with `--coordinator=HOST:PORT --num_processes=N --process_id=I`; on a cluster
that JAX knows (Slurm, TPU pods, ...) `--coordinator=auto` is enough. All must see the same `--workdir`.
"""

from pathlib import Path

import jax
from absl import flags
from ml_collections import config_flags

from sret_jax.cli import command
from sret_jax.errors import UserError
from sret_jax.evaluation import run as experiment
from sret_jax.training.loop import Stopped, train

CONFIG = config_flags.DEFINE_config_file("config", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "where checkpoints, logs and results go")
COORDINATOR = flags.DEFINE_string("coordinator", None, 'address of process 0, HOST:PORT; "auto" on a cluster')
PROCESSES = flags.DEFINE_integer("num_processes", None, "number of processes")
PROCESS = flags.DEFINE_integer("process_id", None, "number of this process, from 0")
HEARTBEAT = 30  # seconds without a sign of life after which a process counts as lost


def main() -> None:
    if CONFIG.value is None or WORKDIR.value is None:
        raise UserError("give --config=configs/NAME.py and --workdir=DIR")
    if COORDINATOR.value == "auto":
        jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT)
    elif COORDINATOR.value:
        address = COORDINATOR.value, PROCESSES.value, PROCESS.value
        jax.distributed.initialize(*address, heartbeat_timeout_seconds=HEARTBEAT)
    try:
        train(CONFIG.value, Path(WORKDIR.value), evaluate=experiment.evaluate_and_print)
    except Stopped as stopped:
        command.leave(128 + stopped.number, str(stopped))


if __name__ == "__main__":
    command.run(main)
