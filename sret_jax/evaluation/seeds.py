"""The same config trained with several seeds: what chance does to its results."""

import dataclasses
import statistics
from collections.abc import Sequence
from pathlib import Path

from sret_jax.config import Config
from sret_jax.config.validation import validate
from sret_jax.evaluation.report.curve import read_curve
from sret_jax.evaluation.report.table import headline
from sret_jax.evaluation.request import Request, variant
from sret_jax.evaluation.results import read_results
from sret_jax.evaluation.training_run import train
from sret_jax.storage.artifacts import write_file, write_json
from sret_jax.storage.refusals import plainly
from sret_jax.storage.workdir import Workdir
from sret_jax.training import parallel

Row = dict[str, float]
KEPT = "step kept"


@plainly()
def train_seeds(config: Config, workdir: str | Path, count: int) -> str:
    """Trains and measures seeds `config.seed`, `config.seed` + 1, ... in `workdir`/seed-N; prepared photographs are
    shared.

    Killed and called again it goes on where it was. `workdir`/seeds.md and seeds.json hold the results of all.

    Returns:
      The table of seeds.md.

    Raises as `train`.
    """
    validate(config)
    workdir = Path(workdir).expanduser()
    validate(dataclasses.replace(config, seed=config.seed + count - 1))
    data = dataclasses.replace(config.data, cache_dir=config.data.cache_dir or str(Workdir(workdir).data))
    rows: dict[int, Row] = {}
    for seed in range(config.seed, config.seed + count):
        own = dataclasses.replace(config, seed=seed, data=data)
        train(own, workdir / f"seed-{seed}")
        rows[seed] = results_of(own, Workdir(workdir / f"seed-{seed}"))
    table = seeds_table(rows)
    if parallel.is_main():
        means = {name: mean_and_deviation(values) for name, values in _columns(rows).items()}
        write_json(workdir / "seeds.json", {"seeds": rows, "mean_and_deviation": means})
        write_file(workdir / "seeds.md", (table + "\n").encode())
    return table


def results_of(config: Config, place: Workdir) -> Row:
    """The numbers of one run that are quoted: of its benchmarks, percent, and of its validation."""
    row: Row = {}
    for name in config.eval.benchmarks:
        results = read_results(place.evaluation(variant(name, config, Request())))
        if results is not None and results.metrics:
            row |= {f"{name} {metric}": value for metric, value in headline(results.metrics)}
    if curve := read_curve(place):
        scores = {point.step: point.score for point in curve}
        row |= {
            "held out, start": curve[0].score,
            "held out, kept": scores[curve[-1].best],
            KEPT: float(curve[-1].best),
        }
    return row


def seeds_table(rows: dict[int, Row]) -> str:
    """Markdown: a line for every seed, and the mean with the standard deviation over seeds."""
    columns = _columns(rows)
    lines = [["seed", *columns], ["---"] * (len(columns) + 1)]
    for seed, row in rows.items():
        lines.append([str(seed), *(_number(name, row[name]) if name in row else "–" for name in columns)])
    ends = []
    for values in columns.values():
        mean, deviation = mean_and_deviation(values)
        ends.append(f"{mean:.2f}" + (f" ± {deviation:.2f}" if deviation is not None else ""))
    lines.append(["**mean**", *ends])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and the standard deviation of the sample; None of one value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def _columns(rows: dict[int, Row]) -> dict[str, list[float]]:
    names = dict.fromkeys(name for row in rows.values() for name in row)
    return {name: [row[name] for row in rows.values() if name in row] for name in names}


def _number(name: str, value: float) -> str:
    return f"{value:.0f}" if name == KEPT else f"{value:.2f}"
