"""Thumbnails and heat maps, and that what is kept of them is bounded."""

import io

import numpy as np
import pytest
from PIL import Image

from sret_jax.data.decoding import decode_photo, encode_jpeg
from sret_jax.server.pictures import HEAT_SIDE, PictureCache, heat_picture, picture


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((1000, 500), 320, (320, 160)),
        ((200, 300), 320, (200, 300)),
        ((2000, 20), 320, (320, 3)),
        ((90, 80), None, (90, 80)),
    ],
)
def test_a_picture_keeps_its_shape_and_is_never_enlarged(shape, size, expected):
    data = picture(encode_jpeg(np.zeros((*shape, 3), np.uint8), 90), size)
    assert Image.open(io.BytesIO(data)).size == expected[::-1]


def test_the_whole_picture_is_close_to_the_file():
    y, x = np.mgrid[:60, :80]
    photo = np.stack([3 * y, 3 * x, y + x], -1).astype(np.uint8)
    decoded = decode_photo(picture(encode_jpeg(photo, 95)))
    assert np.abs(decoded.astype(int) - photo).mean() < 2


def test_heat_is_brightest_where_it_is_greatest():
    heat = np.zeros((50, 70))
    heat[10, 20], heat[30, 40], heat[0, 0] = 2.0, 1.0, -5.0
    pixels = np.asarray(Image.open(io.BytesIO(heat_picture(heat)))).astype(int)
    light = pixels[..., :3].sum(-1)
    assert light[10, 20] == light.max() > light[30, 40] > light[5, 5] == light[0, 0]


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_heat_without_any_is_dark_all_over(value):
    pixels = np.asarray(Image.open(io.BytesIO(heat_picture(np.full((20, 30), value)))))
    assert (pixels == pixels[0, 0]).all() and pixels[0, 0, 0] < 40


def test_a_large_heat_map_is_reduced():
    image = Image.open(io.BytesIO(heat_picture(np.ones((3000, 1500)))))
    assert max(image.size) <= HEAT_SIDE


def test_the_cache_drops_what_was_not_used_for_longest():
    cache = PictureCache(100)
    for name in "abc":
        cache.put((name, 1, ""), bytes(30))
    assert cache.get(("a", 1, "")) is not None
    cache.put(("d", 1, ""), bytes(30))
    assert cache.get(("b", 1, "")) is None and cache.get(("a", 1, "")) and cache.size == 90
    cache.put(("a", 1, ""), bytes(10))
    assert cache.size == 70
    cache.put(("e", 1, ""), bytes(1000))
    assert cache.size == 0
