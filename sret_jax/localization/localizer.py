"""Every way to say where the object of a query is in a photograph, behind one call.

everything     all of the photograph: what any other has to beat
lost           the photograph's own object by LOST, whatever the query is: `object_discovery`
query_lost     what LOST grows from the patch that is most like the query region: `query_region.discover_region`
discovery      what is like the query region: `query_region`
regions        the window or discovered object most like the region: `regions`
dense          where dense matching carries the region: `dense_matching`
sv             where the transform of spatial verification carries it: `geometric`
sv+discovery   the same, and with too few inliers discovery
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from sret_jax.config import Config
from sret_jax.data.photo_set import PhotoSet
from sret_jax.data.pipeline import load
from sret_jax.extraction.maps import StoredMaps, localizing_network, store_maps
from sret_jax.localization.dense_matching import match_region
from sret_jax.localization.geometric import warp_region
from sret_jax.localization.object_discovery import DiscoveredObjects, centre, discover, discover_several, facing_inwards
from sret_jax.localization.pixels import (
    enlarge,
    grab_cut,
    guided_filter,
    hottest_component,
    pixel_box,
    shrink,
    shrunken,
    upsample,
)
from sret_jax.localization.query_region import (
    Region,
    deviations,
    directions,
    discover_region,
    mean_direction,
    region_heat,
    region_pixels,
    region_weights,
)
from sret_jax.localization.regions import best_box, window_boxes
from sret_jax.models.descriptor import RetrievalNetwork, Variables
from sret_jax.reranking.answers import Side
from sret_jax.reranking.matching import LocalFeatures
from sret_jax.reranking.rerankers import verify_candidates

PHOTOS_AT_ONCE = 8  # of the gallery; those left over come one by one, so that two shapes are compiled
MEAN_OF = 200  # photographs, evenly spread, whose mean direction stands for the collection's
WORKING_SIDE = 240  # longest of a photograph whose heat is made a mask, pixels; larger is slower and no better
GUIDED_RADIUS = 5  # of the guided filter there, pixels


@dataclass(frozen=True, eq=False)
class Located:
    """The object in one photograph.

    mask  its pixels; empty where it was not found
    heat  what the mask was made of, at the size of the photograph; None where there is no such thing
    seed  (x, y) of the pixel in the middle of the patch that it grew from; None where it grew from no single one
    """

    mask: Bool[np.ndarray, "H W"]
    heat: Float[np.ndarray, "H W"] | None = None
    seed: tuple[float, float] | None = None


class Localizer:
    """Queries with their regions and the photographs in which these are looked for, maps and local features at hand."""

    def __init__(
        self,
        network: RetrievalNetwork,
        variables: Variables,
        queries: PhotoSet,
        photos: PhotoSet,
        sides: tuple[Side, Side],
        config: Config,
        folder: Path,
        regions: Mapping[int, Region] | None = None,
    ):
        """
        Args:
          queries: what asks; the part in its box, else on its mask, else all of a photograph is the region.
          photos: what is searched.
          sides: local features of both, for spatial verification.
          config: its `localize`, `rerank` (spatial verification), `data` and `extract` say how.
          folder: where maps are kept.
          regions: of queries without boxes, by row: a region that is asked for instead.

        Raises:
          UserError: an unknown source of features.
        """
        self.queries, self.photos, self.config, self.regions = queries, photos, config, regions or {}
        self._sides, self._folder, self._variables = sides, folder, variables
        self._network = localizing_network(network, config)
        self._asked: tuple[int, tuple[jax.Array, jax.Array, jax.Array]] | None = None

    def __call__(self, method: str, query: int, rows: Sequence[int]) -> list[Located]:
        """The object of one query in these photographs, in their order."""
        rows, out = [int(row) for row in rows], []
        whole = len(rows) - len(rows) % PHOTOS_AT_ONCE
        parts = [rows[i : i + PHOTOS_AT_ONCE] for i in range(0, whole, PHOTOS_AT_ONCE)]
        for part in [*parts, *([row] for row in rows[whole:])]:
            out += METHODS[method](self, query, part)
        return out

    def region(self, query: int) -> Region:
        """What of the whole query photograph is asked for."""
        if query in self.regions:
            return self.regions[query]
        if self.queries.boxes is not None:
            return self.queries.boxes[query]
        return self.queries.mask(query)

    def size(self, row: int) -> tuple[int, int]:
        height, width = self.photos.sizes[row].tolist()
        return height, width

    def make_ready(self, method: str) -> None:
        """Finds now what the method reads, so that it is not counted as its time."""
        if method not in ("everything", "sv"):
            _ = self.maps, self.query_maps, self.mean
        if method.startswith("sv"):
            _ = self._sides[0].local, self._sides[1].local

    @cached_property
    def maps(self) -> StoredMaps:
        size = self.config.localize.image_size
        return store_maps(self._network, self._variables, self.photos, self.config, size, self._folder / "photos")

    @cached_property
    def query_maps(self) -> StoredMaps:
        """Of the whole photographs: what is around a region is not cut away, its weights leave it out."""
        whole, size = dataclasses.replace(self.queries, boxes=None), self.config.localize.query_size
        return store_maps(self._network, self._variables, whole, self.config, size, self._folder / "queries")

    @cached_property
    def mean(self) -> jax.Array:
        rows = np.unique(np.linspace(0, len(self.maps) - 1, min(MEAN_OF, len(self.maps))).astype(int))
        sums = [mean_direction(*self.gallery([row])) for row in rows.tolist()]
        return jnp.mean(jnp.stack(sums), axis=0)

    def signed(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """Maps as LOST takes them: keys of a transformer as they are, features of any other kind less their mean."""
        return x if self._network.stage == "keys" else centre(directions(x), mask)

    def comparable(self, x: jax.Array) -> jax.Array:
        """The same for maps of different photographs: less the mean of the whole collection."""
        return x if self._network.stage == "keys" else deviations(x, self.mean)

    def gallery(self, rows: Sequence[int]) -> tuple[jax.Array, jax.Array]:
        x, mask = self.maps(np.asarray(rows))
        return jnp.asarray(x), jnp.asarray(mask)

    def asked(self, query: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Map, mask and weights of the query's positions; kept until another query asks."""
        if self._asked is None or self._asked[0] != query:
            (x,), (mask,) = self.query_maps(np.array([query]))
            height, width = self.queries.sizes[query].tolist()
            weights = region_weights(self.region(query), (height, width), mask)
            self._asked = query, (jnp.asarray(x), jnp.asarray(mask), jnp.asarray(weights))
        return self._asked[1]

    def verified(self, query: int, rows: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Inliers and transforms of spatial verification."""
        asked = LocalFeatures(*(x[0] for x in self._sides[0].features(np.array([query]))))
        _, found = verify_candidates(asked, self._sides[1].features(np.asarray(rows)), self.config)
        return np.asarray(found.inliers), np.asarray(found.transform)


def _of_box(box: Float[np.ndarray, "4"], size: tuple[int, int]) -> Located:
    left, top, right, bottom = np.rint(box).astype(int)
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return Located(mask)


def _everything(localizer: Localizer, query: int, rows: Sequence[int]) -> list[Located]:
    return [Located(np.ones(localizer.size(row), bool)) for row in rows]


def _lost(localizer: Localizer, query: int, rows: Sequence[int]) -> list[Located]:
    x, mask = localizer.gallery(rows)
    return _grown(localizer, rows, facing_inwards(discover(localizer.signed(x, mask), mask), mask), mask)


def _query_lost(localizer: Localizer, query: int, rows: Sequence[int]) -> list[Located]:
    region, query_mask, weights = localizer.asked(query)
    x, mask = localizer.gallery(rows)
    found = discover_region(localizer.comparable(region), query_mask, weights, localizer.comparable(x), mask)
    return _grown(localizer, rows, found, mask)


def _grown(localizer: Localizer, rows: Sequence[int], found: DiscoveredObjects, mask: jax.Array) -> list[Located]:
    """An object of LOST as it is in each photograph, the middle of its seed marked."""
    parts = (np.asarray(part) for part in (found.mask, found.heat, found.seed, mask))
    out = []
    for row, patches, heat, seed, inside in zip(rows, *parts, strict=True):
        size = localizer.size(row)
        down, across = np.unravel_index(seed, inside.shape)
        left, top, right, bottom = pixel_box(np.array([across, down, across + 1, down + 1]), inside, size).tolist()
        marked = upsample(patches.astype(np.float32), inside, size) > 0.5
        out.append(Located(marked, upsample(heat, inside, size), ((left + right) / 2, (top + bottom) / 2)))
    return out


def _discovery(localizer: Localizer, query: int, rows: Sequence[int]) -> list[Located]:
    region, _, weights = localizer.asked(query)
    x, mask = localizer.gallery(rows)
    heat = np.asarray(region_heat(region, weights, x, mask, localizer.mean))
    cut = partial(cut_out, localizer)
    if len(rows) == 1:
        return [cut(rows[0], heat[0], np.asarray(mask)[0])]
    with ThreadPoolExecutor() as threads:  # OpenCV lets others run
        return list(threads.map(cut, rows, heat, np.asarray(mask)))


def cut_out(localizer: Localizer, row: int, heat: Float[np.ndarray, "h w"], mask: Bool[np.ndarray, "h w"]) -> Located:
    """The pixels of the heat [h w] of one photograph, whose positions `mask` tells, refined as the config says."""
    size, refine = localizer.size(row), localizer.config.localize.refine
    working = shrunken(size, WORKING_SIDE)
    own = upsample(heat, mask, working)
    if refine == "none":
        return Located(enlarge(hottest_component(own), size) > 0.5, enlarge(own, size))
    photo = shrink(load(localizer.photos, row, WORKING_SIDE), working)
    own = guided_filter(own, photo, radius=GUIDED_RADIUS)
    found = hottest_component(own)
    if refine == "grabcut":
        found = grab_cut(photo, found)
    return Located(enlarge(found, size) > 0.5, enlarge(own, size))


def _regions(localizer: Localizer, query: int, rows: Sequence[int]) -> list[Located]:
    region, _, weights = localizer.asked(query)
    x, mask = localizer.gallery(rows)
    several, _ = discover_several(localizer.signed(x, mask), mask)
    proposals = jnp.concatenate([window_boxes(mask), several.box], axis=1)
    boxes, _ = best_box(region, weights, x, mask, localizer.mean, proposals)
    return [
        _of_box(pixel_box(box, inside, localizer.size(row)), localizer.size(row))
        for row, box, inside in zip(rows, np.asarray(boxes), np.asarray(mask), strict=True)
    ]


def _dense(localizer: Localizer, query: int, rows: Sequence[int]) -> list[Located]:
    region, query_mask, weights = localizer.asked(query)
    x, mask = localizer.gallery(rows)
    matched = match_region(region, query_mask, weights, x, mask, localizer.mean)
    out = []
    for row, own, inside in zip(rows, np.asarray(matched.heat), np.asarray(mask), strict=True):
        heat = upsample(own, inside, localizer.size(row))
        out.append(Located(heat > 0.5, heat))
    return out


def _geometric(localizer: Localizer, query: int, rows: Sequence[int]) -> list[Located]:
    height, width = localizer.queries.regions[query].tolist()
    region = np.ones((height, width), bool)  # of a query that is cut to its box
    if localizer.queries.boxes is None:
        region = region_pixels(localizer.region(query), (height, width))
    out = []
    for row, inliers, transform in zip(rows, *localizer.verified(query, rows), strict=True):
        warped = None
        if inliers >= localizer.config.localize.inliers:
            warped = warp_region(transform, region, localizer.size(row))
        out.append(Located(np.zeros(localizer.size(row), bool) if warped is None else warped.mask))
    return out


def _geometric_or_discovery(localizer: Localizer, query: int, rows: Sequence[int]) -> list[Located]:
    verified, discovered = _geometric(localizer, query, rows), _discovery(localizer, query, rows)
    return [one if one.mask.any() else other for one, other in zip(verified, discovered, strict=True)]


METHODS: dict[str, Callable[[Localizer, int, Sequence[int]], list[Located]]] = {
    "everything": _everything,
    "lost": _lost,
    "query_lost": _query_lost,
    "discovery": _discovery,
    "regions": _regions,
    "dense": _dense,
    "sv": _geometric,
    "sv+discovery": _geometric_or_discovery,
}
