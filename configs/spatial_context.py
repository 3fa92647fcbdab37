"""The method: learnable smoothing and spatial-context refinement before GeM, on EfficientNet-Lite0.

    python train.py --config=configs/spatial_context.py --workdir=runs/mine --config.data.root=PHOTOS

PHOTOS is a folder <instance>/<photo>. With `--config.data.splits=FILE.json`, {"train": [instance, ...], "test":
[instance, ...]}, it trains on the first and measures leave-one-out on the second; without, on the same photographs,
which says how well they are remembered and not how well the descriptor will do on others.

Measured on 8 landmarks (345 web photographs) after training on 15 others, `python benchmarks/ablation.py`, three seeds,
mAP: 86.23 ± 0.17, against 85.61 ± 0.01 for GeM trained the same way and 85.60 for GeM untrained; with the backbone's
last stage trained as well (`--config.train.train_from=c5`) 89.43 ± 0.51 against 89.59 ± 0.27.
"""

from sret_jax.config import Config, DataConfig, EvalConfig, ModelConfig, RefinementConfig, SmoothingConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(dataset="folder", image_size=320),
        model=ModelConfig(smoothing=SmoothingConfig(enabled=True), refinement=RefinementConfig(enabled=True)),
        train=TrainConfig(steps=60, loss="multi_similarity", margin=0.5, learning_rate=5e-4, save_every=30),
        eval=EvalConfig(benchmarks=("folder",)),
    )
