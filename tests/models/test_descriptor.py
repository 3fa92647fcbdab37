"""The assembled network: one config, one descriptor; padding never shows in it."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sret_jax.config import AttentionConfig, LocalConfig, ModelConfig, RefinementConfig, SmoothingConfig
from sret_jax.errors import UserError
from sret_jax.models.descriptor import build_network, descriptor_length, init_network
from sret_jax.models.weights.pretrained import pretrained

HEADS = {
    "gem": {},
    "smoothing": {"smoothing": SmoothingConfig(enabled=True, window=5, iterations=2)},
    "refinement": {
        "refinement": RefinementConfig(enabled=True, form="free", nodes=6, neighbours=2, width=16, strength="attention")
    },
    "both": {
        "smoothing": SmoothingConfig(enabled=True),
        "refinement": RefinementConfig(enabled=True, nodes=6, neighbours=2),
    },
    "both, free": {
        "smoothing": SmoothingConfig(enabled=True),
        "refinement": RefinementConfig(enabled=True, form="free", nodes=6, neighbours=2, width=16, rebuild=True),
    },
    "solar": {"attention": AttentionConfig(stages=("c4", "c5")), "l2_added": True},
}
POOLS = {
    "mac": {"pool": "mac"},
    "spoc": {"pool": "spoc"},
    "rmac": {"pool": "rmac"},
    "how": {"pool": "how", "local": LocalConfig(enabled=True, dim=32)},
    "superglobal": {"pool": "superglobal", "pool_p": 4.6, "pool_shared": True},
}
LITE_SIZES = ((96, 64), (32, 64))  # multiples of 32; a resnet takes any size
ODD_SIZES = ((91, 63), (47, 96))


def network(backbone="resnet18", heads="gem", seed=0, **fields):
    """The network and random parameters. They are drawn here, because compiling the initialisers takes minutes."""
    config = ModelConfig(backbone=backbone, weights="none", whitening_dim=24, **(HEADS | POOLS)[heads], **fields)
    built, rng = build_network(config), np.random.default_rng(seed)
    side = 2 * built.size_multiple if built.size_multiple > 1 else 64
    inputs = jax.ShapeDtypeStruct((1, side, side, 3), jnp.uint8), jax.ShapeDtypeStruct((1, side, side), jnp.bool_)

    def draw(path, leaf):
        name, shape = path[-1].key, leaf.shape
        if name in ("scale", "var", "image_deviation"):
            return np.float32(rng.uniform(0.8, 1, shape))
        if name == "p":
            return np.float32(rng.uniform(2, 4, shape))
        deviation = np.sqrt(2 / np.prod(shape[:-1])) if name == "kernel" else 0.1
        return np.float32(deviation * rng.normal(size=shape))

    shapes = jax.eval_shape(built.init, jax.random.key(0), *inputs)
    return built, jax.device_put(jax.tree_util.tree_map_with_path(draw, shapes))


def photographs(sizes, bucket, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (len(sizes), *bucket, 3), np.uint8)  # the padding is garbage, the mask must hide it
    mask = np.zeros(images.shape[:3], bool)
    for i, (h, w) in enumerate(sizes):
        mask[i, :h, :w] = True
    return images, mask


def describe(built, variables, images, mask, method=None):
    return jax.device_get(jax.jit(partial(built.apply, method=method))(variables, images, mask))


@pytest.mark.parametrize(
    ("backbone", "heads"),
    [("resnet18", "both"), ("efficientnet_lite0", "both"), ("dinov2_vits14", "both")]
    + [
        pytest.param(*case, marks=pytest.mark.slow)
        for case in [(f"resnet{depth}", "both") for depth in (50, 101, 152)]
        + [(f"efficientnet_lite{n}", "both") for n in (1, 2)]
        + [("resnet18", name) for name in HEADS if name != "both"]
        + [("efficientnet_lite0", "solar")]
    ],
)
def test_a_padded_photo_has_the_descriptor_it_has_alone(backbone, heads):
    built, variables = network(backbone, heads)
    sizes = {1: ODD_SIZES, 14: ((70, 42),), 32: LITE_SIZES}[built.size_multiple]
    sizes, side = sizes[: 2 if backbone == "resnet18" else 1], 98 if built.size_multiple == 14 else 96
    images, mask = photographs(sizes, (side, side))
    padded = describe(built, variables, images, mask)[0]
    assert padded.shape == (len(sizes), 24) and padded.dtype == jnp.float32
    np.testing.assert_allclose(np.linalg.norm(padded, axis=1), 1, rtol=1e-5)
    for i, (h, w) in enumerate(sizes):
        alone = describe(built, variables, images[i : i + 1, :h, :w], np.ones((1, h, w), bool))[0][0]
        np.testing.assert_allclose(padded[i], alone, atol=1e-5)


class Given(nn.Module):
    """A backbone whose maps are known."""

    maps: dict

    def __call__(self, images, mask, *, train, last_stage):
        return self.maps


@pytest.mark.parametrize("backbone", ["resnet18", pytest.param("efficientnet_lite0", marks=pytest.mark.slow)])
def test_a_padded_photo_pools_to_what_it_does_alone(backbone):
    """One backbone, whose maps all the poolings are given."""
    plain, variables = network(backbone)
    heads = {name: network(backbone, name) for name in POOLS}

    @jax.jit
    def describe_all(images, mask):
        maps = plain.backbone.apply({c: tree["backbone"] for c, tree in variables.items()}, images, mask)
        return {
            name: built.clone(backbone=Given(maps)).apply({"params": own["params"]}, images, mask)[0]
            for name, (built, own) in heads.items()
        }

    h, w = size = (ODD_SIZES if backbone == "resnet18" else LITE_SIZES)[0]
    images, mask = photographs((size,), (96, 96))
    padded = jax.device_get(describe_all(images, mask))
    alone = jax.device_get(describe_all(images[:, :h, :w], mask[:, :h, :w]))
    for name, descriptor in padded.items():
        np.testing.assert_allclose(np.linalg.norm(descriptor, axis=1), 1, rtol=1e-5)
        np.testing.assert_allclose(descriptor, alone[name], atol=1e-5, err_msg=name)
        assert all(np.abs(descriptor - other).max() > 1e-3 for n, other in padded.items() if n != name)


def test_heads_at_rest_are_the_identity():
    """Free refinement starts as the identity, and a smoothing of large bandwidth is one: what is left is GeM."""
    plain, variables = network()
    both, others = network(heads="both, free")
    params = others["params"] | {name: variables["params"][name] for name in ("backbone", "pool")}
    params["refinement"]["restore"] = jax.tree.map(np.zeros_like, params["refinement"]["restore"])
    controls = params["smoothing"]["generator_0"]["controls"]
    controls |= {"kernel": 0 * controls["kernel"], "bias": np.float32([1e6, 1.0])}  # a and c, before softplus
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
    assert 0.99 < float(np.sum(x * y)) < 1 - 1e-7


def test_the_pretrained_backbone_is_what_init_returns():
    config = ModelConfig(whitening_dim=8)
    variables = init_network(build_network(config), config, jax.random.key(0))
    loaded = pretrained("efficientnet_lite0", "auto")
    jax.tree.map(np.testing.assert_array_equal, variables["params"]["backbone"], loaded["params"]["backbone"])
    jax.tree.map(np.testing.assert_array_equal, variables["batch_stats"], loaded["batch_stats"])
    assert set(variables["params"]) == {"backbone", "pool", "whitening"}


@pytest.mark.parametrize("backbone", ["resnet18", pytest.param("efficientnet_lite0", marks=pytest.mark.slow)])
def test_attention_trains_through_the_frozen_stages_behind_it(backbone):
    built, variables = network(backbone, "solar")
    for block in variables["params"]["attention"].values():
        block["f"]["kernel"] *= 1e-3  # a softmax between random features is saturated and has no gradient
    images, mask = map(jnp.asarray, photographs(((64, 64),) * 2, (64, 64)))

    def loss(params):
        x, _ = built.apply(variables | {"params": params}, images, mask, train=True)
        return jnp.sum(x[0] * x[1])

    gradient = jax.device_get(jax.jit(jax.grad(loss))(variables["params"]))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient["backbone"]))
    for stage in ("c4", "c5"):
        for name, unit in gradient["attention"][stage].items():
            assert np.isfinite(unit["kernel"]).all() and np.any(unit["kernel"]), (stage, name)


@pytest.mark.parametrize("heads", ["gem", "solar"])
@pytest.mark.parametrize("backbone", ["resnet18", "efficientnet_lite0"])
def test_from_the_map_of_a_stage_it_goes_on_to_the_same_descriptor(backbone, heads):
    """From that of every stage; with attention after c4 and c5 of those before it."""
    built, variables = network(backbone, heads)
    stages = ["c1", "c2", "c3", "c4", "c5", "last"] if heads == "gem" else ["c3"]

    @jax.jit
    def both(variables, images, mask):
        plain = {kind: tree["backbone"] for kind, tree in variables.items()}
        maps = built.backbone.clone(parent=None).apply(plain, images, mask)
        given = {stage: built.apply(variables, *maps[stage], given=stage) for stage in stages}
        return built.apply(variables, images, mask)[0], {stage: found[0] for stage, found in given.items()}

    sizes = ODD_SIZES if backbone == "resnet18" else LITE_SIZES
    whole, given = jax.device_get(both(variables, *photographs(sizes, (96, 96))))
    assert np.abs(whole[0] - whole[1]).max() > 1e-3
    for stage in stages:
        np.testing.assert_allclose(given[stage], whole, atol=1e-5, err_msg=stage)


def test_a_transformer_goes_on_from_the_map_that_is_pooled_alone():
    built, variables = network("dinov2_vits14", stage="c4")
    images, mask = photographs(((70, 42),), (70, 70))
    whole, seen = describe(built, variables, images, mask)
    given = jax.jit(partial(built.apply, given="c4"))(variables, seen["backbone"], seen["mask"])[0]
    np.testing.assert_allclose(given, whole, atol=1e-5)
    with pytest.raises(UserError, match="dinov2_vits14: a transformer cannot go on from the map of a stage"):
        built.apply(variables, jnp.zeros((1, 5, 5, 384)), jnp.ones((1, 5, 5), bool), given="last")


@pytest.mark.parametrize("backbone", ["resnet18", "efficientnet_lite0"])
def test_the_gradient_is_the_same_from_the_last_map_that_does_not_train(backbone):
    built, variables = network(backbone)
    built = built.clone(backbone=built.backbone.clone(train_from="c5", parent=None))
    images, mask = photographs(((64, 64),) * 2, (64, 64))
    plain = {kind: tree["backbone"] for kind, tree in variables.items()}
    maps = jax.jit(partial(built.backbone.apply, last_stage="c4"))(plain, images, mask)

    def loss(params, images, mask, given):
        x, _ = built.apply(variables | {"params": params}, images, mask, train=True, given=given)
        return jnp.sum(x[0] * x[1])

    gradient = jax.jit(jax.grad(loss), static_argnums=3)
    of_map = jax.device_get(gradient(variables["params"], *maps["c4"], "c4"))
    of_photographs = jax.device_get(gradient(variables["params"], images, mask, ""))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), of_map, of_photographs)
    moved = {name for name, tree in of_map["backbone"].items() if any(np.any(leaf) for leaf in jax.tree.leaves(tree))}
    behind = {"resnet18": {"layer4_0", "layer4_1"}}.get(backbone, {"head", *(f"block{i}" for i in range(11, 16))})
    assert moved == behind and np.any(of_map["whitening"]["kernel"]) and np.any(of_map["pool"]["p"])


def test_how_is_the_weighted_sum_of_its_local_features():
    """Strength of the map, 3 x 3 average without the border, reduction, weighted sum: in loops."""
    built, variables = network(heads="how")
    built, params = built.clone(whitening=None), variables["params"]
    x = np.maximum(np.random.default_rng(0).normal(size=(2, 3, 4, 512)), 0).astype(np.float32)
    images, mask = photographs(((3, 4), (2, 3)), (3, 4))
    given = built.clone(backbone=Given({"last": (jnp.asarray(x), jnp.asarray(mask))}))
    descriptor, seen = describe(given, {"params": {"local": params["local"]}}, images, mask)
    kernel, bias = (np.asarray(params["local"][name], np.float64) for name in ("kernel", "bias"))
    for n, (h, w) in enumerate(((3, 4), (2, 3))):
        total = np.zeros(32)
        for i in range(h):
            for j in range(w):
                window = x[n, max(i - 1, 0) : min(i + 2, h), max(j - 1, 0) : min(j + 2, w)].reshape(-1, 512)
                feature = window.mean(0) @ kernel + bias
                strength = np.sqrt(np.sum(x[n, i, j].astype(np.float64) ** 2) + 1e-10)
                np.testing.assert_allclose(seen["local"]["features"][n, i, j], feature, atol=1e-5)
                np.testing.assert_allclose(seen["local"]["strength"][n, i, j], strength, rtol=1e-5)
                total += strength * feature
        np.testing.assert_allclose(descriptor[n], total / np.linalg.norm(total), atol=1e-5)
    outside = ~mask
    assert not np.any(seen["local"]["features"][outside]) and not np.any(seen["local"]["strength"][outside])
    np.testing.assert_array_equal(seen["local"]["mask"], mask)


def test_every_network_can_have_local_features_of_its_smoothed_map():
    built, variables = network(heads="smoothing", local=LocalConfig(enabled=True, dim=16, window=1))
    _, seen = describe(built, variables, *photographs(((64, 64),), (64, 64)))
    local = jax.device_get(variables["params"]["local"])
    expected = seen["map"] @ local["kernel"] + local["bias"]
    np.testing.assert_allclose(seen["local"]["features"], expected, atol=1e-4)
    np.testing.assert_allclose(seen["local"]["strength"], np.linalg.norm(seen["backbone"], axis=-1), rtol=1e-5)


@pytest.mark.parametrize("heads", ["gem", *POOLS])
@pytest.mark.parametrize("whitening", [True, False])
def test_the_length_of_the_descriptor_is_known_beforehand(heads, whitening):
    config = ModelConfig(backbone="resnet18", whitening=whitening, **(HEADS | POOLS)[heads])
    built = build_network(config)
    maps = {"last": (jnp.zeros((1, 2, 2, 512)), jnp.ones((1, 2, 2), bool))}
    inputs = jax.ShapeDtypeStruct((1, 2, 2, 3), jnp.uint8), jax.ShapeDtypeStruct((1, 2, 2), jnp.bool_)
    init = built.clone(backbone=Given(maps)).init_with_output
    (descriptor, _), _ = jax.eval_shape(init, jax.random.key(0), *inputs)
    assert descriptor.shape == (1, descriptor_length(config))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"attention": AttentionConfig(("c4", "last"))}, "attention.stages: resnet18, .*none after 'last'; .* c4, c5"),
        ({"attention": AttentionConfig(("c5",)), "stage": "c4"}, "pooled at 'c4', has none after 'c5'; choose from c4"),
        ({"backbone": "efficientnet_lite0", "relu_floor": 0.014}, "relu_floor: efficientnet_lite0 has no such ReLUs"),
    ],
)
def test_what_a_backbone_does_not_have_names_the_field(fields, message):
    with pytest.raises(UserError, match=message):
        build_network(ModelConfig(**{"backbone": "resnet18"} | fields))


def test_the_floor_of_the_relus_holds_in_the_first_three_layers():
    built, variables = network(relu_floor=0.014)
    plain, _ = network()
    images, mask = photographs(((64, 64),), (64, 64))
    backbone = {c: tree["backbone"] for c, tree in variables.items()}
    maps, usual = (describe(n.backbone.clone(parent=None), backbone, images, mask) for n in (built, plain))
    for stage in ("c2", "c3", "c4"):
        assert np.isclose(maps[stage][0].min(), 0.014) and usual[stage][0].min() == 0
    assert maps["c1"][0].min() == maps["c5"][0].min() == 0
    np.testing.assert_array_equal(maps["c1"][0], usual["c1"][0])
