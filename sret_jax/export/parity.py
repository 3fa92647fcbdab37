"""What another runtime computes of photographs of all shapes, against the retriever's own descriptors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from sret_jax.data.opening import open_photos
from sret_jax.data.photo_set import PhotoSet
from sret_jax.data.pipeline import shown_sizes
from sret_jax.data.resizing import place, resize, round_to
from sret_jax.datasets.synthetic_objects import SOURCES, source_photo
from sret_jax.extraction.preprocessing import canvas_multiple
from sret_jax.retriever import Retriever

BOUND = 1e-4  # of a component of a descriptor
BATCH = 7  # photographs of different shapes in one padded batch, beside each alone
# Height and width of what is shown of a photograph, pixels: landscape, portrait, square, thin, tiny.
CUTS = [
    (300, 400),
    (400, 300),
    (256, 256),
    (60, 400),
    (400, 50),
    (20, 28),
    (32, 18),
    (240, 420),
    (420, 240),
    (333, 250),
]
Run = Callable[[UInt8[np.ndarray, "b h w 3"], Bool[np.ndarray, "b h w"]], Float[np.ndarray, "b d"]]


@dataclass(frozen=True)
class Parity:
    """How far two runtimes are apart: the largest difference of a component, and where.

    batches  how many photographs were described at once, rising
    """

    difference: float
    photographs: int
    worst: str
    batches: list[int]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "largest difference": float(f"{self.difference:.2g}"),
            "bound": BOUND,
            "photographs": self.photographs,
            "batches": self.batches,
        }


def photographs_of_all_shapes() -> PhotoSet:
    """Twenty cuts of the photographs inside scikit-image and scikit-learn."""
    sources = [*SOURCES["train"], *SOURCES["test"]]
    shapes = [CUTS[i % len(CUTS)] for i in range(20)]
    cuts = []
    for i, (height, width) in enumerate(shapes):
        photo = source_photo(sources[i % len(sources)])
        top, left = (max(0, (own - size) // 2) for own, size in zip(photo.shape, (height, width), strict=False))
        cuts.append(np.ascontiguousarray(photo[top : top + height, left : left + width]))
    return open_photos(cuts)


def network_inputs(retriever: Retriever, photos: PhotoSet) -> list[UInt8[np.ndarray, "_ _ 3"]]:
    """The photographs as the network is shown them, not padded."""
    data = retriever.config.data
    enlarged = None if data.enlarge else 1.0
    sizes = shown_sizes(photos, data.image_size, retriever.network.size_multiple, enlarged, data.rounding)
    return [resize(photos.photo(row), size, data.filter) for row, size in enumerate(sizes)]


def padded(
    shown: Sequence[UInt8[np.ndarray, "_ _ 3"]], multiple: int
) -> tuple[UInt8[np.ndarray, "b h w 3"], Bool[np.ndarray, "b h w"]]:
    """Photographs and masks in the smallest canvas that holds all of them, with sides that are multiples."""
    height, width = (-(-max(photo.shape[i] for photo in shown) // multiple) * multiple for i in (0, 1))
    images, masks = zip(*(place(photo, (height, width)) for photo in shown), strict=True)
    return np.stack(images), np.stack(masks)


def measured(retriever: Retriever, run: Run, photos: PhotoSet | None = None) -> Parity:
    """Every photograph alone, and in padded batches of others."""
    photos = photos or photographs_of_all_shapes()
    expected = np.asarray(retriever.describe(photos))
    shown, multiple = network_inputs(retriever, photos), canvas_multiple(retriever.network)
    side = round_to(retriever.config.data.image_size, multiple)
    rows = list(range(len(shown)))
    batches = [[row] for row in rows] + [(rows + rows)[i : i + BATCH] for i in range(0, len(rows), BATCH)]
    worst, where = 0.0, ""
    for batch in batches:
        images, masks = padded([shown[row] for row in batch], multiple)
        if len(batch) > 1:  # the square bucket, as far as nothing is larger
            extra = [(0, max(0, side - size)) for size in images.shape[1:3]]
            images, masks = np.pad(images, [(0, 0), *extra, (0, 0)]), np.pad(masks, [(0, 0), *extra])
        found = run(images, masks)
        differences = np.abs(found - expected[batch]).max(1)
        if not differences.max() <= worst:  # a NaN is the worst
            i = int(np.nanargmax(np.where(np.isnan(differences), np.inf, differences)))
            height, width = photos.sizes[batch[i]]
            worst, where = float(differences[i]), f"{height}x{width} px in a batch of {len(batch)}"
            if np.isnan(worst):
                break
    return Parity(worst, len(photos), where, sorted({len(batch) for batch in batches}))
