"""How much of a region a photograph shows: in loops, at its limits, and for an object that is there or is not."""

import jax.numpy as jnp
import numpy as np
import pytest

from sret_jax.localization.presence import FOUND, mutual_presence, presence


def maps(count, seed=0, shape=(6, 8, 5)):
    rng = np.random.default_rng(seed)
    x, mask = np.abs(rng.normal(size=(count, *shape))).astype(np.float32), np.zeros((count, *shape[:2]), bool)
    for n in range(count):
        mask[n, : 6 - n, : 5 + n] = True
    return x, mask


def unit(v):
    return v / max(np.linalg.norm(v), 1e-12)


def test_presence_equals_the_equation_in_loops():
    x, mask = maps(3)
    query, weights = maps(1, 1)[0][0], np.random.default_rng(2).random((6, 8)).astype(np.float32)
    mean = np.full(5, 0.3, np.float32)
    found = np.asarray(presence(query, weights, x, mask, mean))
    for n in range(3):
        total = 0.0
        for p in np.ndindex(6, 8):
            y = unit(unit(query[p]) - mean)
            total += weights[p] * max(unit(unit(x[n][q]) - mean) @ y for q in np.ndindex(6, 8) if mask[n][q])
        np.testing.assert_allclose(found[n], total / weights.sum(), atol=1e-5)


def test_mutual_presence_equals_the_equation_in_loops():
    x, mask = maps(3)
    query, weights = maps(1, 1)[0][0], np.random.default_rng(2).random((6, 8)).astype(np.float32)
    weights[2:4] = 0
    mean = np.full(5, 0.3, np.float32)
    found = np.asarray(mutual_presence(query, weights, x, mask, mean))
    meant = [p for p in np.ndindex(6, 8) if weights[p] > 0]
    for n in range(3):
        there = [q for q in np.ndindex(6, 8) if mask[n][q]]
        cosine = {(p, q): unit(unit(query[p]) - mean) @ unit(unit(x[n][q]) - mean) for p in meant for q in there}
        total = 0.0
        for p in meant:
            best = max(there, key=lambda q, p=p: cosine[p, q])
            if max(meant, key=lambda other, q=best: cosine[other, q]) == p:
                total += weights[p] * max(0, cosine[p, best])
        np.testing.assert_allclose(found[n], total / weights.sum(), atol=1e-5)


@pytest.mark.parametrize("of", [presence, mutual_presence])
def test_a_photograph_shows_all_of_every_region_of_itself(of):
    x, mask = maps(1)
    for weights in (mask[0], np.eye(6, 8) * mask[0]):
        np.testing.assert_allclose(of(x[0], weights.astype(np.float32), x, mask, np.full(5, 0.3)), 1, atol=1e-5)


@pytest.mark.parametrize("of", [presence, mutual_presence])
def test_what_is_outside_the_photograph_does_not_count(of):
    x, mask = maps(2)
    weights, mean = mask[1].astype(np.float32), np.full(5, 0.3)
    changed = np.where(mask[..., None], x, 7 * x[:, ::-1])
    np.testing.assert_array_equal(of(x[1], weights, x, mask, mean), of(x[1], weights, changed, mask, mean))
    assert of(x[1], weights, x, np.zeros_like(mask), mean).tolist() == [0, 0]


def test_an_object_is_found_where_it_was_pasted_and_only_there():
    rng = np.random.default_rng(0)
    thing, walls = rng.normal(size=(3, 3, 64)), rng.normal(size=(2, 8, 9, 64))
    walls[0, 2:5, 4:7] = thing
    query, weights = rng.normal(size=(8, 9, 64)), np.zeros((8, 9), np.float32)
    query[:3, :3], weights[:3, :3] = thing, 1
    there, not_there = np.asarray(presence(query, weights, walls, np.ones((2, 8, 9), bool), np.zeros(64)))
    assert there > FOUND > not_there


def test_degenerate_maps_give_finite_presence():
    zeros, mask = jnp.zeros((2, 6, 8, 5)), jnp.ones((2, 6, 8), bool)
    for weights in (jnp.ones((6, 8)), jnp.zeros((6, 8))):
        assert np.isfinite(presence(zeros[0], weights, zeros, mask, jnp.zeros(5))).all()
