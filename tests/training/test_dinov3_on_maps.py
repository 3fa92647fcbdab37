"""Smoothing and refinement behind the backbones of DINOv3 train on stored maps, and are used on photographs."""

import jax
import numpy as np
import pytest

from sret_jax.config import Config, EvalConfig, ModelConfig, RefinementConfig, SmoothingConfig, TrainConfig
from sret_jax.models.backbones import build_backbone, convnext
from sret_jax.models.backbones.vit_specs import SPECS
from sret_jax.models.descriptor import build_network, init_network
from sret_jax.models.weights.file import Weights, write_weights
from sret_jax.retriever import load
from sret_jax.training import loop
from sret_jax.training.shown import shown
from tests.support.photos import drawn_data
from tests.support.tiny_training import logged

VIT, CONVNEXT = "dinov3_vits16", "dinov3_convnext_tiny"
pytestmark = pytest.mark.slow


@pytest.fixture(params=[VIT, CONVNEXT])
def settings(request, monkeypatch, tmp_path) -> Config:
    """Of a run with the network of this name, shrunk, whose weights are in a file. Heads alone train.

    Every step sees all 24 maps as they are, so that all steps have the same loss.
    """
    monkeypatch.setitem(SPECS, VIT, SPECS[VIT]._replace(width=48, depth=2, heads=3))
    monkeypatch.setitem(convnext.SIZES, CONVNEXT, convnext.ConvNeXtSize((1, 2, 2, 1), (8, 16, 24, 48)))
    file = tmp_path / "drawn.safetensors"
    write_weights(file, drawn(request.param))
    return Config(
        data=drawn_data(
            tmp_path / "cache",
            image_size=128,
            instances_per_batch=6,
            photos_per_instance=4,
            crop_area=(1.0, 1.0),
            flip=0.0,
        ),
        model=ModelConfig(
            request.param,
            weights=str(file),
            smoothing=SmoothingConfig(enabled=True, start="average"),
            refinement=RefinementConfig(enabled=True, nodes=12),
            whitening=False,
        ),
        train=TrainConfig(
            steps=24, loss="infonce", learning_rate=0.02, warmup_steps=0, log_every=1, save_every=24, on_maps=True
        ),
        eval=EvalConfig(benchmarks=()),
    )


def drawn(name: str) -> Weights:
    """Random, and such that every part shows in the maps: as they start, blocks add next to nothing, and the last norm
    leaves all positions equally strong, so that which of them become nodes is for rounding to say.
    """
    rng = np.random.default_rng(0)
    images, mask = np.zeros((1, 64, 64, 3), np.uint8), np.ones((1, 64, 64), bool)
    fresh = jax.jit(build_backbone(name).init)(jax.random.key(0), images, mask)

    def strong(path, leaf):
        changed = path[-1].key.startswith(("gamma", "scale"))
        return rng.uniform(0.3, 1, leaf.shape).astype(np.float32) if changed else leaf

    variables = jax.tree_util.tree_map_with_path(strong, fresh)
    return Weights({k: {"backbone": v} for k, v in variables.items()}, name, "last", "own", "normalized", "drawn", "")


def test_heads_learn_on_maps_what_photographs_are_then_described_with(settings, tmp_path):
    loop.train(settings, tmp_path / "run")
    losses = [line["loss"] for line in logged(tmp_path / "run") if "loss" in line]
    assert len(losses) == 24 and losses[-1] < 0.8 * losses[0]

    trained = load(tmp_path / "run")
    network = build_network(settings.model)
    start = init_network(network, settings.model, jax.random.key(settings.seed))
    for part in ("smoothing", "refinement"):
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), trained.variables["params"][part], start["params"][part])
        assert max(jax.tree.leaves(moved)) > 0.01, part
    jax.tree.map(np.testing.assert_array_equal, trained.variables["params"]["backbone"], start["params"]["backbone"])

    photos = loop.prepare_photos(settings, tmp_path)
    seen = shown(settings, network, trained.variables, photos, tmp_path / "maps")
    assert seen.given == "last" and len(seen.maps) == len(photos)
    on_maps, through = seen.describe(network, trained.variables), trained.describe(photos)
    np.testing.assert_allclose(on_maps, through, atol=1e-3)  # maps are stored as float16
    before = seen.describe(network, start)
    assert np.abs(on_maps - before).max() > 0.1  # far more than the tolerance: what was learned is in both
