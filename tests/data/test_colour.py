"""Photographs with a colour profile, as sRGB."""

import numpy as np
import pytest
from PIL import Image, ImageCms

from sret_jax.data import colour
from sret_jax.data.decoding import decode_photo
from tests.support import photo_files as files
from tests.support.photos import encode

PHOTO = Image.fromarray(files.quadrants())
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def with_profile(photo: np.ndarray, profile: bytes, kind: str = "PNG") -> np.ndarray:
    return decode_photo(encode(Image.fromarray(photo), kind, icc_profile=profile))


@pytest.mark.parametrize("profile", [files.DISPLAY_P3, files.ADOBE_RGB])
def test_colours_become_srgb_by_the_matrices_of_both_profiles(profile):
    """Written out: numbers -> light -> X, Y, Z -> light of sRGB's colours -> numbers."""
    at = [profile.index(name) for name in (b"rXYZ", b"gXYZ", b"bXYZ")]  # in the table of tags
    places = [int.from_bytes(profile[i + 4 : i + 8], "big") + 8 for i in at]
    own = np.stack([np.frombuffer(profile[i : i + 12], ">i4") / 65536 for i in places], 1)
    srgb = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
    colours = np.random.default_rng(0).integers(60, 200, (20, 20, 3)).astype(np.uint8)
    light = (colours / 255) ** (round(2.2 * 256) / 256)
    x = np.clip(light @ (np.linalg.inv(srgb) @ own).T, 0, 1)
    expected = 255 * np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(with_profile(colours, profile), expected, atol=2)
    assert np.abs(expected - colours).max() > 10


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_an_srgb_profile_changes_no_pixel(kind, monkeypatch):
    photo = np.random.default_rng(0).integers(0, 256, (30, 40, 3)).astype(np.uint8)
    plain = decode_photo(encode(Image.fromarray(photo), kind))
    np.testing.assert_array_equal(with_profile(photo, SRGB, kind), plain)
    monkeypatch.setattr(colour, "ImageCms", None)  # nothing is computed for the next ones
    np.testing.assert_array_equal(with_profile(photo, SRGB, kind), plain)


def test_a_wide_photograph_of_a_press_is_converted_by_its_profile():
    """Four inks, each of which takes a quarter of the lightness; Pillow's formula would see colours."""
    plain = decode_photo(encode(PHOTO.convert("CMYK"), "TIFF"))
    grey = decode_photo(encode(PHOTO.convert("CMYK"), "TIFF", icc_profile=files.cmyk_profile()))
    assert np.ptp(grey.astype(int), axis=2).max() <= 1 < np.ptp(plain.astype(int), axis=2).max()
    paper = decode_photo(encode(Image.new("CMYK", (20, 20)), "TIFF", icc_profile=files.cmyk_profile()))
    assert paper.min() >= 254


@pytest.mark.parametrize(
    "profile",
    [
        b"x",
        bytes(500),
        files.DISPLAY_P3[:200],
        files.DISPLAY_P3[:-30].replace(b"gXYZ", b"qXYZ"),
        files.cmyk_profile(),  # of another kind of photograph
        files.DISPLAY_P3 + bytes(colour.MAX_PROFILE),
    ],
)
def test_a_profile_that_cannot_be_used_leaves_the_photograph_as_it_is(profile):
    np.testing.assert_array_equal(with_profile(files.quadrants(), profile, "TIFF"), files.quadrants())


def test_transparent_pixels_stay_white():
    clear = np.dstack([files.quadrants(), np.zeros((files.H, files.W), np.uint8)])
    assert (decode_photo(encode(Image.fromarray(clear), "PNG", icc_profile=files.DISPLAY_P3)) >= 254).all()


def test_mutated_profiles_give_a_photograph():
    rng = np.random.default_rng(0)
    for round_ in range(200):
        profile = bytearray(files.DISPLAY_P3 if round_ % 2 else files.cmyk_profile())
        for at in rng.integers(len(profile), size=6):
            profile[at] = rng.integers(256)
        photo = PHOTO if round_ % 2 else PHOTO.convert("CMYK")
        assert decode_photo(encode(photo, "TIFF", icc_profile=bytes(profile))).shape == (files.H, files.W, 3)
