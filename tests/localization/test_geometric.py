"""Regions under known transforms, and transforms that are none."""

import numpy as np
import pytest

from sret_jax.localization.geometric import box_mask, warp_region

QUERY, GALLERY = (60, 80), (90, 120)


def test_the_identity_scales_to_the_gallery():
    region = box_mask(np.array([20.0, 10, 60, 50]), QUERY)
    warped = warp_region(np.eye(3), region, GALLERY)
    assert warped.box.tolist() == [30, 15, 90, 75] and warped.mask.sum() == 60 * 60


def test_a_perspective_maps_every_pixel_as_its_centre():
    rng = np.random.default_rng(0)
    transform = np.array([[0.9, -0.2, 0.2], [0.15, 0.8, 0.05], [0.2, 0.1, 1]])
    region = box_mask(np.array([10.0, 12, 70, 55]), QUERY)
    warped = warp_region(transform, region, GALLERY)
    back = np.linalg.inv(transform)
    wrong = 0
    for i, j in zip(rng.integers(0, 90, 600), rng.integers(0, 120, 600), strict=True):
        u, v, t = back @ [(j + 0.5) / 120, (i + 0.5) / 120, 1]
        x, y = 80 * u / t, 80 * v / t
        if min(abs(x - 10), abs(x - 70), abs(y - 12), abs(y - 55)) > 0.6:
            wrong += warped.mask[i, j] != (10 < x < 70 and 12 < y < 55)
    assert wrong == 0 and 500 < warped.mask.sum() < 8000
    for scale in (-3.0, 1e-4):  # the same transform
        np.testing.assert_array_equal(warp_region(scale * transform, region, GALLERY).mask, warped.mask)


def test_what_leaves_the_photograph_is_cut():
    shift = np.array([[1, 0, 0.5], [0, 1, 0], [0, 0, 1.0]])
    warped = warp_region(shift, np.ones(QUERY, bool), GALLERY)
    assert warped.box.tolist() == [60, 0, 120, 90]


@pytest.mark.parametrize(
    "transform",
    [
        np.zeros((3, 3)),
        np.full((3, 3), np.nan),
        np.diag([1.0, 0, 1]),  # onto a line
        np.array([[1.0, 0, 0], [0, 1, 0], [-2, 0, 1]]),  # the horizon in the region
        np.array([[1.0, 0, 5], [0, 1, 0], [0, 0, 1]]),  # beside the photograph
    ],
)
def test_transforms_that_show_nothing(transform):
    assert warp_region(transform, np.ones(QUERY, bool), GALLERY) is None


def test_an_empty_region_is_nowhere():
    assert warp_region(np.eye(3), np.zeros(QUERY, bool), GALLERY) is None
