"""Train smoothing and refinement on your own photographs, and say what it was good for.

    python examples/finetune.py PHOTOS WORKDIR [--steps=60] [--image_size=320]

PHOTOS is a folder <instance>/<photo>. Half of its instances are trained on, the other half is searched, leave-one-out,
by the network before and after: what was trained on says nothing about photographs never seen.
"""

import argparse
import json
from pathlib import Path

import sret_jax
from sret_jax.config import Config, DataConfig, EvalConfig, ModelConfig, RefinementConfig, SmoothingConfig, TrainConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--image_size", type=int, default=320, help="longest side of a photograph, pixels")
    given = parser.parse_args()

    instances = sorted(folder.name for folder in given.photos.iterdir() if folder.is_dir())
    splits = given.workdir / "splits.json"
    given.workdir.mkdir(parents=True, exist_ok=True)
    splits.write_text(json.dumps({"train": instances[::2], "test": instances[1::2]}))
    config = Config(
        data=DataConfig(
            root=str(given.photos),
            splits=str(splits),
            image_size=given.image_size,
            instances_per_batch=min(8, len(instances[::2])),
        ),
        model=ModelConfig(
            smoothing=SmoothingConfig(enabled=True, start="average"),
            refinement=RefinementConfig(enabled=True),
            whitening_dim=128,
        ),
        train=TrainConfig(steps=given.steps, loss="multi_similarity", margin=0.5, learning_rate=5e-4),
        eval=EvalConfig(benchmarks=("folder",), untrained=True),
    )
    retriever = sret_jax.train(config, given.workdir)

    results = json.loads((given.workdir / "eval/folder/results.json").read_text())
    before, after = results["before_training"]["mAP"], results["metrics"]["mAP"]
    print(f"mAP on {len(instances[1::2])} instances never trained on: {before:.1f} before, {after:.1f} after")
    retriever.save(given.workdir / "retriever")
    print(f'sret_jax.load("{given.workdir / "retriever"}") is the network, ready to use')


if __name__ == "__main__":
    main()
