"""Augmented views keep the aspect and are a function of the random generator alone."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sret_jax.config import DataConfig
from sret_jax.data.augmentation import augment, random_colour, random_crop, recompress

CONFIG = DataConfig(image_size=96)
PLAIN = dataclasses.replace(CONFIG, crop_area=(1.0, 1.0), flip=0.0, colour=0.0, jpeg=0.0)


def ramp(h: int, w: int) -> np.ndarray:
    y, x = np.mgrid[:h, :w]
    return np.stack([255 * y // h, 255 * x // w, 255 * (x + y) // (h + w)], -1).astype(np.uint8)


@given(st.integers(16, 300), st.integers(16, 300), st.integers(0, 2**32))
def test_crops_keep_the_aspect_within_a_pixel_and_the_area_in_range(h, w, seed):
    photo = np.zeros((h, w, 3), np.uint8)
    crop = random_crop(photo, np.random.default_rng(seed), (0.25, 0.9))
    ch, cw = crop.shape[:2]
    assert abs(ch * w - cw * h) <= max(h, w)  # the longer side differs from the exact one by a pixel at most
    assert ch >= 0.5 * h - 0.5 and cw >= 0.5 * w - 0.5 and ch <= h and cw <= w


def test_crops_reach_every_corner():
    rng = np.random.default_rng(0)
    photo = ramp(40, 60)
    crops = [random_crop(photo, rng, (0.5, 0.7)) for _ in range(4000)]
    for at, corner in (((0, 0), (0, 0)), ((0, -1), (0, 59)), ((-1, 0), (39, 0)), ((-1, -1), (39, 59))):
        assert any((crop[at] == photo[corner]).all() for crop in crops)


@pytest.mark.parametrize("shape", [(200, 300), (300, 200), (150, 150), (40, 300)])
def test_augmented_photos_have_the_content_size(shape):
    for seed in range(5):
        view = augment(ramp(*shape), np.random.default_rng(seed), CONFIG)
        assert view.dtype == np.uint8 and max(view.shape[:2]) == 96
        assert abs(min(view.shape[:2]) - 96 * min(shape) / max(shape)) <= 1.5
        view = augment(ramp(*shape), np.random.default_rng(seed), CONFIG, multiple=32)
        assert view.shape[0] % 32 == 0 and view.shape[1] % 32 == 0


def test_the_same_generator_gives_the_same_view():
    photo = ramp(120, 160)
    first, again, other = (augment(photo, np.random.default_rng(seed), CONFIG) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_nothing_happens_when_everything_is_off():
    photo = ramp(72, 96)
    np.testing.assert_array_equal(augment(photo, np.random.default_rng(0), PLAIN), photo)


def test_flip_mirrors_left_and_right():
    photo = ramp(72, 96)
    view = augment(photo, np.random.default_rng(0), dataclasses.replace(PLAIN, flip=1.0))
    np.testing.assert_array_equal(view, photo[:, ::-1])


def test_colour_jitter_grows_with_its_strength_from_none():
    photo = ramp(40, 40)
    np.testing.assert_array_equal(random_colour(photo, np.random.default_rng(0), 0.0), photo)
    changes = [np.abs(random_colour(photo, np.random.default_rng(1), s).astype(int) - photo).mean() for s in (0.1, 0.5)]
    assert 0 < changes[0] < changes[1]


def test_recompression_is_mild_at_high_quality():
    photo = ramp(64, 64)
    low, high = (np.abs(recompress(photo, q).astype(int) - photo).mean() for q in (20, 95))
    assert 0 < high < low < 20
