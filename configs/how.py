"""Baseline HOW: averaged and reduced local features, trained by their sum weighted by strength, on EfficientNet-Lite0.

    python train.py --config=configs/how.py --workdir=runs/how --config.data.root=PHOTOS

PHOTOS is a folder <instance>/<photo>, as for `configs/spatial_context.py`, whose data, steps and rates these are.

The reduction starts as PCA-whitening and stays, and there is no whitening layer: what trains is the last part of the
backbone. Measured with the descriptor; the published numbers match the strongest local features over seven scales with
ASMK. Published: ResNet-50 without its last block, trained on SfM-120k, 2000 local features of 128 numbers, 1024 px,
mAP medium / hard: ROxford5k 79.4 / 56.9, RParis6k 81.6 / 62.4 (Tolias, Jenicek, Chum, Learning and Aggregating Deep
Local Descriptors for Instance-Level Recognition, ECCV 2020).

Measured on 8 landmarks (345 web photographs) after training on 15 others, `python benchmarks/ablation.py`, three
seeds, mAP: 86.91 ± 0.61 by the descriptor, 86.46 ± 0.56 by ASMK with 1,024 words; GeM 85.61 ± 0.01.
"""

from sret_jax.config import Config, DataConfig, EvalConfig, LocalConfig, ModelConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(dataset="folder", image_size=320),
        model=ModelConfig(pool="how", local=LocalConfig(enabled=True), whitening=False),
        train=TrainConfig(
            steps=60, loss="multi_similarity", margin=0.5, learning_rate=5e-4, save_every=30, train_from="c5"
        ),
        eval=EvalConfig(benchmarks=("folder",)),
    )
