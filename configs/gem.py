"""Baseline GeM: generalised-mean pooling and a whitening layer, on EfficientNet-Lite0.

    python train.py --config=configs/gem.py --workdir=runs/gem --config.data.root=PHOTOS

PHOTOS is a folder <instance>/<photo>, as for `configs/spatial_context.py`, whose data, steps and rates these are.

Here one exponent per channel is learned; `--config.model.pool_shared=True` learns one for all, as published.
Published: ResNet-101 trained on Google Landmarks 2018, 2048 numbers, 1024 px, three scales, mAP medium / hard:
ROxford5k 67.3 / 44.3, RParis6k 80.6 / 61.5 (Radenovic, Tolias, Chum, Fine-tuning CNN Image Retrieval with No Human
Annotation, TPAMI 2019; these are of the networks that its authors released later).

Measured on 8 landmarks that were not trained on / 63 objects that the step was chosen on / 6 official queries of
ROxford5k (medium), after training on 479 instances, mAP (`benchmarks/ablation.py`, three seeds): 86.93 ± 0.00 / 75.81
± 0.09 / 41.5 ± 0.1, which is what it has before training; with the last stage trained (`--config.train.train_from=c5
--config.train.steps=100 --config.data.instances_per_batch=16`, three seeds) 90.10 ± 0.41 / 82.19 ± 0.64 / 41.8 ± 1.0.
"""

from sret_jax.config import Config, DataConfig, EvalConfig, ModelConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(
            image_size=320, instances_per_batch=24, photos_per_instance=3, crop_area=(0.5, 1.0), source_balance=0.5
        ),
        model=ModelConfig(whitening_dim=1024, whitening_ridge=1.0),
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
