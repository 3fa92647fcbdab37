"""Each pooling against its formula, at the ends of float32, and with padding; L2 normalisation at zero."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sret_jax.models.pooling import GeM, gem, l2_normalize, mac, scale_gem, spoc, weighted_sum
from tests.support.twins import gem_in_loops, scale_gem_in_loops


def example(seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    x = scale * np.maximum(rng.normal(size=(3, 4, 5, 6)), 0)
    mask = np.ones(x.shape[:3], bool)
    mask[0, 3:] = mask[0, :, 2:] = False
    mask[1] = rng.random(mask[1].shape) < 0.5
    return np.float32(x), mask


pooled_by_gem = jax.jit(gem)
by_scale_gem = jax.jit(scale_gem, static_argnums=1)
normalized = jax.jit(partial(l2_normalize, eps=1e-6, added=True))


def gradient(function, *args):
    """Of the sum of a function's values with respect to all of its arguments."""
    return jax.jit(jax.grad(lambda *args: function(*args).sum(), tuple(range(len(args)))))(*args)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3])
@pytest.mark.parametrize("p", [1.0, 3.0, 10.0, [1.0, 1.5, 2.5, 4.0, 7.0, 10.0]])
def test_gem_equals_the_formula(p, scale):
    x, mask = example(scale=scale)
    np.testing.assert_allclose(pooled_by_gem(x, np.float32(p), mask=mask), gem_in_loops(x, p, mask), rtol=1e-5)


def test_gem_with_p_one_is_the_mean_and_with_large_p_the_maximum():
    x, mask = example()
    x = x + 0.1
    mean = np.stack([x[n][mask[n]].mean(0) for n in range(len(x))])
    greatest = np.stack([x[n][mask[n]].max(0) for n in range(len(x))])
    np.testing.assert_allclose(pooled_by_gem(x, np.float32(1), mask=mask), mean, rtol=1e-6)
    np.testing.assert_allclose(pooled_by_gem(x, np.float32(1e4), mask=mask), greatest, rtol=1e-3)


gradient_of_sines = jax.jit(jax.grad(lambda x, p, mask: jnp.sum(jnp.sin(gem(x, p, mask=mask))), (0, 1)))
gradient_of_gem = jax.jit(jax.grad(lambda x, p, mask: jnp.sum(gem(x, p, mask=mask)), (0, 1)))


@pytest.mark.parametrize("p", [1.0, 3.0, 10.0])
def test_gem_gradient_equals_finite_differences(p):
    x, mask = example()
    x = x + 0.05  # away from the kink at eps
    p = p + np.linspace(0, 0.5, x.shape[-1])
    dx, dp = jax.device_get(gradient_of_sines(x, np.float32(p), mask))

    def loss(x, p):
        return np.sum(np.sin(gem_in_loops(x, p, mask)))

    exact = np.asarray(x, np.float64)
    rng = np.random.default_rng(1)
    u, v = rng.normal(size=x.shape), rng.normal(size=p.shape)
    h = 1e-6
    np.testing.assert_allclose(np.sum(dx * u), (loss(exact + h * u, p) - loss(exact - h * u, p)) / (2 * h), rtol=1e-3)
    np.testing.assert_allclose(np.sum(dp * v), (loss(exact, p + h * v) - loss(exact, p - h * v)) / (2 * h), rtol=1e-3)


@pytest.mark.parametrize("p", [1.0, 3.0, 10.0])
def test_gem_gradient_is_finite_for_a_dead_map_and_an_empty_mask(p):
    x, mask = example()
    x[0], x[2], mask[1] = 0, 1e-12, False
    np.testing.assert_allclose(pooled_by_gem(x, np.float32(p), mask=mask), 1e-6, rtol=1e-5)
    for z in gradient_of_gem(x, np.full(6, p, np.float32), mask):
        assert np.isfinite(z).all()


def test_gem_ignores_the_padding():
    x, _ = example()
    mask = np.zeros(x.shape[:3], bool)
    mask[:, :3, :2] = True
    layer = GeM(2.0)
    variables, apply = jax.jit(layer.init)(jax.random.key(0), x, mask), jax.jit(layer.apply)
    np.testing.assert_array_equal(variables["params"]["p"], np.full(6, 2.0))
    alone = apply(variables, x[:, :3, :2], np.ones((3, 3, 2), bool))
    np.testing.assert_allclose(apply(variables, x, mask), alone, rtol=1e-6)


def test_gem_of_bfloat16_is_float32():
    x, mask = example()
    assert pooled_by_gem(x.astype(jnp.bfloat16), np.float32(3), mask=mask).dtype == jnp.float32


@pytest.mark.parity
@pytest.mark.parametrize("p", [1.0, 3.0, 10.0])
def test_gem_equals_torch(p):
    torch = pytest.importorskip("torch")
    x, _ = example()
    p = np.linspace(p, p + 1, x.shape[-1]).astype(np.float32)
    there = torch.tensor(np.asarray(x, np.float64).transpose(0, 3, 1, 2), requires_grad=True)
    p_there = torch.tensor(p.astype(np.float64), requires_grad=True)
    exponent = p_there[:, None, None]
    powers = torch.nn.functional.avg_pool2d(there.clamp(min=1e-6).pow(exponent), there.shape[-2:])
    pooled = powers.pow(1 / exponent)[..., 0, 0]
    pooled.sum().backward()
    full = np.ones(x.shape[:3], bool)
    np.testing.assert_allclose(pooled_by_gem(x, p, mask=full), pooled.detach().numpy(), rtol=1e-5)
    dx, dp = gradient_of_gem(x, p, full)
    np.testing.assert_allclose(dp, p_there.grad.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(dx, there.grad.numpy().transpose(0, 2, 3, 1), rtol=1e-5, atol=1e-6)


@pytest.mark.parity
def test_gem_with_one_exponent_for_all_equals_torch():
    torch = pytest.importorskip("torch")
    x, _ = example()
    full = np.ones(x.shape[:3], bool)
    layer = GeM(3.0, shared=True)
    variables = jax.jit(layer.init)(jax.random.key(0), x, full)
    assert variables["params"]["p"].shape == ()
    there = torch.tensor(np.asarray(x, np.float64).transpose(0, 3, 1, 2))
    p = torch.tensor([3.0], dtype=torch.float64, requires_grad=True)
    pooled = there.clamp(min=1e-6).pow(p).mean((2, 3)).pow(1 / p)
    pooled.sum().backward()
    np.testing.assert_allclose(jax.jit(layer.apply)(variables, x, full), pooled.detach().numpy(), rtol=1e-5)
    (dv,) = gradient(lambda v: layer.apply(v, jnp.asarray(x), jnp.asarray(full)), variables)
    np.testing.assert_allclose(dv["params"]["p"], p.grad.numpy()[0], rtol=1e-5)


def test_mac_and_spoc_equal_the_formula():
    x, mask = example()
    x = x - 0.5  # a maximum below zero counts, unlike that of zero padding
    mask[2] = False
    for pool, of in ((mac, np.max), (spoc, np.mean)):
        expected = [of(x[n][mask[n]], 0) for n in (0, 1)] + [np.zeros(6)]
        np.testing.assert_allclose(jax.jit(pool)(x, mask=mask), np.stack(expected), rtol=1e-6)
        assert np.isfinite(gradient(partial(pool, mask=jnp.asarray(mask)), x)).all()
        assert jax.jit(pool)(x.astype(jnp.bfloat16), mask=mask).dtype == jnp.float32


@pytest.mark.parity
def test_mac_spoc_and_the_weighted_sum_equal_torch():
    torch = pytest.importorskip("torch")
    x, _ = example()
    x = np.float32(x + 0.01 * np.arange(x.size).reshape(x.shape) / x.size)  # no ties
    strength = x.sum(-1)
    full = jnp.ones(x.shape[:3], bool)
    there = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    size = there.shape[-2:]
    weights = torch.tensor(strength)[:, None]
    for ours, theirs in (
        (lambda x: mac(x, mask=full), lambda x: torch.nn.functional.max_pool2d(x, size)[..., 0, 0]),
        (lambda x: spoc(x, mask=full), lambda x: torch.nn.functional.avg_pool2d(x, size)[..., 0, 0]),
        (lambda x: weighted_sum(x, jnp.asarray(strength), full), lambda x: (x * weights).sum((-2, -1))),
    ):
        pooled = theirs(there)
        np.testing.assert_allclose(jax.jit(ours)(x), pooled.detach().numpy(), rtol=1e-5)
        there.grad = None
        pooled.square().sum().backward()
        (dx,) = gradient(lambda x, ours=ours: jnp.square(ours(x)), x)
        np.testing.assert_allclose(dx, there.grad.numpy().transpose(0, 2, 3, 1), rtol=1e-5, atol=1e-6)


def test_the_weighted_sum_leaves_out_what_is_outside_the_mask():
    x, mask = example()
    strength = x.sum(-1)
    expected = np.zeros((3, 6))
    for n, i, j in np.argwhere(mask):
        expected[n] += float(strength[n, i, j]) * x[n, i, j].astype(np.float64)
    np.testing.assert_allclose(jax.jit(weighted_sum)(x, strength, mask), expected, rtol=1e-5)


@pytest.mark.parametrize("p", [np.inf, 10.0])
def test_scale_gem_equals_the_formula(p):
    x = np.random.default_rng(0).normal(size=(3, 2, 5)).astype(np.float32)
    np.testing.assert_allclose(by_scale_gem(x, p), scale_gem_in_loops(x, p), rtol=1e-5, atol=1e-6)


@pytest.mark.parity
@pytest.mark.parametrize("p", [np.inf, 10.0])
def test_scale_gem_equals_torch(p):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(size=(3, 1, 7)).astype(np.float32)
    there = torch.tensor(x.astype(np.float64), requires_grad=True)
    if np.isinf(p):
        pooled = torch.max(torch.nn.functional.normalize(there, p=2, dim=-1), 0)[0]
    else:
        least = there.min()
        pooled = (there - least).pow(p).mean(0).pow(1 / p) + least
    pooled.square().sum().backward()
    np.testing.assert_allclose(by_scale_gem(x, p), pooled.detach().numpy(), rtol=1e-5, atol=1e-6)
    (dx,) = gradient(lambda x: jnp.square(scale_gem(x, p)), x)
    np.testing.assert_allclose(dx, there.grad.numpy(), rtol=1e-5, atol=1e-6)


def test_l2_normalize():
    x = np.float32(np.random.default_rng(0).normal(size=(4, 7)))
    exact = x.astype(np.float64) / np.linalg.norm(x, axis=1, keepdims=True)
    np.testing.assert_allclose(jax.jit(l2_normalize)(x), exact, rtol=1e-5)
    nothing = np.zeros((2, 7), np.float32)
    np.testing.assert_array_equal(jax.jit(l2_normalize)(nothing), nothing)
    assert np.isfinite(gradient(l2_normalize, nothing)).all()


def test_l2_normalize_with_an_added_eps_equals_loops():
    x = np.random.default_rng(0).normal(size=(4, 7)).astype(np.float32)
    x[1] *= 1e-6  # here it matters
    x[2] = 0
    ours = np.asarray(normalized(x))
    for y, row in zip(ours, x.astype(np.float64), strict=True):
        np.testing.assert_allclose(y, [v / (np.sqrt(sum(u * u for u in row)) + 1e-6) for v in row], rtol=1e-5)
    assert np.isfinite(gradient(normalized, x)).all()


@pytest.mark.parity
def test_l2_normalize_with_an_added_eps_equals_torch():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(size=(4, 7)).astype(np.float32)
    x[1] *= 1e-6  # here it matters
    x[2] = 0
    there = torch.tensor(x.astype(np.float64), requires_grad=True)
    y = there / (torch.norm(there, p=2, dim=1, keepdim=True) + 1e-6)
    (y**3).sum().backward()
    np.testing.assert_allclose(normalized(x), y.detach().numpy(), rtol=1e-5)
    (dx,) = gradient(lambda x: normalized(x) ** 3, x)
    np.testing.assert_allclose(dx, there.grad.numpy(), rtol=1e-5, atol=1e-6)
