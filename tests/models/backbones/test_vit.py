"""DINOv2's vision transformer: equal to torch's, blind to padding, positions resampled to each photograph's grid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sret_jax.config import ModelConfig
from sret_jax.data.resizing import bucket_shapes, choose_bucket, content_size
from sret_jax.errors import UserError
from sret_jax.models.backbones import BACKBONES, build_backbone
from sret_jax.models.backbones.positions import RESAMPLING, learned_positions, resampling
from sret_jax.models.backbones.vit import VisionTransformer
from sret_jax.models.backbones.vit_specs import SPECS
from sret_jax.models.descriptor import build_network
from sret_jax.models.weights.file import read_weights, write_weights

SMALL, REGISTERS = "dinov2_vits14", "dinov2_vits14_reg"
GRID = 37


def _photos(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(0, 256, (*shape, 3)), jnp.uint8)


@pytest.fixture
def tiny(monkeypatch):
    """name -> a network of two narrow blocks, and variables whose every part shows in the result."""

    def make(name, **options):
        monkeypatch.setitem(SPECS, "tiny", SPECS[name]._replace(width=24, depth=2, heads=2))
        network, rng = VisionTransformer("tiny", **options), np.random.default_rng(1)
        image, mask = jax.ShapeDtypeStruct((1, 28, 28, 3), jnp.uint8), jax.ShapeDtypeStruct((1, 28, 28), jnp.bool_)

        def draw(path, leaf):
            kind = path[-1].key
            if kind.startswith(("gamma", "scale", "image")):
                return jnp.asarray(rng.uniform(0.2, 1, leaf.shape), jnp.float32)
            deviation = 0.5 if kind in ("positions", "class_token", "registers") else 0.2
            return jnp.asarray(deviation * rng.normal(size=leaf.shape), jnp.float32)

        return network, jax.tree_util.tree_map_with_path(
            draw, jax.eval_shape(network.init, jax.random.key(0), image, mask)
        )

    return make


def _run(network, variables, images, mask, **options):
    quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    run = jax.jit(lambda v, x, m: network.apply(v, x, m, **options), compiler_options=quick)
    return run(variables, images, mask)


def _cubic(t, a):
    t = abs(t)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0


def _resampled(stored, count, kind):
    """One axis, tap by tap."""
    out = np.zeros((count, stored.shape[1]))
    for i in range(count):
        if kind == "antialias":
            step = GRID / count
            centre, wide = step * (i + 0.5), max(step, 1.0)
            taps = [j for j in range(GRID) if abs(j + 0.5 - centre) < 2 * wide]
            weights = [_cubic((j + 0.5 - centre) / wide, -0.5) for j in taps]
            weights = [w / sum(weights) for w in weights]
        elif kind == "bilinear":
            centre = min(max(GRID / count * (i + 0.5) - 0.5, 0), GRID - 1)
            taps = [int(centre), min(int(centre) + 1, GRID - 1)]
            weights = [1 - centre % 1, centre % 1]
        else:
            centre = GRID / (count + 0.1 * (kind == "offset")) * (i + 0.5) - 0.5
            first = int(np.floor(centre)) - 1
            taps = [min(max(j, 0), GRID - 1) for j in range(first, first + 4)]
            weights = [_cubic(j - centre, -0.75) for j in range(first, first + 4)]
        for j, w in zip(taps, weights, strict=True):
            out[i] += w * stored[j]
    return out


@pytest.mark.parametrize("kind", RESAMPLING)
def test_resampling_equals_loops(kind):
    """Fewer positions than stored, more, one only, and as many."""
    stored, counts = np.random.default_rng(0).normal(size=(GRID, 2)), [1, 3, 16, 37, 50]
    weights = np.asarray(jax.jit(lambda n: resampling(n, 50, grid=GRID, kind=kind))(jnp.array(counts)))
    for count, w in zip(counts, weights, strict=True):
        np.testing.assert_allclose(w[:count] @ stored, _resampled(stored, count, kind), atol=1e-4)
        np.testing.assert_allclose(w[:count].sum(1), 1, atol=1e-5)


@pytest.mark.parametrize("kind", RESAMPLING)
def test_positions_are_those_of_each_photographs_own_grid(kind):
    stored = jnp.asarray(np.random.default_rng(0).normal(size=(GRID, GRID, 3)), jnp.float32)
    mask = np.zeros((3, 40, 38), bool)
    for i, (h, w) in enumerate(((37, 37), (5, 38), (40, 9))):
        mask[i, :h, :w] = True
    found = np.asarray(
        jax.jit(lambda x, m: learned_positions(x, m, kind=RESAMPLING.index(kind)))(stored, jnp.asarray(mask))
    )
    np.testing.assert_allclose(found[0, :37, :37], stored, atol=1e-5)  # as it is stored
    for i, (h, w) in ((1, (5, 38)), (2, (40, 9))):
        down = np.stack([_resampled(np.asarray(stored)[:, n], h, kind) for n in range(GRID)], 1)
        both = np.stack([_resampled(row, w, kind) for row in down])
        np.testing.assert_allclose(found[i, :h, :w], both, atol=2e-4)


def test_padding_far_behind_a_photograph_is_invisible():
    """Where no stored position is near the padding's, which has to be a number all the same."""
    mask = jnp.zeros((1, 40, 40), bool).at[:, :2, :].set(True)
    found = learned_positions(jnp.ones((GRID, GRID, 2)), mask, kind=RESAMPLING.index("antialias"))
    assert np.isfinite(found).all()


@pytest.mark.parametrize("name", [SMALL, REGISTERS])
def test_padding_is_invisible(name, tiny):
    network, variables = tiny(name)
    sizes, bucket = ((56, 42), (28, 70)), (56, 70)
    images, mask = _photos(2, *bucket), np.zeros((2, *bucket), bool)  # garbage in the padding
    for i, (h, w) in enumerate(sizes):
        mask[i, :h, :w] = True
    padded = _run(network, variables, images, jnp.asarray(mask))
    for i, (h, w) in enumerate(sizes):
        alone = _run(network, variables, images[i : i + 1, :h, :w], jnp.ones((1, h, w), bool))
        for stage, (values, inside) in alone.items():
            rows, columns = values.shape[1:3]
            assert inside.all() and 0.1 < np.abs(values).max() < 100
            np.testing.assert_allclose(padded[stage][0][i, :rows, :columns], values[0], atol=1e-5, rtol=1e-5)
            outside = np.ones(padded[stage][1].shape[1:], bool)
            outside[:rows, :columns] = False
            np.testing.assert_array_equal(padded[stage][1][i], ~outside)
            assert not np.asarray(padded[stage][0][i])[outside].any()


@pytest.mark.parametrize(("train_from", "trains"), [("c4", True), ("c5", False), ("none", None)])
def test_only_the_blocks_from_train_from_get_a_gradient(train_from, trains, tiny):
    """To train from c4 is to train all; from c5 the second half."""
    network, variables = tiny(SMALL, train_from=train_from)

    def loss(params):
        maps = network.apply(variables | {"params": params}, _photos(1, 28, 28), jnp.ones((1, 28, 28), bool))
        return (maps["last"][0] ** 3).mean() + (maps["keys"][0] ** 2).mean()

    gradient = jax.jit(jax.grad(loss))(variables["params"])
    moved = {unit for unit, tree in gradient.items() if any(np.any(g) for g in jax.tree.leaves(tree))}
    assert moved == {True: set(gradient), False: {"block1", "norm"}, None: set()}[trains]


@pytest.mark.parametrize("name", ["dinov2_vitb14", "dinov2_vitb14_reg", "dinov2_vitl14", "dinov2_vitl14_reg"])
def test_shapes_of_the_larger_ones(name):
    info, network = BACKBONES[name], build_backbone(name)
    image, mask = jax.ShapeDtypeStruct((1, 28, 42, 3), jnp.uint8), jax.ShapeDtypeStruct((1, 28, 42), jnp.bool_)
    maps, variables = jax.eval_shape(lambda *x: network.init_with_output(jax.random.key(0), *x), image, mask)
    for stage, stride in info.stages.items():
        assert maps[stage][0].shape == (1, *((2, 3) if stride else (1, 1)), info.channels[stage])
    count = sum(np.prod(v.shape) for v in jax.tree.leaves(variables["params"]))
    published = {"b": 86_580_480, "l": 304_368_640}[name[10]]  # parameters of the released networks
    assert count == published - info.channels["c4"] + (4 * info.channels["c4"] if name.endswith("reg") else 0)


def test_sizes_of_which_14_is_no_divisor_are_refused():
    with pytest.raises(UserError, match="30x28 images; resize to multiples of 14"):
        build_backbone(SMALL).init(jax.random.key(0), jnp.zeros((1, 30, 28, 3)), jnp.ones((1, 30, 28), bool))


@pytest.mark.parametrize(("fields", "train_from"), [({"stage": "c3"}, "none"), ({}, "c2")])
def test_stages_that_it_does_not_have_are_refused(fields, train_from):
    with pytest.raises(UserError, match="'c[23]': dinov2_vits14 has .*c4, c5, last, keys, cls"):
        build_network(ModelConfig(backbone=SMALL, **fields), train_from=train_from)


def test_contents_and_buckets_are_multiples_of_14():
    multiple = BACKBONES[SMALL].size_multiple
    buckets = bucket_shapes(518, (0.75,), multiple)
    assert buckets == [(392, 518), (518, 392), (518, 518)]
    assert choose_bucket(content_size((1000, 1333), 518, multiple), buckets) == (392, 518)


@pytest.mark.parity
@pytest.mark.parametrize(
    ("name", "layout", "suffix"),
    [
        (SMALL, "dinov2", ".pth"),
        (REGISTERS, "dinov2", ".safetensors"),
        (SMALL, "timm", ".safetensors"),
        (REGISTERS, "timm", ".pth"),
        pytest.param("dinov2_vitb14", "dinov2", ".safetensors", marks=pytest.mark.slow),
    ],
)
def test_equals_the_torch_network(name, layout, suffix, tmp_path):
    """Every map, with the weights read from a file as it is published."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    from tests.support.torch_vit import TimmVisionTransformer, VisionTransformer, random_vit

    kind = TimmVisionTransformer if layout == "timm" else VisionTransformer
    reference, path = random_vit(name[10], name.endswith("reg"), kind=kind), tmp_path / f"vit{suffix}"
    (torch.save if suffix == ".pth" else save_file)(reference.state_dict(), path)
    images = _photos(2, 56, 98)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = reference(((torch.tensor(np.asarray(images)) / 255 - mean) / deviation).movedim(3, 1))
    weights = read_weights(path)
    assert (weights.backbone, weights.layout) == (name, layout)
    if layout == "timm":  # how it resamples is kept when the file is converted
        write_weights(tmp_path / "own.safetensors", weights)
        weights = read_weights(tmp_path / "own.safetensors")
    variables = {collection: tree["backbone"] for collection, tree in weights.variables.items()}
    maps = _run(build_backbone(name), variables, images, jnp.ones((2, 56, 98), bool))
    for stage, values in expected.items():
        ours, theirs = np.asarray(maps[stage][0]), values.numpy()
        np.testing.assert_allclose(ours, theirs, atol=2e-4)
        a, b = ours.reshape(-1, ours.shape[-1]), theirs.reshape(-1, ours.shape[-1])
        cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert cosine.min() > 0.99999
    np.testing.assert_array_equal(maps["c5"][0], maps["last"][0])
