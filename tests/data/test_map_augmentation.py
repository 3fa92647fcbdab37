"""Views of stored maps: windows found by search, flips, hidden positions and resampled ramps."""

import dataclasses

import numpy as np
import pytest

from sret_jax.config import DataConfig
from sret_jax.data.map_augmentation import LEAST, augment_map

PLAIN = DataConfig(crop_area=(1.0, 1.0), flip=0.0)
SIZE, SHAPE = (9, 7), (12, 10)  # of the photograph, and of the array that it begins


def stored(size=SIZE, shape=SHAPE, channels=4, seed=0):
    """A map in 16 bits, not zero on the photograph and zero outside."""
    x = np.zeros((*shape, channels), np.float16)
    x[: size[0], : size[1]] = np.random.default_rng(seed).uniform(0.1, 1, (*size, channels))
    return x


def view(x, size=SIZE, seed=0, **fields):
    return augment_map(x, size, np.random.default_rng(seed), dataclasses.replace(PLAIN, **fields))


def shown(mask):
    """Rows and columns of the rectangle at the top left that the mask is."""
    rows, columns = int(mask.any(1).sum()), int(mask.any(0).sum())
    expected = np.zeros_like(mask)
    expected[:rows, :columns] = True
    np.testing.assert_array_equal(mask, expected)
    return rows, columns


def found_in(part, x):
    """Where in the map the part is."""
    rows, columns = part.shape[:2]
    places = [(i, j) for i in range(x.shape[0] - rows + 1) for j in range(x.shape[1] - columns + 1)]
    return [(i, j) for i, j in places if (x[i : i + rows, j : j + columns] == part).all()]


def test_nothing_happens_when_everything_is_off():
    x = stored()
    y, mask = view(x)
    assert y.dtype == np.float16 and y.shape == x.shape and mask.dtype == bool
    np.testing.assert_array_equal(y, x)
    assert shown(mask) == SIZE


def test_a_crop_is_a_window_of_the_photograph_at_the_top_left_and_zero_elsewhere():
    x, corners = stored(), set()
    for seed in range(200):
        y, mask = view(x, seed=seed, crop_area=(0.2, 0.6))
        rows, columns = shown(mask)
        assert round(9 * 0.2**0.5) <= rows <= round(9 * 0.6**0.5) and LEAST <= columns <= round(7 * 0.6**0.5)
        ((top, left),) = found_in(y[:rows, :columns], x)
        assert top + rows <= SIZE[0] and left + columns <= SIZE[1]
        assert not y[~mask].any() and y.dtype == np.float16
        corners |= {(top == 0, left == 0), (top + rows == SIZE[0], left + columns == SIZE[1], "end")}
    assert {(True, True), (True, True, "end")} <= corners  # no part of the map is out of reach


def test_a_crop_keeps_its_aspect_to_a_position_and_never_less_than_three():
    for seed in range(50):
        rows, columns = shown(view(stored((12, 10)), (12, 10), seed, crop_area=(0.3, 0.9))[1])
        assert abs(rows / 12 - columns / 10) <= 0.5 / 12 + 0.5 / 10
    assert shown(view(stored(), crop_area=(1e-4, 1e-4))[1]) == (LEAST, LEAST)
    assert shown(view(stored((2, 7)), (2, 7), crop_area=(1e-4, 1e-4))[1]) == (2, LEAST)


@pytest.mark.parametrize("fields", [{}, {"map_scale": (0.6, 1.4)}])
def test_flip_mirrors_the_same_crop_left_and_right(fields):
    x = stored()
    for seed in range(5):
        (plain, mask), (mirrored, same) = (
            view(x, seed=seed, crop_area=(0.3, 0.8), flip=flip, **fields) for flip in (0.0, 1.0)
        )
        np.testing.assert_array_equal(mask, same)
        columns = shown(mask)[1]
        np.testing.assert_array_equal(mirrored[:, :columns], plain[:, :columns][:, ::-1])


def test_half_of_the_views_are_mirrored():
    x = stored()
    mirrored = [not np.array_equal(view(x, seed=seed, flip=0.5)[0], x) for seed in range(200)]
    assert 70 < sum(mirrored) < 130


@pytest.mark.parametrize("share", [0.1, 0.6])
def test_a_share_of_the_positions_is_hidden_and_the_others_are_as_they_were(share):
    x = stored((40, 50), (40, 60))
    y, mask = view(x, (40, 50), map_drop=share)
    assert not mask[:, 50:].any()
    np.testing.assert_allclose(1 - mask[:, :50].mean(), share, atol=0.03)
    np.testing.assert_array_equal(y, x * mask[..., None])
    again = view(x, (40, 50), seed=1, map_drop=share)[1]
    assert (again != mask).mean() > 0.05


def test_never_is_everything_hidden():
    x, kept = stored((3, 3)), set()
    for seed in range(100):
        y, mask = view(x, (3, 3), seed, map_drop=0.999)
        assert mask.any() and not mask[3:].any() and not mask[:, 3:].any()
        assert y[mask].all() and not y[~mask].any()
        kept |= {tuple(at) for at in np.argwhere(mask).tolist()}
    assert len(kept) == 9  # what is left is anywhere


def ramp(shape, slopes):
    i, j = np.mgrid[: shape[0], : shape[1]]
    return (1 + slopes[0] * i + slopes[1] * j)[..., None].astype(np.float32)


def test_a_resampled_ramp_stays_a_ramp_of_the_slope_that_its_scale_says():
    size = (24, 18)
    for seed in range(20):
        y, mask = view(ramp(size, (2.0, 3.0)), size, seed, crop_area=(0.3, 0.9), map_scale=(0.4, 0.9))
        rows, columns = shown(mask)
        y = y[:rows, :columns, 0]
        for axis, slope in ((0, 2.0), (1, 3.0)):
            steps = np.diff(y, axis=axis)
            np.testing.assert_allclose(steps, steps[0, 0], atol=1e-3)
            assert 1 / 0.9 - 0.15 < steps[0, 0] / slope < 1 / 0.4 + 0.5  # the count of positions is a whole number
        assert y.min() >= 1 and y.max() <= 1 + 2 * 23 + 3 * 17


def test_a_view_that_is_enlarged_repeats_the_border_and_fits_its_array():
    x = np.zeros((10, 14, 1), np.float32)
    x[:8, :8] = ramp((8, 8), (1.0, 1.0))
    y, mask = view(x, (8, 8), map_scale=(1.5, 1.5))
    assert shown(mask) == (10, 12)  # twelve rows do not fit
    at = [np.clip((np.arange(n) + 0.5) * 8 / n - 0.5, 0, 7) for n in (10, 12)]
    np.testing.assert_allclose(y[:, :12, 0], 1 + at[0][:, None] + at[1][None], atol=1e-5)
    assert not y[:, 12:].any()


def test_resampling_begins_between_positions():
    size, starts = (16, 16), []
    for seed in range(100):
        y, _ = view(ramp(size, (0.0, 1.0)), size, seed, crop_area=(0.25, 0.25), map_scale=(0.999999, 1.0))
        starts.append(y[0, 0, 0] - 1)
    assert min(starts) < 0.5 and max(starts) > 7.5 and np.std(np.mod(starts, 1)) > 0.2


def test_at_a_scale_of_one_the_whole_map_stays_as_it_is():
    x = stored()
    y, mask = view(x, map_scale=(1 - 1e-12, 1.0))
    assert y.dtype == np.float16 and shown(mask) == SIZE
    np.testing.assert_allclose(y, x, rtol=1e-3)


@pytest.mark.parametrize("fields", [{}, {"map_scale": (0.5, 1.5), "map_drop": 0.2}])
def test_the_same_generator_gives_the_same_view(fields):
    first, again, other = (view(stored(), seed=seed, crop_area=(0.3, 0.9), flip=0.5, **fields) for seed in (5, 5, 6))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (first[0] != other[0]).any()
