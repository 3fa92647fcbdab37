"""The smoothing equation against four loops, its limits, its gradient, and what padding may not change."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sret_jax.models.smoothing import LearnableSmoothing, smooth


def smooth_in_loops(x, f, a, c, window, dilation, mask):
    """The equation, position by position, in float64."""
    x, f, a, c = (np.asarray(z, np.float64) for z in (x, f, a, c))
    b, h, w, _ = x.shape
    reach = window // 2
    out = np.zeros_like(x)
    for n in range(b):
        for i in range(h):
            for j in range(w):
                if not mask[n, i, j]:
                    continue
                total = 1e-10
                for di in range(-reach, reach + 1):
                    for dj in range(-reach, reach + 1):
                        u, v = i + di * dilation, j + dj * dilation
                        if not (0 <= u < h and 0 <= v < w) or not mask[n, u, v]:
                            continue
                        centre = di == 0 and dj == 0
                        weight = c[n, i, j] if centre else np.exp(-a[n, i, j] * np.sum((f[n, i, j] - f[n, u, v]) ** 2))
                        out[n, i, j] += weight * x[n, u, v]
                        total += weight
                out[n, i, j] /= total
    return out


def smooth_by_gather(x, f, a, c, window, dilation, mask):
    """K^2 copies and autodiff: the reference of the gradient."""
    b, h, w, _ = x.shape
    offsets = (np.arange(window) - window // 2) * dilation
    rows = np.arange(h)[:, None, None, None] + offsets[:, None]
    columns = np.arange(w)[:, None, None] + offsets
    rows, columns = (z.reshape(h, w, -1) for z in np.broadcast_arrays(rows, columns))
    inside = (rows >= 0) & (rows < h) & (columns >= 0) & (columns < w)
    rows, columns = rows.clip(0, h - 1), columns.clip(0, w - 1)
    weights = jnp.exp(-a[..., None] * jnp.sum((f[:, :, :, None] - f[:, rows, columns]) ** 2, -1))
    weights = jnp.where(np.arange(window**2) == window**2 // 2, c[..., None], weights)
    weights = jnp.where(inside[None] & mask[..., None] & mask[:, rows, columns], weights, 0)
    weights = weights / (1e-10 + weights.sum(-1, keepdims=True))
    return jnp.einsum("bhwk,bhwkc->bhwc", weights, x[:, rows, columns])


smoothed = jax.jit(smooth, static_argnames=("window", "dilation"))


@partial(jax.jit, static_argnames=("function", "outer", "window", "dilation"))
def gradients(args, g, mask, function=smooth, outer=lambda y: y, window=3, dilation=1):
    """Of the sum of g * outer(y) with respect to x, f, a and c."""

    def loss(*z):
        return jnp.sum(g * outer(function(*z, window=window, dilation=dilation, mask=mask)))

    return jax.grad(loss, (0, 1, 2, 3))(*args)


def example(seed=0, shape=(2, 5, 7), channels=6, kernel_dim=3):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(*shape, channels)).astype(np.float32)
    f = rng.normal(size=(*shape, kernel_dim)).astype(np.float32)
    a, c = rng.uniform(0.05, 1.5, size=(2, *shape)).astype(np.float32)
    mask = np.ones(shape, bool)
    mask[0, shape[1] - 1 :] = mask[0, :, shape[2] - 2 :] = False
    return (x, f, a, c), mask


CASES = [
    ((2, 5, 7), 3, 1),
    ((2, 5, 7), 5, 1),
    ((2, 5, 7), 3, 2),
    ((2, 2, 3), 7, 1),  # window larger than the map
    ((2, 4, 3), 3, 9),  # every neighbour outside
    ((2, 5, 7), 1, 1),
    ((2, 1, 9), 3, 1),
    ((2, 35, 17), 3, 2),  # several blocks, the last one incomplete
]


@pytest.mark.parametrize("shape, window, dilation", CASES)
def test_smooth_equals_the_equation_written_as_loops(shape, window, dilation):
    args, mask = example(shape=shape)
    ours = smoothed(*args, window=window, dilation=dilation, mask=mask)
    np.testing.assert_allclose(ours, smooth_in_loops(*args, window, dilation, mask), atol=2e-6)
    assert not np.asarray(ours)[~mask].any()


@pytest.mark.parametrize("shape, window, dilation", CASES)
def test_gradient_equals_autodiff_of_the_gather(shape, window, dilation):
    args, mask = example(1, shape)
    g = np.random.default_rng(2).normal(size=args[0].shape).astype(np.float32)

    ours, reference = (
        gradients(args, g, mask, function=function, outer=jnp.sin, window=window, dilation=dilation)
        for function in (smooth, smooth_by_gather)
    )
    for name, u, v in zip("xfac", ours, reference, strict=True):
        np.testing.assert_allclose(u, v, atol=1e-5, err_msg=name)


def test_gradient_equals_finite_differences():
    args, mask = example(3, (1, 3, 4))
    exact = [np.asarray(z, np.float64) for z in args]
    g = np.random.default_rng(4).normal(size=args[0].shape)

    def loss(*z):
        return np.sum(g * smooth_in_loops(*z, 3, 1, mask))

    ours = gradients(args, g.astype(np.float32), mask)
    rng = np.random.default_rng(5)
    for i, z in enumerate(exact):
        direction = rng.normal(size=z.shape)
        ahead, behind = (loss(*exact[:i], z + s * 1e-5 * direction, *exact[i + 1 :]) for s in (1, -1))
        np.testing.assert_allclose(np.sum(ours[i] * direction), (ahead - behind) / 2e-5, rtol=1e-3, atol=1e-4)


def test_no_mask_is_a_full_mask():
    args, mask = example()
    np.testing.assert_array_equal(smoothed(*args, window=3), smoothed(*args, window=3, mask=np.ones(mask.shape, bool)))


def test_zero_bandwidth_is_the_average_without_the_border():
    (x, f, a, c), _ = example()
    ones = np.ones(x.shape[:3])
    pad = [(0, 0), (1, 1), (1, 1)]
    sums = np.lib.stride_tricks.sliding_window_view(np.pad(x, [*pad, (0, 0)]), (3, 3), (1, 2)).sum((-1, -2))
    counts = np.lib.stride_tricks.sliding_window_view(np.pad(ones, pad), (3, 3), (1, 2)).sum((-1, -2))
    ours = smoothed(x, f, 0 * a, 0 * c + 1, window=3)
    np.testing.assert_allclose(ours, sums / counts[..., None], atol=1e-6)


def test_large_bandwidth_is_the_identity():
    (x, f, a, c), mask = example()
    ours = smoothed(x, f, np.full_like(a, 1e6), c, window=5, mask=mask)
    np.testing.assert_allclose(ours, np.where(mask[..., None], x, 0), atol=1e-6)


def test_window_one_is_the_identity():
    (x, f, a, c), mask = example()
    np.testing.assert_allclose(smoothed(x, f, a, c, window=1, mask=mask), np.where(mask[..., None], x, 0), atol=1e-6)


def test_no_confidence_leaves_the_centre_out():
    (x, f, a, c), _ = example()
    moved = x.copy()
    moved[:, 2, 3] += 100
    after, before = (np.asarray(smoothed(z, f, a, 0 * c, window=3)) for z in (moved, x))
    change = np.abs(after - before).max(-1)
    assert not change[:, 2, 3].any()
    assert (change[:, 1:4, 2:5] > 0).sum() == 2 * 8


def test_what_lies_outside_the_mask_never_contributes():
    (x, f, a, c), mask = example()
    outside = ~mask
    ours = smoothed(x, f, a, c, window=5, mask=mask)
    for z in (x, f, a, c):
        z[outside] = 1e4
    np.testing.assert_array_equal(smoothed(x, f, a, c, window=5, mask=mask), ours)


def test_even_window_is_refused():
    args, mask = example()
    with pytest.raises(ValueError, match="odd"):
        smoothed(*args, window=4, mask=mask)


@pytest.mark.parametrize("a_value", [0.0, 1e-30, 1e3, 1e30])
@pytest.mark.parametrize("c_value", [0.0, 1e-12, 1e6])
def test_gradient_is_finite_at_the_extremes(a_value, c_value):
    (x, f, a, c), mask = example()
    args = x, f, np.full_like(a, a_value), np.full_like(c, c_value)
    for z in gradients(args, np.float32(1), mask, outer=jnp.square):
        assert np.isfinite(z).all()


def test_bfloat16_map_keeps_its_type_and_is_summed_in_float32():
    (x, f, a, c), mask = example()
    x = x.astype(jnp.bfloat16)
    ours = np.asarray(smoothed(x, f, a, c, window=5, mask=mask))
    assert ours.dtype == jnp.bfloat16
    rounded = x.astype(np.float32)
    reference = smooth_in_loops(rounded, f, a, c, 5, 1, mask)
    np.testing.assert_allclose(ours.astype(np.float32), reference, atol=2**-8 * np.abs(reference).max())


@pytest.fixture
def optimized():
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.mark.parametrize("gradient", [False, True])
def test_the_map_is_never_copied_for_each_neighbour(gradient, optimized):
    x, f, a = (jax.ShapeDtypeStruct(s, np.float32) for s in ((8, 16, 16, 1280), (8, 16, 16, 16), (8, 16, 16)))

    def step(x, f, a, c, g):
        y, pullback = jax.vjp(lambda *z: smooth(*z, window=5), x, f, a, c)
        return (y, pullback(g)) if gradient else y

    temporary = jax.jit(step).lower(x, f, a, a, x).compile().memory_analysis().temp_size_in_bytes
    assert temporary <= 3 * 4 * np.prod(x.shape)


@partial(jax.jit, static_argnums=0)
def initialised(layer, x):
    return layer.init(jax.random.key(0), x, jnp.ones(x.shape[:3], bool))


@partial(jax.jit, static_argnums=0)
def applied(layer, variables, x, mask):
    return layer.apply(variables, x, mask)


def module(x, **fields):
    layer = LearnableSmoothing(**fields)
    return layer, jax.device_get(initialised(layer, x))


def positive_map(seed=0, shape=(2, 7, 9), channels=64, scale=1.0):
    """Blurred and clipped noise: neighbours alike, as in a map after a ReLU."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(shape[0], shape[1] + 2, shape[2] + 2, channels))
    blurred = sum(noise[:, i : i + shape[1], j : j + shape[2]] for i in range(3) for j in range(3)) / 3
    return np.float32(scale * np.maximum(blurred, 0))


@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e2])
@pytest.mark.parametrize("start, bound", [("identity", 0.03), ("average", 0.02)])
def test_before_training_it_is_close_to_what_start_names(start, bound, scale):
    x = positive_map(scale=scale)
    mask = np.ones(x.shape[:3], bool)
    layer, variables = module(x, start=start)
    y, maps = applied(layer, variables, x, mask)
    zero, one = np.zeros_like(x[..., 0]), np.ones_like(x[..., 0])
    named = x if start == "identity" else smoothed(x, x[..., :1], zero, one, window=3)
    error = np.linalg.norm(y - named) / np.linalg.norm(named)
    assert 0 < error < bound
    np.testing.assert_allclose(maps["a"], {"identity": 3, "average": 0.01}[start], rtol=1e-4)
    np.testing.assert_allclose(maps["c"], 1, rtol=1e-5)


@pytest.mark.parametrize("learned", ["bandwidth", "confidence"])
def test_what_is_not_learned_stays_as_it_starts(learned):
    x = positive_map()
    mask = np.ones(x.shape[:3], bool)
    layer, variables = module(x, bandwidth=learned == "bandwidth", confidence=learned == "confidence")
    moved = jax.tree.map(lambda v: v + np.float32(0.1), variables)
    maps = applied(layer, moved, x, mask)[1]
    kept, changed = ("c", "a") if learned == "bandwidth" else ("a", "c")
    start = {"a": 3.0, "c": 1.0}
    np.testing.assert_array_equal(maps[kept], start[kept])
    assert np.abs(np.asarray(maps[changed]) - start[changed]).min() > 0.01


@pytest.mark.parametrize("start", ["identity", "average"])
def test_every_parameter_receives_a_gradient(start):
    x = positive_map()
    mask = np.ones(x.shape[:3], bool)
    layer, variables = module(x, start=start, iterations=2)
    target = positive_map(1)

    def loss(variables, x, mask):
        return jnp.sum((layer.apply(variables, x, mask)[0] - target) ** 2)

    gradient = jax.device_get(jax.jit(jax.grad(loss))(variables, x, mask))
    # The feature's bias moves all f alike, so it alone has no say but at the border of the photo.
    for path, g in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(g).all()
        if "bias" not in jax.tree_util.keystr(path) or "feature" not in jax.tree_util.keystr(path):
            assert np.abs(g).max() > 1e-4, jax.tree_util.keystr(path)


@pytest.mark.parametrize("size", [(4, 5), (7, 3), (1, 1)])
def test_padding_is_invisible(size):
    x = positive_map()
    mask = np.zeros(x.shape[:3], bool)
    mask[:, : size[0], : size[1]] = True
    x = np.where(mask[..., None], x, 0)
    layer, variables = module(x, iterations=2, dilation=2)
    rng = np.random.default_rng(1)
    variables = jax.tree.map(lambda z: np.float32(z + 0.1 * rng.normal(size=z.shape)), variables)
    alone = x[:, : size[0], : size[1]]
    y, maps = jax.device_get(applied(layer, variables, x, mask))
    y_alone, maps_alone = applied(layer, variables, alone, np.ones(alone.shape[:3], bool))
    np.testing.assert_allclose(y[:, : size[0], : size[1]], y_alone, atol=1e-5)
    for name in maps:
        np.testing.assert_allclose(maps[name][:, : size[0], : size[1]], maps_alone[name], atol=1e-5)
    assert not y[~mask].any()


def test_it_is_free_of_the_scale_of_the_map():
    x = positive_map()
    mask = np.ones(x.shape[:3], bool)
    layer, variables = module(x, iterations=2)
    y, _ = applied(layer, variables, x, mask)
    scaled, _ = applied(layer, variables, 1e3 * x, mask)
    np.testing.assert_allclose(scaled, 1e3 * np.asarray(y), rtol=1e-4, atol=1e-3)


def test_iterations_have_their_own_parameters():
    _, variables = module(positive_map(), iterations=3)
    assert sorted(variables["params"]) == ["generator_0", "generator_1", "generator_2"]
