"""Published networks, measured as by their authors. Not trained here: `--config=configs/published.py:NAME`.

    python -m sret_jax.models.weights CHECKPOINT net.safetensors [--learned-whitening=WHITENING]
    python eval.py --config=configs/published.py:NAME --config.model.weights=net.safetensors
        --benchmark=roxford5k,rparis6k --root=DATASETS --anchors

    NAME    CHECKPOINT                                 WHITENING              ROxford5k M / H  RParis6k M / H
    gem_w   cirtorch: gl18-tl-resnet101-gem-w                                 67.3 / 44.3      80.6 / 61.5
    gem     cirtorch: retrievalSfM120k-resnet101-gem   retrieval-SfM-120k/ms  65.4 / 40.1      76.7 / 55.2
    solar   SOLAR: resnet101-solar-best                                       69.9 / 47.9      81.6 / 64.5
    ap_gem  DIR: Resnet101-AP-GeM                      Landmarks_clean        67.1 / 42.3      80.3 / 60.9

The numbers are mAP medium / hard in percent, from the README of each: Radenovic, Tolias, Chum, TPAMI 2019; Ng et al.,
ECCV 2020; Revaud et al., ICCV 2019. Not measured here: neither these checkpoints nor the photographs came with the
project. Each network is compared with its authors' code on random weights, scales and whitening included
(`tests/test_published_networks.py`). Other depths: `--config.model.backbone=resnet50` or `resnet152`.
"""

from sret_jax.config import AttentionConfig, Config, DataConfig, EvalConfig, ExtractConfig, ModelConfig, WhiteningConfig
from sret_jax.errors import UserError

ROOT = 2**0.5
NETWORKS = {
    "gem_w": (
        ModelConfig("resnet101", pool_shared=True, whitening_dim=2048, whitening_init="weights", l2_added=True),
        ExtractConfig(scales=(1.0, ROOT, 1 / ROOT), resized="tensor"),
        WhiteningConfig(),
    ),
    "gem": (
        ModelConfig("resnet101", pool_shared=True, whitening=False, l2_added=True),
        ExtractConfig(scales=(1.0, 1 / ROOT, 1 / 2), scale_pooling="gem", resized="tensor"),
        WhiteningConfig("weights"),
    ),
    "solar": (
        ModelConfig(
            "resnet101",
            pool_shared=True,
            attention=AttentionConfig(stages=("c4", "c5")),
            whitening_dim=2048,
            whitening_init="weights",
            l2_added=True,
        ),
        ExtractConfig(scales=(1.0, ROOT, 1 / ROOT), resized="tensor"),
        WhiteningConfig(),
    ),
    "ap_gem": (
        ModelConfig("resnet101", pool_shared=True, whitening_dim=2048, whitening_init="weights", l2_pooled=False),
        ExtractConfig(),
        WhiteningConfig("weights"),
    ),
}


def get_config(name: str = "") -> Config:
    if name not in NETWORKS:
        raise UserError(f"--config=configs/published.py:{name}: no such network; choose from {', '.join(NETWORKS)}")
    model, extract, whitening = NETWORKS[name]
    return Config(
        data=DataConfig(image_size=1024),
        model=model,
        extract=extract,
        whitening=whitening,
        eval=EvalConfig(benchmarks=("roxford5k", "rparis6k")),
    )
