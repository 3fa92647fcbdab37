"""What each part of the method adds: every row the same data, steps, loss, size and whitening, several seeds.

    python benchmarks/ablation.py --root=PHOTOS --splits=SPLITS.json [--seeds=3] [--rows="GeM,GeM + smoothing"]

PHOTOS is a folder <instance>/<photo>, SPLITS a JSON file {"train": [instance, ...], "test": [instance, ...]}. A row is
trained on "train" and measured leave-one-out on "test". `--validate` never looks at "test" and is what choices are made
on: it holds out a third of the training instances in turn. `--set field=value` changes the config of all rows. Runs are
kept in `--workdir` and go on where they were stopped; tables go to `--out`.
"""

import argparse
import csv
import dataclasses
import json
import os
import platform
import runpy
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sret_jax import experiment
from sret_jax.config import Config
from sret_jax.models.descriptor import build_network, init_network
from sret_jax.training.loop import train

# Row: what it switches on. The untrained rows are the pretrained network without and with the PCA-whitening layer.
ROWS = {
    "untrained GeM": None,
    "untrained GeM + whitening": None,
    "GeM": {},
    "GeM + smoothing": {"smoothing"},
    "GeM + refinement": {"refinement"},
    "GeM + smoothing + refinement": {"smoothing", "refinement"},
}
FOLDS = 3


def row_config(parts: set[str], args: argparse.Namespace, splits: Path, seed: int) -> Config:
    config = runpy.run_path(args.config)["get_config"]()
    config.seed = seed
    config.data.root, config.data.splits, config.data.cache_dir = args.root, str(splits), str(args.workdir / "data")
    config.model.smoothing.enabled = "smoothing" in parts
    config.model.refinement.enabled = "refinement" in parts
    config.eval.benchmarks, config.eval.untrained = ("folder",), not parts
    for assignment in args.set:
        path, _, text = assignment.partition("=")
        *parents, name = path.split(".")
        node: Any = config
        for parent in parents:
            node = getattr(node, parent)
        now = getattr(node, name)
        setattr(node, name, text == "True" if isinstance(now, bool) else type(now)(text))
    return config


def measured(folder: Path) -> tuple[float, float]:
    metrics = json.loads((folder / "results.json").read_text())["metrics"]
    return metrics["mAP"], metrics["R@1"]


def run(row: str, args: argparse.Namespace, splits: Path, seed: int) -> tuple[float, float]:
    """mAP and R@1 (percent) of one row, from the results on disk where the run is complete."""
    name = f"{row.replace(' ', '_')}-{splits.stem}-{seed}"
    workdir = args.workdir / name
    if row == "untrained GeM":
        if not (workdir / "eval/folder/results.json").exists():
            config = row_config(set(), args, splits, seed)
            model = dataclasses.replace(config.model, whitening=False)
            network = build_network(model)
            variables = init_network(network, model, jax.random.key(seed))
            cache = args.workdir / "data"
            experiment.evaluate(network, variables, config, "folder", workdir / "eval/folder", cache_dir=cache)
        return measured(workdir / "eval/folder")
    if row == "untrained GeM + whitening":
        return measured(args.workdir / f"GeM-{splits.stem}-{seed}" / "eval/folder-untrained")
    if not (workdir / "eval/folder/results.json").exists():
        train(row_config(ROWS[row], args, splits, seed), workdir, evaluate=experiment.evaluate)
    return measured(workdir / "eval/folder")


def split_files(args: argparse.Namespace) -> list[Path]:
    """The given split, or for `--validate` one file per fold of its training instances."""
    args.workdir.mkdir(parents=True, exist_ok=True)
    if not args.validate:
        return [Path(args.splits)]
    instances = np.random.default_rng(0).permutation(sorted(json.loads(Path(args.splits).read_text())["train"]))
    files = []
    for fold in range(FOLDS):
        held_out = instances[fold::FOLDS].tolist()
        split = {"train": sorted(set(instances.tolist()) - set(held_out)), "test": sorted(held_out)}
        files.append(args.workdir / f"fold{fold}.json")
        files[-1].write_text(json.dumps(split, indent=1))
    return files


def table(scores: dict[str, np.ndarray]) -> str:
    """Markdown: per row the mean and the standard deviation over seeds (each the mean of its folds)."""
    lines = ["| row | mAP | R@1 | over untrained GeM |", "|---|---|---|---|"]
    first = next(iter(scores.values()))[..., 0].mean()
    for row, values in scores.items():
        seeds = values.mean(0)
        mean, std = seeds.mean(0), seeds.std(0, ddof=1) if len(seeds) > 1 else np.zeros(2)
        lines.append(
            f"| {row} | {mean[0]:.2f} ± {std[0]:.2f} | {mean[1]:.2f} ± {std[1]:.2f} | {mean[0] - first:+.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True)
    parser.add_argument("--splits", required=True)
    parser.add_argument("--config", default="configs/spatial_context.py", help="what all rows share")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--validate", action="store_true")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--workdir", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    unknown = set(args.rows.split(",")) - set(ROWS)
    if unknown:
        parser.error(f"no row {sorted(unknown)[0]!r}; choose from {', '.join(ROWS)}")

    files = split_files(args)
    scores: dict[str, list[list[tuple[float, float]]]] = {row: [[] for _ in files] for row in args.rows.split(",")}
    for seed in range(args.seeds):
        # "untrained GeM + whitening" is measured at the start of the row "GeM", so it is read after that has run.
        for row in sorted(scores, key=lambda row: row == "untrained GeM + whitening"):
            for fold, splits in enumerate(files):
                scores[row][fold].append(run(row, args, splits, seed))
                print(f"seed {seed}, {splits.stem}, {row}: mAP %.2f, R@1 %.2f" % scores[row][fold][-1], flush=True)

    text = table({row: np.array(values) for row, values in scores.items()})
    print(text)
    name = "ablation" + ("-validation" if args.validate else "")
    args.out.mkdir(parents=True, exist_ok=True)
    device = f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, {platform.machine()}"
    (args.out / f"{name}.md").write_text(
        f"Leave-one-out on {'held-out training' if args.validate else 'test'} instances, {args.seeds} seeds, "
        f"mean ± standard deviation. {device}. {' '.join(args.set)}\n\n{text}\n"
    )
    with open(args.out / f"{name}.csv", "w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(["row", "split", "seed", "mAP", "R@1"])
        for row, folds in scores.items():
            for splits, values in zip(files, folds, strict=True):
                writer.writerows([row, splits.stem, seed, *value] for seed, value in enumerate(values))


if __name__ == "__main__":
    main()
