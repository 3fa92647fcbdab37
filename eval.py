"""Measures a network: `python eval.py --workdir=DIR --benchmark=NAME[,NAME] [--root=PATH] [--queries=DIR] [--out=DIR]`.

`--workdir` is what `train.py` wrote. Without it, `--config=configs/NAME.py` measures the same network untrained: its
pretrained backbone with GeM, and without the whitening layer, which only training can fill. Benchmarks: "synthetic",
and "folder", leave-one-out on the photographs `<instance>/<photo>` of `--root`, or all of them searched by `--queries`.
Prints the table and writes results.json, rankings.csv, report.html, strip.png and skipped.json to
`<workdir>/eval/<benchmark>` (untrained: `runs/untrained-<config>/eval/<benchmark>`), or to `--out`.
"""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import config_flags

from sret_jax import command, experiment
from sret_jax.config import Config
from sret_jax.errors import UserError
from sret_jax.models.descriptor import build_network, init_network
from sret_jax.training.checkpoint import load_network
from sret_jax.validation import validate

CONFIG = config_flags.DEFINE_config_file("config", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "The folder that train.py wrote.")
BENCHMARK = flags.DEFINE_list("benchmark", None, 'Comma-separated: "synthetic", "folder". Default: the config\'s own.')
ROOT = flags.DEFINE_string("root", "", 'Benchmark "folder": the photographs, <instance>/<photo>.')
QUERIES = flags.DEFINE_string("queries", "", 'Benchmark "folder": photographs that search --root.')
OUT = flags.DEFINE_string("out", None, "Where the results go; with several benchmarks, one folder each below it.")


def load(config: Config | None, workdir: str | None) -> tuple[Any, Any, Config, Any, Path]:
    """`(network, variables, config, learned whitening or None, workdir)` that the flags ask for."""
    if workdir:
        loaded = load_network(workdir, config and config.model)
        variables = {"params": loaded.params, "batch_stats": loaded.batch_stats}
        learned = loaded.whitening and (loaded.whitening["mean"], loaded.whitening["projection"])
        return build_network(loaded.config.model), variables, config or loaded.config, learned, Path(workdir)
    if config is None:
        raise UserError("give --workdir=DIR that train.py wrote, or --config=FILE to measure the untrained network")
    validate(config)
    model = replace(config.model, whitening=False)
    network = build_network(model)
    variables = init_network(network, model, jax.random.key(config.seed))
    return network, variables, config, None, Path(OUT.value or f"runs/untrained-{config_name()}")


def config_name() -> str:
    return Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem


def main() -> None:
    logging.getLogger("sret_jax").setLevel(logging.INFO)
    for benchmark in BENCHMARK.value or []:
        experiment.check_benchmark(benchmark, ROOT.value, QUERIES.value)
    if (ROOT.value or QUERIES.value) and "folder" not in (BENCHMARK.value or ["folder"]):
        raise UserError("--root and --queries go with --benchmark=folder")
    network, variables, config, learned, workdir = load(CONFIG.value, WORKDIR.value)
    benchmarks = BENCHMARK.value or list(config.eval.benchmarks)
    for benchmark in benchmarks:
        out = Path(OUT.value) if OUT.value else workdir / "eval" / benchmark
        if OUT.value and len(benchmarks) > 1:
            out /= benchmark
        experiment.evaluate_and_print(
            network,
            variables,
            config,
            benchmark,
            out,
            root=ROOT.value,
            queries=QUERIES.value,
            cache_dir=config.data.cache_dir or workdir / "data",
            whitening=learned,
            workdir=workdir,
        )


if __name__ == "__main__":
    command.run(main)
