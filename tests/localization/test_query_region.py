"""Regions as shares of patches, the heat in loops, and LOST where the query is the photograph itself."""

import jax.numpy as jnp
import numpy as np
import pytest

from sret_jax.errors import UserError
from sret_jax.localization.object_discovery import discover, expand_seed, similarities
from sret_jax.localization.query_region import discover_region, mean_direction, region_heat, region_weights

SIZE = (60, 90)  # 6 x 9 patches of 10 pixels in a map of 7 x 10
MASK = np.zeros((7, 10), bool)
MASK[:6, :9] = True


def shares_in_loops(pixels):
    out = np.zeros(MASK.shape)
    for i in range(6):
        for j in range(9):
            out[i, j] = pixels[10 * i : 10 * i + 10, 10 * j : 10 * j + 10].mean()
    return out


def test_a_box_and_its_mask_weigh_the_same():
    pixels = np.zeros(SIZE, bool)
    pixels[13:47, 5:88] = True
    expected = shares_in_loops(pixels)
    np.testing.assert_allclose(region_weights(pixels, SIZE, MASK), expected, atol=1e-6)
    np.testing.assert_allclose(region_weights((5, 13, 88, 47), SIZE, MASK), expected, atol=1e-6)


def test_patches_of_fractional_size():
    weights = region_weights((0, 0, 10, 60), SIZE, np.ones((4, 7), bool))  # a patch is 12.86 pixels wide
    np.testing.assert_allclose(weights[:, 0], 70 / 90, atol=1e-6)
    pixels = np.zeros(SIZE, bool)
    pixels[:, :10] = True
    np.testing.assert_allclose(region_weights(pixels, SIZE, np.ones((4, 7), bool)), weights, atol=1e-6)


def test_boxes_are_clipped_to_the_photograph_and_default_to_all_of_it():
    np.testing.assert_allclose(region_weights((-50, -50, 500, 500), SIZE, MASK), MASK)
    np.testing.assert_array_equal(region_weights(None, SIZE, MASK), MASK)


def test_a_click_takes_its_patch():
    weights = region_weights((89.9, 0), SIZE, MASK)
    assert weights[0, 8] == 1 and weights.sum() == 1


@pytest.mark.parametrize(
    "region, message",
    [
        ((90, 0, 120, 60), "no area inside"),
        ((10, 10, 10, 40), "no area inside"),
        ((40, 10, 10, 40), "no area inside"),
        ((90, 10), "outside the photograph"),
        ((-1, 10), "outside the photograph"),
        ((1, 2, 3), "give a box"),
        ((1, 2, 3, float("nan")), "give a box"),
        (np.zeros(SIZE, bool), "it is empty"),
        (np.ones((60, 80), bool), "80x60 pixels, its photograph 90x60"),
    ],
)
def test_regions_that_are_none(region, message):
    with pytest.raises(UserError, match=message) as error:
        region_weights(region, SIZE, MASK)
    assert "\n" not in str(error.value)


def maps(count=3, seed=0, shape=(6, 8, 5)):
    rng = np.random.default_rng(seed)
    x, mask = np.abs(rng.normal(size=(count, *shape))).astype(np.float32), np.zeros((count, *shape[:2]), bool)
    for n in range(count):
        mask[n, : 6 - n, : 5 + n] = True
    return x, mask


def heat_in_loops(query, weights, x, mask, mean):
    def unit(v):
        return v / max(np.linalg.norm(v), 1e-12)

    inside = [tuple(p) for p in np.argwhere(mask)]
    own = np.mean([unit(x[p]) for p in inside], axis=0)
    edge = [(i, j) for i, j in inside if i in (0, mask.any(1).sum() - 1) or j in (0, mask.any(0).sum() - 1)]
    asked = [(weights[p], unit(unit(query[p]) - mean)) for p in np.ndindex(*weights.shape)]
    heat = np.zeros(mask.shape)
    for p in inside:
        likeness = max(w * max(0, unit(unit(x[p]) - mean) @ q) for w, q in asked)
        heat[p] = likeness - np.mean([unit(unit(x[p]) - own) @ unit(unit(x[e]) - own) for e in edge])
    return heat


def test_heat_equals_the_equations_in_loops():
    x, mask = maps(11)[0], np.concatenate([maps(3)[1]] * 4)[:11]  # more than go at once
    query, weights = maps(1, 1)[0][0], np.random.default_rng(2).random((6, 8))
    mean = np.asarray(mean_direction(x, mask))
    np.testing.assert_allclose(mean, np.mean([v / np.linalg.norm(v) for v in x[mask]], axis=0), atol=1e-6)
    ours = np.asarray(region_heat(query, weights, x, mask, mean))
    for n in range(len(x)):
        np.testing.assert_allclose(ours[n], heat_in_loops(query, weights, x[n], mask[n], mean), atol=2e-5)


def test_the_query_object_is_hot_where_it_was_pasted():
    rng = np.random.default_rng(0)
    thing, wall = rng.normal(size=(3, 3, 16)), rng.normal(size=16)
    gallery = wall + 0.2 * rng.normal(size=(1, 8, 9, 16))
    gallery[0, 2:5, 4:7] = thing
    mask = np.ones((1, 8, 9), bool)
    heat = np.asarray(region_heat(thing, np.ones((3, 3)), gallery, mask, np.zeros(16)))[0]
    there = np.zeros((8, 9), bool)
    there[2:5, 4:7] = True
    assert heat[there].min() > heat[~there].max() + 0.3
    part = np.zeros((3, 3))
    part[0, 0] = 1
    assert np.argmax(region_heat(thing, part, gallery, mask, np.zeros(16))) == 2 * 9 + 4


def test_degenerate_maps_give_finite_heat():
    zeros, mask = np.zeros((2, 6, 8, 5), np.float32), np.ones((2, 6, 8), bool)
    mask[1] = False
    for x in (zeros, zeros + 1):
        heat = region_heat(x[0], np.ones((6, 8)), x, mask, np.zeros(5))
        assert np.isfinite(heat).all() and not heat[1].any()


def signed(count=40, seed=7):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 6, 8, 5)) + 0.1 * rng.normal(size=(count, 1, 1, 5))
    return x.astype(np.float32), np.ones((count, 6, 8), bool)


def test_the_photograph_itself_with_its_own_seed_is_lost():
    x, mask = signed()
    expected = discover(x, mask, k=10)
    for n in range(0, 40, 4):
        found = discover_region(x[n], mask[n], None, x[n : n + 1], mask[n : n + 1], k=10)
        for ours, own in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours[0], own[n])
    assert 0.02 < np.asarray(expected.mask).mean() < 0.9


def test_the_photograph_itself_with_the_region_of_its_seeds_grows_over_them():
    x, mask = signed(1, 9)
    _, grown = expand_seed(similarities(jnp.asarray(x), jnp.asarray(mask)), jnp.asarray(mask), 10)
    weights = np.asarray(grown).reshape(6, 8).astype(np.float32)
    found = discover_region(x[0], mask[0], weights, x, mask)
    assert weights.reshape(-1)[int(found.seed[0])] == 1  # every patch of the region is as similar to itself
    assert found.mask[0].reshape(-1)[found.seed[0]]
