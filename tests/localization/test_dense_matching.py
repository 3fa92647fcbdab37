"""Flows that are known, wrong pairs, and the region behind them."""

import jax.numpy as jnp
import numpy as np

from sret_jax.localization.dense_matching import fit_flow, match_region, mutual_pairs, positions


def test_a_flow_is_found_among_wrong_pairs():
    rng = np.random.default_rng(0)
    flow = np.array([[1.4, 0.1, -0.2], [-0.15, 1.3, -0.1]])
    x = rng.random((200, 2)).astype(np.float32)
    target = x @ flow[:, :2].T + flow[:, 2]
    wrong = rng.random(200) < 0.4
    target[wrong] = rng.random((wrong.sum(), 2))
    found, agreement = fit_flow(x, target.astype(np.float32), np.ones(200, np.float32))
    np.testing.assert_allclose(found, flow, atol=0.02)
    assert abs(agreement - (~wrong).mean()) < 0.05


def test_without_pairs_the_flow_is_the_identity():
    x = np.random.default_rng(0).random((20, 2)).astype(np.float32)
    flow, agreement = fit_flow(x, x[::-1], np.zeros(20, np.float32))
    np.testing.assert_allclose(flow, np.eye(2, 3), atol=1e-5)
    assert agreement == 0


def test_pairs_are_mutual_in_both_levels():
    rng = np.random.default_rng(0)
    y = rng.normal(size=(6, 8, 16)).astype(np.float32)
    y /= np.linalg.norm(y, axis=-1, keepdims=True)
    mask = np.ones((6, 8), bool)
    best, confidence = mutual_pairs(y, mask, y, mask)
    np.testing.assert_array_equal(best, np.arange(48))
    np.testing.assert_allclose(confidence, 1, atol=1e-5)
    other = jnp.asarray(rng.permutation(y.reshape(48, 16)).reshape(6, 8, 16))  # no level agrees
    best, confidence = (np.asarray(z) for z in mutual_pairs(y, mask, other, mask))
    taken = best[confidence > 0]
    assert len(set(taken.tolist())) == len(taken) < 40


def test_positions_run_over_the_photograph_alone():
    mask = np.zeros((5, 7), bool)
    mask[:2, :4] = True
    at = np.asarray(positions(mask))
    np.testing.assert_allclose(at[0, :4, 0], [0.125, 0.375, 0.625, 0.875])
    np.testing.assert_allclose(at[:2, 0, 1], [0.25, 0.75])


def pasted(seed=0):
    """A smooth query of 8 x 8 that stands in the gallery's rows 4 to 12 and columns 6 to 14, and a photo without."""
    rng = np.random.default_rng(seed)
    query = rng.normal(size=(8, 8, 32))
    query[1:] += 0.5 * query[:-1]
    x = 0.8 * rng.normal(size=(2, 16, 20, 32))
    x[0, 4:12, 6:14] = query + 0.1 * rng.normal(size=query.shape)
    mask = np.zeros((2, 16, 20), bool)
    mask[0], mask[1, :10, :10] = True, True
    return query.astype(np.float32), x.astype(np.float32), mask


def test_the_region_is_where_the_query_was_put():
    query, x, mask = pasted()
    everywhere, whole = np.ones((8, 8), bool), np.ones((8, 8), np.float32)
    found = match_region(query, everywhere, whole, x, mask, np.zeros(32))
    there = np.zeros((16, 20), bool)
    there[4:12, 6:14] = True
    np.testing.assert_array_equal(np.asarray(found.heat[0]) > 0.5, there)
    assert found.agreement[0] > 0.8 > 2 * found.agreement[1]
    assert not found.heat[1][~mask[1]].any() and np.isfinite(found.flow).all()
    half = whole.copy()
    half[:, 4:] = 0
    left = np.asarray(match_region(query, everywhere, half, x, mask, np.zeros(32)).heat[0]) > 0.5
    assert left[there].reshape(8, 8)[:, :4].all() and not left[4:12, 11:].any() and not left[~there].any()


def test_degenerate_maps_give_a_finite_answer():
    zeros, mask = np.zeros((2, 16, 20, 32), np.float32), np.ones((2, 16, 20), bool)
    mask[1] = False
    found = match_region(
        zeros[0, :8, :8], np.ones((8, 8), bool), np.ones((8, 8), np.float32), zeros, mask, np.zeros(32)
    )
    assert all(np.isfinite(z).all() for z in found) and not found.heat[1].any()
