"""Rows of measurements side by side: a table, its CSV, a plot, and paired tests between rows."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

RESAMPLES = 10_000


def mean_and_deviation(values: Sequence[float], decimals: int = 2) -> str:
    """`mean ± standard deviation` over seeds, the mean alone where there is one seed, a dash where there is none."""
    if not len(values):
        return "–"
    deviation = f" ± {np.std(values, ddof=1):.{decimals}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{decimals}f}{deviation}"


def counted(count: int, name: str) -> str:
    """ "1 seed", "3 seeds"."""
    return f"{count} {name}{'s' * (count != 1)}"


def paired_bootstrap(a: Float[np.ndarray, "q"], b: Float[np.ndarray, "q"], seed: int = 0) -> tuple[float, float, float]:
    """The mean of `a - b` over queries and its 95 % interval, from resampling the queries with replacement.

    Both rows answered the same queries, so the spread that hard and easy queries have in common drops out. What the
    queries share among themselves (few instances) does not: the interval speaks of other queries of these instances.

    Args:
        a, b: score of each query, in the same order.

    Reference: Efron, Tibshirani, An introduction to the bootstrap, 1993, chapter 13 (percentile interval).
    """
    difference = a - b
    rng = np.random.default_rng(seed)
    means = np.array([rng.choice(difference, len(difference)).mean() for _ in range(RESAMPLES)])
    low, high = np.percentile(means, [2.5, 97.5])
    return float(difference.mean()), float(low), float(high)


def markdown(rows: Mapping[str, Mapping[str, str]]) -> str:
    """A table with a line per row, and the columns of all rows together, in order of appearance."""
    columns = list(dict.fromkeys(column for cells in rows.values() for column in cells))
    lines = ["| " + " | ".join(["row", *columns]) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += ["| " + " | ".join([name, *(cells.get(c, "–") for c in columns)]) + " |" for name, cells in rows.items()]
    return "\n".join(lines)


def write_table(path: Path, about: str, rows: Mapping[str, Mapping[str, str]]) -> None:
    """Prints the table below what it is about, and writes both."""
    text = f"{about}\n\n{markdown(rows)}\n"
    print(text)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_csv(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """One line per record; the columns are those of all records together, in order of appearance."""
    columns = list(dict.fromkeys(column for record in records for column in record))
    with open(path, "w", newline="") as f:
        writer = csv.DictWriter(f, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)


def plot(path: Path, points: Mapping[str, tuple[float, Sequence[float]]], ours: set[str], cost: str) -> None:
    """mAP against a cost: `{row: (cost, mAP of each seed)}`; rows of `ours` are diamonds."""
    figure = Figure(figsize=(8, 4.4), layout="constrained")
    axes = figure.add_subplot()
    for i, (name, (time, scores)) in enumerate(points.items()):
        error = np.std(scores, ddof=1) if len(scores) > 1 else 0
        marker, colour = "D" if name in ours else "os^v"[i // 10], f"C{i % 10}"
        axes.errorbar(time, np.mean(scores), error, fmt=marker, color=colour, capsize=3, markersize=6, label=name)
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel(cost)
    axes.set_ylabel("mAP, %")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    figure.savefig(path, dpi=130)
