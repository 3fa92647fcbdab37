"""Backbones: equal to the torch definitions, blind to padding, trained only where asked."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sret_jax.errors import UserError
from sret_jax.models.backbones import BACKBONES, build_backbone
from sret_jax.models.backbones.layers import (
    convolution,
    depthwise,
    masked_statistics,
    max_pool,
    pointwise,
    same_padding,
)
from sret_jax.models.weights.pretrained import pretrained

LITE, RESNET = "efficientnet_lite0", "resnet18"


def _photos(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3)).astype(np.uint8)


def _run(network, variables, images, mask, **options):
    return jax.device_get(jax.jit(lambda v, x, m: network.apply(v, x, m, **options))(variables, images, mask))


def _backbone(variables):
    return {collection: tree["backbone"] for collection, tree in variables.items()}


@pytest.fixture(scope="module")
def random_variables():
    """name -> random variables, made once. They are drawn here, because compiling the initialisers takes long."""
    made = {}

    def make(name):
        if name not in made:
            images, mask = jnp.zeros((1, 32, 32, 3)), jnp.ones((1, 32, 32), bool)
            rng = np.random.default_rng(1)
            ranges = {"scale": (0.5, 1.0), "bias": (-0.5, 0.5), "mean": (-0.2, 0.2), "var": (0.8, 1.2)}

            def draw(path, leaf):
                if path[-1].key in ranges:
                    return np.float32(rng.uniform(*ranges[path[-1].key], leaf.shape))
                return np.float32(np.sqrt(2 / np.prod(leaf.shape[:-1])) * rng.normal(size=leaf.shape))

            shapes = jax.eval_shape(build_backbone(name).init, jax.random.key(0), images, mask)
            made[name] = jax.device_put(jax.tree_util.tree_map_with_path(draw, shapes))
        return made[name]

    return make


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_depthwise_formulations_agree(kernel, stride):
    rng = np.random.default_rng(0)
    x = np.float32(rng.normal(size=(2, 12, 9, 7)))
    weights = np.float32(rng.normal(size=(kernel, kernel, 1, 7)))
    padding = same_padding((12, 9), kernel, stride)

    def loss(x, weights, shifted):
        y = depthwise(x, weights, stride=stride, padding=padding, shifted=shifted)
        return (y**2).sum(), y

    gradient = jax.jit(jax.grad(loss, (0, 1), has_aux=True), static_argnames="shifted")
    results = [gradient(x, weights, shifted=shifted) for shifted in (True, False)]
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4, rtol=1e-5)


def test_pointwise_is_the_1x1_convolution():
    rng = np.random.default_rng(0)
    x, kernel = np.float32(rng.normal(size=(2, 5, 4, 6))), np.float32(rng.normal(size=(1, 1, 6, 8)))
    reference = jax.jit(partial(convolution, stride=1, padding=((0, 0), (0, 0))))(x, kernel)
    np.testing.assert_allclose(jax.jit(pointwise)(x, kernel), reference, atol=1e-5)


def test_same_padding_puts_the_odd_row_last():
    assert same_padding((8, 9), 3, 2) == ((0, 1), (1, 1))
    assert same_padding((8, 8), 5, 2) == ((1, 2), (1, 2))
    assert same_padding((8, 8), 5, 1) == ((2, 2), (2, 2))


def test_max_pool_equals_loops():
    x = np.abs(np.random.default_rng(0).normal(size=(1, 7, 6, 2))).astype(np.float32)
    expected = np.zeros((1, 4, 3, 2), np.float32)
    for i in range(4):
        for j in range(3):
            expected[:, i, j] = x[:, max(2 * i - 1, 0) : 2 * i + 2, max(2 * j - 1, 0) : 2 * j + 2].max((1, 2))
    np.testing.assert_array_equal(jax.jit(max_pool)(x), expected)


def test_masked_statistics_equal_those_of_the_valid_positions():
    rng = np.random.default_rng(0)
    x, mask = rng.normal(3, 2, size=(4, 5, 6, 3)).astype(np.float32), rng.random((4, 5, 6)) < 0.6
    mean, variance = jax.jit(masked_statistics)(x, mask)
    np.testing.assert_allclose(mean, x[mask].mean(0), rtol=1e-5)
    np.testing.assert_allclose(variance, x[mask].var(0), rtol=1e-5)
    statistics = jax.pmap(lambda x, m: masked_statistics(x, m, axis_name="batch"), "batch")
    shards = jax.device_get(statistics(x[:, None], mask[:, None]))
    for device_mean, device_variance in zip(*shards, strict=True):
        np.testing.assert_allclose(device_mean, mean, rtol=1e-6)
        np.testing.assert_allclose(device_variance, variance, rtol=1e-6)


@pytest.mark.parametrize("name", BACKBONES)
def test_info_is_what_the_network_returns(name):
    info = BACKBONES[name]
    height, width = (56, 84) if info.size_multiple == 14 else (64, 96)
    images = jax.ShapeDtypeStruct((2, height, width, 3), jnp.uint8)
    mask = jax.ShapeDtypeStruct((2, height, width), jnp.bool_)
    network, last = build_backbone(name), list(info.stages)[-1]
    maps, _ = jax.eval_shape(
        lambda x, m: network.init_with_output(jax.random.key(0), x, m, last_stage=last), images, mask
    )
    assert set(maps) == set(info.stages) == set(info.channels)
    for stage, (values, inside) in maps.items():
        stride = info.stages[stage]
        size = (height // stride, width // stride) if stride else (1, 1)
        assert values.shape == (2, *size, info.channels[stage])
        assert inside.shape == values.shape[:3]


# The Lite networks are exact at multiples of 32, the ResNets at every size.
@pytest.mark.parametrize(
    ("name", "sizes", "bucket"),
    [(LITE, ((64, 32),), (64, 64)), (RESNET, ((61, 33), (44, 63)), (64, 64))],
)
def test_padding_is_invisible(name, sizes, bucket, random_variables):
    network, variables = build_backbone(name), random_variables(name)
    images, mask = _photos(len(sizes), *bucket), np.zeros((len(sizes), *bucket), bool)  # garbage in the padding
    for i, (h, w) in enumerate(sizes):
        mask[i, :h, :w] = True
    padded = _run(network, variables, images, mask)
    for i, (h, w) in enumerate(sizes):
        alone = _run(network, variables, images[i : i + 1, :h, :w], np.ones((1, h, w), bool))
        for stage, (values, inside) in alone.items():
            assert inside.all()
            assert np.abs(values).max() < 100, "the test's maps should have a sane scale"
            rows, columns = values.shape[1:3]
            np.testing.assert_allclose(padded[stage][0][i, :rows, :columns], values[0], atol=1e-5, rtol=1e-5)
            outside = np.ones(padded[stage][1].shape[1:], bool)
            outside[:rows, :columns] = False
            np.testing.assert_array_equal(padded[stage][1][i], ~outside)
            assert not np.asarray(padded[stage][0][i])[outside].any(), "outside the mask the map is exactly zero"


def test_a_large_batch_equals_its_photographs_one_by_one(random_variables):
    """Four photographs travel in two groups, three one at a time, and where the backbone trains all at once."""
    variables, images, mask = random_variables(RESNET), _photos(4, 32, 64), np.ones((4, 32, 64), bool)
    mask[2, :, 40:] = False
    expected = _run(build_backbone(RESNET, train_from="c5"), variables, images, mask, train=True)
    for count in (4, 3):
        maps = _run(build_backbone(RESNET), variables, images[:count], mask[:count])
        for stage, (values, inside) in maps.items():
            np.testing.assert_allclose(values, expected[stage][0][:count], atol=1e-5, rtol=1e-5)
            np.testing.assert_array_equal(inside, expected[stage][1][:count])


def test_lite_refuses_sizes_at_which_padding_would_show():
    with pytest.raises(UserError, match="48x64 images; resize to multiples of 32"):
        build_backbone(LITE).init(jax.random.key(0), jnp.zeros((1, 48, 64, 3)), jnp.ones((1, 48, 64), bool))


@pytest.mark.parametrize("name", [LITE, RESNET])
def test_nothing_is_computed_beyond_the_last_stage(name):
    network, args = build_backbone(name), (jnp.zeros((1, 32, 32, 3)), jnp.ones((1, 32, 32), bool))
    maps, variables = jax.eval_shape(lambda: network.init_with_output(jax.random.key(0), *args, last_stage="c3"))
    assert list(maps) == ["c1", "c2", "c3"]
    assert not {"block5", "layer3_0", "head"} & set(variables["params"])


@pytest.mark.parametrize(
    ("name", "train_from", "trained"),
    [
        (LITE, "c5", {"block11", "block12", "block13", "block14", "block15", "head"}),
        (RESNET, "last", {"layer4_0", "layer4_1"}),
        (RESNET, "all", None),
    ],
)
def test_only_the_stages_from_train_from_get_a_gradient(name, train_from, trained, random_variables):
    variables = random_variables(name)
    network = build_backbone(name, train_from=train_from)
    images, mask = map(jnp.asarray, (_photos(1, 64, 64), np.ones((1, 64, 64), bool)))

    def loss(params):
        maps = network.apply(variables | {"params": params}, images, mask)
        return sum((values**2).mean() for values, _ in maps.values())

    gradient = jax.device_get(jax.jit(jax.grad(loss))(variables["params"]))
    moved = {unit for unit, tree in gradient.items() if any(np.any(g) for g in jax.tree.leaves(tree))}
    assert moved == (set(gradient) if trained is None else trained)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))


def test_updated_statistics_are_those_of_the_global_batch(random_variables):
    """On four devices whose photographs have differing sizes, as on one, and only in the stages that train."""
    variables = random_variables(RESNET)
    network = build_backbone(RESNET, train_from="c5", batch_stats="updated")
    images, mask = _photos(4, 64, 64), np.zeros((4, 64, 64), bool)
    for i in range(4):
        mask[i, : 64 - 9 * i, : 33 + 7 * i] = True

    def step(variables, images, mask):
        maps, state = network.apply(variables, images, mask, train=True, mutable=["batch_stats"])
        return maps["last"][0], state["batch_stats"]

    step = jax.pmap(step, "batch", in_axes=(None, 0, 0))
    one, stats_one = jax.device_get(step(variables, images[None], mask[None]))
    four, stats_four = jax.device_get(step(variables, images[:, None], mask[:, None]))
    np.testing.assert_allclose(four[:, 0], one[0], atol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[3], b[0], atol=1e-5), stats_four, stats_one)
    before = variables["batch_stats"]
    for unit in before:
        same = jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b[0]), before[unit], stats_one[unit]))
        assert same == (not unit.startswith("layer4"))


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters(random_variables):
    network, variables = build_backbone(RESNET, dtype=jnp.bfloat16), random_variables(RESNET)
    images, mask = _photos(1, 64, 64), np.ones((1, 64, 64), bool)
    coarse = _run(network, variables, images, mask)["last"][0]
    exact = _run(build_backbone(RESNET), variables, images, mask)["last"][0]
    assert coarse.dtype == jnp.bfloat16
    assert np.linalg.norm(coarse.astype(np.float32) - exact) < 0.03 * np.linalg.norm(exact)
    shapes = jax.eval_shape(network.init, jax.random.key(0), *map(jnp.asarray, (images, mask)))
    assert all(v.dtype == jnp.float32 for v in jax.tree.leaves(shapes))


@pytest.mark.parametrize(("name", "weights"), [("resnet50", "auto"), ("vgg16", "auto"), (LITE, "/nowhere.pth")])
def test_unusable_choices_name_the_remedy(name, weights):
    with pytest.raises(UserError, match="checkpoint file|choose one of|check the path"):
        pretrained(name, weights)
