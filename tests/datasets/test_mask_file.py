"""Masks in the forms in which tools write them: each is the same mask, or refused with what was found in it."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from sret_jax.datasets.mask_file import ENDINGS, decode_any_mask, find_mask, read_mask
from sret_jax.errors import UserError
from sret_jax.storage.files import Unreadable

TRUE = np.zeros((120, 160), bool)
TRUE[30:90, 40:120] = True
ONE = TRUE.astype(np.uint8)
ROUND = np.hypot(*np.ogrid[-60:60, -80:80]) < 40
RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (120, 160, 3), np.uint8)


def file(image, form="PNG", **options):
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def grey(values):
    return Image.fromarray(np.asarray(values))


def rgb(*channels):
    return Image.fromarray(np.dstack(channels).astype(np.uint8))


def rgba(colour, alpha):
    return Image.fromarray(np.dstack([np.broadcast_to(colour, (*TRUE.shape, 3)), alpha]).astype(np.uint8))


def palette(colours, indices=ONE):
    image = Image.fromarray(np.asarray(indices, np.uint8)).convert("P")
    image.putdata(np.asarray(indices).ravel().tolist())
    image.putpalette(colours)
    return image


def transparent_first(indices=ONE):
    image = palette([0, 0, 0, 128, 0, 0], indices)
    return file(image, transparency=0)


FORMS = {
    "0/255": file(grey(ONE * 255)),
    "0/1": file(grey(ONE)),
    "0/128": file(grey(ONE * 128)),
    "50/200": file(grey(50 + ONE * 150)),
    "one bit": file(grey(TRUE)),
    "0/1, 16 bits": file(grey(ONE.astype(np.uint16))),
    "0/255, 16 bits": file(grey(ONE.astype(np.uint16) * 255)),
    "0/65535, 16 bits": file(grey(ONE.astype(np.uint16) * 65535)),
    "0/1, 32 bits": file(grey(ONE.astype(np.int32)), "TIFF"),
    "0/1, real": file(grey(ONE.astype(np.float32)), "TIFF"),
    "0/255, real": file(grey(ONE.astype(np.float32) * 255), "TIFF"),
    "TIFF, 16 bits": file(grey(ONE.astype(np.uint16) * 65535), "TIFF"),
    "TIFF, one bit": file(grey(TRUE), "TIFF", compression="group4"),
    "BMP": file(grey(ONE * 255), "BMP"),
    "BMP, one bit": file(grey(TRUE), "BMP"),
    "BMP, colours": file(rgb(ONE * 255, ONE * 255, ONE * 255), "BMP"),
    "GIF": file(grey(ONE * 255), "GIF"),
    "GIF, 0/1": file(grey(ONE), "GIF"),
    "GIF, palette": file(palette([0, 0, 0, 128, 0, 0]), "GIF"),
    "JPEG": file(grey(ONE * 255), "JPEG", quality=80),
    "JPEG, red": file(rgb(ONE * 255, ONE * 0, ONE * 0), "JPEG", quality=90),
    "white, colours": file(rgb(ONE * 255, ONE * 255, ONE * 255)),
    "red": file(rgb(ONE * 255, ONE * 0, ONE * 0)),
    "green": file(rgb(ONE * 0, ONE * 255, ONE * 0)),
    "blue": file(rgb(ONE * 0, ONE * 0, ONE * 255)),
    "dark": file(rgb(ONE * 12, ONE * 10, ONE * 8)),
    "two greys, as colours": file(rgb(*[7 + ONE] * 3)),
    "palette of VOC": file(palette([0, 0, 0, 128, 0, 0])),
    "palette, white": file(palette([0, 0, 0, 255, 255, 255])),
    "palette, white first": file(palette([255, 255, 255, 0, 0, 0], 1 - ONE)),
    "palette, red first": file(palette([255, 0, 0, 0, 0, 0], 1 - ONE)),
    "palette, no black": file(palette([200, 200, 255, 128, 0, 0])),
    "palette, class 15": file(palette([0] * 45 + [192, 128, 128], ONE * 15)),
    "palette, all black": file(palette([0] * 768)),
    "palette, transparent background": transparent_first(),
    "RGBA, white": file(rgba([255, 255, 255], ONE * 255)),
    "RGBA, dark": file(rgba([60, 50, 40], ONE * 255)),
    "RGBA, hidden bright pixels": file(rgba([200, 210, 190], ONE * 255)),
    "RGBA, cut-out": file(rgba(NOISE, ONE * 255)),
    "RGBA, half opaque": file(rgba([255, 0, 0], ONE * 128)),
    "RGBA, opaque": file(rgba(np.repeat(ONE[..., None] * 255, 3, 2), np.full_like(ONE, 255))),
    "RGBA, TIFF": file(rgba([255, 255, 255], ONE * 255), "TIFF"),
    "LA": file(rgba([255, 255, 255], ONE * 255).convert("LA")),
    "LA, opaque": file(rgba(np.repeat(ONE[..., None] * 255, 3, 2), np.full_like(ONE, 255)).convert("LA")),
    "grey, transparent value": file(grey(255 - ONE), transparency=255),
    "colours, transparent value": file(rgb(ONE * 90, ONE * 90, ONE * 90), transparency=(0, 0, 0)),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_the_same_mask(form):
    np.testing.assert_array_equal(decode_any_mask(FORMS[form]), TRUE)


@pytest.mark.parametrize(
    "image",
    [
        grey(ROUND.astype(np.uint8) * 255).filter(ImageFilter.GaussianBlur(1.5)),
        grey(ROUND.astype(np.uint8) * 255).filter(ImageFilter.GaussianBlur(1.5)).quantize(256),
        rgba([9, 9, 9], np.asarray(grey(ROUND.astype(np.uint8) * 255).filter(ImageFilter.GaussianBlur(1.5)))),
        rgb(
            *[np.asarray(grey(ROUND.astype(np.uint8) * c).filter(ImageFilter.GaussianBlur(1.5))) for c in (255, 99, 0)]
        ),
        grey(
            np.asarray(grey(ROUND.astype(np.uint8) * 255).filter(ImageFilter.GaussianBlur(1.5))).astype(np.uint16) * 257
        ),
    ],
    ids=["grey", "palette", "opacity", "one colour", "16 bits"],
)
def test_soft_edges_are_cut_at_half(image):
    found = decode_any_mask(file(image))
    assert (found != ROUND).mean() < 0.005 and found[60, 80] and not found[0, 0]


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_what_jpeg_does_to_edges_is_undone(quality):
    for image in (grey(ROUND.astype(np.uint8) * 255), rgb(*[ROUND * np.uint8(c) for c in (255, 0, 0)])):
        found = decode_any_mask(file(image, "JPEG", quality=quality))
        assert (found != ROUND).mean() < 0.01
        through = Image.open(io.BytesIO(file(grey(ROUND.astype(np.uint8) * 255), "JPEG", quality=quality)))
        assert (decode_any_mask(file(through)) != ROUND).mean() < 0.005


EMPTY = {
    "grey": grey(ONE * 0),
    "16 bits": grey(ONE.astype(np.uint16) * 0),
    "one bit": grey(TRUE & False),
    "colours": rgb(ONE * 0, ONE * 0, ONE * 0),
    "palette": palette([0, 0, 0, 128, 0, 0], ONE * 0),
    "transparent": rgba([0, 0, 0], ONE * 0),
}
FULL = {
    "255": grey(ONE * 0 + 255),
    "1": grey(ONE * 0 + 1),
    "16 bits": grey(ONE.astype(np.uint16) * 0 + 65535),
    "one bit": grey(TRUE | True),
    "colours": rgb(*[ONE * 0 + 255] * 3),
    "palette, class": palette([0, 0, 0, 128, 0, 0], ONE * 0 + 1),
    "palette, white": palette([255, 255, 255], ONE * 0),
    "opaque": rgba([255, 255, 255], ONE * 0 + 255),
}


@pytest.mark.parametrize(("images", "says"), [(EMPTY, False), (FULL, True)], ids=["nothing", "everything"])
def test_nothing_and_everything(images, says):
    for name, image in images.items():
        found = decode_any_mask(file(image))
        assert found.shape == TRUE.shape and (found == says).all(), name


def labels(*values):
    """Areas of these values, one below the other."""
    out = np.full((120, 160), values[0])
    for part, value in enumerate(values[1:], 1):
        out[20 + 15 * part : 35 + 15 * part, 30:90] = value
    return out


REFUSED = {
    "classes": (grey(labels(0, 1, 2).astype(np.uint8)), r"holds 3 greys \(0, 1 and 2\)"),
    "void border": (grey(labels(0, 1, 255).astype(np.uint8)), r"holds 3 greys \(0, 1 and 255\)"),
    "trimap": (grey(labels(0, 128, 255).astype(np.uint8)), r"holds 3 greys \(0, 128 and 255\)"),
    "small trimap": (grey(np.where(np.arange(160) < 1, 128, ONE * 255).astype(np.uint8)), r"0, 128 and 255"),
    "many classes": (
        grey(np.where(RNG.random((120, 160)) < 0.1, 255, np.arange(160) // 8).astype(np.uint8)),
        r"holds 21 greys \(0, 1, 2, 3, 4, … 255\)",
    ),
    "constant": (grey(ONE * 0 + 128), "is grey 128 everywhere, which does not say where the object is"),
    "constant colour": (rgb(ONE * 0 + 200, ONE * 0, ONE * 0), r"is colour \(200, 0, 0\) everywhere"),
    "constant pure colour": (rgb(ONE * 0 + 255, ONE * 0, ONE * 0), r"is colour \(255, 0, 0\) everywhere"),
    "photograph": (Image.fromarray(NOISE), "holds [0-9]+ colours"),
    "grey photograph": (Image.fromarray(NOISE[..., 0]), "holds 256 greys"),
    "dark photograph": (Image.fromarray((NOISE[..., 0] // 9 * (1 + 8 * ONE)).astype(np.uint8)), "holds [0-9]+ greys"),
    "gradient": (grey(np.tile(np.arange(160, dtype=np.uint8), (120, 1))), "holds 160 greys"),
    "two colours on black": (rgb(labels(0, 255, 0), labels(0, 0, 255), ONE * 0), r"holds 3 colours"),
    "two colours": (rgb(255 - 100 * ONE, 255 - 255 * ONE, 255 - 255 * ONE), r"\(155, 0, 0\) and \(255, 255, 255\)"),
    "palette of classes": (palette([0, 0, 0, 128, 0, 0, 0, 128, 0], labels(0, 1, 2)), "3 palette indices .0, 1 and 2"),
    "palette without background": (palette([0, 0, 0, 128, 0, 0, 0, 128, 0], ONE + 1), "palette indices .1 and 2"),
    "constant palette": (palette([9, 0, 0], ONE * 0), "is palette index 0 everywhere"),
    "hidden": (rgba(np.repeat(ONE[..., None] * 255, 3, 2), ONE * 0), "is transparent everywhere, with hidden colours"),
    "opacities": (rgba([0, 0, 0], labels(0, 90, 180)), r"holds 3 opacities \(0, 90 and 180\)"),
    "soft": (grey(np.clip(np.hypot(*np.ogrid[-60:60, -80:80]) * 4, 0, 255).astype(np.uint8)), "holds [0-9]+ greys"),
    "opaque cut-out": (rgba(NOISE, ONE * 0 + 255), "colours"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_what_is_no_mask_is_refused_with_what_was_found(form, tmp_path):
    image, says = REFUSED[form]
    (tmp_path / "m.png").write_bytes(file(image))
    with pytest.raises(UserError, match=rf"m.png: .*{says}.*; give a PNG that is white where the object is") as error:
        read_mask(tmp_path / "m.png", TRUE.shape)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty file"),
        (b"P5 no picture", "not a PNG, TIFF, BMP, GIF or JPEG picture"),
        (file(Image.fromarray(NOISE))[:9000], "damaged"),
        (file(grey(ONE * 0), "GIF", save_all=True, append_images=[grey(ONE * 255)]), "holds 2 pictures"),
        (file(grey(ONE), "TIFF", save_all=True, append_images=[grey(ONE)]), "holds 2 pictures"),
        (file(grey(np.where(TRUE, np.float32(np.nan), 1)), "TIFF"), "values that are not numbers"),
        (file(grey(NOISE[..., 0]), "JPEG"), "holds 256 greys"),
        (file(grey(labels(0, 30, 60).astype(np.uint8)), "JPEG"), "holds [0-9]+ greys"),
        (file(grey(ONE * 8), "JPEG"), "greys .0"),
    ],
)
def test_what_cannot_be_read(data, says):
    with pytest.raises(Unreadable, match=says):
        decode_any_mask(data)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_is_turned_upright_like_its_photo(form, orientation):
    mask = TRUE.copy()
    mask[:16, :16] = True  # in one corner
    stored = grey(mask.astype(np.uint8) * 255)
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = {
        1: mask,
        2: mask[:, ::-1],
        3: mask[::-1, ::-1],
        4: mask[::-1],
        5: mask.T,
        6: np.rot90(mask, -1),
        7: np.rot90(mask, 2).T,
        8: np.rot90(mask),
    }[orientation]
    np.testing.assert_array_equal(decode_any_mask(file(stored, form, exif=exif)), upright)


def test_a_mask_of_another_size_is_named(tmp_path):
    (tmp_path / "m.png").write_bytes(FORMS["0/255"])
    with pytest.raises(UserError, match=r"m.png: a mask of 160x120 for a photo of 80x60 pixels$"):
        read_mask(tmp_path / "m.png", (60, 80))
    with pytest.raises(UserError, match="a mask of 160x120 for a photo of 120x160 pixels; its sides are exchanged"):
        read_mask(tmp_path / "m.png", (160, 120))
    with pytest.raises(UserError, match="none.png: cannot be opened.*; give a PNG"):
        read_mask(tmp_path / "none.png", (160, 120))


def test_a_damaged_mask_is_read_or_refused():
    whole = FORMS["palette of VOC"]
    for _ in range(300):
        data = bytearray(whole)
        data[RNG.integers(len(data))] = RNG.integers(256)
        try:
            assert decode_any_mask(bytes(data)).dtype == bool
        except Unreadable as error:
            assert error.reason


def test_masks_of_a_folder_have_any_lossless_ending(tmp_path):
    assert find_mask(tmp_path, "a.b") is None
    for ending in (*ENDINGS[::-1], ".PNG"):
        (tmp_path / f"a.b{ending}").touch()
    (tmp_path / "c.BMP").touch()
    (tmp_path / "d.jpg").touch()
    assert find_mask(tmp_path, "a.b") == tmp_path / "a.b.png" and find_mask(tmp_path, "c") == tmp_path / "c.BMP"
    assert find_mask(tmp_path, "d") is None
