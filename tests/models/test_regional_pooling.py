"""R-MAC and regional GeM: the authors' regions at every size, the formulas in loops, and padding that never shows."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sret_jax.models.regional_pooling import SuperGlobalPooling, regional_gem, rmac, rmac_regions
from tests.support.twins import regional_gem_in_loops, regions_in_loops, rmac_in_loops

TIED = ((3, 11), (11, 3))  # 4 and 5 regions are equally close to an overlap of 40 %, and rounding decides
SIZES = ((5, 7), (7, 3), (1, 4), (6, 6), (2, 2))  # in a bucket of 7 x 7


def example(seed=0, shape=(7, 7, 4)):
    """Garbage outside the photos, values without ties inside."""
    rng = np.random.default_rng(seed)
    x, mask = rng.uniform(0, 5, (len(SIZES), *shape)), np.zeros((len(SIZES), *shape[:2]), bool)
    x[rng.random(x.shape) < 0.3] = 0
    for n, (h, w) in enumerate(SIZES):
        mask[n, :h, :w] = True
    return jnp.asarray(x, jnp.float32), jnp.asarray(mask)


def test_regions_of_a_square_and_of_a_photo():
    assert rmac_regions(2, 2) == [(0, 0, 2), *((i, j, 1) for i in (0, 1) for j in (0, 1))] + [
        (i, j, 1) for i in (0, 0, 1) for j in (0, 0, 1)
    ]
    assert len(rmac_regions(10, 10)) == 1 + 4 + 9
    assert len(rmac_regions(10, 14)) == 1 * 2 + 2 * 3 + 3 * 4
    for height in range(1, 16):
        for width in range(1, 16):
            if (height, width) not in TIED:
                assert rmac_regions(height, width) == regions_in_loops(height, width)
            for top, left, side in rmac_regions(height, width):
                assert 0 <= top <= height - side and 0 <= left <= width - side


def test_rmac_equals_the_formula_on_every_photo_of_a_padded_batch():
    x, mask = example()
    expected = [rmac_in_loops(x[n], *size) for n, size in enumerate(SIZES)]
    np.testing.assert_allclose(jax.jit(rmac)(x, mask=mask), np.stack(expected), rtol=1e-5, atol=1e-6)


def test_rmac_of_a_photo_without_positions_is_zero_with_a_finite_gradient():
    x, mask = example()
    mask = mask.at[0].set(False)
    np.testing.assert_array_equal(jax.jit(rmac)(x, mask=mask)[0], np.zeros(4))
    gradient = jax.jit(jax.grad(lambda x: rmac(x, mask=mask).sum()))(x)
    assert np.isfinite(gradient).all() and not np.any(gradient[0])


@pytest.mark.parity
def test_regions_equal_those_of_float32_torch():
    """Also where rounding in float32 moves a region by one position, as for 31 positions in 6 steps."""
    torch = pytest.importorskip("torch")
    for height, width in [(h, w) for h in range(1, 12) for w in range(1, 26)] + [(32, 1), (31, 63), (62, 31), (9, 35)]:
        short, long = min(height, width), max(height, width)
        steps = torch.tensor([2.0, 3, 4, 5, 6, 7])
        b = (long - short) / (steps - 1)
        _, index = torch.min(torch.abs((short**2 - short * b) / short**2 - 0.4), 0)
        extra = [index.item() + 1 if a > b else 0 for a, b in ((height, width), (width, height))]
        expected = []
        for level in range(1, 4):
            side = math.floor(2 * short / (level + 1))
            shift, starts = math.floor(side / 2 - 1), []
            for length, more in zip((height, width), extra, strict=True):
                b = 0 if level + more == 1 else (length - side) / (level + more - 1)
                positions = torch.arange(level + more, dtype=torch.float32)
                starts.append((torch.floor(shift + positions * b) - shift).int().tolist())
            expected += [(i, j, side) for i in starts[0] for j in starts[1] if side]
        assert rmac_regions(height, width) == expected


@pytest.mark.parity
@pytest.mark.parametrize("size", [(7, 7), (5, 7)])
def test_rmac_equals_torch(size):
    torch = pytest.importorskip("torch")
    x = example(1)[0][:1, : size[0], : size[1]] + 0.1 * jnp.arange(4.0)[None, None, None]
    there = torch.tensor(np.asarray(x, np.float64).transpose(0, 3, 1, 2), requires_grad=True)

    def normalised(v):
        return v / (torch.norm(v, p=2, dim=1, keepdim=True) + 1e-6)

    def pool(v):
        return normalised(torch.nn.functional.max_pool2d(v, v.shape[-2:]))

    pooled = pool(there) + sum(pool(there[:, :, i : i + s, j : j + s]) for i, j, s in rmac_regions(*size))
    pooled.square().sum().backward()
    full = jnp.ones(x.shape[:3], bool)
    np.testing.assert_allclose(jax.jit(rmac)(x, mask=full), pooled.detach().numpy()[..., 0, 0], rtol=1e-5)
    gradient = jax.jit(jax.grad(lambda x: jnp.square(rmac(x, mask=full)).sum()))(x)
    np.testing.assert_allclose(gradient, there.grad.numpy().transpose(0, 2, 3, 1), rtol=1e-5, atol=1e-6)


def test_regional_gem_equals_the_formula_on_every_photo_of_a_padded_batch():
    x, mask = example()
    x = x.at[3].set(0).at[1, ..., 0].mul(1e-12)
    y = jax.jit(regional_gem)(x, mask=mask)
    for n, (h, w) in enumerate(SIZES):
        np.testing.assert_allclose(y[n, :h, :w], regional_gem_in_loops(x[n], h, w), rtol=1e-5, atol=1e-6)
        assert not np.any(np.asarray(y[n])[~np.asarray(mask[n])])
    assert np.isfinite(jax.jit(jax.grad(lambda x: regional_gem(x, mask=mask).sum()))(x)).all()


@pytest.mark.parity
def test_regional_gem_equals_torch_with_gradients_of_map_and_exponent():
    torch = pytest.importorskip("torch")
    x = example()[0][:1, :6, :7] + 0.05  # torch has no gradient at 0
    there = torch.tensor(np.asarray(x, np.float64).transpose(0, 3, 1, 2), requires_grad=True)
    p = torch.tensor(2.5, dtype=torch.float64, requires_grad=True)
    padded = torch.nn.functional.pad(there / 25 ** (1 / p), (2, 2, 2, 2), mode="reflect")
    pooled = 0.5 * (torch.nn.functional.avg_pool2d(padded.pow(p), 5, 1) * 25).pow(1 / p) + 0.5 * there
    pooled.square().sum().backward()
    full = jnp.ones(x.shape[:3], bool)
    np.testing.assert_allclose(
        jax.jit(regional_gem)(x, mask=full), pooled.detach().numpy().transpose(0, 2, 3, 1), rtol=1e-5, atol=1e-6
    )
    gradient = jax.jit(jax.grad(lambda x, p: jnp.square(regional_gem(x, p, mask=full)).sum(), (0, 1)))
    dx, dp = gradient(x, jnp.float32(2.5))
    np.testing.assert_allclose(dx, there.grad.numpy().transpose(0, 2, 3, 1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(dp, p.grad.numpy(), rtol=1e-5)


@pytest.mark.parity
def test_superglobal_pooling_equals_torch():
    """The authors' order: LPPool of the scaled, mirrored map; half of it; GeM+ with 4.6 and 1e-8. With gradients."""
    torch = pytest.importorskip("torch")
    x = example()[0][:1] + 0.05  # torch has no gradient at 0
    there = torch.tensor(np.asarray(x, np.float64).transpose(0, 3, 1, 2), requires_grad=True)
    p = torch.tensor(4.6, dtype=torch.float64, requires_grad=True)
    regional = torch.nn.functional.lp_pool2d(
        torch.nn.functional.pad(there / 25 ** (1 / 2.5), (2, 2, 2, 2), mode="reflect"), 2.5, 5, 1
    )
    flat = (0.5 * regional + 0.5 * there).flatten(2)
    expected = torch.nn.functional.adaptive_avg_pool1d(flat.clamp(1e-8).pow(p), 1).pow(1 / p)[..., 0]
    expected.square().sum().backward()
    layer, full = SuperGlobalPooling(shared=True), jnp.ones(x.shape[:3], bool)
    pooled, variables = jax.jit(layer.init_with_output)(jax.random.key(0), x, full)
    np.testing.assert_allclose(variables["params"]["p"], 4.6, rtol=1e-6)
    np.testing.assert_allclose(pooled, expected.detach(), rtol=1e-5)

    def loss(variables, x):
        return jnp.square(layer.apply(variables, x, full)).sum()

    dp, dx = jax.jit(jax.grad(loss, (0, 1)))(variables, x)
    np.testing.assert_allclose(dx, there.grad.numpy().transpose(0, 2, 3, 1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(dp["params"]["p"], p.grad.item(), rtol=1e-5)
