"""What is searched for in a collection: a region of a photograph, described as one of its own."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int8, UInt8

from sret_jax.collection.local import Features, LocalFinder
from sret_jax.collection.reading import as_shown, pixel_set
from sret_jax.data.regions import Box, Region, described_box, region_within
from sret_jax.extraction.descriptors import Extractor
from sret_jax.localization.query_region import region_weights


@dataclass(frozen=True, eq=False)
class Query:
    """What is searched for.

    digest      sha256 of the photograph
    size        (height, width) of it, pixels
    box         (left, top, right, bottom) of the part that is described
    descriptor  of this part
    map         of this part
    region      inside of this part, what is meant; None: all of it
    local       local features of what is meant, by their position in this part; None where nobody asked for them
    """

    digest: str
    size: tuple[int, int]
    box: Box
    descriptor: Float32[np.ndarray, "d"]
    map: Int8[np.ndarray, "_ _ c"]
    region: Region
    local: Features | None = None

    @classmethod
    def of(
        cls,
        digest: str,
        pixels: UInt8[np.ndarray, "h w 3"],
        region: Region,
        extractor: Extractor,
        stage: str,
        finder: LocalFinder | None = None,
    ) -> "Query":
        """Describes the region of a photograph. Raises `UserError` for a region that is none."""
        size = pixels.shape[:2]
        left, top, right, bottom = box = described_box(region, size)
        cut = pixels[top:bottom, left:right]
        shown = pixel_set([as_shown(cut, extractor)], [cut.shape[:2]])
        (descriptor,), (own,) = extractor.describe_with_maps(shown, [0], stage, batch_size=1)
        inside = region_within(region, size)
        return cls(digest, size, box, descriptor, own, inside, finder.of_region(cut, inside) if finder else None)

    @property
    def part_size(self) -> tuple[int, int]:
        """(height, width) of the part that is described, pixels."""
        left, top, right, bottom = self.box
        return bottom - top, right - left

    @property
    def weights(self) -> Float32[np.ndarray, "h w"]:
        """The share of each position of the map that is meant."""
        return region_weights(self.region, self.part_size, np.ones(self.map.shape[:2], bool))
