"""Gradients of poolings and attention, coordinate by coordinate, against differences of their equations in loops.

The loops are in float64, the gradients in float32, as in training: the poolings compute so whatever comes in.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sret_jax.models.attention import second_order_attention
from sret_jax.models.pooling import gem, mac, scale_gem, spoc
from sret_jax.models.regional_pooling import regional_gem, rmac
from tests.support.twins import (
    attention_in_loops,
    gem_in_loops,
    regional_gem_in_loops,
    rmac_in_loops,
    scale_gem_in_loops,
)

H, W = 3, 4
MASK = jnp.zeros((1, 4, 5), bool).at[:, :H, :W].set(True)
RNG = np.random.default_rng(0)
MAP, P = RNG.uniform(0.05, 2, (1, 4, 5, 3)), np.array([1.5, 3.0, 6.0])  # away from the kinks at 0 and eps
SCALES = RNG.normal(size=(3, 2, 5))
FGH = [RNG.normal(size=(1, 4, 5, 3)) for _ in range(3)]


def inside(x):
    return x[:, :H, :W]


CASES = {  # what is tested, its equation in loops, the arrays that it depends on
    "mac": (lambda x: mac(x, mask=MASK), lambda x: inside(x).max((1, 2)), [MAP]),
    "spoc": (lambda x: spoc(x, mask=MASK), lambda x: inside(x).sum((1, 2)) / (H * W), [MAP]),
    "gem": (lambda x, p: gem(x, p, mask=MASK), lambda x, p: gem_in_loops(x, p, MASK), [MAP, P]),
    "one exponent": (lambda x, p: gem(x, p, mask=MASK), lambda x, p: gem_in_loops(x, p, MASK), [MAP, np.array(3.0)]),
    "rmac": (lambda x: rmac(x, mask=MASK), lambda x: rmac_in_loops(x[0], H, W)[None], [MAP]),
    "regional gem": (
        lambda x, p: inside(regional_gem(x, p, mask=MASK)),
        lambda x, p: regional_gem_in_loops(x[0], H, W, p)[None],
        [MAP, np.array(2.5)],
    ),
    "scale gem": (lambda x: scale_gem(x, 10.0), lambda x: scale_gem_in_loops(x, 10.0), [np.abs(SCALES) + SCALES**2]),
    "greatest over scales": (scale_gem, lambda x: scale_gem_in_loops(x, np.inf), [SCALES]),
    "attention": (
        lambda *x: inside(second_order_attention(*x, mask=MASK)),
        lambda *x: inside(attention_in_loops(*x, MASK)),
        FGH,
    ),
}


def differences(loss, arrays, i, step=1e-6):
    """Slope of the loss along every coordinate of `arrays[i]`."""
    slopes = np.zeros_like(arrays[i])
    for at in np.ndindex(slopes.shape):
        moved = np.zeros_like(slopes)
        moved[at] = step
        ahead, behind = (loss(*arrays[:i], arrays[i] + s * moved, *arrays[i + 1 :]) for s in (1, -1))
        slopes[at] = (ahead - behind) / (2 * step)
    return slopes


@pytest.mark.parametrize("name", CASES)
def test_gradients_equal_differences_of_the_loops(name):
    ours, loops, arrays = CASES[name]
    arrays = [x.astype(np.float32).astype(np.float64) for x in arrays]
    narrow = [jnp.asarray(x, jnp.float32) for x in arrays]
    gradients = jax.jit(jax.grad(lambda *x: jnp.sum(jnp.sin(ours(*x))), tuple(range(len(arrays)))))(*narrow)
    for i, gradient in enumerate(gradients):
        expected = differences(lambda *x: np.sum(np.sin(loops(*x))), arrays, i)
        assert np.abs(expected).max() > 1e-2
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-5)
