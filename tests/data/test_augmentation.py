"""Augmented views keep the aspect and are a function of the random generator alone."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sret_jax.config import DataConfig
from sret_jax.data.augmentation import (
    add_noise,
    augment,
    blur,
    crop_box,
    homography,
    occlude,
    random_colour,
    random_corners,
    random_crop,
    recompress,
    relight,
    strong_view,
    warp,
)

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


OFF = dataclasses.replace(PLAIN, view_strength=0.0)
FRAME = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])  # (x, y), clockwise from the top left


def mapped(matrix, points):
    """Points [n 2] through a homography, one by one."""
    out = []
    for x, y in points:
        a, b, t = matrix @ np.array([x, y, 1.0])
        out.append((a / t, b / t))
    return np.array(out)


def smooth(h: int, w: int) -> np.ndarray:
    """Red says where a pixel's centre is across, and green down: both from 20 to 220."""
    y, x = (np.mgrid[:h, :w] + 0.5) / np.array([h, w])[:, None, None]
    return np.stack([20 + 200 * x, 20 + 200 * y, np.full((h, w), 90)], -1).round().astype(np.uint8)


@given(st.integers(16, 400), st.integers(16, 400), st.sampled_from([0.05, 0.25, 0.5]), st.integers(0, 2**32))
def test_the_corners_of_a_strong_view_are_convex_in_order_and_inside(h, w, strength, seed):
    rng = np.random.default_rng(seed)
    top, left, ch, cw = box = crop_box((h, w), rng, (0.4, 1.0))
    corners = random_corners((h, w), box, rng, strength)
    assert (corners >= 0).all() and (corners <= [w, h]).all()
    away = np.abs(corners - ([left, top] + FRAME * [cw, ch]))
    assert (away <= np.array([cw, ch]) * strength + 1e-9).all()
    for i in range(4):  # every turn is to the right on the screen, as in the frame: convex, and no mirror
        (ax, ay), (bx, by) = corners[i] - corners[i - 1], corners[(i + 1) % 4] - corners[i]
        assert ax * by - ay * bx > 0.2 * ch * cw


def test_corners_move_on_their_own_and_as_far_as_asked():
    rng = np.random.default_rng(0)
    moved = np.stack([random_corners((900, 1200), (300, 400, 300, 400), rng, 0.25) for _ in range(2000)])
    away = (moved - ([400, 300] + FRAME * [400, 300])) / [400, 300]
    assert (np.abs(away).max(0) > 0.24).all() and np.abs(away).max() <= 0.25
    assert np.abs(np.corrcoef(away.reshape(2000, 8).T) - np.eye(8)).max() < 0.2  # but for those that are drawn anew


def test_a_homography_takes_the_corners_of_a_view_to_those_of_the_photograph():
    rng = np.random.default_rng(1)
    for _ in range(20):
        corners = random_corners((200, 300), crop_box((200, 300), rng, (0.4, 1.0)), rng, 0.25)
        matrix = homography((60, 90), corners)
        np.testing.assert_allclose(mapped(matrix, FRAME * [90, 60]), corners, atol=1e-3)
        crossing = np.linalg.inv(matrix) @ np.cross(
            np.cross([*corners[0], 1], [*corners[2], 1]), np.cross([*corners[1], 1], [*corners[3], 1])
        )
        np.testing.assert_allclose(crossing[:2] / crossing[2], [45, 30], atol=1e-2)  # diagonals stay diagonals


@pytest.mark.parametrize("scale", [1, 5])  # as large as the view, and five times
def test_a_warped_view_shows_what_its_homography_says(scale):
    shape, rng = (80 * scale, 120 * scale), np.random.default_rng(2)
    photo = smooth(*shape)
    for _ in range(10):
        corners = random_corners(shape, crop_box(shape, rng, (0.5, 1.0)), rng, 0.25)
        view = warp(photo, corners, (80, 120))
        at = [(x, y) for x in (0, 13, 60, 119) for y in (0, 31, 79)]
        place = mapped(homography((80, 120), corners), np.array(at) + 0.5) / [shape[1], shape[0]]
        shown = np.array([view[y, x, :2] for x, y in at]).astype(float)
        inner = ((place > 0.02) & (place < 0.98)).all(1)  # at the edge of the photograph half a pixel is repeated
        np.testing.assert_allclose(shown[inner], 20 + 200 * place[inner], atol=2)
        np.testing.assert_allclose(shown, 20 + 200 * place, atol=4)
        assert (np.abs(view[..., 2].astype(int) - 90) <= 1).all()


def test_a_warp_to_the_photograph_s_own_corners_changes_nothing():
    photo = np.random.default_rng(0).integers(0, 256, (72, 96, 3), np.uint8)
    np.testing.assert_array_equal(warp(photo, FRAME * [96.0, 72.0], (72, 96)), photo)
    part = warp(photo, np.array([10.0, 20.0]) + FRAME * [32.0, 24.0], (24, 32))
    np.testing.assert_array_equal(part, photo[20:44, 10:42])


def test_nothing_happens_in_a_strong_view_when_every_strength_is_0():
    photo, rng = ramp(72, 96), np.random.default_rng(0)
    np.testing.assert_array_equal(strong_view(photo, rng, OFF), photo)
    for same in (occlude(photo, rng, 0.0), relight(photo, rng, 0.0, 0.0), blur(photo, rng, 0.0)):
        np.testing.assert_array_equal(same, photo)
    np.testing.assert_array_equal(add_noise(photo, rng, 0.0), photo)
    np.testing.assert_array_equal(
        random_corners((72, 96), (4, 8, 50, 60), rng, 0.0), np.array([8, 4]) + FRAME * [60, 50]
    )


def test_without_strength_a_strong_view_is_any_view():
    config, photo = dataclasses.replace(CONFIG, view_strength=0.0), ramp(72, 96)
    views = [view(photo, np.random.default_rng(3), config) for view in (strong_view, augment)]
    np.testing.assert_array_equal(*views)


@pytest.mark.parametrize("shape", [(200, 300), (300, 200), (150, 150), (40, 300), (16, 3000), (16, 16)])
def test_strong_views_have_the_content_size(shape):
    for seed in range(5):
        view = strong_view(ramp(*shape), np.random.default_rng(seed), CONFIG)
        assert view.dtype == np.uint8 and max(view.shape[:2]) == 96 and view.flags.c_contiguous
        assert abs(min(view.shape[:2]) - 96 * min(shape) / max(shape)) <= 2
        view = strong_view(ramp(*shape), np.random.default_rng(seed), CONFIG, multiple=32)
        assert view.shape[0] % 32 == 0 and view.shape[1] % 32 == 0


def test_strong_views_are_functions_of_their_generator_and_differ():
    photo = ramp(120, 160)
    views = [strong_view(photo, np.random.default_rng(seed), PLAIN) for seed in (5, 5, 6, 7)]
    np.testing.assert_array_equal(views[0], views[1])
    assert all((views[i] != views[j]).any() for i, j in ((0, 2), (0, 3), (2, 3)))


def test_strong_views_differ_more_the_stronger_they_are():
    photo = smooth(72, 96)
    changes = []
    for strength in (0.02, 0.1, 0.25):
        config = dataclasses.replace(PLAIN, view_strength=strength)
        views = [strong_view(photo, np.random.default_rng(seed), config).astype(int) for seed in range(10)]
        changes.append(np.mean([np.abs(view - photo).mean() for view in views]))
    assert 0 < changes[0] < changes[1] < changes[2]


def test_occlusions_hide_up_to_the_share_asked_for_with_a_colour_or_noise():
    photo = np.full((80, 120, 3), 77, np.uint8)
    shares, kinds, reached = [], set(), np.zeros(4, int)
    for seed in range(300):
        view = occlude(photo, np.random.default_rng(seed), 0.15)
        hidden = (view != 77).any(-1)
        shares.append(hidden.mean())
        reached += [hidden[0].any(), hidden[-1].any(), hidden[:, 0].any(), hidden[:, -1].any()]
        tall, wide = hidden.any(1).sum(), hidden.any(0).sum()
        if tall * wide == hidden.sum() > 50:  # one rectangle to be seen
            assert max(tall / wide, wide / tall) < 2.5 and hidden.mean() <= 0.15
            kinds.add("colour" if len(np.unique(view[hidden], axis=0)) == 1 else "noise")
    assert 0.25 < max(shares) <= 0.3 and 0.07 < np.mean(shares) < 0.15 and kinds == {"colour", "noise"}
    assert (reached > 0).all()


def test_light_follows_gamma_and_a_plane():
    photo = np.full((60, 90, 3), 100, np.uint8)
    even = [int(relight(photo, np.random.default_rng(seed), 0.5, 0.0)[0, 0, 0]) for seed in range(200)]
    darkest, lightest = (255 * (100 / 255) ** 2**exponent for exponent in (0.5, -0.5))
    assert 0 <= min(even) - darkest + 0.5 < 2 and 0 <= lightest + 0.5 - max(even) < 2
    for seed in range(20):
        lit = relight(photo, np.random.default_rng(seed), 0.0, 0.5)[..., 0].astype(float)
        y, x = np.mgrid[:60, :90]
        plane = np.linalg.lstsq(np.stack([x.ravel(), y.ravel(), np.ones(5400)], 1), lit.ravel(), rcond=None)[0]
        fitted = x * plane[0] + y * plane[1] + plane[2]
        assert np.abs(lit - fitted).max() < 0.6 and abs(lit.mean() - 100) < 0.6
        assert lit.min() >= 49.5 and lit.max() <= 150.5


def test_noise_and_blur_are_as_strong_as_asked():
    grey, edge = np.full((64, 64, 3), 128, np.uint8), np.zeros((64, 64, 3), np.uint8)
    edge[:, 32:] = 200
    deviations = [(add_noise(grey, np.random.default_rng(seed), 10.0) - 128.0).std() for seed in range(60)]
    assert 9 < max(deviations) < 10.5 and min(deviations) < 1
    noise = add_noise(grey, np.random.default_rng(1), 10.0) - 128.0
    assert abs(noise.mean()) < 0.5 and abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]) < 0.05
    steps = [np.diff(blur(edge, np.random.default_rng(seed), 3.0)[32, :, 0].astype(float)).max() for seed in range(60)]
    assert max(steps) > 180 and 200 / (3.2 * np.sqrt(2 * np.pi)) < min(steps) < 35  # the steepest step of sigma 3: 26.6
