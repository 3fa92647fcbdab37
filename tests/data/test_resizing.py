"""Sizes and buckets: the rules hold for photographs of every shape."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sret_jax.data.resizing import bucket_shapes, choose_bucket, content_size, place, resize, round_to

SIDES = st.integers(16, 8000)
LONGEST = st.integers(32, 1024)
MULTIPLE = st.sampled_from([1, 8, 16, 32])
RATIOS = st.lists(st.floats(0.2, 1.0), max_size=3)


@given(SIDES, SIDES, LONGEST, MULTIPLE)
def test_content_keeps_the_aspect_up_to_the_rounding(h, w, longest, multiple):
    size = content_size((h, w), longest, multiple)
    assert max(size) == round_to(longest, multiple)
    assert all(side % multiple == 0 and side >= multiple for side in size)
    assert (size[0] >= size[1]) if h >= w else (size[1] >= size[0])
    exact = min(h, w) * max(size) / max(h, w)
    assert abs(min(size) - max(exact, multiple)) <= multiple / 2


@given(SIDES, SIDES, LONGEST, MULTIPLE, RATIOS)
def test_every_content_has_a_smallest_bucket(h, w, longest, multiple, ratios):
    buckets = bucket_shapes(longest, ratios, multiple)
    content = content_size((h, w), longest, multiple)
    chosen = choose_bucket(content, buckets)
    assert chosen in buckets and chosen[0] >= content[0] and chosen[1] >= content[1]
    for shape in buckets:
        if shape[0] >= content[0] and shape[1] >= content[1]:
            assert chosen[0] * chosen[1] <= shape[0] * shape[1]


def test_buckets_are_the_square_and_each_ratio_both_ways():
    assert bucket_shapes(320, (0.75,), 32) == [(256, 320), (320, 256), (320, 320)]
    assert bucket_shapes(320, (1.0, 0.75, 0.75), 32) == [(256, 320), (320, 256), (320, 320)]
    assert bucket_shapes(320, (), 32) == [(320, 320)]
    assert bucket_shapes(100, (0.5,), 32) == [(64, 96), (96, 64), (96, 96)]


def test_a_photo_of_the_bucket_ratio_fits_its_bucket():
    assert choose_bucket(content_size((3000, 4000), 320, 32), bucket_shapes(320, (0.75,), 32)) == (256, 320)


def test_content_that_fits_nowhere_is_an_error():
    with pytest.raises(ValueError, match="no bucket"):
        choose_bucket((64, 64), [(32, 64)])


def test_resize_filters_and_keeps_its_size():
    photo = np.zeros((64, 64, 3), np.uint8)
    photo[:, ::2] = 255  # stripes of one pixel become grey, not stripes of chance
    assert 120 < resize(photo, (16, 16))[4:12, 4:12].mean() < 135
    assert resize(photo, (64, 64)) is photo
    assert resize(photo, (20, 30)).shape == (20, 30, 3)


def test_place_pads_below_and_to_the_right():
    photo = np.full((2, 3, 3), 7, np.uint8)
    image, mask = place(photo, (4, 5))
    assert image.shape == (4, 5, 3) and image[:2, :3].min() == 7 and image.sum() == photo.sum()
    expected = np.zeros((4, 5), bool)
    expected[:2, :3] = True
    np.testing.assert_array_equal(mask, expected)
    with pytest.raises(ValueError, match="does not fit"):
        place(photo, (2, 2))


SHAPES = [
    *[(480, 640), (640, 480), (500, 500), (3000, 4000), (4000, 3000), (1000, 999), (999, 1000), (363, 362), (362, 363)],
    *[(17, 2000), (2000, 17), (16, 7000), (7000, 16), (725, 724), (1448, 363), (363, 1448), (361, 90), (90, 361)],
]


def thumbnail_before_7(width, height, side):
    """The size that Pillow's `thumbnail` gave a photograph up to version 6.2: width first, then height, whole parts."""
    if width > side:
        width, height = side, int(max(height * side / width, 1))
    if height > side:
        width, height = int(max(width * side / height, 1)), side
    return width, height


@given(st.integers(1, 9000), st.integers(1, 9000), st.integers(16, 1024))
def test_rounded_down_is_the_thumbnail_before_pillow_7(h, w, side):
    longest = min(side, max(h, w))
    width, height = thumbnail_before_7(w, h, side)
    assert content_size((h, w), longest, 1, "down") == (height, width)


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("side", [362, 90, 64])
def test_thumbnail_is_that_of_pillow_bit_for_bit(size, side):
    """Of every shape, and of photographs that are small enough already."""
    photo = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    theirs = Image.fromarray(photo)
    theirs.thumbnail((side, side), Image.Resampling.LANCZOS)
    shown = content_size(size, min(side, max(size)), 1, "aspect")
    np.testing.assert_array_equal(resize(photo, shown, "thumbnail"), np.asarray(theirs))


@settings(deadline=None)  # Pillow resizes photographs for it
@given(st.integers(1, 900), st.integers(1, 900), st.integers(16, 300))
def test_the_nearest_aspect_is_the_size_of_a_thumbnail(h, w, side):
    with Image.new("1", (w, h)) as theirs:
        theirs.thumbnail((side, side), Image.Resampling.NEAREST, reducing_gap=None)
    assert content_size((h, w), min(side, max(h, w)), 1, "aspect") == theirs.size[::-1]


@pytest.mark.parametrize("size", SHAPES)
def test_lanczos_in_one_step_is_the_thumbnail_without_a_gap(size):
    photo = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    shown = content_size(size, min(362, max(size)), 1, "down")
    theirs = Image.fromarray(photo).resize(shown[::-1], Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(resize(photo, shown, "lanczos"), np.asarray(theirs))


@given(SIDES, SIDES, LONGEST, MULTIPLE, RATIOS, st.sampled_from(["down", "aspect"]))
def test_every_rounding_gives_multiples_that_fit_a_bucket(h, w, longest, multiple, ratios, rounding):
    size, nearest = (content_size((h, w), longest, multiple, how) for how in (rounding, "nearest"))
    assert max(size) == max(nearest) and all(side % multiple == 0 and side >= multiple for side in size)
    assert abs(min(size) - min(nearest)) <= multiple
    choose_bucket(size, bucket_shapes(longest, ratios, multiple))
