"""What descriptors of 16 and 8 bits cost in accuracy, as `sret export-descriptors` writes them.

    python benchmarks/quantized.py --folder "NAME=ROOT;SPLITS.json;SPLIT" ... [--save]

Every collection is searched leave-one-out by what is read back from the folder that was written, by the network that
comes with the package and by the GeM of its backbone before training. Prints a table; `--save` writes it to
`benchmarks/results/`.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from ablation import open_collections
from comparison import markdown
from timing import command, machine, save

from sret_jax.config import Config
from sret_jax.export.descriptors import read_descriptors, write_descriptors
from sret_jax.metrics.ranking import leave_one_out_map
from sret_jax.models.pooling import l2_normalize
from sret_jax.retriever import load, without_unfilled_layers

KINDS = [("float32", "dimension"), ("float16", "dimension"), ("int8", "dimension"), ("int8", "vector")]


def row(x: np.ndarray, names: list[str], labels: np.ndarray, dtype: str, per: str) -> dict[str, str]:
    """What is measured of descriptors that were written and read back."""
    with tempfile.TemporaryDirectory() as folder:
        write_descriptors(Path(folder) / "out", x, names, dtype=dtype, per=per)
        stored = (Path(folder) / "out" / "descriptors.npy").stat().st_size
        read, _ = read_descriptors(Path(folder) / "out")
    y = np.asarray(l2_normalize(np.asarray(read)))
    found = leave_one_out_map(y @ y.T, labels)
    return {
        "mAP": f"{found['mAP']:.3f}",
        "R@1": f"{found['R@1']:.2f}",
        "bytes": str(round(stored / len(x))),
        "largest change of a cosine": f"{np.abs(y @ y.T - x @ x.T).max():.1e}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", action="append", required=True, metavar="NAME=ROOT;SPLITS;SPLIT")
    parser.add_argument("--workdir", type=Path, default=Path("runs/quantized"))
    parser.add_argument("--save", action="store_true")
    args = parser.parse_args()
    args.revisited = []
    about, rows = machine(), {}
    networks = {"spatial-context-lite0": load(), "untrained GeM": load(without_unfilled_layers(Config()))}
    for name, benchmark in open_collections(args).items():
        photos = benchmark.database
        for network, retriever in networks.items():
            x = np.asarray(retriever.extract(photos, args.workdir / "descriptors" / f"{name}-{network}").descriptors)
            for dtype, per in KINDS:
                kind = f"{dtype}, a scale per {per}" if dtype == "int8" else dtype
                rows[f"{name} ({len(photos)}), {network} [{x.shape[1]}], {kind}"] = row(
                    x, photos.names, photos.labels, dtype, per
                )
    text = f"Leave-one-out on photographs of instances not trained on. {about}. {command()}\n\n{markdown(rows)}\n"
    print(text)
    if args.save:
        save("quantized", text)


if __name__ == "__main__":
    main()
