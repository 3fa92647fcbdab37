"""The assembled network: one config, one descriptor; padding never shows in it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sret_jax.config import ModelConfig, RefinementConfig, SmoothingConfig
from sret_jax.models.backbones import BACKBONES, pretrained
from sret_jax.models.descriptor import build_network, init_network

HEADS = {
    "gem": {},
    "smoothing": {"smoothing": SmoothingConfig(enabled=True, window=5, iterations=2)},
    "refinement": {"refinement": RefinementConfig(enabled=True, nodes=6, neighbours=2, width=16, strength="attention")},
    "both": {
        "smoothing": SmoothingConfig(enabled=True),
        "refinement": RefinementConfig(enabled=True, nodes=6, neighbours=2, width=16, rebuild=True),
    },
}
LITE_SIZES = ((96, 64), (32, 64))  # multiples of 32; a resnet takes any size
ODD_SIZES = ((91, 63), (47, 96))


def network(backbone="resnet18", heads="gem", seed=0, **fields):
    """The network and random parameters. They are drawn here, because compiling the initialisers takes minutes."""
    config = ModelConfig(backbone=backbone, weights="none", whitening_dim=24, **HEADS[heads], **fields)
    built, rng = build_network(config), np.random.default_rng(seed)
    side = 2 * built.size_multiple if built.size_multiple > 1 else 64
    inputs = jax.ShapeDtypeStruct((1, side, side, 3), jnp.uint8), jax.ShapeDtypeStruct((1, side, side), jnp.bool_)

    def draw(path, leaf):
        name, shape = path[-1].key, leaf.shape
        if name in ("scale", "var"):
            return jnp.asarray(rng.uniform(0.8, 1, shape), jnp.float32)
        if name == "p":
            return jnp.asarray(rng.uniform(2, 4, shape), jnp.float32)
        deviation = np.sqrt(2 / np.prod(shape[:-1])) if name == "kernel" else 0.1
        return jnp.asarray(deviation * rng.normal(size=shape), jnp.float32)

    shapes = jax.eval_shape(built.init, jax.random.key(0), *inputs)
    return built, jax.tree_util.tree_map_with_path(draw, shapes)


def photographs(sizes, bucket, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (len(sizes), *bucket, 3), np.uint8)  # the padding is garbage, the mask must hide it
    mask = np.zeros(images.shape[:3], bool)
    for i, (h, w) in enumerate(sizes):
        mask[i, :h, :w] = True
    return jnp.asarray(images), jnp.asarray(mask)


def describe(built, variables, images, mask, method=None):
    quick = {
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    }  # compiles in half the time
    return jax.jit(partial(built.apply, method=method), compiler_options=quick)(variables, images, mask)


@pytest.mark.parametrize(
    ("backbone", "heads"),
    [(name, "both") for name in BACKBONES] + [("resnet18", name) for name in HEADS if name != "both"],
)
def test_a_padded_photo_has_the_descriptor_it_has_alone(backbone, heads):
    built, variables = network(backbone, heads)
    sizes = (ODD_SIZES if built.size_multiple == 1 else LITE_SIZES)[: 2 if backbone == "resnet18" else 1]
    images, mask = photographs(sizes, (96, 96))
    padded = describe(built, variables, images, mask)[0]
    assert padded.shape == (len(sizes), 24) and padded.dtype == jnp.float32
    np.testing.assert_allclose(jnp.linalg.norm(padded, axis=1), 1, rtol=1e-5)
    for i, (h, w) in enumerate(sizes):
        alone = describe(built, variables, images[i : i + 1, :h, :w], jnp.ones((1, h, w), bool))[0][0]
        np.testing.assert_allclose(padded[i], alone, atol=1e-5)


def test_heads_at_rest_are_the_identity():
    """Refinement starts as the identity, and a smoothing of large bandwidth is one: what is left is GeM."""
    plain, variables = network()
    both, others = network(heads="both")
    params = others["params"] | {name: variables["params"][name] for name in ("backbone", "pool")}
    params["refinement"]["restore"] = jax.tree.map(jnp.zeros_like, params["refinement"]["restore"])
    controls = params["smoothing"]["generator_0"]["controls"]
    controls |= {"kernel": 0 * controls["kernel"], "bias": jnp.array([1e6, 1.0])}  # a and c, before softplus
    params["smoothing"]["generator_0"]["controls"] = controls
    images, mask = photographs(((64, 64),), (64, 64))
    gem = describe(plain, variables, images, mask, method="pooled")[0]
    same = describe(both, variables | {"params": params}, images, mask, method="pooled")[0]
    np.testing.assert_allclose(same, gem, atol=1e-6)


def test_intermediates_are_named():
    built, variables = network(heads="both")
    _, seen = describe(built, variables, *photographs(((64, 64),), (64, 64)))
    assert set(seen) == {"backbone", "smoothing", "refinement", "map", "mask"}
    assert seen["smoothing"]["a"].shape == seen["smoothing"]["c"].shape == (1, 2, 2)
    assert seen["map"].shape == (1, 2, 2, 512) and not np.allclose(seen["map"], seen["backbone"])


def test_an_earlier_stage_is_pooled():
    built, variables = network(stage="c3")
    _, seen = describe(built, variables, *photographs(((64, 64),), (64, 64)))
    assert seen["map"].shape == (1, 8, 8, 128)


def test_bfloat16_computes_close_to_float32_and_returns_float32():
    images, mask = photographs(((64, 64),), (64, 64))
    exact, variables = network(heads="smoothing")
    rounded, _ = network(heads="smoothing", dtype="bfloat16")
    x, y = (describe(n, variables, images, mask)[0] for n in (exact, rounded))
    assert y.dtype == jnp.float32
    assert 0.99 < float(jnp.sum(x * y)) < 1 - 1e-7


def test_the_pretrained_backbone_is_what_init_returns():
    config = ModelConfig(whitening_dim=8)
    variables = init_network(build_network(config), config, jax.random.key(0))
    loaded = pretrained("efficientnet_lite0", "auto")
    jax.tree.map(np.testing.assert_array_equal, variables["params"]["backbone"], loaded["params"])
    jax.tree.map(np.testing.assert_array_equal, variables["batch_stats"]["backbone"], loaded["batch_stats"])
    assert set(variables["params"]) == {"backbone", "pool", "whitening"}
