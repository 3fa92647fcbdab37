"""The results of a benchmark as a table in the terminal."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

INSTANCES = 30  # shown at most; the report has all


def print_results(results: dict[str, Any], out: Path, console: Console | None = None) -> None:
    """Prints what `experiment.evaluate` returned, and where its report is.

    Args:
      results: the metrics are in percent, the timings in seconds.
      out: the folder of the report.
      console: default the terminal.
    """
    console = console or Console()

    def line(text: str) -> None:
        console.print(escape(text), highlight=False, soft_wrap=True)

    metrics = results["metrics"]
    line(f"\n{results['benchmark']}: {results['photos']} photographs, {results['instances']} instances")
    if metrics:
        table = Table("", *(f"{name}, %" for name in ("mAP", "R@1")), "queries")
        values = f"{metrics['mAP']:.2f}", f"{metrics['R@1']:.2f}", str(metrics["queries"])
        table.add_row("all queries", *values, style="bold")
        if before := results["before_training"]:
            table.add_row("before training", f"{before['mAP']:.2f}", f"{before['R@1']:.2f}")
        instances = metrics["per_instance"].items()
        for name, value in instances if len(instances) <= INSTANCES else ():
            table.add_row(escape(name), f"{value:.2f}")
        console.print(table)
    line(results["index"])
    speed = f"{results['images_per_second']:.1f} images/s" if results["extracted"] else "descriptors reused"
    line(", ".join(f"{name} {seconds:.2f} s" for name, seconds in results["timings"].items()) + f" ({speed})")
    if results["skipped"]:
        line(f"skipped files: {results['skipped']}, see {out / 'skipped.json'}")
    line(f"report: {out / 'report.html'}")
