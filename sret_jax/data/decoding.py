"""From bytes that anybody may have written to an RGB array, or to one reason why not.

What is accepted: the list in `formats`. EXIF orientation is applied. Of an animation or of several pages the first is
taken. Colours with a profile become sRGB, CMYK without one is converted with Pillow's formula, transparent pixels show
white, and of 16 bits per channel the upper eight are kept. Everything else is a `PhotoRejected`.
"""

import contextlib
import io
import math
import warnings
from collections.abc import Collection, Iterator

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, UnidentifiedImageError

from sret_jax.data.colour import in_srgb
from sret_jax.data.formats import FORMATS, TOO_LARGE, is_heic, refusal, too_large, written
from sret_jax.storage.files import Unreadable
from sret_jax.storage.refusals import of_process

DECODING_VERSION = 2  # of the pixels that `decode_photo` makes of a file: raise it when they change
MIN_SIDE = 16  # pixels, of the whole photograph

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ON_ITS_SIDE, FROM_THE_END = (5, 6, 7, 8), (3, 4, 6, 7)  # turns: rows become columns; the first becomes the last
BAND = 2**21  # pixels that are converted at once: a photograph of 50 megapixels takes 200 MB and its pixels 150

# Pillow only warns between one and two times its own limit. `MAX_PIXELS` is stricter, so nothing is lost.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
# What it has to say of odd EXIF and the like names no file, and the photograph is used all the same.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


class PhotoRejected(Unreadable):
    """A file that is not used as a photograph; `reason` says why, in a few words and without the file's name."""


def decode_photo(data: bytes, at_least: int | None = None, profile: bool = True) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes and turns upright. Raises `PhotoRejected` for whatever is not a whole photograph.

    With `at_least`, a JPEG of twice that longest side or more comes out at a half, a quarter or an eighth of its size,
    never below it: several times faster than all of it. Without `profile` the numbers are taken for sRGB, whatever the
    file says.
    """
    with damage_rejected():
        image = _open(data, FORMATS)
        if min(image.size) < MIN_SIDE:  # before it is reduced: a strip that is shown smaller is still a photograph
            raise PhotoRejected(f"{image.height}x{image.width} pixels: a side is shorter than {MIN_SIDE}")
        if at_least:
            width, height = (math.ceil(side * at_least / max(image.size)) for side in image.size)
            image.draft(None, (width, height))
        image.load()
        turn = image.getexif().get(0x0112, 1)
        return _pixels(image, image.info.get("icc_profile") if profile else None, turn if turn in TURNS else 1)


def decode_mask(data: bytes) -> Bool[np.ndarray, "h w"]:
    """Inverse of `encode_mask`. Raises `PhotoRejected` for whatever is no PNG."""
    with damage_rejected():
        return np.array(load_image(data, ("PNG",)).convert("L")) > 127


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


def load_image(data: bytes, formats: Collection[str], known: str = "") -> Image.Image:
    """The picture in an encoded file, of at most `MAX_PIXELS` and as it is stored: neither turned nor converted.

    Args:
      data: the file's bytes.
      formats: those of Pillow that are tried.
      known: what is tried, in words; by default photographs of these formats.

    Raises `PhotoRejected`, whatever the bytes are.
    """
    with damage_rejected():
        image = _open(data, formats, known)
        image.load()
        return image


@contextlib.contextmanager
def damage_rejected() -> Iterator[None]:
    """Turns whatever Pillow raises of a stranger's file into `PhotoRejected`; for all that touches its image.

    Most of Pillow decodes when pixels are first asked for, and its readers raise what the damage happens to lead to:
    errors of any kind, assertions among them.
    """
    try:
        yield
    except Unreadable:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise PhotoRejected(TOO_LARGE) from None
    except MemoryError:
        raise PhotoRejected("takes more memory than there is") from None
    except Exception as error:
        if of_process(error):  # a reader of Pillow is loaded when it is first needed
            raise
        words = " ".join(str(error).split())  # libraries write several lines
        raise PhotoRejected(f"damaged: {words or type(error).__name__}") from None


def _open(data: bytes, formats: Collection[str], known: str = "") -> Image.Image:
    """The image, not decoded yet, of no more than `MAX_PIXELS`."""
    if not data:
        raise PhotoRejected("empty file")
    if reason := refusal(data):
        raise PhotoRejected(reason)
    try:
        heic = "HEIF" in formats and is_heic(data)
        image = _open_heic(data) if heic else Image.open(io.BytesIO(data), formats=[x for x in formats if x != "HEIF"])
    except UnidentifiedImageError:
        raise PhotoRejected(f"not a {known or f'{written(formats)} photograph'}") from None
    four = image.mode == "CMYK" and "progressive" in image.info
    if reason := too_large(image.format or "", image.size, four):
        raise PhotoRejected(reason)
    return image


def _open_heic(data: bytes) -> Image.Image:
    import pillow_heif  # an extra; `refusal` has seen that it is there

    file = pillow_heif.open_heif(data)
    if reason := too_large("HEIF", file.size, four_channels="A" in file.mode):
        raise PhotoRejected(reason)
    return file.to_pillow()


def _pixels(image: Image.Image, profile: bytes | None, turn: int) -> UInt8[np.ndarray, "h w 3"]:
    """The whole image as RGB, turned as EXIF says; band by band, so that no second copy of it is ever there."""
    width, height = image.size
    rows = max(1, BAND // width)
    if height <= rows:
        return np.array(_turned(_rgb(image, profile), turn))
    pixels = np.empty((width, height, 3) if turn in ON_ITS_SIDE else (height, width, 3), np.uint8)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        band = _turned(_rgb(image.crop((0, top, width, bottom)), profile), turn)
        there = slice(height - bottom, height - top) if turn in FROM_THE_END else slice(top, bottom)
        pixels[(slice(None), there) if turn in ON_ITS_SIDE else there] = np.asarray(band)
    return pixels


def _turned(image: Image.Image, turn: int) -> Image.Image:
    return image.transpose(TURNS[turn]) if turn in TURNS else image


def _rgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if image.mode in ("F", "LAB"):
        raise PhotoRejected(f"pixels of mode {image.mode}: save it as RGB, 8 or 16 bits per channel")
    if image.mode.startswith("I"):  # 16-bit grey; `convert` would saturate
        image = Image.fromarray((np.clip(np.asarray(image).astype(np.int64), 0, 65535) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return in_srgb(image if image.mode == "CMYK" else image.convert("RGB"), profile)
