"""Linear adaptation of a frozen backbone's descriptors: what it adds, and from which start.

    python benchmarks/adaptation.py --root=PHOTOS,... --splits=FILE.json,... --test=ROOT --test_splits=FILE.json

EfficientNet-Lite0 with ImageNet's weights and GeM at 320 pixels, no whitening layer. The layer is trained on the
instances of "train", its epoch is chosen on those of "val", and the test is searched once with what was chosen.
Descriptors are kept in `--workdir`. Prints a table, and writes it to `--out`.
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np
from comparison import counted, mean_and_deviation, write_table
from timing import command, machine

from sret_jax.config import Config, DataConfig, ModelConfig, TrainConfig
from sret_jax.config.adaptation import AdaptConfig
from sret_jax.data.folders import prepare_folders
from sret_jax.metrics.ranking import leave_one_out_map
from sret_jax.models.whitening import apply_whitening
from sret_jax.retriever import load
from sret_jax.storage.workdir import Workdir
from sret_jax.training.adaptation import Labelled, adapt
from sret_jax.training.loop import cache_folder, prepare_photos, split_for_validation

ROWS: dict[str, dict[str, object]] = {
    "closed form: whitening within instances, 512": {"start": "within", "epochs": 0},
    "adapted from it": {"start": "within"},
    "PCA rotation, 512": {"start": "pca", "epochs": 0},
    "adapted from it (PCA)": {"start": "pca"},
    "random start, as published": {"start": "random"},
}


def mean_ap(x: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Leave-one-out mAP, percent: the mean over queries, and over instances."""
    found = leave_one_out_map(x @ x.T, labels)
    return float(found["mAP"]), float(np.mean(list(found["per_instance"].values())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("root", "splits", "test", "test_splits"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--cache", default="")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workdir", type=Path, default=Path("runs/adaptation"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args, machine_before = parser.parse_args(), machine()
    data = DataConfig(root=args.root, splits=args.splits, image_size=320, cache_dir=args.cache, threads=2)
    config = Config(data=data, model=ModelConfig(whitening=False), train=TrainConfig(validate_every=1))
    photos, held_out = split_for_validation(config, args.workdir, prepare_photos(config, args.workdir))
    assert held_out is not None
    cache = cache_folder(config, args.workdir)
    sets = {"train": photos, "held-out": held_out}
    sets["test"] = prepare_folders(args.test, cache, splits=args.test_splits, split="test")
    retriever, place = load(config), Workdir(args.workdir)
    train, val, test = (
        Labelled(np.asarray(retriever.extract(own, place.descriptors(name)).descriptors), own.labels)
        for name, own in sets.items()
    )
    (_, on_val), (over_queries, on_test) = mean_ap(*val), mean_ap(*test)
    start = {"val": f"{on_val:.2f}", "test": f"{on_test:.2f}", "test, over queries": f"{over_queries:.2f}"}
    rows = {"as they are, 1280": start}
    for row, changes in ROWS.items():
        cells: dict[str, list[float]] = {"val": [], "test": [], "test, over queries": [], "epoch": []}
        gains, kept = [], 0
        for seed in range(args.seeds):
            settings = dataclasses.replace(AdaptConfig(seed=seed), **changes)  # type: ignore[arg-type]
            found = adapt(train, val, settings)
            kept += found.layer is not None
            layer = found.best
            over_queries, over_instances = mean_ap(apply_whitening(test.x, *layer), test.labels)
            values = found.after, over_instances, over_queries, float(found.epoch)
            for cell, value in zip(cells.values(), values, strict=True):
                cell.append(value)
            gains.append(f"{found.gain:+.2f} ± {found.error:.2f}")
            print(f"{row}, seed {seed}: val {found.after:.2f} ({gains[-1]}), test {over_instances:.2f}", flush=True)
        rows[row] = {name: mean_and_deviation(own) for name, own in cells.items()}
        rows[row] |= {"gain on val, seed 0": gains[0], "kept": f"{kept} of {args.seeds}"}
    sizes = ", ".join(f"{len(s)} photographs of {len(s.instances)} instances ({name})" for name, s in sets.items())
    about = f"Leave-one-out mAP, averaged over instances; {sizes}; {counted(args.seeds, 'seed')}. {machine_before}. "
    about += command()
    write_table(args.out / "adaptation.md", about, rows)


if __name__ == "__main__":
    main()
