"""Gaussian and bilateral smoothing against their equations in loops, and their limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sret_jax.models.fixed_smoothing import average, bilateral, gaussian


def example(seed=0):
    rng = np.random.default_rng(seed)
    mask = np.ones((2, 4, 5), bool)
    mask[1, 3:] = mask[1, :, 4:] = False
    return jnp.asarray(rng.normal(size=(2, 4, 5, 3)).astype(np.float32)), jnp.asarray(mask)


def in_loops(x, mask, window, weight):
    x, mask = np.asarray(x, np.float64), np.asarray(mask)
    out = np.zeros_like(x)
    for n, i, j in np.argwhere(mask):
        total = 0.0
        for k, m in np.argwhere(mask[n]):
            if max(abs(k - i), abs(m - j)) <= window // 2:
                w = weight((i - k) ** 2 + (j - m) ** 2, x[n, i, j], x[n, k, m])
                out[n, i, j] += w * x[n, k, m]
                total += w
        out[n, i, j] /= total
    return out


@pytest.mark.parametrize("window", [3, 5])
def test_gaussian_equals_its_equation(window):
    x, mask = example()
    expected = in_loops(x, mask, window, lambda far, *_: np.exp(-far / (2 * 0.8**2)))
    np.testing.assert_allclose(gaussian(x, 0.8, window=window, mask=mask), expected, atol=1e-6)


def test_bilateral_equals_its_equation():
    x, mask = example()

    def weight(far, p, q):
        unlike = np.sum((p / np.linalg.norm(p) - q / np.linalg.norm(q)) ** 2)
        return np.exp(-far / (2 * 1.2**2) - unlike / (2 * 0.5**2))

    np.testing.assert_allclose(bilateral(x, 1.2, 0.5, window=3, mask=mask), in_loops(x, mask, 3, weight), atol=1e-6)


def test_wide_is_the_average_and_narrow_is_the_identity():
    x, mask = example()
    kept = jnp.where(mask[..., None], x, 0)
    np.testing.assert_allclose(gaussian(x, 1e4, window=3, mask=mask), average(x, 3, mask=mask), atol=1e-5)
    np.testing.assert_allclose(gaussian(x, 0.1, window=3, mask=mask), kept, atol=1e-5)
    np.testing.assert_allclose(
        bilateral(x, 0.8, 1e4, window=3, mask=mask), gaussian(x, 0.8, window=3, mask=mask), atol=1e-5
    )
    np.testing.assert_allclose(bilateral(x, 0.8, 1e-2, window=3, mask=mask), kept, atol=1e-5)


def test_padding_is_invisible():
    x, mask = example()
    padded = jax.jit(lambda x, mask: bilateral(x, 0.8, 0.5, window=3, mask=mask))(x, mask)[1, :3, :4]
    alone = bilateral(x[1:, :3, :4], 0.8, 0.5, window=3, mask=mask[1:, :3, :4])[0]
    np.testing.assert_allclose(padded, alone, atol=1e-6)
