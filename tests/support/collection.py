"""A drawn collection: things that are pasted into photographs of installed packages, and a search that knows where.

It answers by what it has pasted and not by what it sees, so that what the server says of it is known beforehand.
"""

import dataclasses
import hashlib
import io
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from sret_jax.data.decoding import decode_photo, encode_jpeg
from sret_jax.errors import UserError

Box = tuple[int, int, int, int]
THINGS = {  # file of scikit-image, and the part of it that is pasted
    "cat": ("chelsea.png", (110, 20, 330, 270)),
    "cup": ("coffee.png", (150, 60, 450, 330)),
    "astronaut": ("astronaut.png", (150, 20, 310, 200)),
}
SCENES = ["brick.png", "grass.png", "gravel.png", "rocket.jpg", "hubble_deep_field.jpg", "china.jpg", "flower.jpg"]
PASTED = 3  # photographs of each thing in each scene
GPS = 0x8825


@dataclass(frozen=True)
class Answer:
    name: str
    score: float
    size: tuple[int, int]
    found: bool | None = None
    box: Box | None = None
    outlines: tuple[tuple[tuple[int, int], ...], ...] = ()
    inliers: int | None = None


@dataclass(frozen=True)
class Found:
    answers: list[Answer]
    size: tuple[int, int]
    searched: Box


@dataclass(frozen=True)
class Status:
    name: str
    photos: int
    skipped: list[tuple[str, str]]
    indexing: bool
    done: int
    total: int
    updated: str
    retriever: str
    local: str = ""


@dataclass
class FakeCollection:
    """`photos` are encoded, by name; `things[name]` says what was pasted where."""

    photos: dict[str, bytes]
    things: dict[str, dict[str, Box]] = field(default_factory=dict)
    name: str = "Postcards"
    skipped: list[tuple[str, str]] = field(default_factory=list)
    local: str = ""
    indexing: tuple[int, int] | None = None  # done, total
    seconds: float = 0.0  # that a search takes
    searches: int = 0
    reads: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lock, self.ending = threading.Lock(), threading.Event()  # the event ends searches that take long

    @property
    def names(self) -> list[str]:
        return sorted(self.photos)

    def read(self, name: str) -> bytes:
        self.reads.append(name)
        if name not in self.photos:
            raise UserError(f"no photograph {name!r}")
        return self.photos[name]

    def search(
        self,
        query: str | bytes,
        region: Sequence[float] | np.ndarray | None = None,
        k: int = 20,
        start: int = 0,
        mark: bool = True,
        verify: bool = False,
    ) -> Found:
        if verify and not self.local:
            raise UserError("it keeps no local features; `sret index PHOTOS --local=sift` finds them")
        with self.lock:
            self.searches += 1
            self.ending.wait(self.seconds)
        data = self.read(query) if isinstance(query, str) else query
        height, width = decode_photo(data).shape[:2]
        left, top, right, bottom = searched = _box(region, height, width)
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise UserError(f"region {list(region or [])}: it lies outside the photograph, {width}x{height} pixels")
        own = [name for name, held in self.photos.items() if held == data]
        thing = self._pointed_at(own, searched) if region is not None else None
        answers = [self._answer(name, thing, region is not None) for name in self.photos if name not in own]
        answers.sort(key=lambda answer: (-answer.score, answer.name))
        if verify:  # as many as letters of the name, so that the order is another one
            answers = [dataclasses.replace(answer, inliers=len(answer.name)) for answer in answers]
            answers.sort(key=lambda answer: -len(answer.name))
        return Found(answers[start : start + k], (height, width), searched)

    def heat(self, name: str, query: str | bytes, region: Sequence[float] | np.ndarray | None = None) -> np.ndarray:
        height, width = decode_photo(self.read(name)).shape[:2]
        y, x = np.mgrid[:height, :width]
        left, top, right, bottom = next(iter(self.things.get(name, {}).values()), (0, 0, width // 4, height // 4))
        far = ((x - (left + right) / 2) / (right - left)) ** 2 + ((y - (top + bottom) / 2) / (bottom - top)) ** 2
        return np.exp(-2 * far)

    def object_in(self, query: str | bytes) -> Box:
        height, width = self.query_size(query)
        pasted = self.things.get(query, {}) if isinstance(query, str) else {}
        return next(iter(pasted.values()), (width // 4, height // 4, width // 2, height // 2))

    def query_size(self, query: str | bytes) -> tuple[int, int]:
        data = self.photos.get(query) if isinstance(query, str) else query
        if data is None:
            raise UserError(f"no photograph {query!r}")
        return _size(data)

    def status(self) -> Status:
        done, total = self.indexing or (len(self.photos), len(self.photos))
        return Status(
            self.name,
            len(self.photos),
            self.skipped,
            self.indexing is not None,
            done,
            total,
            "2026-01-01T12:00:00+00:00",
            "a fake",
            self.local,
        )

    def _pointed_at(self, names: list[str], searched: Box) -> str | None:
        for name in names:
            for thing, (left, top, right, bottom) in self.things.get(name, {}).items():
                if searched[0] < right and left < searched[2] and searched[1] < bottom and top < searched[3]:
                    return thing
        return None

    def _answer(self, name: str, thing: str | None, marked: bool) -> Answer:
        height, width = _size(self.photos[name])
        noise = int.from_bytes(hashlib.sha256(name.encode()).digest()[:2], "big") / 65536
        box = self.things.get(name, {}).get(thing or "")
        if box is None:
            return Answer(name, 0.1 + 0.3 * noise, (height, width), False if marked else None)
        return Answer(name, 0.6 + 0.3 * noise, (height, width), True, box, (_ellipse(box),))


def _box(region: Sequence[float] | np.ndarray | None, height: int, width: int) -> Box:
    if region is None:
        return 0, 0, width, height
    numbers = [round(float(x)) for x in region]
    if len(numbers) == 2:
        x, y = numbers
        numbers = [max(0, x - 20), max(0, y - 20), min(width, x + 20), min(height, y + 20)]
    left, top, right, bottom = numbers
    return left, top, right, bottom


def _ellipse(box: Box, points: int = 40) -> tuple[tuple[int, int], ...]:
    left, top, right, bottom = box
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
    x = (left + right) / 2 + (right - left) / 2 * np.cos(angles)
    y = (top + bottom) / 2 + (bottom - top) / 2 * np.sin(angles)
    return tuple((round(float(a)), round(float(b))) for a, b in zip(x, y, strict=True))


@cache
def _size(data: bytes) -> tuple[int, int]:
    height, width = decode_photo(data).shape[:2]
    return height, width


@cache
def _sample(name: str) -> Image.Image:
    places = (find_spec(package).submodule_search_locations[0] for package in ("skimage", "sklearn"))  # not imported
    paths = [Path(place) / folder / name for place, folder in zip(places, ("data", "datasets/images"), strict=True)]
    return Image.open(next(path for path in paths if path.is_file())).convert("RGB")


def drawn_collection() -> FakeCollection:
    """Three things in seven scenes, three times each, and the scenes alone: 70 photographs of two shapes."""
    rng = np.random.default_rng(0)
    photos, things = {}, {}
    for scene in SCENES:
        stem = scene.partition(".")[0]
        photos[f"scenes/{stem}.jpg"] = encode_jpeg(np.asarray(_scene(scene, (640, 480))), 90)
        for thing, (source, part) in THINGS.items():
            for i in range(PASTED):
                name = f"{thing}/{stem} {i + 1}.jpg"
                photo = _scene(scene, (480, 600) if i == 1 else (640, 440)).copy()
                picture = _sample(source).crop(part)
                scale = rng.uniform(0.28, 0.48) * min(photo.size) / min(picture.size)
                picture = picture.resize((round(picture.width * scale), round(picture.height * scale)))
                left = int(rng.integers(0, photo.width - picture.width))
                top = int(rng.integers(0, photo.height - picture.height))
                photo.paste(picture, (left, top), _oval(picture.size))
                photos[name] = encode_jpeg(np.asarray(photo), 90)
                things[name] = {thing: (left, top, left + picture.width, top + picture.height)}
    return FakeCollection(photos, things)


def small_collection() -> FakeCollection:
    """Five photographs of flat colours; one of them is stored lying on its side, with the place where it was taken."""
    rng = np.random.default_rng(0)
    photos = {}
    for i, name in enumerate(["a/one.jpg", "a/two.jpg", "b/Ünï cödé #?%.jpg", "b/three.png", "lying.jpg"]):
        pixels = np.full((48, 64, 3), 40 * i + 30, np.uint8) + rng.integers(0, 9, (48, 64, 3), np.uint8)
        photos[name] = encode_jpeg(pixels, 90)
    photos["lying.jpg"] = lying_photo()
    return FakeCollection(photos, {name: {"patch": (5, 6, 25, 36)} for name in list(photos)[:3]})


def lying_photo(size: tuple[int, int] = (120, 80)) -> bytes:
    """A JPEG that EXIF turns upright: red above, blue below; with a GPS position and a comment."""
    width, height = size
    upright = Image.new("RGB", (height, width), (40, 60, 200))
    upright.paste((200, 40, 40), (0, 0, height, width // 2))
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "SecretCamera"
    exif[GPS] = {1: "N", 2: (51.0, 45.0, 7.0), 3: "W", 4: (1.0, 15.0, 25.0)}
    file = io.BytesIO()
    upright.transpose(Image.Transpose.ROTATE_90).save(file, "JPEG", exif=exif, quality=95, comment=b"SecretComment")
    return file.getvalue()


def _scene(name: str, size: tuple[int, int]) -> Image.Image:
    picture = _sample(name)
    scale = max(size[0] / picture.width, size[1] / picture.height)
    picture = picture.resize((round(picture.width * scale) + 1, round(picture.height * scale) + 1))
    return picture.crop((0, 0, *size))


def _oval(size: tuple[int, int]) -> Image.Image:
    y, x = np.mgrid[: size[1], : size[0]]
    far = ((x + 0.5) / size[0] * 2 - 1) ** 2 + ((y + 0.5) / size[1] * 2 - 1) ** 2
    return Image.fromarray((np.clip((1 - far) * 12, 0, 1) * 255).astype(np.uint8))
