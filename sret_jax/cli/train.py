"""Trains the network of a config: `sret train --config=NAME|FILE --workdir=DIR [--config.field=value ...]`.

Stopped or killed, the same command goes on where it was; with more `--config.train.steps` it goes on as a longer run.
`--seeds=N` trains N times, in DIR/seed-0 and so on, and prints one table with mean and deviation.

For several processes (one per host, or per group of devices) start the same command in each with
`--coordinator=HOST:PORT --num_processes=N --process_id=I`; on a cluster that JAX knows (Slurm, TPU pods, ...)
`--coordinator=auto` is enough. All must see the same `--workdir`.

The config file may hold parts of your own, or `--parts=FILE` bring them: docs/your-own-parts.md. With `--traceback` an
error says where in them it comes from.
"""

import contextlib

from absl import flags
from ml_collections import config_flags

from sret_jax.cli import command
from sret_jax.config.paths import expanded
from sret_jax.errors import UserError

CONFIG = config_flags.DEFINE_config_file("config", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "Where checkpoints, logs and results go.")
SEEDS = flags.DEFINE_integer("seeds", None, "Train so often, with seeds one after the other.", lower_bound=1)
COORDINATOR = flags.DEFINE_string("coordinator", None, 'Address of process 0, HOST:PORT; "auto" on a cluster.')
PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes.")
PROCESS = flags.DEFINE_integer("process_id", None, "Number of this process, from 0.")


def check() -> None:
    """Raises `UserError` for a mistake that can be found before anything is imported to train."""
    if CONFIG.value is None or WORKDIR.value is None:
        raise UserError("give --config=NAME or a file, and --workdir=DIR")
    command.check_processes(COORDINATOR.value, PROCESSES.value, PROCESS.value)


def main() -> None:
    from sret_jax.evaluation.seeds import train_seeds
    from sret_jax.evaluation.training_run import train
    from sret_jax.training.peers import together

    workdir = expanded(WORKDIR.value)
    with contextlib.ExitStack() as stack:
        if COORDINATOR.value:
            stack.enter_context(together(COORDINATOR.value, PROCESSES.value, PROCESS.value, workdir))
        if SEEDS.value is None:
            train(CONFIG.value, workdir)
        else:
            print(train_seeds(CONFIG.value, workdir, SEEDS.value))
