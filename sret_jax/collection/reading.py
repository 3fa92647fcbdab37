"""Files of a collection as the network is shown them: read once, decoded once, and made small at once."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from sret_jax.collection.scan import FoundFile, settled
from sret_jax.collection.state import StoredPhoto
from sret_jax.data.apart import DecoderFailed, decode_apart
from sret_jax.data.decoding import PhotoRejected, decode_photo
from sret_jax.data.opening import Photo
from sret_jax.data.photo_set import PhotoSet
from sret_jax.data.pipeline import shown_sizes
from sret_jax.data.resizing import resize
from sret_jax.data.sources import PhotoSource
from sret_jax.errors import UserError
from sret_jax.extraction.descriptors import Extractor
from sret_jax.localization.methods import WORKING_SIDE
from sret_jax.storage.files import Unreadable

UNKNOWN = (0, 0)  # the stamp of what is to be read again next time


@dataclass(frozen=True, eq=False)
class PixelSet(PhotoSet):
    """Photographs whose pixels are at hand, at the size at which they are shown or larger."""

    pixels: Sequence[UInt8[np.ndarray, "_ _ 3"]] = ()

    def photo(self, row: int, at_least: int | None = None) -> UInt8[np.ndarray, "h w 3"]:
        return self.pixels[row]


class _NoBytes:
    """The source of a set that has its pixels."""

    def __init__(self, length: int):
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Mapping[str, bytes]:
        raise LookupError("the bytes of this photograph are not kept")


@dataclass(frozen=True, eq=False)
class ReadPhoto:
    """A file that is a photograph.

    pixels  as the network is shown them; None where they were not decoded, because `row` has what is known of them
    look    what its local features are found in, where there are to be any
    """

    file: FoundFile
    digest: str
    size: tuple[int, int]
    pixels: UInt8[np.ndarray, "_ _ 3"] | None
    row: int | None = None
    look: Any = None


@dataclass(frozen=True)
class Rejected:
    """A file that is none, and why; `stamp` is `UNKNOWN` where that may change without the file changing."""

    file: FoundFile
    reason: str
    stamp: tuple[int, int]


def read_photo(
    file: FoundFile,
    source: PhotoSource,
    extractor: Extractor,
    row_of: Callable[[str], int | None],
    look: Callable[[UInt8[np.ndarray, "_ _ 3"], UInt8[np.ndarray, "_ _ 3"]], Any] | None = None,
) -> ReadPhoto | Rejected:
    """Reads a file, and decodes it unless `row_of` its digest is known; `look` is given it as it is and as shown.

    Raises `UserError` where nothing can be reached any more.
    """
    try:
        data = source.read(file.name, apart=True)
    except Unreadable as error:
        return Rejected(file, error.reason, UNKNOWN)
    file = dataclasses.replace(file, stamp=settled((len(data), file.stamp[1])))
    digest = hashlib.sha256(data).hexdigest()
    row = row_of(digest)
    if row is not None:
        return ReadPhoto(file, digest, (0, 0), None, row)
    try:
        pixels = decode_apart(data)
    except DecoderFailed as error:
        return Rejected(file, error.reason, UNKNOWN)
    except Unreadable as error:
        return Rejected(file, error.reason, file.stamp)
    size = pixels.shape[:2]
    shown = as_shown(pixels, extractor)
    return ReadPhoto(file, digest, size, shown, None, look(pixels, shown) if look else None)


def pixel_set(pixels: Sequence[UInt8[np.ndarray, "_ _ 3"]], sizes: Sequence[tuple[int, int]]) -> PixelSet:
    """Photographs of these sizes, (height, width) of the files, with the pixels that are shown of each."""
    names = [f"photo {i}" for i in range(len(pixels))]
    unlabelled = np.full(len(pixels), -1, np.int32)
    known = np.array(sizes, np.int32).reshape(-1, 2)
    return PixelSet(
        "photos", names, unlabelled, [], known, names, source=_NoBytes(len(pixels)), skipped=[], pixels=pixels
    )


def as_shown(pixels: UInt8[np.ndarray, "h w 3"], extractor: Extractor) -> UInt8[np.ndarray, "_ _ 3"]:
    """The photograph at the size that the network gets it at; as it is where several scales are made of it."""
    config = extractor.config
    if tuple(config.extract.scales) != (1.0,):
        return pixels
    enlarged = None if config.data.enlarge else 1.0
    alone = pixel_set([pixels], [pixels.shape[:2]])
    (size,) = shown_sizes(
        alone, config.data.image_size, extractor.network.size_multiple, enlarged, config.data.rounding
    )
    return resize(pixels, size, config.data.filter)


def pixels_of_answer(source: PhotoSource, photo: StoredPhoto) -> UInt8[np.ndarray, "_ _ 3"]:
    """A photograph of a collection, no smaller than objects are looked for in.

    Raises `PhotoRejected` where the file is not the one that was described.
    """
    data = source.read(photo.name)
    if hashlib.sha256(data).hexdigest() != photo.digest:
        raise PhotoRejected("changed since it was indexed; index again")
    return decode_photo(data, WORKING_SIDE)


def pixels_of_query(data: bytes, query: Photo) -> UInt8[np.ndarray, "h w 3"]:
    """A query, of its encoded bytes. Raises `UserError` for what is no photograph."""
    try:  # bytes come from whoever is connected to a server; a person names a path
        return decode_apart(data) if isinstance(query, bytes) else decode_photo(data)
    except Unreadable as error:
        named = f"the query {query}" if isinstance(query, str | Path) else "the query"
        raise UserError(f"{named} is no photograph: {error.reason}") from None
