"""What computing in bfloat16 costs in accuracy: mAP of the same network in float32 and in bfloat16.

    python benchmarks/precision.py [--folder "NAME=ROOT;SPLITS.json;SPLIT" ...] [--networks=shipped,untrained] [--save]

Every collection is searched leave-one-out with descriptors of both kinds, which are float32 in either case: what
`config.model.dtype` changes is the type of the maps and of the products inside the network. The photographs drawn by
code, of objects that no network here was trained on, are always among the collections. A difference is that of the same
queries, with the 95 % interval of a paired bootstrap over them. `--save` writes the table to `benchmarks/results/`.

On a CPU the products of bfloat16 are those of float32 of rounded numbers, rounded again: as exact as on a device that
multiplies bfloat16 and adds in float32, and slower than float32, which is why no time is printed.
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np
from ablation import open_collections
from comparison import markdown, paired_bootstrap
from timing import command, machine, save

from sret_jax.config import Config, from_dict
from sret_jax.data.photo_set import PhotoSet
from sret_jax.datasets.synthetic_views import prepare_synthetic
from sret_jax.metrics.ranking import rank, score_rankings
from sret_jax.models.weights.shipped import DEFAULT, shipped_config
from sret_jax.retriever import load, without_unfilled_layers

NETWORKS = {
    "shipped": lambda: from_dict(shipped_config(DEFAULT)),
    "untrained": lambda: without_unfilled_layers(Config()),
}


def described(config: Config, dtype: str, photos: PhotoSet, folder: Path) -> np.ndarray:
    """Descriptors [n d] of all photographs, computed in `dtype`, kept below `folder`."""
    model = dataclasses.replace(config.model, dtype=dtype)
    retriever = load(dataclasses.replace(config, model=model))
    return np.asarray(retriever.extract(photos, folder).descriptors)


def average_precisions(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Of every query that has a right answer, in percent; each photograph searches all the others."""
    ap, _ = score_rankings(rank(x @ x.T), labels, labels, np.arange(len(labels)))
    return 100 * ap[np.isfinite(ap)]


def row(name: str, config: Config, photos: PhotoSet, labels: np.ndarray, workdir: Path) -> dict[str, str]:
    """What is measured of one network on one collection."""
    x, y = (described(config, dtype, photos, workdir / f"{name}-{dtype}") for dtype in ("float32", "bfloat16"))
    exact, rounded = (average_precisions(z, labels) for z in (x, y))
    change, low, high = paired_bootstrap(rounded, exact)
    return {
        "mAP, float32": f"{exact.mean():.2f}",
        "mAP, bfloat16": f"{rounded.mean():.2f}",
        "difference": f"{change:+.2f} ({low:+.2f} to {high:+.2f})",
        "least cosine of the two descriptors": f"{np.sum(x * y, 1).min():.5f}",
        "largest change of a cosine": f"{np.abs(x @ x.T - y @ y.T).max():.4f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", action="append", default=[], metavar="NAME=ROOT;SPLITS;SPLIT")
    parser.add_argument("--networks", default=",".join(NETWORKS), help=f"of {', '.join(NETWORKS)}")
    parser.add_argument("--workdir", type=Path, default=Path("runs/precision"))
    parser.add_argument("--save", action="store_true")
    args = parser.parse_args()
    args.revisited = []
    about, rows = machine(), {}
    drawn = prepare_synthetic(args.workdir / "drawn", instances=24, photos=8, seed=0, split="test")
    collections = {"drawn": drawn} | {name: found.database for name, found in open_collections(args).items()}
    for name, photos in collections.items():
        for network in args.networks.split(","):
            title = f"{name} ({len(photos)}), {network}"
            rows[title] = row(f"{name}-{network}", NETWORKS[network](), photos, photos.labels, args.workdir)
            print(title, rows[title], flush=True)
    text = f"Leave-one-out on instances not trained on. {about}. {command()}\n\n{markdown(rows)}\n"
    print(text)
    if args.save:
        save("precision", text)


if __name__ == "__main__":
    main()
