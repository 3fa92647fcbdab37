"""What training on a few objects of one's own does to objects that were not among them.

    python benchmarks/few_photographs.py --folder "NAME=ROOT;SPLITS.json;SPLIT" ... [--objects=4,8,16] [--seeds=3]

Of the instances of a collection some are drawn and trained on as a person would, with `configs/spatial_context.py` and
nothing else, at most `--photos` photographs of each; the rest is searched leave-one-out by the network before and
after. Prints a table, and writes it to `--out`.
"""

import argparse
import shutil
from pathlib import Path
from runpy import run_path

import numpy as np
from ablation import CONFIGS, open_collections
from comparison import counted, mean_and_deviation, write_table
from PIL import Image
from timing import command, machine

from sret_jax.data.photo_set import PhotoSet
from sret_jax.data.sampling import rows_of_instances
from sret_jax.metrics.ranking import leave_one_out_map
from sret_jax.retriever import Retriever, load
from sret_jax.training.loop import train


def write_folder(photos: PhotoSet, rows: list[np.ndarray], folder: Path) -> None:
    """These rows as `folder/<instance>/<photo>`, which is what a person has."""
    shutil.rmtree(folder, ignore_errors=True)
    for number, own in enumerate(rows):
        (folder / f"object {number}").mkdir(parents=True)
        for row in own:
            photo = Image.fromarray(photos.photo(int(row)))
            photo.save(folder / f"object {number}" / f"{row}.jpg", quality=95)


def search(retriever: Retriever, photos: PhotoSet) -> float:
    """Leave-one-out mAP, percent."""
    x = retriever.describe(photos)
    return float(leave_one_out_map(x @ x.T, photos.labels)["mAP"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", action="append", required=True, metavar="NAME=ROOT;SPLITS;SPLIT")
    parser.add_argument("--objects", default="4,8,16", help="how many are trained on")
    parser.add_argument("--photos", type=int, default=6, help="of an object, at most")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workdir", type=Path, default=Path("runs/few_photographs"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args, machine_before = parser.parse_args(), machine()
    args.revisited = []
    rows: dict[str, dict[str, str]] = {}
    for name, benchmark in open_collections(args).items():
        instances = rows_of_instances(benchmark.database, at_least=2)
        for objects in map(int, args.objects.split(",")):
            if objects + 2 > len(instances):  # nothing would be left to search
                continue
            before, after = [], []
            for seed in range(args.seeds):
                drawn = np.random.default_rng(seed).permutation(len(instances))
                own, others = drawn[:objects], np.sort(drawn[objects:])
                folder = args.workdir / f"{name}-{objects}-{seed}".replace(" ", "_")
                write_folder(benchmark.database, [instances[i][: args.photos] for i in own], folder / "photos")
                config = run_path(str(CONFIGS / "spatial_context.py"))["get_config"]()
                config.data.root, config.seed, config.eval.benchmarks = str(folder / "photos"), seed, ()
                train(config, folder / "run")
                searched = benchmark.database.select(np.concatenate([instances[i] for i in others]))
                before.append(search(load(), searched))
                after.append(search(load(folder / "run"), searched))
                print(f"{name}, {objects}, seed {seed}: {before[-1]:.2f} before, {after[-1]:.2f} after", flush=True)
            difference = np.subtract(after, before)
            rows[f"{name}, {objects} objects"] = {
                "before": mean_and_deviation(before),
                "after": mean_and_deviation(after),
                "difference": mean_and_deviation(difference.tolist()),
                "least": f"{difference.min():+.2f}",
                "start kept": f"{np.sum(difference == 0)} of {args.seeds}",
            }
    about = f"Leave-one-out mAP on the objects that were not drawn, {counted(args.seeds, 'seed')}. {machine_before}. "
    about += command()
    write_table(args.out / "few_photographs.md", about, rows)


if __name__ == "__main__":
    main()
