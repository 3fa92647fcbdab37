"""Attention by head is the equation, and what JAX computes of all heads at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sret_jax.models.backbones.attention import attend

B, N, H, D = 3, 7, 2, 4


def drawn(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(3 * rng.normal(size=(B, N, H, D)), dtype) for _ in range(3))
    inside = np.ones((B, N), bool)
    inside[1, 4:] = inside[2, 1:] = False
    return q, k, v, jnp.asarray(inside)


def twin(q, k, v, inside):
    out = np.zeros((B, N, H, D))
    for b in range(B):
        keys = np.flatnonzero(inside[b])
        for h in range(H):
            for i in range(N):
                scores = [q[b, i, h] @ k[b, j, h] / D**0.5 for j in keys]
                weights = np.exp(scores - np.max(scores))
                out[b, i, h] = sum(w * v[b, j, h] for w, j in zip(weights / weights.sum(), keys, strict=True))
    return out


@pytest.mark.parametrize("by_head", [True, False, None])
def test_it_is_the_equation_over_the_tokens_inside(by_head):
    given = drawn()
    expected = twin(*(np.asarray(x, np.float64) if x.dtype != bool else np.asarray(x) for x in given))
    np.testing.assert_allclose(jax.jit(attend, static_argnums=4)(*given, by_head), expected, atol=1e-6)


def test_large_scores_and_nothing_inside_stay_finite():
    q, k, v, inside = drawn()
    found = attend(100 * q, 100 * k, v, inside.at[0].set(False), True)
    assert jnp.isfinite(found).all()
    np.testing.assert_allclose(found[0], jnp.broadcast_to(v[0].mean(0), v[0].shape), atol=1e-6)


def test_gradients_are_those_of_all_heads_at_once():
    *given, inside = drawn()

    def loss(q, k, v, by_head):
        return (attend(q, k, v, inside, by_head) ** 2).sum()

    found, expected = (jax.grad(loss, (0, 1, 2))(*given, by_head) for by_head in (True, False))
    for own, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-4, atol=1e-4)


def test_sixteen_bits_stay_sixteen_bits():
    given = drawn(jnp.bfloat16)
    found = attend(*given, True)
    assert found.dtype == jnp.bfloat16
    expected = attend(*(x.astype(jnp.float32) if x.dtype != bool else x for x in given), False)
    np.testing.assert_allclose(found.astype(jnp.float32), expected, atol=0.05)
