"""The table of the ablation: its cells, its CSV and its paired tests."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from comparison import mean_and_deviation, paired_bootstrap

Record = dict[str, Any]
KINDS = ("easy", "medium", "hard")


def columns(records: list[Record], times: Mapping[str, float]) -> dict[str, str]:
    """The cells of one row, from its runs and its times: `{column: text}`.

    Args:
        times: as of `row_times.times_of_rows`; empty where none were taken.
    """
    first = next(r for r in records if r["seed"] == 0)
    cells = {}
    for name, own in first["collections"].items():
        if "medium" in own:
            cells[f"{name}, E / M / H"] = " / ".join(over_seeds(records, name, kind, 1) for kind in KINDS)
        else:
            cells[f"{name}, mAP"] = over_seeds(records, name, "mAP")
    cells["parameters"] = f"{first['parameters'] / 1e6:.2f} M"
    if times:
        cells["training step"] = f"{times['step_seconds']:.2f} s" if "step_seconds" in times else "–"
        cells["per photo"] = f"{times['milliseconds']:.1f} ms"
        cells["of the first row's"] = f"{times['times_first']:.2f}"
    cells["index"] = f"{first['bytes']:.0f} B"
    if "words" in first:
        number, distinct = first["words"]
        cells["C_X / \\|X\\|"] = f"{distinct:.0f} / {number:.0f}"
    return cells


def over_seeds(records: list[Record], collection: str, measure: str, decimals: int = 2) -> str:
    """Mean and deviation over the runs, which have a seed each."""
    return mean_and_deviation([r["collections"][collection][measure] for r in records], decimals)


def flat(record: Record, times: Mapping[str, float]) -> Record:
    """As a line of the CSV; the times are those of its row."""
    own = {name: value for name, value in record.items() if name not in ("collections", "words", "config")}
    for name, found in record["collections"].items():
        own |= {f"{name} {measure}": value for measure, value in found.items() if measure != "per_query"}
    return own | dict(zip(("|X|", "C_X"), record.get("words", ()), strict=False)) | dict(times)


def paired_tests(rows: dict[str, list[Record]], baseline: str) -> str:
    """Every row minus `baseline` on every collection, query by query, of the seeds that both have.

    The AP of a query is the mean over these seeds.
    """
    collections = list(rows[baseline][0]["collections"])
    lines = ["| row | " + " | ".join(collections) + " |", "|---" * (len(collections) + 1) + "|"]
    for name, records in rows.items():
        if name == baseline:
            continue
        seeds = {record["seed"] for record in records} & {record["seed"] for record in rows[baseline]}
        compared = [[record for record in own if record["seed"] in seeds] for own in (records, rows[baseline])]
        cells = []
        for collection in collections:
            found = [of_query(own, collection) for own in compared]
            if any(ap is None for ap in found):
                cells.append("–")
                continue
            mean, low, high = paired_bootstrap(*found)
            cells.append(f"{mean:+.2f} ({low:+.2f} to {high:+.2f})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def of_query(records: list[Record], collection: str) -> np.ndarray | None:
    """AP of every query, the mean over the runs; None where they did not keep it."""
    kept = [r["collections"][collection].get("per_query") for r in records]
    return None if None in kept else np.mean(kept, 0)
