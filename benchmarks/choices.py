"""Which choices of the recipe and inside the two methods matter, on instances to choose by.

    python benchmarks/choices.py --root=A,B --splits=A.json,B.json --folder "NAME=ROOT;SPLITS.json;val"
        [--groups=loss,graph] [--seeds=1]

Trains as `benchmarks/ablation.py` does, on stored maps. A setting is one of its rows and the fields in which it differs
from it; it stands beside that row, with a paired bootstrap over queries. Every network is the one of the last step, so
that a setting is what it says, and not what validation made of it. Give it no collection that anything is tested on.
Runs are kept in `--workdir`; the table and every run as a CSV go to `--out` as `choices.*`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from ablation import ROWS, by_descriptors, measured_before, open_collections, row_config, set_field, values_of
from comparison import counted, markdown, mean_and_deviation, paired_bootstrap, write_csv
from timing import command, machine

from sret_jax.evaluation.benchmark import Benchmark
from sret_jax.retriever import load
from sret_jax.storage.artifacts import write_json
from sret_jax.training.loop import train

S, R = "model.smoothing", "model.refinement"
Record = dict[str, Any]
# Group: {setting: (row, fields that differ from it)}.
GROUPS: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "rows": {name: (name, {}) for name in ("GeM", "smoothing", "refinement", "both")},
    "loss": {
        f"{row}: {name}": (row, fields)
        for row in ("GeM", "both")
        for name, fields in {
            "multi-similarity": {"train.loss": "multi_similarity", "train.margin": 0.5},
            "sub-centre ArcFace": {"train.loss": "subcentre_arcface", "train.margin": 0.3},
            "SOLAR's": {"train.loss": "solar", "train.margin": 1.25},
            "InfoNCE at temperature 0.04": {"train.temperature": 0.04},
            "InfoNCE at temperature 0.15": {"train.temperature": 0.15},
        }.items()
    },
    "sources": {
        "both: every source alike": ("both", {"data.source_balance": 0.0}),
        "both: every instance alike": ("both", {"data.source_balance": 1.0}),
    },
    "training": {
        "smoothing: learning rate x 3": ("smoothing", {"train.learning_rate": 3e-3}),
        "both: learning rate x 3": ("both", {"train.learning_rate": 3e-3}),
        "both: learning rate / 3": ("both", {"train.learning_rate": 3e-4}),
        "both: 100 steps": ("both", {"train.steps": 100}),
        "both: 600 steps": ("both", {"train.steps": 600}),
        "both: 10 % of the positions dropped": ("both", {"data.map_drop": 0.1}),
        "both: maps resampled to 70 to 140 %": ("both", {"data.map_scale": (0.7, 1.4)}),
        "both: whole photographs, not crops": ("both", {"data.crop_area": (1.0, 1.0)}),
    },
    "smoothing": {
        "smoothing: starts as the identity": ("smoothing", {f"{S}.start": "identity"}),
        "smoothing: window 5": ("smoothing", {f"{S}.window": 5}),
        "smoothing: two iterations": ("smoothing", {f"{S}.iterations": 2}),
        "smoothing: dilation 2": ("smoothing", {f"{S}.dilation": 2}),
        "smoothing: a not learned": ("smoothing", {f"{S}.bandwidth": False}),
        "smoothing: c not learned": ("smoothing", {f"{S}.confidence": False}),
    },
    "graph": {
        "refinement: 24 nodes": ("refinement", {f"{R}.nodes": 24}),
        "refinement: 96 nodes": ("refinement", {f"{R}.nodes": 96}),
        "refinement: 8 neighbours": ("refinement", {f"{R}.neighbours": 8}),
        "refinement: 1 block": ("refinement", {f"{R}.blocks": 1}),
        "refinement: 4 blocks": ("refinement", {f"{R}.blocks": 4}),
        "refinement: edges in space only": ("refinement", {f"{R}.edges": "space"}),
        "refinement: edges of similarity only": ("refinement", {f"{R}.edges": "similarity"}),
        "refinement: nodes all count alike": ("refinement", {f"{R}.importance": False}),
        "refinement: free form": ("refinement", {f"{R}.form": "free"}),
    },
    "whitening": {
        f"{row}: {name}": (row, fields)
        for row in ("GeM", "both")
        for name, fields in {
            "512 dimensions": {"model.whitening_dim": 512},
            "ridge by cross-validation": {"model.whitening_ridge": 0.0},
            "PCA, not computed anew": {"train.whitening_refit": "none"},
            "trained through the closed form": {"model.whitening_init": "within"},
        }.items()
    },
    "size": {f"{row}: 448 px": (row, {"data.image_size": 448}) for row in ("GeM", "smoothing", "refinement", "both")},
}


def run(group: str, name: str, args: argparse.Namespace, collections: dict[str, Benchmark], seed: int) -> Record:
    """Trains one setting and measures it on every collection; what is on disk is not measured again."""
    base, fields = GROUPS[group][name]
    plain = "".join(c if c.isalnum() else "_" for c in name)
    folder = args.workdir / f"{plain}-{seed}"
    path = folder / "measured.json"
    config = row_config(ROWS[base], args, seed)
    set_field(config, "train.validate_every", 0)
    for field, value in fields.items():
        set_field(config, field, value)
    if before := measured_before(path, config):
        return before
    train(config, folder / "run")
    retriever = load(folder / "run", config)
    found = {key: by_descriptors(retriever, benchmark) for key, benchmark in collections.items()}
    record = {"group": group, "setting": name, "row": base, "seed": seed, "fields": fields, "collections": found}
    record["config"] = values_of(config)
    write_json(path, record)
    return record


def cells(records: list[Record], base: list[Record], collections: list[str]) -> dict[str, str]:
    """`{column: text}` of one setting."""
    row = {}
    for key in collections:
        row[f"{key}, mAP"] = mean_and_deviation([record["collections"][key]["mAP"] for record in records])
        row[f"{key}, minus its row (95 %)"] = "–"
        if records is not base:
            own, other = (
                np.mean([record["collections"][key]["per_query"] for record in runs[: len(records)]], axis=0)
                for runs in (records, base)
            )
            mean, low, high = paired_bootstrap(own, other)
            row[f"{key}, minus its row (95 %)"] = f"{mean:+.2f} ({low:+.2f} to {high:+.2f})"
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folders of photographs to train on, separated by commas")
    parser.add_argument("--splits", required=True, help="their JSON files")
    parser.add_argument("--folder", action="append", required=True, metavar="NAME=ROOT;SPLITS;SPLIT")
    parser.add_argument("--groups", default=",".join(GROUPS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--workdir", type=Path, default=Path("runs/choices"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    groups = list(dict.fromkeys(["rows", *args.groups.split(",")]))
    if unknown := set(groups) - set(GROUPS):
        parser.error(f"no group {sorted(unknown)[0]!r}; choose from {', '.join(GROUPS)}")
    args.revisited, args.machine = [], machine()
    collections = open_collections(args)
    measured: dict[str, list[Record]] = {}
    for group in groups:
        for name in GROUPS[group]:
            measured[name] = [run(group, name, args, collections, seed) for seed in range(args.seeds)]
            rows = {
                key: cells(own, measured[GROUPS[own[0]["group"]][key][0]], list(collections))
                for key, own in measured.items()
            }
            print(f"{name}: " + ", ".join(f"{k} {v}" for k, v in rows[name].items()), flush=True)
            write(args, rows, [record for own in measured.values() for record in own])
    print(markdown(rows))


def write(args: argparse.Namespace, rows: dict[str, dict[str, str]], records: list[Record]) -> None:
    """The table and each run, as far as measured."""
    about = f"{counted(args.seeds, 'seed')}, mean ± standard deviation. {args.machine}. {command()}"
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "choices.md").write_text(f"{about}\n\n{markdown(rows)}\n")
    lines = [
        {"setting": record["setting"], "row": record["row"], "seed": record["seed"]}
        | {"fields": json.dumps(record["fields"])}
        | {f"{key} mAP": own["mAP"] for key, own in record["collections"].items()}
        for record in records
    ]
    write_csv(args.out / "choices.csv", lines)


if __name__ == "__main__":
    main()
