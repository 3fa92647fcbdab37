"""Train a spatial-context descriptor on drawn photographs and search it, in minutes on a laptop's processor.

    python train.py --config=configs/quickstart.py --workdir=runs/quickstart

The objects come from sample photographs installed with scikit-image and scikit-learn and from textures drawn by
code. It shows that the system works and what it leaves on disk; it is no benchmark.
Measured: mAP 62.8 before training and 72.3 after, on 16 objects of which none was trained on.
"""

from sret_jax.config import Config, DataConfig, EvalConfig, ModelConfig, RefinementConfig, SmoothingConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(dataset="synthetic", image_size=192, instances_per_batch=6, photos_per_instance=4),
        model=ModelConfig(smoothing=SmoothingConfig(enabled=True), refinement=RefinementConfig(enabled=True)),
        train=TrainConfig(
            steps=60, warmup_steps=5, loss="multi_similarity", margin=0.5, whitening_lr=0.1, log_every=5, save_every=30
        ),
        eval=EvalConfig(benchmarks=("synthetic",), untrained=True),
    )
