"""Queries with their regions, and photographs in which these are looked for, maps and local features at hand."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from sret_jax.data.photo_set import PhotoSet
from sret_jax.data.regions import Region, cut_out, region_within
from sret_jax.extraction.maps import StoredMaps, localizing_network
from sret_jax.localization.object_discovery import centre
from sret_jax.localization.presence import presence
from sret_jax.localization.query_region import deviations, directions, mean_direction, region_pixels, region_weights
from sret_jax.reranking.answers import PhotoFeatures
from sret_jax.reranking.matching import LocalFeatures
from sret_jax.reranking.rerankers import verify_candidates
from sret_jax.retriever import Retriever
from sret_jax.storage.provenance import enough_memory

MEAN_OF = 200  # photographs, evenly spread, whose mean direction stands for the collection's
REMEDY = "localizing; lower config.localize.image_size"  # where the memory is full


class Localizer:
    """What every method of localization reads; each of it is made or read when it is first needed.

    Attributes:
      queries: the part in its box, else on its mask, else all of a photograph is the region that is looked for.
      photos: searched.
      config: its `localize`, `rerank` (spatial verification), `data` and `extract` say how.
      regions: of queries without boxes, by row: what is looked for instead.
      described: the queries, cut to what is described of their regions.
    """

    def __init__(
        self,
        retriever: Retriever,
        queries: PhotoSet,
        photos: PhotoSet,
        features: tuple[PhotoFeatures, PhotoFeatures] | None = None,
        folder: str | Path = "maps",
        regions: Mapping[int, Region] | None = None,
        shared: Path | None = None,
    ):
        """
        Args:
          features: of queries, cut to what is described of their regions, and of photos, for spatial verification; by
            default found when they are needed.
          folder: where maps, and local features that are found here, are kept.
          shared: of maps that may only be read: those that are there are used.

        Raises:
          UserError: an unknown source of features.
        """
        self.queries, self.photos, self.regions = queries, photos, regions or {}
        self.config = retriever.config
        self._retriever, self._folder, self._shared = retriever, Path(folder), shared
        self.described = cut_out(queries, self.regions)
        self._features = features or (
            self._own_features(self.described, "queries"),
            self._own_features(photos, "photos"),
        )
        self._stage = localizing_network(retriever.network, retriever.config).stage
        self._query: tuple[int, tuple[jax.Array, jax.Array, jax.Array]] | None = None

    def _own_features(self, photos: PhotoSet, name: str) -> PhotoFeatures:
        folder = self._folder / "local" / name
        return PhotoFeatures(
            lambda: self._retriever.describe(photos),
            photos.regions,
            lambda: self._retriever.local_features(photos, folder, learned_from=self.photos),
        )

    def region(self, query: int) -> Region:
        """The part of the whole query photograph that is looked for."""
        if query in self.regions:
            return self.regions[query]
        if self.queries.boxes is not None:
            return self.queries.boxes[query]
        return self.queries.mask(query)

    def described_pixels(self, query: int) -> Bool[np.ndarray, "h w"]:
        """Where the region lies in the part of the query that is described, and has local features."""
        if self.queries.boxes is not None:
            return np.ones(self.queries.regions[query], bool)
        (height, width), (rows, columns) = (photos.sizes[query].tolist() for photos in (self.queries, self.described))
        if query not in self.regions:
            return region_pixels(self.region(query), (height, width))
        return region_pixels(region_within(self.regions[query], (height, width)), (rows, columns))

    def size(self, row: int) -> tuple[int, int]:
        height, width = self.photos.sizes[row].tolist()
        return height, width

    def make_ready(self, method: str) -> None:
        """Finds now what the method reads, so that it is not counted as its time."""
        if method not in ("everything", "sv"):
            _ = self.maps, self.query_maps, self.mean
        if method.startswith("sv"):
            _ = [features.local for features in self._features]

    @cached_property
    def maps(self) -> StoredMaps:
        return self._stored(self.photos, "photos", self.config.localize.image_size)

    @cached_property
    def query_maps(self) -> StoredMaps:
        """Of the whole photographs: what is around a region is not cut away, its weights leave it out."""
        whole = dataclasses.replace(self.queries, boxes=None)
        return self._stored(whole, "queries", self.config.localize.query_size)

    @cached_property
    def described_maps(self) -> StoredMaps:
        """Of the queries cut to what is described of their regions, which show these larger."""
        return self._stored(self.described, "described", self.config.localize.query_size)

    def _stored(self, photos: PhotoSet, name: str, image_size: int) -> StoredMaps:
        shared = self._shared and self._shared / name
        return self._retriever.maps(photos, self._folder / name, image_size, shared)

    @cached_property
    def mean(self) -> jax.Array:
        rows = np.unique(np.linspace(0, len(self.maps) - 1, min(MEAN_OF, len(self.maps))).astype(int))
        sums = [mean_direction(*self.photo_maps([row])) for row in rows.tolist()]
        return jnp.mean(jnp.stack(sums), axis=0)

    def signed(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """Maps as LOST takes them: keys of a transformer as they are, features of any other kind less their mean."""
        return x if self._stage == "keys" else centre(directions(x), mask)

    def comparable(self, x: jax.Array) -> jax.Array:
        """The same for maps of different photographs: less the mean of the whole collection."""
        return x if self._stage == "keys" else deviations(x, self.mean)

    def photo_maps(self, rows: Sequence[int]) -> tuple[jax.Array, jax.Array]:
        x, mask = self.maps(np.asarray(rows))
        return jnp.asarray(x), jnp.asarray(mask)

    def query_map(self, query: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Map, mask and weights of the query's positions; kept until another query is looked for."""
        if self._query is None or self._query[0] != query:
            (x,), (mask,) = self.query_maps(np.array([query]))
            height, width = self.queries.sizes[query].tolist()
            weights = region_weights(self.region(query), (height, width), mask)
            self._query = query, (jnp.asarray(x), jnp.asarray(mask), jnp.asarray(weights))
        return self._query[1]

    def presence(self, query: int, rows: Sequence[int]) -> Float[np.ndarray, "b"]:
        """How much of the query's region each of these photographs shows: `presence.presence`."""
        (x,), (mask,) = self.described_maps(np.array([query]))
        pixels = self.described_pixels(query)
        weights = region_weights(pixels, pixels.shape, mask)
        with enough_memory(REMEDY):
            return np.asarray(presence(x, weights, *self.photo_maps(rows), self.mean))

    def verified(self, query: int, rows: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Inliers and transforms of spatial verification."""
        of_queries, of_photos = self._features
        own = LocalFeatures(*(x[0] for x in of_queries.local_features(np.array([query]))))
        _, found = verify_candidates(own, of_photos.local_features(np.asarray(rows)), self.config)
        return np.asarray(found.inliers), np.asarray(found.transform)
