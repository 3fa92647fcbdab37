"""Local features of a collection's photographs, which spatial verification needs: how they are found."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8

from sret_jax.collection.reading import as_shown, pixel_set
from sret_jax.config.names import KEPT_FEATURES
from sret_jax.data.regions import Region
from sret_jax.errors import UserError, choices
from sret_jax.extraction.descriptors import VERSIONS
from sret_jax.extraction.local_features import Sift, pack, real_features
from sret_jax.localization.query_region import region_pixels
from sret_jax.retriever import Retriever
from sret_jax.storage.artifacts import fingerprint

NONE = "none"
# Of `config.local.source`: those that learn nothing from the photographs searched, which change.
SOURCES = KEPT_FEATURES
SIFT_DIM = 128

Features = Shaped[np.ndarray, "_"]  # as `local_features.real_features` has them: those of one photograph


class LocalFinder:
    """Finds the local features of a photograph: the same whatever else is in the collection.

    Attributes:
      config: the retriever's, with this source; `local` and `rerank` say how.
      about: what the header of a store says of the features: `source`, the `key` of all that they depend on, the
        `dim` of one, and the `most` that a photograph has.
    """

    def __init__(self, retriever: Retriever, source: str):
        """Raises `UserError` for a network without local features of its own, or whose were never filled."""
        config = retriever.config
        self.config = dataclasses.replace(config, local=dataclasses.replace(config.local, source=source))
        self._source = retriever.feature_source(pixel_set([], []), self.config)
        self._extractor = retriever.extractor
        dim = SIFT_DIM if source == "sift" else config.model.local.dim
        key = fingerprint(self._source.fingerprint, VERSIONS)
        self.about = {"source": source, "key": key, "dim": dim, "most": config.local.most}

    def look(self, pixels: UInt8[np.ndarray, "h w 3"], shown: UInt8[np.ndarray, "_ _ 3"] | None = None) -> Any:
        """What `find` needs of a decoded photograph, and no more of it; called by many threads.

        `shown`: the photograph as the network is shown it, where somebody has made that already.
        """
        if isinstance(self._source, Sift):
            return real_features(pack([self._source.of_photo(pixels)])[0])
        return as_shown(pixels, self._extractor) if shown is None else shown

    def find(self, looks: Sequence[Any]) -> list[Features]:
        """The features of the photographs that were looked at."""
        if isinstance(self._source, Sift) or not looks:
            return list(looks)
        found = dict(self._source(pixel_set(looks, [look.shape[:2] for look in looks]), range(len(looks))))
        return [real_features(record) for record in pack([found[i] for i in range(len(looks))])]

    def of_region(self, pixels: UInt8[np.ndarray, "h w 3"], region: Region) -> Features:
        """The features of a photograph that lie in a region of it."""
        (found,) = self.find([self.look(pixels)])
        height, width = pixels.shape[:2]
        at = (found["position"].astype(np.float32) * [width, height]).astype(int)
        x, y = np.clip(at, 0, [width - 1, height - 1]).T
        return found[region_pixels(region, (height, width))[y, x]]


def finder_of(retriever: Retriever, source: str) -> LocalFinder | None:
    """What finds the local features of that name, None for "none". Raises `UserError` as `LocalFinder`."""
    return None if source == NONE else LocalFinder(retriever, source)


def check_source(source: str) -> None:
    """Raises `UserError` for what no collection keeps."""
    if source not in SOURCES:
        raise UserError(
            f"--local: no local features {choices(source, SOURCES)}; those of a map need a reduction that is learned "
            "from the photographs searched, which change in a collection"
        )
