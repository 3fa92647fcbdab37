"""Heat to pixels: shapes and limits of each step, and the guided filter in loops."""

import numpy as np
import pytest

from sret_jax.localization.pixels import grab_cut, guided_filter, hottest_component, pixel_box, upsample


def test_upsampling_leaves_the_padding_out():
    heat, mask = np.full((5, 7), 9.0, np.float32), np.zeros((5, 7), bool)
    heat[:3, :4], mask[:3, :4] = np.arange(4), True
    up = upsample(heat, mask, (30, 40))
    assert up.shape == (30, 40) and up.min() == 0 and up.max() == 3
    np.testing.assert_allclose(up[0, 5:35], np.arange(5, 35) / 10 + 0.05 - 0.5, atol=1e-5)  # centres of patches
    assert not upsample(heat, np.zeros_like(mask), (4, 6)).any()


def test_guided_filter_in_loops():
    rng = np.random.default_rng(0)
    photo = np.repeat(rng.integers(0, 256, (9, 11, 1), dtype=np.uint8), 3, axis=2)
    heat, r, epsilon = rng.random((9, 11)), 1, 0.01
    grey = photo[..., 0] / 255

    def window(z, i, j):
        z = np.pad(z, r, mode="reflect")
        return z[i : i + 3, j : j + 3]

    a, b = np.zeros((9, 11)), np.zeros((9, 11))
    for i, j in np.ndindex(9, 11):
        x, p = window(grey, i, j), window(heat, i, j)
        a[i, j] = np.mean((x - x.mean()) * (p - p.mean())) / (x.var() + epsilon)
        b[i, j] = p.mean() - a[i, j] * x.mean()
    expected = np.array(
        [[window(a, i, j).mean() * grey[i, j] + window(b, i, j).mean() for j in range(11)] for i in range(9)]
    )
    np.testing.assert_allclose(guided_filter(heat, photo, radius=r, epsilon=epsilon), expected, atol=1e-4)


def test_guided_filter_follows_an_edge():
    photo = np.zeros((40, 40, 3), np.uint8)
    photo[:, 22:] = 200
    heat = np.zeros((40, 40), np.float32)
    heat[:, 18:] = 1  # off by four pixels
    q = guided_filter(heat, photo, radius=6)
    assert (q[:, 22] - q[:, 21]).min() > 0.2 > 2 * np.abs(q[:, 18] - q[:, 17]).max()
    np.testing.assert_allclose(guided_filter(np.full((40, 40), 0.3), photo, radius=6), 0.3, atol=1e-4)


def test_the_component_with_the_most_heat():
    heat = np.zeros((20, 30), np.float32)
    heat[2:6, 2:6], heat[10:18, 10:20], heat[18, 20] = 1.0, 0.9, 1.0  # the last touches only by a corner
    found = hottest_component(heat)
    assert found[10:18, 10:20].all() and found.sum() == 80


def test_rounding_is_no_heat():
    heat = np.float32(-0.2) + 1e-8 * np.random.default_rng(0).normal(size=(20, 30)).astype(np.float32)
    photo = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    assert np.ptp(heat) > 0 and not hottest_component(heat).any()
    assert not hottest_component(guided_filter(np.full((20, 30), -0.2, np.float32), photo, radius=5)).any()
    assert hottest_component(heat + 1e-4 * (np.arange(30) < 9)).sum() == 20 * 9


@pytest.mark.parametrize("value", [0.0, 3.0, -1.0])
def test_constant_heat_marks_nothing(value):
    assert not hottest_component(np.full((5, 6), value, np.float32)).any()


def test_grab_cut_finds_the_edge_of_a_colour():
    rng = np.random.default_rng(0)
    photo = rng.integers(150, 200, (120, 160, 3), dtype=np.uint8)
    photo[30:90, 40:120] = rng.integers(0, 60, (60, 80, 3), dtype=np.uint8)
    true, found = np.zeros((120, 160), bool), np.zeros((120, 160), bool)
    true[30:90, 40:120], found[34:94, 36:122] = True, True
    fine = grab_cut(photo, found, longest=96, iterations=2)
    assert (fine & true).sum() / (fine | true).sum() > 0.97 > (found & true).sum() / (found | true).sum()
    cut = grab_cut(photo, found)
    near = np.zeros_like(true)  # one pixel of the grid that decides, 160 / 72, to either side of the edge
    near[27:93, 37:123], near[33:87, 43:117] = True, False
    assert not (cut ^ true)[~near].any() and (found ^ true)[~near].any()
    np.testing.assert_array_equal(cut, grab_cut(photo, found))  # the same every time
    for given in (np.zeros_like(true), np.ones_like(true)):
        np.testing.assert_array_equal(grab_cut(photo, given), given)


def test_boxes_become_pixels():
    mask = np.zeros((5, 7), bool)
    mask[:3, :4] = True
    assert pixel_box(np.array([1, 0, 4, 3]), mask, (60, 100)).tolist() == [25, 0, 100, 60]
