"""A training run and what is measured of it."""

from pathlib import Path

from sret_jax.config import Config
from sret_jax.config.validation import validate
from sret_jax.evaluation.benchmark import open_requested
from sret_jax.evaluation.report.curve_picture import curve_png
from sret_jax.evaluation.report.table import print_results
from sret_jax.evaluation.request import Request, variant
from sret_jax.evaluation.run import evaluate
from sret_jax.retriever import Retriever, load
from sret_jax.storage.artifacts import write_file
from sret_jax.storage.refusals import plainly
from sret_jax.storage.workdir import UNTRAINED, Workdir
from sret_jax.training import loop, parallel
from sret_jax.training.checkpoint import TrainedNetwork


@plainly()
def train(config: Config, workdir: str | Path) -> Retriever:
    """Trains the network of a config, measures it on `config.eval.benchmarks`, and returns it, ready to use.

    Killed at any moment and called again with the same config and devices, it goes on where it was and ends with the
    same bits. A finished run is only measured again; with more `config.train.steps` it goes on.

    Args:
      workdir: of the run: see `storage.workdir`. The results of a benchmark go to its `eval/<benchmark>`, and beside
        the report the picture of the run's curves.

    Raises:
      UserError: see `training.loop.train`.
      Stopped: on SIGTERM, SIGUSR1 or SIGINT in the steps, after saving.
    """
    validate(config)
    workdir = Path(workdir).expanduser()

    def measure(trained: TrainedNetwork, tag: str) -> None:
        place, retriever = Workdir(workdir, tag), Retriever.of(trained)
        cache = Path(config.data.cache_dir) if config.data.cache_dir else place.data
        for name in config.eval.benchmarks:
            benchmark = open_requested(name, config, Request(), cache)
            out = place.evaluation(variant(name, config, Request()))
            print_results(evaluate(retriever, benchmark, out, workdir=place), out)
            if tag != UNTRAINED and (picture := curve_png(place)):
                write_file(out / place.curve.name, picture)

    loop.train(config, workdir, measure)
    if parallel.is_main() and (picture := curve_png(Workdir(workdir))):
        write_file(Workdir(workdir).curve, picture)
    return load(workdir, config if config.changed_parts else None)
