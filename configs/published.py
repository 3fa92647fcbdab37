"""Published networks, measured as by their authors. Not trained here: `--config=configs/published.py:NAME`.

    sret convert CHECKPOINT net.safetensors [--learned-whitening=WHITENING]
    python eval.py --config=configs/published.py:NAME --config.model.weights=net.safetensors
        --benchmark=roxford5k,rparis6k --root=DATASETS --anchors

    NAME    CHECKPOINT                                 WHITENING              ROxford5k M / H  RParis6k M / H
    gem_w   cirtorch: gl18-tl-resnet101-gem-w                                 67.3 / 44.3      80.6 / 61.5
    gem     cirtorch: retrievalSfM120k-resnet101-gem   retrieval-SfM-120k/ms  65.4 / 40.1      76.7 / 55.2
    solar   SOLAR: resnet101-solar-best                                       69.9 / 47.9      81.6 / 64.5
    ap_gem  DIR: Resnet101-AP-GeM                      Landmarks_clean        67.1 / 42.3      80.3 / 60.9
    how     HOW: how_r50-_2000                                                79.4 / 56.9      81.6 / 62.4

The numbers are mAP medium / hard in percent, from the README of each: Radenovic, Tolias, Chum, TPAMI 2019; Ng et al.,
ECCV 2020; Revaud et al., ICCV 2019; Tolias, Jenicek, Chum, ECCV 2020, whose hard figures are those of Yang et al.,
DOLG, ICCV 2021, table 1. Not measured here: neither these checkpoints nor the photographs came with the project. Each
network is compared with its authors' code on random weights, scales and whitening included
(`tests/models/weights/test_published_networks.py`). Other depths: `--config.model.backbone=resnet50` or `resnet152`.

Photographs are shrunk as the networks' authors shrank them, by Pillow's `thumbnail` with Lanczos as it was then; DIR's
were never shrunk. What the same code does with a Pillow of today: `--config.data.filter=thumbnail
--config.data.rounding=aspect`.

`how` is searched by ASMK with 65,536 words of 20,000 photographs, as published those of SfM-120k:
`--config.search.codebook=retrieval-SfM-120k/ims`.
"""

from sret_jax.config import (
    AttentionConfig,
    Config,
    DataConfig,
    EvalConfig,
    ExtractConfig,
    LocalConfig,
    LocalSearchConfig,
    ModelConfig,
    SearchConfig,
    TrainConfig,
    WhiteningConfig,
)
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
    "how": (
        ModelConfig(
            "resnet50",
            stage="c4",
            pool="how",
            local=LocalConfig(enabled=True, init="weights"),
            whitening=False,
            l2_added=True,
        ),
        ExtractConfig(),
        WhiteningConfig(),
    ),
}
SHRUNK = {"ap_gem": ("bicubic", "nearest")}  # the others as cirtorch did
SEARCHED = {"how": (SearchConfig("asmk"), LocalSearchConfig("head", most=2000))}  # the others by their descriptors


def get_config(name: str = "") -> Config:
    if name not in NETWORKS:
        raise UserError(f"--config=configs/published.py:{name}: no such network; choose from {', '.join(NETWORKS)}")
    model, extract, whitening = NETWORKS[name]
    filter, rounding = SHRUNK.get(name, ("lanczos", "down"))
    search, local = SEARCHED.get(name, (SearchConfig(), LocalSearchConfig()))
    return Config(
        data=DataConfig(image_size=1024, enlarge=False, filter=filter, rounding=rounding),
        model=model,
        extract=extract,
        whitening=whitening,
        search=search,
        local=local,
        train=TrainConfig(train_from="all"),
        eval=EvalConfig(benchmarks=("roxford5k", "rparis6k")),
    )
