"""Masks in pictures, as annotation tools, image editors and methods write them.

Whatever the form, a picture is read as a mask where it can mean only one, and refused otherwise:

    opacity that varies   is the mask; colours, also the hidden ones of transparent pixels, say nothing
    two greys             the brighter is the object, whatever the depth: 0 and 1, 0 and 255, 0 and 65535, 0.0 and 1.0
    two colours           black is the background; with a palette else index 0 is. Without either, none can be told
    one value             black marks nothing; white, or 1, marks everything; any other tells nothing
    soft edges            greys between black and white, or one colour that fades to black, are cut at half, where
                          `SOLID` of the pixels are within `NEAR` of black or white and no grey between them fills an
                          area (`AREA`), as a label does. Lossy JPEG is always read like this

A lossless picture of at most `LABELS` values that are not two is taken for labels of several classes (0, 1 and the 255
of VOC's borders), not for soft edges. EXIF orientation is applied, as to photographs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
from jaxtyping import Bool, Int, UInt8
from PIL import Image

from sret_jax.data.decoding import TURNS, damage_rejected, load_image
from sret_jax.data.names import on_disk
from sret_jax.errors import UserError
from sret_jax.storage.files import Unreadable, read_file

FORMATS = ("PNG", "TIFF", "BMP", "GIF", "JPEG")
ENDINGS = (".png", ".tif", ".tiff", ".bmp", ".gif")  # looked for in folders; a .jpg there may be the photograph itself
REMEDY = "give a PNG that is white where the object is and black elsewhere"

NEAR = 1 / 8  # of the range from black to white
SOLID = 0.9
AREA = 0.02  # share of the pixels
LABELS = 8
SHOWN = 6  # values named in a message


def read_mask(path: str | Path, size: Sequence[int] | Int[np.ndarray, "2"]) -> Bool[np.ndarray, "h w"]:
    """The mask in a picture, True where the object is; of nothing, or of everything, where it says so.

    Args:
      path: a PNG, TIFF, BMP, GIF or JPEG file, in any of the forms above.
      size: (height, width) of the upright photograph, pixels.

    Raises:
      UserError: names the file, what was found in it and the remedy; or it has another size.
    """
    try:
        mask = decode_any_mask(read_file(path))
    except Unreadable as rejected:
        raise UserError(f"{path}: {rejected.reason}; {REMEDY}") from None
    if mask.shape != tuple(size):
        turned = "; its sides are exchanged, so draw it on the upright photo" if mask.shape == tuple(size)[::-1] else ""
        raise UserError(
            f"{path}: a mask of {mask.shape[1]}x{mask.shape[0]} for a photo of {size[1]}x{size[0]} pixels{turned}"
        )
    return mask


def find_mask(folder: Path, stem: str) -> Path | None:
    """The file of a mask by its path below a folder, without ending: the first of `ENDINGS` that is there."""
    paths = (on_disk(folder, stem + ending) for ending in (*ENDINGS, *map(str.upper, ENDINGS)))
    return next((path for path in paths if path.is_file()), None)


def decode_any_mask(data: bytes) -> Bool[np.ndarray, "h w"]:
    """What `read_mask` reads, upright. Raises `Unreadable` with what was found instead of a mask."""
    image = load_image(data, FORMATS, known="PNG, TIFF, BMP, GIF or JPEG picture")
    with damage_rejected():
        return _mask_of(image)


def _mask_of(image: Image.Image) -> Bool[np.ndarray, "h w"]:
    lossy = image.format == "JPEG"
    if (frames := getattr(image, "n_frames", 1)) > 1 and not lossy:
        raise Unreadable(f"holds {frames} pictures, and a mask is one")
    turn = TURNS.get(image.getexif().get(0x0112, 1))
    image = image if turn is None else image.transpose(turn)
    alpha = _alpha(image)
    if alpha is not None and alpha.min() < alpha.max():
        return _of_greys(alpha, "opacity")
    if alpha is not None and not alpha.any() and np.asarray(image.convert("RGB")).any():
        raise Unreadable("is transparent everywhere, with hidden colours")
    if image.mode == "P":
        return _of_palette(image)
    if image.mode == "1" or image.mode.startswith(("I", "F")):
        return _of_greys(np.asarray(image), "grey")
    return _of_colours(np.asarray(image.convert("RGB")), lossy)


def _alpha(image: Image.Image) -> UInt8[np.ndarray, "h w"] | None:
    """The opacity of each pixel, also by a transparent colour of a palette; None without any."""
    transparent = image.mode in ("1", "L", "P", "RGB") and "transparency" in image.info
    if not transparent and image.mode not in ("LA", "La", "PA", "RGBA", "RGBa"):
        return None
    return np.asarray(image.convert("RGBA").getchannel("A"))


def _of_palette(image: Image.Image) -> Bool[np.ndarray, "h w"]:
    indices = np.asarray(image)
    used = np.unique(indices)
    palette = np.zeros((256, 3), np.uint8)
    given = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    palette[: len(given)] = given
    colours = palette[used]
    if len(used) > 1 and (colours == colours[:1]).all():  # shown alike, so that only the indices differ
        return _of_greys(indices, "palette index")
    if (colours == colours[:, :1]).all():
        return _of_greys(palette[indices, 0], "grey")
    if len(used) == 1 and used[0] > 0 and not palette[0].any():  # a class that fills the photograph
        return np.ones(indices.shape, bool)
    dark = ~colours.any(1)
    if len(used) == 2 and (dark.any() or used[0] == 0):
        background = used[dark][0] if dark.any() else 0
        return indices != background
    _refuse(used, "palette index")


def _of_colours(rgb: UInt8[np.ndarray, "h w 3"], lossy: bool) -> Bool[np.ndarray, "h w"]:
    """One colour on black, or greys."""
    value = rgb.max(-1)
    if (rgb == value[..., None]).all():
        return _of_greys(value, "grey", lossy)
    packed = rgb.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
    codes = np.unique(packed)
    if not lossy and len(codes) == 2 and codes[0] == 0:
        return packed > 0
    colours = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], 1)
    solid = (value <= 255 * NEAR) | (value >= 255 * (1 - NEAR))
    if len(codes) <= 2 or solid.mean() < SOLID:  # before the memory of what follows is spent on a photograph
        _refuse(colours, "colour")
    pure = rgb.reshape(-1, 3)[value.argmax()].astype(np.float32)
    faded = value[..., None] * (pure / pure.max())
    strange = (np.abs(rgb - faded) > 255 * NEAR).any(-1)
    if strange.mean() > (1 - SOLID if lossy else 0):
        _refuse(colours, "colour")
    return _of_greys(value, "brightness", lossy)


def _of_greys(grey: np.ndarray, what: str, lossy: bool = False) -> Bool[np.ndarray, "h w"]:
    values, counts = np.unique(grey, return_counts=True)
    if not np.isfinite(values).all():
        raise Unreadable("holds values that are not numbers")
    low, high = float(values[0]), float(values[-1])
    white = 255.0 if high <= 255 else 65535.0
    if grey.dtype.kind == "f" and high <= 1:
        white = 1.0
    if len(values) == 1:
        if low == 0:
            return np.zeros(grey.shape, bool)
        if low == white or low == 1 and not lossy:
            return np.ones(grey.shape, bool)
        _refuse(values, what)
    if len(values) == 2 and not lossy:
        return grey == values[1]
    black, bright = values <= NEAR * white, values >= (1 - NEAR) * white
    share = counts / grey.size
    labels = not lossy and (len(values) <= LABELS or bool((share[1:-1] > AREA).any()))
    if low < 0 or not (black.any() and bright.any()) or share[black | bright].sum() < SOLID or labels:
        _refuse(values, what)
    return grey > white / 2


def _refuse(values: np.ndarray, what: str) -> NoReturn:
    """Numbers [n], or colours (red, green, blue) [n 3]."""
    few = values if len(values) <= SHOWN else np.concatenate([values[: SHOWN - 1], values[-1:]])
    shown = [str(tuple(value) if isinstance(value, list) else value) for value in few.tolist()]
    if len(values) == 1:
        raise Unreadable(f"is {what} {shown[0]} everywhere, which does not say where the object is")
    last = f", … {shown[-1]}" if len(values) > SHOWN else f" and {shown[-1]}"
    plural = {"opacity": "opacities", "palette index": "palette indices", "brightness": "brightnesses"}
    named = f"{plural.get(what, what + 's')} ({', '.join(shown[:-1])}{last})"
    raise Unreadable(f"holds {len(values)} {named}, not an object and the rest")
