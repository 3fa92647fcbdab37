"""The list of formats, and what is refused by its first bytes with a remedy."""

from pathlib import Path

import pytest
from PIL import Image

from sret_jax.data import formats
from sret_jax.data.decoding import PhotoRejected, decode_photo
from sret_jax.data.formats import FORMATS, decoder, is_heic, refusal, written
from tests.support import photo_files as files


def test_the_list_as_messages_write_it():
    assert written() == "JPEG, PNG, WebP, AVIF, HEIC, GIF, BMP, TIFF or JPEG 2000"
    assert written(["PNG"]) == "PNG"


@pytest.mark.parametrize("page", ["README.md", "docs/quickstart.md", "docs/library.md"])
def test_the_documentation_has_the_same_list(page):
    assert written() in (Path(__file__).parents[2] / page).read_text()


def test_no_format_is_read_by_another_program():
    assert not {"EPS", "WMF", "PDF", "PSD", "FLI", "MPEG", "GRIB", "HDF5", "BUFR"} & set(FORMATS)
    Image.init()
    assert set(FORMATS) - {"HEIF"} <= set(Image.OPEN)


@pytest.mark.parametrize(
    ("name", "data", "remedy"),
    [
        ("HEIF", files.HEIC_START, 'HEIC, which cannot be decoded here: pip install "sret_jax[heic]", or export it'),
        ("AVIF", b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif", "AVIF, which cannot be decoded here: install Pillow from"),
        ("WEBP", files.photo_bytes("WEBP"), "WebP, which cannot be decoded here"),
    ],
)
def test_a_format_that_is_missing_here_names_its_remedy(monkeypatch, name, data, remedy):
    there = formats.installed
    monkeypatch.setattr(formats, "installed", lambda other: other != name and there(other))
    with pytest.raises(PhotoRejected) as caught:
        decode_photo(data)
    assert caught.value.reason.startswith(remedy)
    assert refusal(files.ACCEPTED["plain.jpg"][0]) == ""


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"mif1", b"msf1", b"hevc"])
def test_heic_is_told_by_its_brands(brand):
    assert is_heic(b"\0\0\0\x18ftyp" + brand + bytes(4) + b"mif1heic")
    assert not is_heic(b"\0\0\0\x18ftyp" + brand + bytes(4) + b"mif1avif")
    assert not is_heic(b"\0\0\0\x18ftypisom" + bytes(4) + b"mp41mp42")


def test_caches_remember_what_could_be_decoded(monkeypatch):
    assert decoder("a/b.JPG") == decoder("b.png") == decoder("notes.txt") == ""
    before = decoder("a.HEIC"), decoder("a.tiff")
    monkeypatch.setattr(formats, "installed", lambda name: name == "HEIF" and "HEIF True" not in before)
    assert decoder("a.HEIC") != before[0]


def test_an_ordinary_tiff_with_a_smaller_copy_is_a_photograph():
    """As programs for pictures write them: the first is whole, and below it is a preview."""
    photo = decode_photo(files.tiff(bytes(400), sub=((256, 4, 10), (257, 4, 10))))
    assert photo.shape == (20, 20, 3)
