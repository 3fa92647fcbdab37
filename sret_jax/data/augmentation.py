"""One random training view of a photograph. The aspect is kept: squashing would change what lies next to what."""

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageEnhance

from sret_jax.config import DataConfig
from sret_jax.data.decoding import encode_jpeg
from sret_jax.data.resizing import content_size, resize


def random_crop(
    photo: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator, area: tuple[float, float]
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """A crop of the photograph's own aspect, to a pixel, that covers a uniformly drawn share of its area."""
    h, w = photo.shape[:2]
    side = np.sqrt(rng.uniform(*area))
    crop_h, crop_w = max(1, round(h * side)), max(1, round(w * side))
    top, left = int(rng.integers(h - crop_h + 1)), int(rng.integers(w - crop_w + 1))
    return photo[top : top + crop_h, left : left + crop_w]


def random_colour(
    photo: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator, strength: float
) -> UInt8[np.ndarray, "h w 3"]:
    """Brightness, contrast and saturation, each times a uniform factor in `1 ± strength`."""
    image = Image.fromarray(photo)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(max(0.0, rng.uniform(1 - strength, 1 + strength)))
    return np.asarray(image)


def recompress(photo: UInt8[np.ndarray, "h w 3"], quality: int) -> UInt8[np.ndarray, "h w 3"]:
    """The photograph after a round trip through JPEG."""
    return np.asarray(Image.open(io.BytesIO(encode_jpeg(photo, quality)), formats=["JPEG"]))


def augment(
    photo: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator, config: DataConfig, *, multiple: int = 1
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Crop, resize to `config.image_size` (sides multiples of `multiple`), then flip, colour and JPEG by chance.

    The crop comes first and the resize second, so that the rest costs the same for a photograph of any size.
    """
    crop = random_crop(photo, rng, config.crop_area)
    view = resize(crop, content_size(crop.shape[:2], config.image_size, multiple))
    if rng.random() < config.flip:
        view = view[:, ::-1]
    view = np.ascontiguousarray(view)
    if config.colour > 0:
        view = random_colour(view, rng, config.colour)
    if rng.random() < config.jpeg:
        low, high = config.jpeg_quality
        view = recompress(view, int(rng.integers(low, high + 1)))
    return view
