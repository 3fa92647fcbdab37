"""The results of a benchmark as a table in the terminal."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

INSTANCES = 30  # shown at most; the report has all
SETS = ("easy", "medium", "hard")


def headline(metrics: dict[str, Any]) -> list[tuple[str, float]]:
    """The numbers of a benchmark that are quoted first: `(name, percent)`."""
    if "medium" in metrics:
        return [(f"mAP {name}", metrics[name]["mAP"]) for name in ("medium", "hard", "easy") if "mAP" in metrics[name]]
    return [(name, value) for name, value in metrics.items() if isinstance(value, float)]


def print_results(results: dict[str, Any], out: Path, console: Console | None = None) -> None:
    """Prints what `experiment.evaluate` returned, and where its report is.

    Args:
      results: the metrics are in percent, the timings in seconds.
      out: the folder of the report.
      console: default the terminal.
    """
    console = console or _terminal()

    def line(text: str) -> None:
        console.print(escape(text), highlight=False, soft_wrap=True)

    metrics = results["metrics"]
    instances = f", {results['instances']} instances" if results["instances"] else ""
    line(f"\n{results['benchmark']}: {results['photos']} photographs{instances}")
    if metrics:
        console.print(_revisited(results) if "medium" in metrics else _plain(results))
    if results.get("localization"):
        console.print(_localization(results["localization"]))
    for name in ("protocol", "ground_truth", "ranked"):
        if results.get(name):
            line(f"{name.replace('_', ' ')}: {results[name]}")
    if results["index"]:
        recall = [f"{name} {value:.1f} %" for name, value in results.get("index_recall", {}).items() if "@" in name]
        line(results["index"] + (f"; of the exact answers it finds {', '.join(recall)}" if recall else ""))
    for name, seconds in results.get("rerank", {}).get("stages", {}).items():
        each = 1000 * seconds["queries"] / max(seconds["asked"], 1)
        line(f"{name}: {each:.1f} ms per query, made ready in {seconds['prepare']:.1f} s")
    if known := results.get("rerank", {}).get("uncertainty"):
        line(f"uncertainty finds the worse half of {known['queries']} queries with an AUROC of {known['AUROC']:.2f}")
    speed = f"{results['images_per_second']:.1f} images/s" if results["extracted"] else "descriptors reused"
    line(", ".join(f"{name} {seconds:.2f} s" for name, seconds in results["timings"].items()) + f" ({speed})")
    if results["skipped"]:
        line(f"skipped files: {results['skipped']}, see {out / 'skipped.json'}")
    line(f"report: {out / 'report.html'}")


def print_rankings(results: dict[str, Any], out: Path, console: Console | None = None) -> None:
    """Prints what `submitted.score_rankings` returned."""
    console = console or _terminal()
    lines = [f"\n{results['benchmark']}: rankings of {results['rankings']}"]
    lines += [f"{name.replace('_', ' ')}: {results[name]}" for name in ("ground_truth", "ranked") if results.get(name)]
    console.print(escape(lines[0]), highlight=False, soft_wrap=True)
    console.print(_revisited(results) if "medium" in results["metrics"] else _plain(results))
    for text in [*lines[1:], f"results: {out / 'results.json'}"]:
        console.print(escape(text), highlight=False, soft_wrap=True)


def print_marks(results: dict[str, Any], out: Path, console: Console | None = None) -> None:
    """Prints what `experiment.score_marks` returned."""
    console = console or _terminal()
    console.print(f"\n{results['benchmark']}: what others marked", highlight=False)
    console.print(_localization(results["localization"]))
    console.print(escape(f"results: {out / 'results.json'}"), highlight=False, soft_wrap=True)


def _terminal() -> Console:
    return Console(emoji=False)  # sv:100: is no picture


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


def _plain(results: dict[str, Any]) -> Table:
    metrics, before = results["metrics"], results["before_training"]
    names = [name for name, _ in headline(metrics)]
    table = Table("", *(f"{name}, %" for name in names), "queries")
    table.add_row("all queries", *(f"{metrics[n]:.2f}" for n in names), str(metrics["queries"]), style="bold")
    if first := results.get("rerank", {}).get("before"):
        table.add_row("before re-ranking", *(f"{first[n]:.2f}" for n in names))
    if before:
        table.add_row("before training", *(f"{before[n]:.2f}" if n in before else "" for n in names))
    _add_anchors(table, results.get("anchors", []), names)
    instances = metrics.get("per_instance", {}).items()
    for name, value in instances if len(instances) <= INSTANCES else ():
        table.add_row(escape(name), f"{value:.2f}")
    return table


def _revisited(results: dict[str, Any]) -> Table:
    """A row per set, then what was published, in the same columns."""
    metrics = results["metrics"]
    names = [name for name in metrics["medium"] if name != "queries"]
    table = Table("", *(f"{name}, %" for name in names), "queries")
    for name in SETS:
        values = [f"{metrics[name][n]:.2f}" if n in metrics[name] else "" for n in names]
        table.add_row(name, *values, str(metrics[name]["queries"]), style="bold" if name != "easy" else "")
    if first := results.get("rerank", {}).get("before"):
        for name in SETS:
            values = [f"{first[name][n]:.2f}" if n in first[name] else "" for n in names]
            table.add_row(f"{name} before re-ranking", *values)
    if before := results["before_training"]:
        table.add_row("medium before training", f"{before['mAP']:.2f}")
    for anchor in results.get("anchors", []):
        for name in SETS:
            if name in anchor["metrics"]:
                row = f"{name}: {anchor['method']}, published ({anchor['source']})"
                table.add_row(escape(row), f"{anchor['metrics'][name]:.2f}", style="dim")
    return table


def _add_anchors(table: Table, anchors: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
    for anchor in anchors:
        values = (f"{anchor['metrics'][n]:.2f}" if n in anchor["metrics"] else "" for n in names)
        table.add_row(escape(f"{anchor['method']}, published ({anchor['source']})"), *values, style="dim")
