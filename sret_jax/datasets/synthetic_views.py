"""Photographs drawn by code: flat objects under random viewpoint, light, noise, scale, occlusion and background.

It feeds the quickstart and the tests, with an exact pixel mask of the object in every photograph. It is not a
benchmark: real objects are not flat and real photographs are not drawn.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageFilter

from sret_jax.data.decoding import encode_jpeg, encode_mask
from sret_jax.data.photo_set import PhotoSet
from sret_jax.data.prepared import PhotoBuilder, RecordIndex, in_order, open_prepared, prepared
from sret_jax.data.resizing import resize
from sret_jax.datasets.synthetic_objects import SOURCES, FlatObject, draw_objects, package_versions, source_photo
from sret_jax.errors import UserError
from sret_jax.storage.artifacts import fingerprint

VERSION = 2  # of what is drawn; part of the cache key
SPLITS = ("train", "test")
Rng = np.random.Generator
OBJECTS, CLUTTER, VIEW = 0, 1, 2  # separate streams of random numbers from one seed


@dataclass(frozen=True, eq=False)
class Pose:
    """Where an object is seen: `to_plane` takes homogeneous pixel coordinates (x, y, 1) to its plane (u, v, 1)."""

    to_plane: Float[np.ndarray, "3 3"]
    magnification: float  # pixels of the photograph per pixel of the object's picture, about


@dataclass(frozen=True)
class Viewing:
    """How a kind of thing appears in the photographs.

    size    range of its longest side over the photograph's shorter one, before the tilt
    offset  greatest distance of its centre from the photograph's, over the photograph's sides
    tilt    greatest rotation about the horizontal and about the vertical axis, radians
    """

    size: tuple[float, float]
    offset: float
    tilt: float


OBJECT = Viewing((0.8, 1.4), 0.15, 0.6)
BEHIND = Viewing((0.2, 0.6), 0.5, 0.7)
BEFORE = Viewing((0.15, 0.5), 0.3, 0.5)


def random_pose(rng: Rng, picture: tuple[int, int], shape: tuple[int, int], viewing: Viewing) -> Pose:
    """A plane before a pinhole camera; `picture` and `shape` are (height, width) of the thing and the photograph."""
    h, w = shape
    focal = 1.2 * max(shape)
    half = np.array([picture[1], picture[0]]) / max(picture)  # half width and half height, longest 1
    apparent = rng.uniform(*viewing.size) * min(shape) / 2  # pixels of the longest half side
    pitch, yaw = rng.uniform(-viewing.tilt, viewing.tilt, 2)
    roll = rng.normal(0, 0.2)
    rotation = _turn(2, roll) @ _turn(1, yaw) @ _turn(0, pitch)
    depth = focal / apparent
    across, down = rng.uniform(-viewing.offset, viewing.offset, 2)
    centre = np.array([across * w, down * h, focal]) / focal * depth
    camera = np.array([[focal, 0, w / 2], [0, focal, h / 2], [0, 0, 1]])
    to_photo = camera @ np.stack([rotation[:, 0] * half[0], rotation[:, 1] * half[1], centre], 1)
    return Pose(np.linalg.inv(to_photo), 2 * apparent / max(picture))


def _turn(axis: int, angle: float) -> Float[np.ndarray, "3 3"]:
    a, b = (i for i in range(3) if i != axis)
    rotation = np.eye(3)
    rotation[a, a] = rotation[b, b] = np.cos(angle)
    rotation[a, b], rotation[b, a] = -np.sin(angle), np.sin(angle)
    return rotation


def plane_coordinates(pose: Pose, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The plane coordinates (u, v), each [h w], seen at the centre of every pixel."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    u, v, t = np.tensordot(pose.to_plane, np.stack([x, y, np.ones_like(x)]), 1)
    return u / t, v / t


def paste(
    canvas: UInt8[np.ndarray, "h w 3"], thing: FlatObject, pose: Pose
) -> tuple[UInt8[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"]]:
    """The canvas with the object on it, and exactly the pixels that now show it."""
    shape = canvas.shape[:2]
    mask = thing.inside(*plane_coordinates(pose, shape))
    picture = thing.picture
    if pose.magnification < 0.8:  # the warp does not filter
        picture = resize(picture, tuple(max(8, round(side * pose.magnification)) for side in picture.shape[:2]))
    ph, pw = picture.shape[:2]
    border = 2  # so that the filter of the warp never reaches outside
    picture = np.pad(picture, ((border, border), (border, border), (0, 0)), mode="edge")
    to_pixels = np.array([[pw / 2, 0, pw / 2 + border], [0, ph / 2, ph / 2 + border], [0, 0, 1]]) @ pose.to_plane
    coefficients = (to_pixels / to_pixels[2, 2]).ravel()[:8]
    warped = Image.fromarray(picture).transform(
        (shape[1], shape[0]), Image.Transform.PERSPECTIVE, tuple(coefficients), Image.Resampling.BICUBIC
    )
    return np.where(mask[..., None], np.asarray(warped), canvas), mask


class Scene:
    """Everything that one split's photographs are made of."""

    def __init__(self, split: str, instances: int, seed: int) -> None:
        self.stream = (seed, SPLITS.index(split))
        self.split = split
        self.objects = list(draw_objects(np.random.default_rng((*self.stream, OBJECTS)), split, instances))
        self.clutter = list(draw_objects(np.random.default_rng((*self.stream, CLUTTER)), split, 36))

    def name(self, instance: int) -> str:
        return f"{self.split}_{instance:03d}_{self.objects[instance].kind}"

    def photograph(self, instance: int, number: int) -> tuple[bytes, Bool[np.ndarray, "h w"]]:
        """JPEG bytes of one view of one object, and which pixels show it. A function of the seed and its arguments."""
        rng = np.random.default_rng((*self.stream, VIEW, instance, number))
        thing = self.objects[instance]
        others = [other for other in self.clutter if other.kind != thing.kind]
        longest, ratio = int(rng.integers(256, 321)), rng.choice([1.0, 0.75, 0.75, 2 / 3, 9 / 16])
        shape = (longest, round(longest * ratio))
        shape = shape if rng.random() < 0.5 else shape[::-1]
        while True:  # until enough of the object is seen
            photo = self._background(rng, thing, shape)
            for _ in range(int(rng.integers(3))):
                other = _pick(rng, others)
                photo, _ = paste(photo, other, random_pose(rng, other.picture.shape[:2], shape, BEHIND))
            photo, whole = paste(photo, thing, random_pose(rng, thing.picture.shape[:2], shape, OBJECT))
            mask = whole
            if rng.random() < 0.5:
                other = _pick(rng, others)
                photo, hidden = paste(photo, other, random_pose(rng, other.picture.shape[:2], shape, BEFORE))
                mask = whole & ~hidden
            if mask.sum() > max(0.06 * mask.size, 0.5 * whole.sum()):
                break
        return encode_jpeg(develop(rng, photo), int(rng.integers(45, 93))), mask

    def _background(self, rng: Rng, thing: FlatObject, shape: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
        if rng.random() < 0.25:
            picture = _pick(rng, [other for other in self.clutter if other.kind != thing.kind]).picture
        else:
            picture = source_photo(_pick(rng, [path for path in SOURCES[self.split] if Path(path).stem != thing.kind]))
        share = rng.uniform(0.5, 1.0) * min(picture.shape[0] / shape[0], picture.shape[1] / shape[1])
        h, w = (max(1, int(side * share)) for side in shape)
        top, left = int(rng.integers(picture.shape[0] - h + 1)), int(rng.integers(picture.shape[1] - w + 1))
        photo = resize(np.ascontiguousarray(picture[top : top + h, left : left + w]), shape)
        return np.asarray(Image.fromarray(photo).filter(ImageFilter.GaussianBlur(rng.uniform(0, 4))))  # out of focus


def develop(rng: Rng, photo: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Light, blur and noise: exposure, colour cast, a gradient across the photograph, defocus, grain."""
    h, w = photo.shape[:2]
    if rng.random() < 0.5:
        photo = np.asarray(Image.fromarray(photo).filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.6))))
    y, x = np.mgrid[:h, :w].astype(np.float32) / max(h, w) - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    light = np.exp(rng.normal(0, 0.2)) * (1 + rng.uniform(0, 0.6) * (x * np.cos(angle) + y * np.sin(angle)))
    cast = np.exp(rng.normal(0, 0.06, 3))
    curve = 255 * np.linspace(0, 1, 256) ** np.exp(rng.normal(0, 0.2))  # of the film
    noise = rng.standard_normal(photo.shape, np.float32) * np.float32(rng.uniform(0, 12))
    developed = curve.astype(np.float32)[photo] * light[..., None].astype(np.float32) * cast.astype(np.float32) + noise
    return np.clip(developed, 0, 255).astype(np.uint8)


def _pick(rng: Rng, items: list[Any]) -> Any:
    return items[int(rng.integers(len(items)))]


class SyntheticViews(PhotoBuilder):
    """Writes `photos` views of each of `instances` objects, with masks."""

    MASKS = True

    def __init__(self, instances: int, photos: int, seed: int, split: str, index: RecordIndex, data_dir: Path) -> None:
        self.photos = photos
        self.scene = Scene(split, instances, seed)
        super().__init__(index, data_dir)

    def examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        views = list(itertools.product(range(len(self.scene.objects)), range(self.photos)))
        drawn = in_order("drawing photographs", lambda view: self.scene.photograph(*view), views)
        for (instance, number), (data, mask) in drawn:
            folder = self.scene.name(instance)
            name = f"{folder}/{number:03d}.jpg"
            record = self.index.add(name, folder, mask.shape, data)
            yield record, {"image": data, "name": name, "mask": encode_mask(mask)}


def prepare_synthetic(cache_dir: str | Path, *, instances: int, photos: int, seed: int, split: str) -> PhotoSet:
    """`photos` views of each of `instances` objects of `split`; drawn once and kept in `cache_dir`.

    The objects and backgrounds of "train" and "test" come from different photographs and different random numbers.
    """
    if split not in SPLITS:
        raise UserError(f"synthetic photographs have no split {split!r}; choose one of {', '.join(SPLITS)}")
    if instances < 1 or photos < 1 or seed < 0:
        raise UserError(f"synthetic photographs: instances={instances}, photos={photos}, seed={seed} must be positive")
    key = fingerprint(VERSION, instances, photos, seed, split, package_versions())
    folder = Path(cache_dir) / "synthetic_views" / f"{split}-{instances}x{photos}-seed{seed}-{key}"
    prepared(folder, partial(SyntheticViews, instances, photos, seed, split))
    return open_prepared([folder], f"synthetic-{split}")
