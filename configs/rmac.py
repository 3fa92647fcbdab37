"""Baseline R-MAC: sums of regional maxima and a whitening layer, on EfficientNet-Lite0.

    python train.py --config=configs/rmac.py --workdir=runs/rmac --config.data.root=PHOTOS

PHOTOS is a folder <instance>/<photo>, as for `configs/spatial_context.py`, whose data, steps and rates these are.

Published: ResNet-101 trained on Landmarks-clean, mAP medium / hard: ROxford5k 60.9 / 32.4, RParis6k 78.9 / 59.4
(Gordo, Almazan, Revaud, Larlus, End-to-end Learning of Deep Visual Representations for Image Retrieval, IJCV 2017, as
listed by Yang et al., DOLG, ICCV 2021, table 1).

Measured on 8 landmarks that were not trained on / 63 objects that the step was chosen on / 6 official queries of
ROxford5k (medium), after training on 479 instances, mAP (`benchmarks/ablation.py`, one seed): 87.33 / 76.10 / 46.9;
GeM 86.93 / 75.81 / 41.5.
"""

from sret_jax.config import Config, DataConfig, EvalConfig, ModelConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(
            image_size=320, instances_per_batch=24, photos_per_instance=3, crop_area=(0.5, 1.0), source_balance=0.5
        ),
        model=ModelConfig(pool="rmac", whitening_dim=1024, whitening_ridge=1.0),
        train=TrainConfig(
            steps=300,
            loss="infonce",
            learning_rate=1e-3,
            backbone_lr=0.3,
            start_share=0.5,
            on_maps=True,
            whitening_refit="within",
            validate_every=100,
            save_every=100,
        ),
        eval=EvalConfig(benchmarks=("folder",)),
    )
