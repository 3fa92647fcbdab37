"""Photographs as a browser is given them: upright, of a size that was asked for, and with nothing of the file's own.

What is sent is encoded anew from pixels: no EXIF, no place or time, no comment or thumbnail of the original is in it.
"""

import threading
from collections import OrderedDict

import numpy as np
from jaxtyping import Float, UInt8

from sret_jax.data.apart import decode_apart
from sret_jax.data.decoding import decode_photo, encode_jpeg, encode_png
from sret_jax.data.resizing import resize

SIZES = (320, 640, 1280)  # longest sides of thumbnails, pixels; a preview has the last
QUALITY, THUMBNAIL_QUALITY = 92, 85  # of JPEG, as libjpeg counts
HEAT_SIDE = 640  # at most, of a heat map, pixels

# Of the heat map from nothing to most: RGB and opacity, a ramp from dark violet to light yellow (as `inferno`).
RAMP = np.array(
    [(20, 11, 52, 110), (101, 21, 110, 150), (188, 55, 84, 180), (246, 125, 21, 205), (252, 230, 110, 225)], np.float64
)


def picture(data: bytes, size: int | None = None) -> bytes:
    """A JPEG of an encoded photograph; its longest side is `size` at most, or its own.

    Raises:
        PhotoRejected: it is no whole photograph.
    """
    photo = decode_photo(data, at_least=size)
    return encode_jpeg(photo, QUALITY) if size is None else _thumbnail(photo, size)


def preview(data: bytes) -> tuple[bytes, tuple[int, int]]:
    """A JPEG of an encoded photograph that a browser may not show, and (height, width) of the whole, pixels.

    Raises:
        PhotoRejected: it is no whole photograph.
    """
    photo = decode_apart(data)
    height, width = photo.shape[:2]
    return _thumbnail(photo, SIZES[-1]), (height, width)


def _thumbnail(photo: UInt8[np.ndarray, "h w 3"], size: int) -> bytes:
    scale = min(1.0, size / max(photo.shape[:2]))
    height, width = (max(1, round(side * scale)) for side in photo.shape[:2])
    return encode_jpeg(resize(photo, (height, width)), THUMBNAIL_QUALITY)


def heat_picture(heat: Float[np.ndarray, "h w"]) -> bytes:
    """A PNG to lay over a photograph: brightest where it is most alike; nothing, and below, is darkest."""
    step = max(1, -(-max(heat.shape) // HEAT_SIDE))
    values = np.nan_to_num(np.asarray(heat[::step, ::step], np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    values = np.clip(values, 0, None) / max(float(values.max(initial=0)), 1e-12)
    places = np.linspace(0, 1, len(RAMP))
    return encode_png(np.stack([np.interp(values, places, channel) for channel in RAMP.T], -1).astype(np.uint8))


class PictureCache:
    """The pictures that were used last, up to so many bytes. Any thread may use it."""

    def __init__(self, most: int):
        self.most = most
        self.size = 0
        self._pictures: OrderedDict[tuple[str, int, str], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[str, int, str]) -> bytes | None:
        with self._lock:
            if key in self._pictures:
                self._pictures.move_to_end(key)
            return self._pictures.get(key)

    def put(self, key: tuple[str, int, str], data: bytes) -> None:
        with self._lock:
            self.size += len(data) - len(self._pictures.pop(key, b""))
            self._pictures[key] = data
            while self.size > self.most:
                self.size -= len(self._pictures.popitem(last=False)[1])
