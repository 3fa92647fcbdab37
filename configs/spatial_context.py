"""The method: learnable smoothing and refinement in the span of the features before GeM, on EfficientNet-Lite0.

    python train.py --config=configs/spatial_context.py --workdir=runs/mine --config.data.root=PHOTOS

PHOTOS is a folder <instance>/<photo>, or several separated by commas. With `--config.data.splits=FILE.json`,
{"train": [instance, ...], "val": [instance, ...], "test": [instance, ...]}, it trains on the first, keeps the step that
is best on the second, and measures leave-one-out on the third. Without "val" a fifth of the training instances is held
out instead. Where no step is better than the start by more than chance, the start is kept, and the command says so:
with few photographs that is what to expect.

It starts from the weights that come with the package, which were trained in this way from ImageNet's:
`--config.model.weights=auto --config.model.whitening_init=pca` does that. The frozen stages of the backbone see every
photograph once: their maps are stored, and heads train on views of them in seconds. `--config.train.train_from=c5`
trains the backbone's last stage as well, from stored maps too; from ImageNet's weights give
`--config.model.smoothing.start=identity` with it.

Measured on 8 landmarks that were not trained on / 63 objects that the step was chosen on / 6 official queries of
ROxford5k (medium), after training on 479 instances from ImageNet's weights, mAP (`benchmarks/ablation.py`, three
seeds): 88.79 ± 0.19 / 78.99 ± 0.37 / 39.8 ± 1.4; smoothing alone 88.21 ± 0.04 / 77.20 ± 0.15 / 41.3 ± 0.3; GeM 86.93 ±
0.00 / 75.81 ± 0.09 / 41.5 ± 0.1. With the last stage trained, smoothing started as the identity: 90.24 ± 0.44 / 82.76 ±
0.74 / 41.9 ± 1.9; without smoothing (`--config.model.smoothing.enabled=False`) 90.31 ± 0.55 / 82.56 ± 0.75 / 42.3 ±
1.2; GeM 90.10 ± 0.41 / 82.19 ± 0.64 / 41.8 ± 1.0. The weights that come with the package: 89.92 / 81.65 / 40.2, the
first of three seeds with smoothing started as the average, 89.70 ± 0.71 / 82.28 ± 0.53 / 38.5 ± 3.0.
"""

from sret_jax.config import Config, DataConfig, EvalConfig, ModelConfig, RefinementConfig, SmoothingConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(
            image_size=320, instances_per_batch=24, photos_per_instance=3, crop_area=(0.5, 1.0), source_balance=0.5
        ),
        model=ModelConfig(
            weights="spatial-context-lite0",
            smoothing=SmoothingConfig(enabled=True, start="average"),
            refinement=RefinementConfig(enabled=True),
            whitening_dim=1024,
            whitening_init="weights",
            whitening_ridge=1.0,
        ),
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
