"""From bytes that anybody may have written to an RGB array, or to one reason why not.

What is accepted: JPEG, PNG and WebP. EXIF orientation is applied. Of an animation the first frame is taken. CMYK is
converted with Pillow's formula, colour profiles are ignored, transparent pixels show white, and of 16 bits per
channel the upper eight are kept. Everything else is a `PhotoRejected`.
"""

import io
import math
import struct
import warnings
import zlib

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, UnidentifiedImageError

from sret_jax.storage.files import Unreadable

DECODING_VERSION = 1  # of the pixels that `decode_photo` makes of a file: raise it when they change
FORMATS = ("JPEG", "PNG", "WEBP")
MAX_PIXELS = 50_000_000  # of a photograph, checked before it is decoded
MIN_SIDE = 16  # pixels

# What Pillow's readers raise on damaged input, from 30,000 mutated photographs and from reading them.
DAMAGE = (OSError, ValueError, SyntaxError, EOFError, TypeError, LookupError, OverflowError, struct.error, zlib.error)
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow only warns between one and two times its own limit. `MAX_PIXELS` is stricter, so nothing is lost.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


class PhotoRejected(Unreadable):
    """A file that is not used as a photograph; `reason` says why, in a few words and without the file's name."""


def decode_photo(data: bytes, at_least: int | None = None) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes and turns upright. Raises `PhotoRejected` for whatever is not a whole photograph.

    With `at_least`, a JPEG of twice that longest side or more comes out at a half, a quarter or an eighth of its size,
    never below it: several times faster than all of it.
    """
    image = _load(data, FORMATS, at_least)
    if min(image.size) < MIN_SIDE:
        raise PhotoRejected(f"{image.height}x{image.width} pixels: a side is shorter than {MIN_SIDE}")
    try:
        turn = TURNS.get(image.getexif().get(0x0112, 1))
    except DAMAGE as error:
        raise PhotoRejected(f"damaged EXIF: {error}") from None
    image = _rgb(image)
    return np.array(image if turn is None else image.transpose(turn))


def decode_mask(data: bytes) -> Bool[np.ndarray, "h w"]:
    """Inverse of `encode_mask`."""
    return np.array(_load(data, ("PNG",)).convert("L")) > 127


def encode_mask(mask: Bool[np.ndarray, "h w"]) -> bytes:
    """A lossless one-bit PNG."""
    file = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).convert("1").save(file, "PNG")
    return file.getvalue()


def encode_jpeg(photo: UInt8[np.ndarray, "h w 3"], quality: int) -> bytes:
    """`quality` 1 to 95, as libjpeg counts."""
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "JPEG", quality=quality)
    return file.getvalue()


def encode_png(pixels: UInt8[np.ndarray, "h w c"]) -> bytes:
    """Lossless; three channels are colours, a fourth is how opaque a pixel is."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _load(data: bytes, formats: tuple[str, ...], at_least: int | None = None) -> Image.Image:
    if not data:
        raise PhotoRejected("empty file")
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        if at_least:
            scale = max(
                at_least / max(image.size), MIN_SIDE / max(min(image.size), 1)
            )  # a thin one keeps its shorter side
            width, height = (math.ceil(side * scale) for side in image.size)
            image.draft(None, (width, height))
        image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise PhotoRejected(f"more than {MAX_PIXELS // 1_000_000} megapixels") from None
    except UnidentifiedImageError:
        raise PhotoRejected("not a JPEG, PNG or WebP photograph") from None
    except DAMAGE as error:
        raise PhotoRejected(f"damaged: {error}") from None
    return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey; `convert` would saturate
        image = Image.fromarray((np.clip(np.asarray(image).astype(np.int64), 0, 65535) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
