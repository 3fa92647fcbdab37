"""What a region of a photograph is, the box that is described of it, and photographs that are cut to it."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sret_jax.data.decoding import MIN_SIDE, encode_mask
from sret_jax.data.regions import checked_region, cut_out, described_box, region_box
from sret_jax.errors import UserError
from tests.support.photos import photo_set

PHOTOS = photo_set()
SIZE = (60, 90)
SIDES = st.integers(MIN_SIDE, 300)
SHARES = st.floats(0, 1)


@pytest.mark.parametrize(
    "region, message",
    [
        ((90, 0, 120, 60), "query box .* no area inside the photograph of 90x60 pixels"),
        ((10, 10, 10, 40), "no area inside"),
        ((40, 10, 10, 40), "no area inside"),
        ((90, 10), r"query click \(90, 10\): outside the photograph of 90x60 pixels"),
        ((-1, 10), "outside the photograph"),
        ((1, 2, 3), "give a box"),
        ((), "give a box"),
        ((1, 2, 3, float("nan")), "give a box"),
        ((1, float("inf")), "give a box"),
        ((True, False), "give a box"),
        ((True, 40), "give a box"),
        ((0, 0, 40, 10**400), "give a box"),
        ((0, 0, 40, 10**5000), "give a box"),
        (np.array(["1", "2"]), "give a box"),
        (np.array([1, None]), "give a box"),
        (np.zeros(SIZE, bool), "it is empty"),
        (np.ones((60, 80), bool), "80x60 pixels, its photograph 90x60"),
        (np.ones(SIZE), "float64, not bool"),
    ],
)
def test_what_is_no_region_is_refused_in_one_line(region, message):
    with pytest.raises(UserError, match=message) as error:
        checked_region(region, SIZE)
    assert "\n" not in str(error.value)


def test_a_region_is_all_a_box_clipped_a_click_or_a_mask():
    assert checked_region(None, SIZE) is None
    assert checked_region([-5, 10.5, 200, 20], SIZE).tolist() == [0, 10.5, 90, 20]
    assert checked_region(np.array([3, 4], np.int32), SIZE).tolist() == [3, 4]
    mask = np.eye(*SIZE, dtype=bool)
    assert checked_region(mask, SIZE) is mask


def test_the_box_of_a_region_holds_every_pixel_that_it_touches():
    assert region_box(None, SIZE) == (0, 0, 90, 60)
    assert region_box((3.5, -9, 12.1, 20), SIZE) == (3, 0, 13, 20)
    mask = np.zeros(SIZE, bool)
    mask[5, 7] = mask[20, 3] = True
    assert region_box(mask, SIZE) == (3, 5, 8, 21)
    left, top, right, bottom = region_box((45, 30), SIZE)
    assert left < 45 < right and top < 30 < bottom and right - left == bottom - top


def test_the_margin_is_a_share_of_the_longer_side_and_ends_with_the_photograph():
    assert described_box((40, 20, 60, 40), SIZE, 0.1) == (38, 18, 62, 42)
    assert described_box((20, 20, 60, 40), SIZE, 0.1) == (16, 16, 64, 44)
    assert described_box((0, 30, 40, 60), SIZE, 0.1) == (0, 26, 44, 60)
    assert described_box(None, SIZE, 0.5) == (0, 0, 90, 60)
    assert described_box((45, 30), SIZE, 0.5) == region_box((45, 30), SIZE)
    for margin in (-0.1, float("nan")):
        with pytest.raises(UserError, match="margin"):
            described_box(None, SIZE, margin)


def test_what_is_tiny_grows_to_what_can_be_decoded():
    assert described_box((40, 30, 41, 31), SIZE, 0.0) == (32, 22, 48, 38)
    assert described_box((0, 0, 1, 1), SIZE, 0.0) == (0, 0, 16, 16)
    assert described_box((89, 59, 90, 60), SIZE, 0.0) == (74, 44, 90, 60)


@given(st.tuples(SIDES, SIDES), st.tuples(SHARES, SHARES, SHARES, SHARES), st.floats(0, 3))
def test_the_described_box_holds_the_region_and_lies_in_the_photograph(size, corners, margin):
    (height, width), (a, b, c, d) = size, corners
    region = (min(a, c) * (width - 1), min(b, d) * (height - 1), max(a, c) * width + 1, max(b, d) * height + 1)
    left, top, right, bottom = described_box(region, size, margin)
    inner = region_box(region, size)
    assert 0 <= left <= inner[0] and inner[2] <= right <= width and right - left >= MIN_SIDE
    assert 0 <= top <= inner[1] and inner[3] <= bottom <= height and bottom - top >= MIN_SIDE
    wider = described_box(region, size, margin + 0.2)
    assert wider[0] <= left and wider[1] <= top and wider[2] >= right and wider[3] >= bottom


def test_photographs_are_cut_to_what_is_described():
    height, width = PHOTOS.sizes[0].tolist()
    marked = np.zeros((height, width), bool)
    marked[8:24, 16:32] = True
    records = [dict(PHOTOS.source[i]) | ({"mask": encode_mask(marked)} if i == 0 else {}) for i in range(len(PHOTOS))]
    photos = replace(PHOTOS, source=records)
    cut = cut_out(photos, {0: (16, 10, 40, 30), 2: None}, margin=0.0)
    np.testing.assert_array_equal(cut.photo(0), photos.photo(0)[10:30, 16:40])
    np.testing.assert_array_equal(cut.mask(0), marked[10:30, 16:40])
    assert cut.sizes[0].tolist() == cut.regions[0].tolist() == [20, 24]
    for row in (1, 2, 10):
        np.testing.assert_array_equal(cut.photo(row), photos.photo(row))
        assert cut.digests[row] == photos.digests[row] and (cut.sizes[row] == photos.sizes[row]).all()
    assert cut.fingerprint != photos.fingerprint != cut_out(photos, {0: (16, 10, 41, 30)}, margin=0.0).fingerprint
    assert photos.sizes[0].tolist() == [height, width] and cut_out(photos, {}) is photos


def test_a_region_without_a_photograph_is_named():
    with pytest.raises(UserError, match="'bridge/0.png': query click .* outside"):
        cut_out(PHOTOS, {0: (1000, 0)})
    with pytest.raises(UserError, match="row 11, but there are 11 photographs"):
        cut_out(PHOTOS, {11: (1, 1)})
    boxes = np.tile(np.array([0, 0, 20, 20], np.int32), (len(PHOTOS), 1))
    with pytest.raises(UserError, match="cut to their boxes already"):
        cut_out(replace(PHOTOS, boxes=boxes), {0: (1, 1)})
