"""RootSIFT of drawn photographs: where keypoints are, in which order, and none where there is nothing to see."""

import cv2
import numpy as np
import pytest

from sret_jax.extraction.sift import sift


def blobs(h=96, w=160, seed=0, count=25):
    """Bright discs of different size and contrast on a dark ground."""
    rng = np.random.default_rng(seed)
    photo = np.full((h, w, 3), 30, np.uint8)
    for _ in range(count):
        centre = int(rng.integers(w)), int(rng.integers(h))
        cv2.circle(photo, centre, int(rng.integers(2, 8)), rng.integers(60, 255, 3).tolist(), -1)
    return photo


def test_features_are_square_roots_of_the_histograms_of_opencv():
    photo = blobs()
    found = sift(photo, 1000)
    keypoints, histograms = cv2.SIFT_create().detectAndCompute(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY), None)
    assert len(found.features) == len(keypoints) > 20
    there = np.array([(k.pt[0] + 0.5, k.pt[1] + 0.5, k.size) for k in keypoints]) / 160
    expected = np.sqrt(histograms / histograms.sum(1, keepdims=True))
    for feature, position, scale in zip(found.features, found.position, found.scale, strict=True):
        same = np.abs(there - [*position, scale]).max(1) < 1e-6  # with any orientation
        assert np.abs(expected[same] - feature).max(1).min() < 1e-6
    np.testing.assert_allclose(np.linalg.norm(found.features, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("shape", [(96, 160), (160, 96)])
def test_a_disc_is_found_where_it_is(shape):
    photo = np.full((*shape, 3), 40, np.uint8)
    cv2.circle(photo, (64, 48), 6, (220, 220, 220), -1)  # centre (64.5, 48.5) from the corner
    found = sift(photo, 1)
    np.testing.assert_allclose(found.position, [[64.5 / 160, 48.5 / 160]], atol=2e-3)
    assert found.features.shape == (1, 128) and found.scale.shape == found.strength.shape == (1,)


def test_the_strongest_come_first_and_fewer_are_the_first_of_more():
    many, few = sift(blobs(), 1000), sift(blobs(), 12)
    assert (np.diff(many.strength) <= 0).all() and len(many.strength) > len(few.strength) == 12
    for a, b in zip(many, few, strict=True):
        np.testing.assert_array_equal(a[:12], b)


def test_equally_strong_ones_have_an_order():
    tile = np.full((64, 64, 3), 40, np.uint8)
    cv2.circle(tile, (32, 32), 5, (220, 220, 220), -1)
    found = sift(np.tile(tile, (3, 3, 1)), 1000)
    ties = np.flatnonzero(np.diff(found.strength) == 0)
    assert len(ties) >= 3
    x, y = found.position.T
    assert all((y[i], x[i]) <= (y[i + 1], x[i + 1]) for i in ties)
    for a, b in zip(found, sift(np.tile(tile, (3, 3, 1)), 1000), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (64, 64)])
def test_a_photograph_without_texture_has_none(shape):
    found = sift(np.full((*shape, 3), 128, np.uint8), 10)
    assert [x.shape for x in found] == [(0, 128), (0, 2), (0,), (0,)]
    assert all(x.dtype == np.float32 for x in found)
