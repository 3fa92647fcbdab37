"""The results of a benchmark as a table in the terminal."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sret_jax.evaluation.results import Results

INSTANCES = 30  # shown at most; the report has all
SETS = ("easy", "medium", "hard")
SECONDARY = ("R@5", "R@10")  # not in the table of several benchmarks
WIDTH = 200  # characters of a line in a file


def headline(metrics: dict[str, Any]) -> list[tuple[str, float]]:
    """The numbers of a benchmark that are quoted first: `(name, percent)`."""
    if "medium" in metrics:
        return [(f"mAP {name}", metrics[name]["mAP"]) for name in ("medium", "hard", "easy") if "mAP" in metrics[name]]
    return [(name, value) for name, value in metrics.items() if isinstance(value, float)]


def row_name(name: str, results: Results) -> str:
    """A name with what makes its numbers incomparable with others: ", compat:uncropped"."""
    return ", ".join([name, *([results.compat] if results.compat else [])])


def print_results(results: Results, out: Path, console: Console | None = None) -> None:
    """Prints what `evaluate` returned, and where its report is.

    Args:
      results: the metrics are in percent, the timings in seconds.
      out: the folder of the report.
      console: default the terminal.
    """
    console = console or _terminal()

    def line(text: str) -> None:
        console.print(escape(text), highlight=False, soft_wrap=True)

    metrics = results.metrics
    instances = f", {results.instances} instances" if results.instances else ""
    line(f"\n{row_name(results.benchmark, results)}: {results.photos} photographs{instances}")
    if metrics:
        console.print(_revisited(results) if "medium" in metrics else _plain(results))
    if results.localization:
        console.print(_localization(results.localization))
    for text in _said(results, "protocol", "ground_truth", "photographs", "ranked"):
        line(text)
    if results.index:
        recall = [f"{name} {value:.1f} %" for name, value in (results.index_recall or {}).items() if "@" in name]
        line(results.index + (f"; of the exact answers it finds {', '.join(recall)}" if recall else ""))
    for name, seconds in (results.rerank or {}).get("stages", {}).items():
        each = 1000 * seconds["queries"] / max(seconds["asked"], 1)
        line(f"{name}: {each:.1f} ms per query, made ready in {seconds['prepare']:.1f} s")
    if known := (results.rerank or {}).get("uncertainty"):
        line(f"uncertainty finds the worse half of {known['queries']} queries with an AUROC of {known['AUROC']:.2f}")
    speed = f"{results.images_per_second:.1f} images/s" if results.extracted else "descriptors reused"
    line(", ".join(f"{name} {seconds:.2f} s" for name, seconds in results.timings.items()) + f" ({speed})")
    if results.skipped:
        line(f"skipped files: {results.skipped}, see {out / 'skipped.json'}")
    line(f"report: {out / 'report.html'}")


def print_summary(measured: Sequence[Results], console: Console | None = None) -> None:
    """One table of several benchmarks, as `evaluate` returned each: a row with the numbers quoted first.

    Under it, where they were asked for, what was published, in the same columns.
    """
    quoted = [{n: x for n, x in headline(results.metrics) if n not in SECONDARY} for results in measured]
    names = list(dict.fromkeys(name for own in quoted for name in own))
    table = Table("all benchmarks", *(f"{name}, %" for name in names), "queries")

    def add(row: str, numbers: dict[str, float], *more: str, style: str) -> None:
        table.add_row(escape(row), *(f"{numbers[n]:.2f}" if n in numbers else "" for n in names), *more, style=style)

    for results, own in zip(measured, quoted, strict=True):
        row = [results.benchmark, *(results.rerank or {}).get("stages", {})]
        add(row_name(" ".join(row), results), own, str(results.metrics.get("queries", "")), style="bold")
        for anchor in results.anchors:
            published = {f"mAP {name}" if name in SETS else name: x for name, x in anchor["metrics"].items()}
            add(row_name(f"  {anchor['method']}, published", results), published, style="dim")
    (console or _terminal()).print("", table)


def print_rankings(results: Results, out: Path, console: Console | None = None) -> None:
    """Prints what `external.scoring.score_rankings` returned."""
    console = console or _terminal()
    lines = [f"\n{results.benchmark}: rankings of {results.rankings}"]
    lines += _said(results, "ground_truth", "photographs", "ranked")
    console.print(escape(lines[0]), highlight=False, soft_wrap=True)
    console.print(_revisited(results) if "medium" in results.metrics else _plain(results))
    for text in [*lines[1:], f"results: {out / 'results.json'}"]:
        console.print(escape(text), highlight=False, soft_wrap=True)


def print_marks(results: Results, out: Path, console: Console | None = None) -> None:
    """Prints what `external.scoring.score_marks` returned."""
    console = console or _terminal()
    console.print(f"\n{results.benchmark}: what others marked", highlight=False)
    console.print(_localization(results.localization))
    for text in [*_said(results, "marked", "ranked", "photographs"), f"results: {out / 'results.json'}"]:
        console.print(escape(text), highlight=False, soft_wrap=True)


def _said(results: Results, *names: str) -> list[str]:
    """A line for each of these that the results say anything about."""
    return [f"{name.replace('_', ' ')}: {value}" for name in names if (value := getattr(results, name))]


def _terminal() -> Console:
    """A file has no edge: what is not shown in a terminal is as wide as several benchmarks need."""
    return Console(emoji=False, width=None if sys.stdout.isatty() else WIDTH)  # sv:100: is no picture


SHOWN = (  # of the localization metrics; the report's file has all
    ("strict", "mIoU", "mIoU"),
    ("strict", "CorLoc", "CorLoc"),
    ("strict", "mAP@50:5:95", "mAP"),
    ("official", "mIoU", "official mIoU"),
    ("official", "box mAP@50:5:95", "official mAP"),
)


def _localization(methods: dict[str, Any]) -> Table:
    """A row per method; mAP is at overlaps of 50 to 95 %, the official one of boxes as it was released."""
    table = Table("object, %", *(header for *_, header in SHOWN), "photos/s")
    for method, found in methods.items():
        values = (f"{found[rules][name]:.2f}" if name in found[rules] else "" for rules, name, _ in SHOWN)
        speed = f"{found['photos_per_second']:.0f}" if "photos_per_second" in found else ""
        table.add_row(escape(method), *values, speed)
    return table


def _plain(results: Results) -> Table:
    metrics, before = results.metrics, results.before_training
    names = [name for name, _ in headline(metrics)]
    table = Table("", *(f"{name}, %" for name in names), "queries")
    table.add_row(
        row_name("all queries", results), *(f"{metrics[n]:.2f}" for n in names), str(metrics["queries"]), style="bold"
    )
    if first := (results.rerank or {}).get("before"):
        table.add_row("before re-ranking", *(f"{first[n]:.2f}" for n in names))
    if before:
        table.add_row("before training", *(f"{before[n]:.2f}" if n in before else "" for n in names))
    _add_anchors(table, results.anchors or [], names)
    instances = metrics.get("per_instance", {}).items()
    for name, value in instances if len(instances) <= INSTANCES else ():
        table.add_row(escape(name), f"{value:.2f}")
    return table


def _revisited(results: Results) -> Table:
    """A row per set, then what was published, in the same columns."""
    metrics = results.metrics
    names = [name for name in metrics["medium"] if name != "queries"]
    table = Table("", *(f"{name}, %" for name in names), "queries")
    for name in SETS:
        values = [f"{metrics[name][n]:.2f}" if n in metrics[name] else "" for n in names]
        style = "bold" if name != "easy" else ""
        table.add_row(row_name(name, results), *values, str(metrics[name]["queries"]), style=style)
    if first := (results.rerank or {}).get("before"):
        for name in SETS:
            values = [f"{first[name][n]:.2f}" if n in first[name] else "" for n in names]
            table.add_row(row_name(f"{name} before re-ranking", results), *values)
    if before := results.before_training:
        table.add_row(row_name("medium before training", results), f"{before['mAP']:.2f}")
    for anchor in results.anchors or []:
        for name in SETS:
            if name in anchor["metrics"]:
                row = f"{row_name(name, results)}: {anchor['method']}, published ({anchor['source']})"
                table.add_row(escape(row), f"{anchor['metrics'][name]:.2f}", style="dim")
    return table


def _add_anchors(table: Table, anchors: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
    for anchor in anchors:
        values = (f"{anchor['metrics'][n]:.2f}" if n in anchor["metrics"] else "" for n in names)
        table.add_row(escape(f"{anchor['method']}, published ({anchor['source']})"), *values, style="dim")
