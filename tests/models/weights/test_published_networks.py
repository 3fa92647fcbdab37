"""`configs/published.py` against the code of the authors: network, scales and whitening, from file to descriptor."""

import runpy
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from sret_jax.cli.convert import main
from sret_jax.data.folders import prepare_folder
from sret_jax.extraction.local_features import open_source
from sret_jax.retriever import load
from tests.support.commands import REPOSITORY

torch = pytest.importorskip("torch")
decomposition = pytest.importorskip("sklearn.decomposition")
pytestmark = [pytest.mark.parity, pytest.mark.slow]

from torch.nn import functional as F  # noqa: E402

from tests.support.torch_retrieval import Cirtorch, Dir, How, solar  # noqa: E402

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (3, 64, 96, 3), np.uint8)
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
M, P = RNG.normal(size=(512, 1)) * 0.01, RNG.normal(size=(512, 512))
PCA = decomposition.PCA(whiten=True).fit(RNG.normal(size=(60, 24)) * np.arange(1, 25))


class Plain(Cirtorch):
    """cirtorch's first networks, without the layer."""

    def __init__(self):
        super().__init__()
        del self.whiten

    def forward(self, x):
        v = self.pool(self.features(x))
        return v / (v.norm(dim=1, keepdim=True) + 1e-6)


def over_scales(network, scales, power=1.0):
    """cirtorch's `extract_ms`, photograph by photograph."""
    x = (torch.tensor(IMAGES) / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    out = []
    for photo in x.movedim(3, 1):
        resized = [
            photo[None] if s == 1 else F.interpolate(photo[None], scale_factor=s, mode="bilinear") for s in scales
        ]
        v = (sum(network(r)[0] ** power for r in resized) / len(scales)) ** (1 / power)
        out.append((v / v.norm()).double().numpy())
    return np.array(out)


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def whitened_by_pca(x):
    return unit((x - PCA.mean_) @ PCA.components_.T / np.power(PCA.explained_variance_, 0.25))


ROOT = 2**0.5
LEARNED = {"meta": {"mean": MEAN, "std": STD, "Lw": {"retrieval-SfM-120k": {"ms": {"m": M, "P": P}}}}}
NETWORKS = {  # name: network, what is beside it in its file, the whitening that is asked for, what its authors compute
    "gem_w": (Cirtorch, {}, "", lambda net: over_scales(net, [1, ROOT, 1 / ROOT])),
    "gem": (
        Plain,
        LEARNED,
        "retrieval-SfM-120k/ms",
        lambda net: unit((P @ (over_scales(net, [1, 1 / ROOT, 1 / 2], net.pool.p.item()).T - M)).T),
    ),
    "solar": (solar, {}, "", lambda net: over_scales(net, [1, ROOT, 1 / ROOT])),
    "ap_gem": (
        Dir,
        {"pca": {"Landmarks_clean": PCA}},
        "Landmarks_clean",
        lambda net: whitened_by_pca(over_scales(net, [1])),
    ),
}


def opened(name, weights, tmp_path, **fields):
    """The retriever of the config with ResNet-18 and these weights, and the photographs."""
    for i, photo in enumerate(IMAGES):
        (tmp_path / "photos/tower").mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo).save(tmp_path / f"photos/tower/{i}.png")
    config = runpy.run_path(str(REPOSITORY / "configs/published.py"))["get_config"](name)
    model = replace(config.model, backbone="resnet18", weights=weights, **fields)
    data = replace(config.data, root=str(tmp_path / "photos"), image_size=96, threads=1)
    extract = replace(config.extract, batch_size=4)  # of three photographs, most of 16 would be empty
    retriever = load(replace(config, model=model, data=data, extract=extract))
    return retriever, prepare_folder(data.root, tmp_path / "data")


@pytest.mark.parametrize("name", NETWORKS)
def test_descriptors_are_those_of_the_authors(name, tmp_path):
    make, beside, whitening, computed = NETWORKS[name]
    reference = make().eval()
    torch.save(beside | {"state_dict": reference.state_dict()}, tmp_path / "net.pth")
    weights = str(tmp_path / "net.safetensors")
    main([str(tmp_path / "net.pth"), weights, *([f"--learned-whitening={whitening}"] if whitening else [])])
    retriever, photos = opened(name, weights, tmp_path, whitening_dim=24 if name == "ap_gem" else 512)
    ours = retriever.extract(photos, tmp_path / "descriptors").descriptors
    with torch.no_grad():
        expected = computed(reference)
    assert (ours * expected).sum(1).min() > 0.99999


def test_local_features_of_how_are_those_of_the_authors(tmp_path):
    """The strongest over its seven scales, of a network without its last block."""
    reference = How("resnet18", 1, 128).eval()
    runtime = {"net_params": {"runtime": {"mean_std": [MEAN, STD]}}, "_version": "how/2020"}
    torch.save(runtime | {"state_dict": reference.state_dict()}, tmp_path / "net.pth")
    main([str(tmp_path / "net.pth"), str(tmp_path / "net.safetensors")])
    retriever, photos = opened("how", str(tmp_path / "net.safetensors"), tmp_path)
    config = retriever.config
    assert config.search.method == "asmk" and config.local.most == 2000 and len(config.local.scales) == 7
    config = replace(config, local=replace(config.local, most=60))
    x = ((torch.tensor(IMAGES) / 255 - torch.tensor(MEAN)) / torch.tensor(STD)).float().movedim(3, 1)
    for row, found in open_source(retriever.extractor, photos, config)(photos, range(3)):
        features, strengths = [], []
        for scale in config.local.scales:
            resized = F.interpolate(
                x[row : row + 1], scale_factor=scale, mode="bilinear", align_corners=False, recompute_scale_factor=True
            )
            with torch.no_grad():
                local, strength = reference(resized)
            features.append(local[0].flatten(1).T.numpy())
            strengths.append(strength.flatten().numpy())
        features, strengths = np.concatenate(features), np.concatenate(strengths)
        strongest = np.argsort(-strengths)[:60]
        assert found.counts == 60
        np.testing.assert_allclose(found.strength, strengths[strongest] / strengths.max(), rtol=1e-4)
        # Of two equally strong ones the order is chance.
        likeness = unit(found.features) @ unit(features[strongest]).T
        assert likeness.max(1).min() > 0.9999 and (np.diag(likeness) > 0.9999).mean() > 0.9
