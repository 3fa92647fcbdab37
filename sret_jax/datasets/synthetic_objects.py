"""The objects of the synthetic set: pieces of photographs that installed packages bring along, and drawn textures.

A photograph serves either the training or the test objects, never both, so nothing of a test object is ever trained on.
Objects come in groups that look alike: pieces of one photograph, or textures of one family and palette.
"""

import importlib.metadata
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8

from sret_jax.data.decoding import PhotoRejected, decode_photo
from sret_jax.data.resizing import content_size, resize
from sret_jax.datasets.synthetic_textures import FAMILIES, PALETTES, gradient
from sret_jax.errors import UserError
from sret_jax.storage.files import Unreadable, read_file

# Files inside the wheels of scikit-image ("data/") and scikit-learn ("datasets/images/"): nothing is downloaded.
SOURCES = {
    "train": (
        "skimage/data/astronaut.png skimage/data/chelsea.png skimage/data/coffee.png skimage/data/motorcycle_left.png "
        "sklearn/datasets/images/china.jpg skimage/data/brick.png skimage/data/ihc.png skimage/data/coins.png "
        "skimage/data/hubble_deep_field.jpg skimage/data/gravel.png skimage/data/clock_motion.png"
    ).split(),
    "test": (
        "skimage/data/camera.png skimage/data/rocket.jpg sklearn/datasets/images/flower.jpg skimage/data/retina.jpg "
        "skimage/data/cell.png skimage/data/moon.png skimage/data/grass.png skimage/data/page.png"
    ).split(),
}
WHEELS = {"skimage": "scikit-image", "sklearn": "scikit-learn"}
OBJECT_SIDE = 256  # longest side of an object's picture, pixels
GROUP = 3  # objects that look alike


@dataclass(frozen=True, eq=False)
class FlatObject:
    """A picture on a plane with an outline.

    kind       what it is made of: a texture family or the stem of a source photograph
    picture    pixels; its plane coordinates (u, v) run over [-1, 1] times its half width and half height
    outline    (amplitudes, phases) of the radius `1 + Σ_k a_k cos(k t + φ_k)` over the angle t, or None: a rectangle
    """

    kind: str
    picture: UInt8[np.ndarray, "h w 3"]
    outline: tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]] | None

    def inside(self, u: Float[np.ndarray, "h w"], v: Float[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
        """Whether plane points belong to the object."""
        within = (np.abs(u) < 1) & (np.abs(v) < 1)
        if self._radius is None:
            return within
        return within & (np.hypot(u, v) < np.interp(np.arctan2(v, u), *self._radius))

    @cached_property
    def _radius(self) -> tuple[np.ndarray, np.ndarray] | None:
        if self.outline is None:
            return None
        angle = np.linspace(-np.pi, np.pi, 257)
        waves = [a * np.cos(k * angle + phase) for k, (a, phase) in enumerate(zip(*self.outline, strict=True), 1)]
        return angle, 0.85 + np.sum(waves, 0)


@cache
def source_photo(path: str) -> UInt8[np.ndarray, "h w 3"]:
    """A photograph inside an installed package, its longest side at most 800 pixels. The package is not imported."""
    package, _, inner = path.partition("/")
    spec = importlib.util.find_spec(package)
    try:
        if spec is None or not spec.submodule_search_locations:
            raise PhotoRejected("the package is not installed")
        # Textures, not photographs: their numbers are what they are, so that what is drawn stays the same.
        photo = decode_photo(read_file(Path(spec.submodule_search_locations[0]) / inner), profile=False)
    except Unreadable as rejected:
        raise UserError(
            f"the synthetic photographs need {path} ({rejected}): pip install --force-reinstall {WHEELS[package]}"
        ) from None
    photo = resize(photo, content_size(photo.shape[:2], min(800, max(photo.shape)), 1))
    photo.setflags(write=False)
    return photo


def package_versions() -> list[str]:
    """What the synthetic photographs depend on beside the seed."""
    return [f"{wheel} {importlib.metadata.version(wheel)}" for wheel in (*WHEELS.values(), "pillow", "numpy")]


def draw_objects(rng: np.random.Generator, split: str, count: int) -> Iterator[FlatObject]:
    """`count` objects, photographs and textures in turns of `GROUP`. The first ones do not depend on `count`."""
    sources = list(rng.permutation(SOURCES[split]))
    families = list(rng.permutation(list(FAMILIES)))
    taken: dict[str, list[tuple[int, int, int, int]]] = {source: [] for source in sources}
    for number in range(count):
        group = number // GROUP
        palette = PALETTES[group % len(PALETTES)]
        outline = _random_outline(rng)
        if group % 2 == 0:
            source = sources[group // 2 % len(sources)]
            piece = _cut(rng, source_photo(source), taken[source])
            if piece is not None:
                yield FlatObject(Path(source).stem, _tinted(piece, palette), outline)
                continue
        family = families[(group // 2) % len(families)]
        shape = (OBJECT_SIDE, int(rng.integers(150, OBJECT_SIDE + 1)))
        yield FlatObject(family, FAMILIES[family](rng, shape, palette), outline)


def _random_outline(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray] | None:
    if rng.random() < 0.5:
        return None
    return rng.uniform(0, 0.05, 5), rng.uniform(0, 2 * np.pi, 5)


def _cut(
    rng: np.random.Generator, photo: UInt8[np.ndarray, "h w 3"], taken: list[tuple[int, int, int, int]]
) -> UInt8[np.ndarray, "h2 w2 3"] | None:
    """A piece with something on it that hardly overlaps the pieces `taken` before; None when there is no room left."""
    for _ in range(60):
        h, w = (int(side) for side in rng.integers(110, 190, 2))
        top, left = int(rng.integers(photo.shape[0] - h + 1)), int(rng.integers(photo.shape[1] - w + 1))
        piece = photo[top : top + h, left : left + w]
        overlaps = (
            max(0, min(top + h, t + b) - max(top, t)) * max(0, min(left + w, x + c) - max(left, x))
            for t, x, b, c in taken
        )
        if piece.mean(-1).std() > 20 and all(shared < 0.1 * h * w for shared in overlaps):
            taken.append((top, left, h, w))
            return resize(piece, content_size((h, w), OBJECT_SIDE, 1))
    return None


def _tinted(piece: UInt8[np.ndarray, "h w 3"], palette: UInt8[np.ndarray, "n 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """A grey piece in two colours of the palette, so that colour alone does not tell photographs apart."""
    if np.ptp(piece.astype(np.int16), axis=-1).max() > 8:
        return piece
    return gradient(piece[..., 0].astype(np.float64), np.stack([palette[0], palette[3]]))
