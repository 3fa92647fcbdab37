"""Every kind of file is either decoded to the right pixels or refused with its reason."""

import importlib.util
import io
import os
import resource
import subprocess
import sys
import threading
import time
import zlib

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin, PngImagePlugin, features

from sret_jax.data import decoding, formats
from sret_jax.data.decoding import PhotoRejected, decode_mask, decode_photo, encode_jpeg, encode_mask
from sret_jax.datasets.mask_file import decode_any_mask
from sret_jax.storage.files import Unreadable, read_file
from tests.support import photo_files as files
from tests.support.collection import lying_photo


@pytest.mark.parametrize("name", files.ACCEPTED)
def test_photographs_are_decoded_upright_and_in_the_right_colours(name):
    data, colours, tolerance = files.ACCEPTED[name]
    photo = decode_photo(data)
    assert photo.dtype == np.uint8 and photo.ndim == 3 and photo.shape[2] == 3
    np.testing.assert_allclose(files.corners(photo), colours, atol=tolerance)


@pytest.mark.parametrize("name", files.REJECTED)
def test_everything_else_is_refused_with_its_reason(name):
    data, reason = files.REJECTED[name]
    with pytest.raises(PhotoRejected) as caught:
        decode_photo(data)
    assert caught.value.reason.startswith(reason) and caught.value.reason
    assert "0x" not in caught.value.reason  # no object addresses: two runs report the same


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation(orientation):
    """The standard says which side of the stored picture is up; here numpy stores it so, in its own words."""
    upright = files.quadrants()
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = files.Image.Exif()
    exif[0x0112] = orientation
    data = files.encode(files.Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif)
    np.testing.assert_array_equal(decode_photo(data), upright)


@pytest.mark.parametrize("name", files.ACCEPTED)
def test_a_photograph_that_is_converted_in_bands_has_the_same_pixels(monkeypatch, name):
    whole = decode_photo(files.ACCEPTED[name][0])
    monkeypatch.setattr(decoding, "BAND", 5 * files.W)  # the last band is shorter
    np.testing.assert_array_equal(decode_photo(files.ACCEPTED[name][0]), whole)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_bands_are_put_where_they_belong_when_the_photograph_is_turned(monkeypatch, orientation):
    photo = np.random.default_rng(0).integers(0, 256, (23, 31, 3), np.uint8)
    exif = files.Image.Exif()
    exif[0x0112] = orientation
    data = files.encode(files.Image.fromarray(photo), "PNG", exif=exif)
    whole = decode_photo(data)
    monkeypatch.setattr(decoding, "BAND", 5 * 31)
    np.testing.assert_array_equal(decode_photo(data), whole)


def test_formats_whose_decoders_take_more_memory_may_have_fewer_pixels():
    wide = {"WEBP": (5000, 6100), "AVIF": (5000, 6100), "JPEG2000": (4000, 5100)}
    assert all(formats.too_large(name, size).startswith("more than") for name, size in wide.items())
    assert not formats.too_large("JPEG", (7000, 7000)) and not formats.too_large("WEBP", (5000, 6000))
    assert formats.too_large("JPEG", (7000, 7000), four_channels=True).startswith("more than 40 megapixels")
    assert formats.too_large("PNG", (7000, 7200)) == formats.TOO_LARGE


def test_the_limit_is_checked_before_pixels_are_made():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name in (name for name in files.REJECTED if "bomb" in name or "lying" in name):
        with pytest.raises(PhotoRejected):
            decode_photo(files.REJECTED[name][0])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB; 60000^2 RGB would be 10 GB


def test_a_photograph_of_a_telephone():
    pytest.importorskip("pillow_heif")
    np.testing.assert_allclose(files.corners(decode_photo(files.heic())), files.ALL, atol=3)
    turned = decode_photo(files.heic(orientation=6))
    assert turned.shape == (files.W, files.H, 3)
    expected = [files.BLUE, files.RED, files.GREY, files.GREEN]
    np.testing.assert_allclose(files.corners(turned), expected, atol=3)
    with pytest.raises(PhotoRejected, match="damaged"):
        decode_photo(files.heic()[:-40])


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow was built without AVIF")
def test_avif():
    np.testing.assert_allclose(files.corners(decode_photo(files.photo_bytes("AVIF"))), files.ALL, atol=3)
    turned = decode_photo(files.photo_bytes("AVIF", orientation=6))
    np.testing.assert_allclose(files.corners(turned), [files.BLUE, files.RED, files.GREY, files.GREEN], atol=3)
    with pytest.raises(PhotoRejected, match="damaged"):
        decode_photo(files.photo_bytes("AVIF")[:-40])


def test_a_photograph_of_two_pictures_is_its_first():
    first, both = files.photo_bytes(quality=75), files.frames("MPO")
    np.testing.assert_array_equal(decode_photo(both), decode_photo(first))


def test_a_strip_is_still_a_photograph_where_it_is_decoded_smaller():
    strip = encode_jpeg(np.full((16, 4000, 3), 99, np.uint8), 90)
    assert decode_photo(strip, at_least=240).shape == (2, 500, 3)


def test_mutated_photographs_give_a_photograph_or_a_rejection():
    rng = np.random.default_rng(0)
    whole = [data for data, *_ in files.ACCEPTED.values()]
    whole += [files.photo_bytes("AVIF")] if features.check("avif") else []
    whole += [files.heic()] if importlib.util.find_spec("pillow_heif") else []
    outcomes = {"photo": 0, "rejected": 0}
    for round_ in range(1200):
        data = bytearray(whole[round_ % len(whole)])
        kind = rng.integers(3)
        if kind == 0:
            data = data[: rng.integers(len(data))]
        elif kind == 1:
            for at in rng.integers(len(data), size=4):
                data[at] = rng.integers(256)
        else:
            first, last = sorted(rng.integers(len(data), size=2))
            data = data[:first] + data[last:]
        try:
            photo = decode_photo(bytes(data))
            outcomes["photo"] += photo.shape[2] == 3
        except PhotoRejected as rejected:
            outcomes["rejected"] += bool(rejected.reason)
    assert sum(outcomes.values()) == 1200 and min(outcomes.values()) > 50


def without_palette(colours: bytes = b"") -> bytes:
    """A PNG that says it has a palette and has none, or one whose chunk holds these bytes."""
    file = io.BytesIO()
    Image.fromarray(np.arange(1600, dtype=np.uint8).reshape(40, 40), "L").convert("P").save(file, "PNG")
    data = file.getvalue()
    at = data.index(b"PLTE") - 4
    end = at + 12 + int.from_bytes(data[at : at + 4], "big")
    chunk = len(colours).to_bytes(4, "big") + b"PLTE" + colours + zlib.crc32(b"PLTE" + colours).to_bytes(4, "big")
    return data[:at] + (chunk if colours else b"") + data[end:]


@pytest.mark.parametrize("read", [decode_photo, decode_mask, decode_any_mask])
@pytest.mark.parametrize("colours", [b"", b"\0", b"\1\2\3"])
def test_a_palette_that_is_missing_or_short_is_a_photograph_or_a_rejection(read, colours):
    try:
        assert read(without_palette(colours)).shape[:2] == (40, 40)
    except Unreadable as rejected:
        assert rejected.reason.strip(": ") != "damaged"


@pytest.mark.parametrize("error", [AssertionError(), Exception("odd"), ZeroDivisionError("zero"), RecursionError()])
@pytest.mark.parametrize("step", ["load", "transpose", "getexif"])
def test_whatever_a_reader_raises_is_a_rejection(monkeypatch, error, step):
    photo, mask = lying_photo(), encode_mask(np.eye(40, dtype=bool))

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(Image.Image, step, fail)
    for cls in (JpegImagePlugin.JpegImageFile, PngImagePlugin.PngImageFile):
        monkeypatch.setattr(cls, step, fail)
    with pytest.raises(PhotoRejected, match="damaged: [A-Za-z]"):
        decode_photo(photo)
    if step == "load":
        with pytest.raises(PhotoRejected, match="damaged: [A-Za-z]"):
            decode_mask(mask)


def test_odd_exif_is_not_talked_about():
    """In a process of its own: pytest makes its own rules of which warnings are shown."""
    file = io.BytesIO()
    exif = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0\xff\xff\0\0\1\0\0\0"
    Image.new("RGB", (40, 40)).save(file, "JPEG", exif=exif)
    code = "import sys; from sret_jax.data.decoding import decode_photo; decode_photo(sys.stdin.buffer.read())"
    done = subprocess.run([sys.executable, "-c", code], input=file.getvalue(), capture_output=True, check=True)
    assert done.stderr == b""


def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    outcome = []

    def read():
        with pytest.raises(Unreadable, match="not a regular file"):
            read_file(tmp_path / "pipe")
        outcome.append("refused")

    thread = threading.Thread(target=read, daemon=True)  # so that a hang fails the test instead of holding it
    started = time.monotonic()
    thread.start()
    thread.join(10)
    assert outcome == ["refused"] and time.monotonic() - started < 10


def test_reading_files(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"photo")
    assert read_file(tmp_path / "a.jpg") == b"photo"
    (tmp_path / "link.jpg").symlink_to("a.jpg")
    assert read_file(tmp_path / "link.jpg") == b"photo"
    for missing, reason in (("none.jpg", "No such file"), (".", "not a regular file")):
        with pytest.raises(Unreadable, match=reason):
            read_file(tmp_path / missing)
    with pytest.raises(Unreadable, match="null byte"):
        read_file("a\0b")
    assert read_file(tmp_path / "a.jpg", 5) == b"photo"
    with pytest.raises(Unreadable, match="larger than"):
        read_file(tmp_path / "a.jpg", 4)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_refused(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"photo")
    (tmp_path / "a.jpg").chmod(0)
    with pytest.raises(Unreadable, match="Permission denied"):
        read_file(tmp_path / "a.jpg")


def test_masks_come_back_exactly():
    mask = np.random.default_rng(0).random((37, 53)) < 0.5
    np.testing.assert_array_equal(decode_mask(encode_mask(mask)), mask)


@pytest.mark.parametrize(
    ("at_least", "shape"), [(None, (300, 400)), (201, (300, 400)), (200, (150, 200)), (60, (75, 100))]
)
@pytest.mark.parametrize("turn", [1, 6])
def test_a_jpeg_is_decoded_smaller_but_not_below_the_requested_size(at_least, shape, turn):
    photo = np.kron(np.random.default_rng(0).integers(0, 255, (6, 8, 3)), np.ones((50, 50, 1))).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = turn
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "JPEG", quality=95, exif=exif)
    small, whole = decode_photo(file.getvalue(), at_least), decode_photo(file.getvalue())
    assert small.shape[:2] == (shape if turn == 1 else shape[::-1])
    step = len(whole) // len(small)
    mean = whole.reshape(len(small), step, -1, step, 3).mean((1, 3))
    assert np.abs(mean - small).mean() < 4


def test_jpeg_comes_back_nearly():
    np.testing.assert_allclose(files.corners(decode_photo(encode_jpeg(files.quadrants(), 95))), files.ALL, atol=3)
