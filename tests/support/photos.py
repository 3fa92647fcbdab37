"""Photographs drawn for a test: files of one colour in folders, and photo sets in memory."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sret_jax.config import DataConfig
from sret_jax.data.photo_set import PhotoSet


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def encode_pixels(pixels: np.ndarray) -> bytes:
    """A PNG of these pixels."""
    return encode(Image.fromarray(pixels), "PNG")


def write_photo(path: Path, seed: int, size: tuple[int, int] = (48, 64)) -> None:
    """One colour per `seed % 3`, with noise of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    pixels = 200 * np.eye(3)[seed % 3] + rng.integers(0, 50, (*size, 3))
    Image.fromarray(pixels.astype(np.uint8)).save(path, quality=95)


def write_photos(root: Path, instances: int = 3, photos: int = 4, seed: int = 0) -> Path:
    """Instances of one colour each, so that any network finds them."""
    rng = np.random.default_rng(seed)
    for i in range(instances):
        (root / f"tower {i}").mkdir(parents=True)
        for j in range(photos):
            colour = np.eye(3)[i % 3] * 200 + 20 * (i // 3)
            pixels = np.clip(colour + rng.normal(0, 25, (48, 64, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / f"tower {i}" / f"{j}.jpg")
    return root


SHAPES = [(40, 60), (60, 40), (50, 50), (30, 60), (61, 47)]


def photo_set(n: int = 11, seed: int = 0) -> PhotoSet:
    """Random pixels of five shapes, of two instances in turn."""
    rng = np.random.default_rng(seed)
    records, sizes = [], []
    for i in range(n):
        data = io.BytesIO()
        h, w = SHAPES[i % len(SHAPES)]
        small = Image.fromarray(rng.integers(0, 255, (6, 6, 3), np.uint8))
        small.resize((w, h)).save(data, "PNG")
        records.append({"image": data.getvalue()})
        sizes.append((h, w))
    names = [f"{'arch' if i % 2 else 'bridge'}/{i}.png" for i in range(n)]
    labels = np.array([1 - i % 2 for i in range(n)], np.int32)
    digests = [f"{seed}-{i}" for i in range(n)]
    return PhotoSet("tiny", names, labels, ["arch", "bridge"], np.array(sizes, np.int32), digests, records, [])


SMALL_SHAPES = [(24, 40), (40, 24), (32, 32), (60, 20), (30, 40)]


class Encoded:
    """Photographs kept in memory."""

    def __init__(self, photos):
        self.photos = photos

    def __len__(self):
        return len(self.photos)

    def __getitem__(self, index):
        return {"image": encode(Image.fromarray(self.photos[index]), "PNG")}


def make_photos(counts):
    """`counts[i]` photographs of instance i; red tells the instance and green the row."""
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    shapes = [SMALL_SHAPES[row % len(SMALL_SHAPES)] for row in range(len(labels))]
    photos = [
        np.full((*shape, 3), (20 * label, row, 7), np.uint8)
        for row, (label, shape) in enumerate(zip(labels, shapes, strict=True))
    ]
    return PhotoSet(
        name="drawn",
        names=[f"{label}/{row}.png" for row, label in enumerate(labels)],
        labels=labels,
        instances=[str(i) for i in range(len(counts))],
        sizes=np.array(shapes, np.int32),
        digests=["" for _ in labels],
        source=Encoded(photos),
        skipped=[],
    )


def drawn_data(cache: str | Path, **changes: Any) -> DataConfig:
    """Photographs of six drawn objects, four of each, to train on two at a time of four."""
    settings = {"dataset": "synthetic", "cache_dir": str(cache), "image_size": 64, "threads": 2}
    settings |= {"instances_per_batch": 4, "photos_per_instance": 2, "synthetic_instances": 6, "synthetic_photos": 4}
    return DataConfig(**(settings | changes))


def write_bytes_long_ago(path: Path, data: bytes) -> None:
    """A file whose time of change is certain; each time that it is written another one, long before it is read."""
    before = path.stat().st_mtime if path.exists() else 1.7e9
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (before + 1, before + 1))


def write_long_ago(path: Path, pixels: np.ndarray, quality: int = 90) -> None:
    """A small photograph whose time of change is certain: long before it is read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).resize((160, 120)).save(path, quality=quality)
    os.utime(path, (1.7e9, 1.7e9))
