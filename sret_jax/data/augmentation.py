"""One random training view of a photograph. The aspect is kept: squashing would change what lies next to what.

`augment` shows a photograph as it is but for its frame, its colours and its compression. `strong_view` is for a
photograph that is shown beside itself, where that would be too easy: it also changes viewpoint, light and sharpness,
and hides parts.
"""

import io

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageEnhance

from sret_jax.config import DataConfig
from sret_jax.data.decoding import encode_jpeg
from sret_jax.data.resizing import Size, content_size, resize

# Of a strong view, per unit of `view_strength`; in brackets what it is at the default of 0.25.
OCCLUSION = 0.6  # greatest area of an occlusion, over the view's [0.15]
MOST_OCCLUSION = 0.15  # however strong
GAMMA = 2.0  # greatest exponent of 2 in gamma [gamma from 0.71 to 1.41]
GRADIENT = 2.0  # greatest change of the light from the middle to an edge, over the light [0.5]
BLUR = 0.02  # greatest standard deviation, over the longest side [0.005]
NOISE = 40.0  # greatest standard deviation, of 255 [10]
FLATTEST = 0.25  # least area of the parallelogram at a corner of what a strong view shows, over the crop's

EDGE = cv2.BORDER_REPLICATE  # what lies outside: a warp reaches half a pixel out at most
Rng = np.random.Generator


def crop_box(size: Size, rng: Rng, area: tuple[float, float]) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a crop of the photograph's own aspect, to a pixel, that covers a uniformly drawn
    share of its area."""
    h, w = size
    side = np.sqrt(rng.uniform(*area))
    crop_h, crop_w = max(1, round(h * side)), max(1, round(w * side))
    return int(rng.integers(h - crop_h + 1)), int(rng.integers(w - crop_w + 1)), crop_h, crop_w


def random_crop(photo: UInt8[np.ndarray, "h w 3"], rng: Rng, area: tuple[float, float]) -> UInt8[np.ndarray, "h2 w2 3"]:
    """What of the photograph is in a random `crop_box`."""
    top, left, h, w = crop_box(photo.shape[:2], rng, area)
    return photo[top : top + h, left : left + w]


def random_colour(photo: UInt8[np.ndarray, "h w 3"], rng: Rng, strength: float) -> UInt8[np.ndarray, "h w 3"]:
    """Brightness, contrast and saturation, each times a uniform factor in `1 ± strength`."""
    image = Image.fromarray(photo)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(max(0.0, rng.uniform(1 - strength, 1 + strength)))
    return np.asarray(image)


def recompress(photo: UInt8[np.ndarray, "h w 3"], quality: int) -> UInt8[np.ndarray, "h w 3"]:
    """The photograph after a round trip through JPEG."""
    return np.asarray(Image.open(io.BytesIO(encode_jpeg(photo, quality)), formats=["JPEG"]))


def random_corners(
    size: Size, box: tuple[int, int, int, int], rng: Rng, strength: float
) -> Float[np.ndarray, "corner=4 xy=2"]:
    """The corners (x, y) of a crop, clockwise from the top left, each moved by itself, pixels of the photograph.

    Each goes by up to `strength` of the crop's sides in either direction, and never out of the photograph of `size`, so
    that nothing has to be made up. Corners are drawn anew until they are in convex position and none is nearly flat,
    where a perspective view would be stretched without bound. They keep their order: nothing is mirrored.
    """
    top, left, h, w = box
    frame = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    while True:
        moved = np.array([left, top]) + (frame + rng.uniform(-strength, strength, (4, 2))) * np.array([w, h])
        moved = moved.clip(0, np.array([size[1], size[0]]))
        forth, back = np.roll(moved, -1, axis=0) - moved, np.roll(moved, 1, axis=0) - moved
        if (forth[:, 0] * back[:, 1] - forth[:, 1] * back[:, 0] >= FLATTEST * h * w).all():
            return moved


def homography(size: Size, corners: Float[np.ndarray, "corner=4 xy=2"]) -> Float[np.ndarray, "3 3"]:
    """H that takes (x, y, 1) in a picture of `size` to its place between `corners`: clockwise from the top left.

    Coordinates are continuous: the picture's corners are (0, 0), (w, 0), (w, h) and (0, h), pixel centres at halves.
    """
    h, w = size
    frame = np.array([[0, 0], [w, 0], [w, h], [0, h]], np.float32)
    return cv2.getPerspectiveTransform(frame, corners.astype(np.float32))


def warp(
    photo: UInt8[np.ndarray, "h w 3"], corners: Float[np.ndarray, "corner=4 xy=2"], size: Size, filter: str = "bicubic"
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """What lies between four corners of the photograph (x, y; see `homography`), as an upright picture of `size`."""
    low, high = np.floor(corners.min(0)).astype(int), np.ceil(corners.max(0)).astype(int)
    part = photo[low[1] : high[1], low[0] : high[0]]
    h, w = part.shape[:2]
    top, right, bottom, left = np.linalg.norm(np.roll(corners, -1, axis=0) - corners, axis=1)
    # The warp does not filter, so what it would make smaller is made so before.
    scale_h, scale_w = min(1.0, 2 * size[0] / (left + right)), min(1.0, 2 * size[1] / (top + bottom))
    part = resize(part, (max(1, round(h * scale_h)), max(1, round(w * scale_w))), filter)
    to_part = homography(size, (corners - low) * np.array([part.shape[1] / w, part.shape[0] / h]))
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])  # OpenCV counts from the centre of the first pixel
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    shape = size[1], size[0]
    return cv2.warpPerspective(part, np.linalg.inv(half) @ to_part @ half, shape, flags=flags, borderMode=EDGE)


def occlude(view: UInt8[np.ndarray, "h w 3"], rng: Rng, most: float) -> UInt8[np.ndarray, "h w 3"]:
    """One or two rectangles of up to `most` of the area each are of one colour, or noise."""
    out, (h, w) = view.copy(), view.shape[:2]
    for _ in range(rng.integers(1, 3)):
        area, ratio = rng.uniform(0, most) * h * w, 2.0 ** rng.uniform(-1, 1)
        tall, wide = min(h, int(np.sqrt(area * ratio))), min(w, int(np.sqrt(area / ratio)))
        top, left = rng.integers(h - tall + 1), rng.integers(w - wide + 1)
        shape = (tall, wide, 3) if rng.random() < 0.5 else (3,)
        out[top : top + tall, left : left + wide] = rng.integers(0, 256, shape, np.uint8)
    return out


def relight(view: UInt8[np.ndarray, "h w 3"], rng: Rng, gamma: float, gradient: float) -> UInt8[np.ndarray, "h w 3"]:
    """`x^(2^g) (1 + s r)` of values x in 0 to 1: g uniform in `±gamma`, s in 0 to `gradient`, and r from -1 to 1 across
    the view, in any direction."""
    table = 255 * (np.arange(256, dtype=np.float32) / 255) ** np.float32(2.0 ** rng.uniform(-gamma, gamma))
    slope, angle = rng.uniform(0, gradient), rng.uniform(0, 2 * np.pi)
    y, x = ((np.arange(n, dtype=np.float32) + 0.5) * 2 / n - 1 for n in view.shape[:2])
    down, across = np.sin(angle), np.cos(angle)
    ramp = (y[:, None] * down + x[None] * across) / (abs(down) + abs(across))
    return _rounded(table[view] * (1 + slope * ramp)[..., None])


def blur(view: UInt8[np.ndarray, "h w 3"], rng: Rng, most: float) -> UInt8[np.ndarray, "h w 3"]:
    """A Gaussian of a standard deviation uniform in 0 to `most` pixels."""
    sigma = rng.uniform(0, most)
    return cv2.GaussianBlur(view, (0, 0), sigma, borderType=EDGE) if sigma > 0 else view


def add_noise(view: UInt8[np.ndarray, "h w 3"], rng: Rng, most: float) -> UInt8[np.ndarray, "h w 3"]:
    """Normal noise, of its own in every pixel and channel, of a standard deviation uniform in 0 to `most`, of 255."""
    sigma = np.float32(rng.uniform(0, most))
    return _rounded(view + sigma * rng.standard_normal(view.shape, np.float32))


def _rounded(values: Float[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    return np.rint(values).clip(0, 255).astype(np.uint8)


def augment(
    photo: UInt8[np.ndarray, "h w 3"], rng: Rng, config: DataConfig, *, multiple: int = 1
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Crop, resize to `config.image_size` (sides multiples of `multiple`), then flip, colour and JPEG by chance.

    The crop comes first and the resize second, so that the rest costs the same for a photograph of any size.
    """
    crop = random_crop(photo, rng, config.crop_area)
    view = resize(crop, content_size(crop.shape[:2], config.image_size, multiple, config.rounding), config.filter)
    view = _flipped(view, rng, config)
    if config.colour > 0:
        view = random_colour(view, rng, config.colour)
    return _recompressed(view, rng, config)


def strong_view(
    photo: UInt8[np.ndarray, "h w 3"], rng: Rng, config: DataConfig, *, multiple: int = 1
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """As `augment`, and with every change of this file, in the order in which they come about in a photograph: the
    viewpoint, what stands before the object, light, lens, sensor, compression.

    How strong they are says `config.view_strength`; with 0 it is `augment`.
    """
    strength = config.view_strength
    if strength == 0:
        return augment(photo, rng, config, multiple=multiple)
    size = photo.shape[:2]
    box = crop_box(size, rng, config.crop_area)
    corners = random_corners(size, box, rng, strength)
    view = warp(photo, corners, content_size(box[2:], config.image_size, multiple, config.rounding), config.filter)
    view = _flipped(view, rng, config)
    view = occlude(view, rng, min(MOST_OCCLUSION, OCCLUSION * strength))
    view = relight(view, rng, GAMMA * strength, GRADIENT * strength)
    if config.colour > 0:
        view = random_colour(view, rng, config.colour)
    view = blur(view, rng, BLUR * strength * max(view.shape))
    view = add_noise(view, rng, NOISE * strength)
    return _recompressed(view, rng, config)


def _flipped(view: UInt8[np.ndarray, "h w 3"], rng: Rng, config: DataConfig) -> UInt8[np.ndarray, "h w 3"]:
    return np.ascontiguousarray(view[:, ::-1] if rng.random() < config.flip else view)


def _recompressed(view: UInt8[np.ndarray, "h w 3"], rng: Rng, config: DataConfig) -> UInt8[np.ndarray, "h w 3"]:
    if rng.random() >= config.jpeg:
        return view
    low, high = config.jpeg_quality
    return recompress(view, int(rng.integers(low, high + 1)))
