"""Baseline SuperGlobal: regional GeM, GeM with a greater exponent, maximum over scales, on EfficientNet-Lite0.

    python train.py --config=configs/superglobal.py --workdir=runs/superglobal --config.data.root=PHOTOS

PHOTOS is a folder <instance>/<photo>, as for `configs/spatial_context.py`, whose data, steps and rates these are.

A ResNet has its ReLUP too (`--config.model.backbone=resnet101 --config.model.relu_floor=0.014
--config.model.weights=FILE`). Published, without training, on the weights of CVNet: ResNet-101, 2048 numbers, three
scales, mAP hard: ROxford5k 72.1, RParis6k 83.5 (of Shao, Chen, Karpur, Cui, Araujo, Cao, Global Features are All You
Need for Image Retrieval and Reranking, ICCV 2023; taken from notes of others, not from the paper). Here exponent and
whitening layer train like those of the other baselines; `--config.train.pool_lr=0` keeps the exponent.

Measured on 8 landmarks that were not trained on / 63 objects that the step was chosen on / 6 official queries of
ROxford5k (medium), after training on 479 instances, mAP (`benchmarks/ablation.py`, one seed, one scale): 86.97 / 75.61
/ 40.4; GeM 86.93 / 75.81 / 41.5.
"""

from sret_jax.config import Config, DataConfig, EvalConfig, ExtractConfig, ModelConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(
            image_size=320, instances_per_batch=24, photos_per_instance=3, crop_area=(0.5, 1.0), source_balance=0.5
        ),
        model=ModelConfig(pool="superglobal", pool_p=4.6, pool_shared=True, whitening_dim=1024, whitening_ridge=1.0),
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
        extract=ExtractConfig(scales=(0.7071, 1.0, 1.4142), scale_pooling="max"),
        eval=EvalConfig(benchmarks=("folder",)),
    )
