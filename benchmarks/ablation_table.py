"""The table of the ablation: its cells, its CSV and its paired tests, and new times in a table that is there."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from comparison import mean_and_deviation, paired_bootstrap, plot, write_csv
from jaxtyping import Float
from timing import machine

Record = dict[str, Any]
TIME, RATIO = "per photo", "of GeM's"


def columns(records: list[Record], baseline: float) -> dict[str, str]:
    """The cells of one row, from its runs: `{column: text}`."""
    first = next(r for r in records if r["seed"] == 0)
    seeds = sorted({r["seed"] for r in records})
    mean = {m: [np.mean([r[m] for r in records if r["seed"] == s]) for s in seeds] for m in ("mAP", "R@1")}
    cells = {
        "mAP": mean_and_deviation(mean["mAP"]),
        "over untrained": f"{np.mean(mean['mAP']) - baseline:+.2f}",
        "R@1": mean_and_deviation(mean["R@1"]),
    }
    if "medium" in first:
        cells["revisited E / M / H"] = " / ".join(f"{first[kind]:.1f}" for kind in ("easy", "medium", "hard"))
    cells["parameters"] = f"{first['parameters'] / 1e6:.2f} M"
    trained = [r["training_seconds"] for r in records if "training_seconds" in r]
    cells["training"] = f"{min(trained):.0f} s" if trained else "–"
    cells["per photo"] = f"{min(r['milliseconds'] for r in records):.0f} ms"
    cells["index"] = f"{first['bytes']:.0f} B"
    if "words" in first:
        number, distinct = first["words"]
        cells["C_X / \\|X\\|"] = f"{distinct:.0f} / {number:.0f}"
    return cells


def flat(record: Record) -> Record:
    """As a line of the CSV."""
    own = {name: value for name, value in record.items() if name not in ("per_query", "words")}
    return own | dict(zip(("|X|", "C_X"), record.get("words", ()), strict=False))


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


def retime(folder: Path, times: Mapping[str, Float[np.ndarray, "2"]], how: str, ours: set[str]) -> None:
    """Replaces the times in the table, its CSV and its picture; every other number stays."""
    path = folder / "ablation.md"
    about, *lines = [line for line in path.read_text().splitlines() if not line.startswith("Times: ")]
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    end = next(i for i in range(start, len(lines)) if not lines[i].startswith("|"))
    header = _cells(lines[start])
    after = header.index(TIME) + 1
    order = [*header[:after], RATIO, *(name for name in header[after:] if name != RATIO)]
    table = ["| " + " | ".join(order) + " |", "|---" * len(order) + "|"]
    for line in lines[start + 2 : end]:
        row = {RATIO: "–"} | dict(zip(header, _cells(line), strict=True))
        if row["row"] in times:
            row[TIME], row[RATIO] = "{:.1f} ms".format(times[row["row"]][0]), f"{times[row['row']][1]:.2f}"
        table.append("| " + " | ".join(row[name] for name in order) + " |")
    path.write_text("\n".join([about, "", f"Times: {how}. {machine()}.", "", *table, *lines[end:]]) + "\n")

    with open(folder / "ablation.csv", newline="") as f:
        records = [dict(record) for record in csv.DictReader(f)]
    for record in records:
        if record["row"] in times:
            record["milliseconds"] = f"{times[record['row']][0]:.3f}"
    write_csv(folder / "ablation.csv", records)
    points: dict[str, tuple[float, list[float]]] = {}
    for record in records:
        points.setdefault(record["row"], (float(record["milliseconds"]), []))[1].append(float(record["mAP"]))
    plot(folder / "ablation.png", points, ours, "time to describe a photograph, ms")


def _cells(line: str) -> list[str]:
    r"""Of a line of a table; a bar that is written as \| is part of its cell."""
    return [cell.replace("\0", "\\|").strip() for cell in line.replace("\\|", "\0").strip("| ").split("|")]
