"""The table of the ablation: its cells, its CSV and its paired tests."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from comparison import mean_and_deviation, paired_bootstrap

Record = dict[str, Any]


def columns(records: list[Record], baseline: float, times: Mapping[str, float]) -> dict[str, str]:
    """The cells of one row, from its runs and its times: `{column: text}`.

    Args:
        baseline: mAP that the column "over untrained" is over.
        times: as of `row_times.times_of_rows`; empty where none were taken.
    """
    first = next(r for r in records if r["seed"] == 0)
    cells = {
        "mAP": over_seeds(records, "mAP"),
        "over untrained": f"{np.mean([r['mAP'] for r in records]) - baseline:+.2f}",
        "R@1": over_seeds(records, "R@1"),
    }
    if "medium" in first:
        cells["revisited E / M / H"] = " / ".join(over_seeds(records, kind, 1) for kind in ("easy", "medium", "hard"))
    cells["parameters"] = f"{first['parameters'] / 1e6:.2f} M"
    if times:
        cells["training"] = f"{times['training_seconds']:.0f} s" if "training_seconds" in times else "–"
        cells["per photo"] = f"{times['milliseconds']:.1f} ms"
        cells["of the first row's"] = f"{times['times_first']:.2f}"
    cells["index"] = f"{first['bytes']:.0f} B"
    if "words" in first:
        number, distinct = first["words"]
        cells["C_X / \\|X\\|"] = f"{distinct:.0f} / {number:.0f}"
    return cells


def over_seeds(records: list[Record], measure: str, decimals: int = 2) -> str:
    """Mean and deviation of the seeds; of a seed the mean of its splits."""
    seeds = sorted({r["seed"] for r in records})
    return mean_and_deviation([np.mean([r[measure] for r in records if r["seed"] == s]) for s in seeds], decimals)


def flat(record: Record, times: Mapping[str, float]) -> Record:
    """As a line of the CSV; the times are those of its row."""
    own = {name: value for name, value in record.items() if name not in ("per_query", "words")}
    return own | dict(zip(("|X|", "C_X"), record.get("words", ()), strict=False)) | dict(times)


def paired_tests(rows: dict[str, list[Record]], final: str) -> str:
    """The row `final` minus each other one, query by query: the AP of a query is the mean over seeds."""
    scores = {
        name: np.concatenate(
            [
                np.mean([r["per_query"] for r in records if r["split"] == split], 0)
                for split in sorted({r["split"] for r in records})
            ]
        )
        for name, records in rows.items()
    }
    lines = [f"| {final} minus | mAP | 95 % interval |", "|---|---|---|"]
    for name, score in scores.items():
        if name != final:
            mean, low, high = paired_bootstrap(scores[final], score)
            lines.append(f"| {name} | {mean:+.2f} | {low:+.2f} to {high:+.2f} |")
    return "\n".join(lines)
