"""Baseline HOW: averaged and reduced local features, trained by their sum weighted by strength, on EfficientNet-Lite0.

    python train.py --config=configs/how.py --workdir=runs/how --config.data.root=PHOTOS

PHOTOS is a folder <instance>/<photo>, as for `configs/spatial_context.py`, whose data, steps and rates these are.

The reduction starts as PCA-whitening and stays, and there is no whitening layer: what trains is the last part of the
backbone. Searched by the descriptor, or by ASMK on the strongest local features over seven scales, as published:

    python eval.py --workdir=runs/how --benchmark=folder --root=PHOTOS --config.search.method=asmk

The published training, in the fields of this project; SFM holds retrieval-SfM-120k.pkl and ims/:

    python train.py --config=configs/how.py --workdir=runs/how-sfm --config.data.dataset=sfm --config.data.root=SFM
        --config.data.image_size=1024 --config.data.filter=lanczos --config.data.rounding=down
        --config.data.sampling=tuples --config.data.source_balance=1
        --config.train.on_maps=False --config.train.validate_every=0 --config.model.backbone=resnet50
        --config.model.weights=FILE --config.model.stage=c4 --config.train.loss=contrastive --config.train.margin=0.8
        --config.train.optimizer=adam --config.train.learning_rate=1e-6 --config.train.backbone_lr=1
        --config.train.train_from=all --config.train.schedule=exponential --config.train.decayed=all
        --config.train.clip_norm=0 --config.train.warmup_steps=0 --config.train.steps=8000
        --config.train.start_share=0

Published: ResNet-50 without its last block, trained on SfM-120k, 2000 local features of 128 numbers, 1024 px, mAP
medium: ROxford5k 79.4, RParis6k 81.6 (Tolias, Jenicek, Chum, Learning and Aggregating Deep Local Descriptors for
Instance-Level Recognition, ECCV 2020, README of its code); hard 56.9 and 62.4 as listed by Yang et al., DOLG, ICCV
2021, table 1. The released network: `configs/published.py:how`.

Measured on 8 landmarks that were not trained on / 63 objects that the step was chosen on / 6 official queries of
ROxford5k (medium), after 100 steps of 16 instances of 479, mAP (`benchmarks/ablation.py`, one seed), by the descriptor:
86.12 / 75.84 / 32.0; by ASMK with 1,024 words 84.31 / 69.22 / 40.2; GeM whose last stage trains as well 90.20 / 81.47 /
39.3. With the recipe before this one (multi-similarity, 15 landmarks, 60 steps): by ASMK 86.46 ± 0.56 on the landmarks,
where the descriptor had 86.91 ± 0.61.
"""

from sret_jax.config import Config, DataConfig, EvalConfig, LocalConfig, ModelConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(
            image_size=320, instances_per_batch=24, photos_per_instance=3, crop_area=(0.5, 1.0), source_balance=0.5
        ),
        model=ModelConfig(pool="how", local=LocalConfig(enabled=True), whitening=False),
        train=TrainConfig(
            steps=300,
            loss="infonce",
            learning_rate=1e-3,
            backbone_lr=0.3,
            start_share=0.5,
            on_maps=True,
            train_from="c5",
            validate_every=100,
            save_every=100,
        ),
        eval=EvalConfig(benchmarks=("folder",)),
    )
