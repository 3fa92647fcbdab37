"""Every method that marks the object of a query in a photograph, behind one call.

everything     all of the photograph: what any other has to beat
lost           the photograph's own object by LOST as published, whatever the query is: `object_discovery.discover`
lost_inwards   the same, turned inside out where it covers most of the photograph's border: `facing_inwards`, ours
query_lost     what LOST grows from the patch that is most like the query region: `query_region.discover_region`
seed_lost      the same, from the seed that LOST selects in the query photograph itself, whatever its region is
discovery      what is like the query region: `query_region`
regions        the window or discovered object most like the region: `regions`
dense          where dense matching carries the region: `dense_matching`
sv             where the transform of spatial verification carries it: `geometric`
sv+discovery   the same, and with too few inliers discovery
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, UInt8

from sret_jax.data.pipeline import load
from sret_jax.errors import UserError, choices
from sret_jax.localization.dense_matching import match_region
from sret_jax.localization.geometric import warp_region
from sret_jax.localization.localizer import REMEDY, Localizer
from sret_jax.localization.object_discovery import DiscoveredObjects, discover, discover_several, facing_inwards
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
from sret_jax.localization.presence import FOUND
from sret_jax.localization.query_region import discover_region, region_heat
from sret_jax.localization.regions import best_box, window_boxes
from sret_jax.storage.provenance import enough_memory

PHOTOS_AT_ONCE = 8  # those left over come one by one, so that two shapes are compiled
WORKING_SIDE = 240  # longest of a photograph whose heat is made a mask, pixels; larger is slower and no better
GUIDED_RADIUS = 5  # of the guided filter there, pixels


@dataclass(frozen=True, eq=False)
class PredictedMask:
    """The object in one photograph.

    mask  its pixels; empty where it was not found
    heat  what the mask was made of, at the size of the photograph; None where there is no such thing
    seed  (x, y) of the pixel in the middle of the patch that it grew from; None where it grew from no single one
    """

    mask: Bool[np.ndarray, "H W"]
    heat: Float[np.ndarray, "H W"] | None = None
    seed: tuple[float, float] | None = None


def locate(localizer: Localizer, method: str, query: int, rows: Sequence[int]) -> list[PredictedMask]:
    """The object of one query in these photographs, in their order."""
    rows, out = [int(row) for row in rows], []
    whole = len(rows) - len(rows) % PHOTOS_AT_ONCE
    parts = [rows[i : i + PHOTOS_AT_ONCE] for i in range(0, whole, PHOTOS_AT_ONCE)]
    for part in [*parts, *([row] for row in rows[whole:])]:
        with enough_memory(REMEDY):
            out += METHODS[method](localizer, query, part)
    return out


def locate_found(localizer: Localizer, method: str, query: int, rows: Sequence[int]) -> list[PredictedMask]:
    """As `locate`, but with an empty mask in photographs where the object is not found.

    It is found where its `presence` is `FOUND` or more, and where spatial verification, if that is the method, carries
    it.
    """
    marked = locate(localizer, method, query, rows)
    if method == "sv" or not marked:
        return marked
    found = localizer.presence(query, rows) >= FOUND
    if method == "sv+discovery":
        found |= [one.mask.any() for one in locate(localizer, "sv", query, rows)]
    return [
        one if there else replace(one, mask=np.zeros_like(one.mask)) for one, there in zip(marked, found, strict=True)
    ]


def check_methods(methods: Sequence[str]) -> None:
    """Raises `UserError`, before any work, for a method that does not exist."""
    for method in methods:
        if method not in METHODS:
            raise UserError(f"--localize: no method {choices(method, METHODS)}")


def _of_box(box: Float[np.ndarray, "4"], size: tuple[int, int]) -> PredictedMask:
    left, top, right, bottom = np.rint(box).astype(int)
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return PredictedMask(mask)


def _everything(localizer: Localizer, query: int, rows: Sequence[int]) -> list[PredictedMask]:
    return [PredictedMask(np.ones(localizer.size(row), bool)) for row in rows]


def _lost(localizer: Localizer, query: int, rows: Sequence[int]) -> list[PredictedMask]:
    x, mask = localizer.photo_maps(rows)
    return _grown(localizer, rows, discover(localizer.signed(x, mask), mask), mask)


def _lost_inwards(localizer: Localizer, query: int, rows: Sequence[int]) -> list[PredictedMask]:
    x, mask = localizer.photo_maps(rows)
    return _grown(localizer, rows, facing_inwards(discover(localizer.signed(x, mask), mask), mask), mask)


def _query_lost(
    localizer: Localizer, query: int, rows: Sequence[int], *, own_seed: bool = False
) -> list[PredictedMask]:
    sought, query_mask, weights = localizer.query_map(query)
    x, mask = localizer.photo_maps(rows)
    region = None if own_seed else weights
    found = discover_region(localizer.comparable(sought), query_mask, region, localizer.comparable(x), mask)
    return _grown(localizer, rows, found, mask)


def _grown(localizer: Localizer, rows: Sequence[int], found: DiscoveredObjects, mask: jax.Array) -> list[PredictedMask]:
    """An object of LOST as it is in each photograph, the middle of its seed marked."""
    parts = (np.asarray(part) for part in (found.mask, found.heat, found.seed, mask))
    out = []
    for row, patches, heat, seed, inside in zip(rows, *parts, strict=True):
        size = localizer.size(row)
        down, across = np.unravel_index(seed, inside.shape)
        left, top, right, bottom = pixel_box(np.array([across, down, across + 1, down + 1]), inside, size).tolist()
        marked = upsample(patches.astype(np.float32), inside, size) > 0.5
        out.append(PredictedMask(marked, upsample(heat, inside, size), ((left + right) / 2, (top + bottom) / 2)))
    return out


def _discovery(localizer: Localizer, query: int, rows: Sequence[int]) -> list[PredictedMask]:
    region, _, weights = localizer.query_map(query)
    x, mask = localizer.photo_maps(rows)
    heat = np.asarray(region_heat(region, weights, x, mask, localizer.mean))
    cut = partial(cut_out, localizer)
    if len(rows) == 1:
        return [cut(rows[0], heat[0], np.asarray(mask)[0])]
    with ThreadPoolExecutor() as threads:  # OpenCV lets others run
        return list(threads.map(cut, rows, heat, np.asarray(mask)))


def cut_out(
    localizer: Localizer, row: int, heat: Float[np.ndarray, "h w"], mask: Bool[np.ndarray, "h w"]
) -> PredictedMask:
    """The pixels of the heat [h w] of one photograph, whose positions `mask` tells, refined as the config says."""
    size = localizer.size(row)
    found, own = working_mask(
        heat, mask, size, localizer.config.localize.refine, lambda: load(localizer.photos, row, WORKING_SIDE)
    )
    return PredictedMask(enlarge(found, size) > 0.5, enlarge(own, size))


def working_mask(
    heat: Float[np.ndarray, "h w"],
    mask: Bool[np.ndarray, "h w"],
    size: tuple[int, int],
    refine: str,
    photo: Callable[[], UInt8[np.ndarray, "_ _ 3"]],
) -> tuple[Bool[np.ndarray, "H W"], Float[np.ndarray, "H W"]]:
    """What is hot in a photograph of `size`, and the heat, both at `WORKING_SIDE` pixels.

    Args:
      heat, mask: of the positions of its map.
      refine: as `config.localize.refine`.
      photo: reads its pixels, of any size from `WORKING_SIDE` on; called where they are needed.
    """
    working = shrunken(size, WORKING_SIDE)
    own = upsample(heat, mask, working)
    if refine == "none":
        return hottest_component(own), own
    pixels = shrink(photo(), working)
    own = guided_filter(own, pixels, radius=GUIDED_RADIUS)
    found = hottest_component(own)
    if refine == "grabcut":
        found = grab_cut(pixels, found)
    return found, own


def _regions(localizer: Localizer, query: int, rows: Sequence[int]) -> list[PredictedMask]:
    region, _, weights = localizer.query_map(query)
    x, mask = localizer.photo_maps(rows)
    several, _ = discover_several(localizer.signed(x, mask), mask)
    proposals = jnp.concatenate([window_boxes(mask), several.box], axis=1)
    boxes, _ = best_box(region, weights, x, mask, localizer.mean, proposals)
    return [
        _of_box(pixel_box(box, inside, localizer.size(row)), localizer.size(row))
        for row, box, inside in zip(rows, np.asarray(boxes), np.asarray(mask), strict=True)
    ]


def _dense(localizer: Localizer, query: int, rows: Sequence[int]) -> list[PredictedMask]:
    region, query_mask, weights = localizer.query_map(query)
    x, mask = localizer.photo_maps(rows)
    matched = match_region(region, query_mask, weights, x, mask, localizer.mean)
    out = []
    for row, own, inside in zip(rows, np.asarray(matched.heat), np.asarray(mask), strict=True):
        heat = upsample(own, inside, localizer.size(row))
        out.append(PredictedMask(heat > 0.5, heat))
    return out


def _geometric(localizer: Localizer, query: int, rows: Sequence[int]) -> list[PredictedMask]:
    region, out = localizer.described_pixels(query), []
    for row, inliers, transform in zip(rows, *localizer.verified(query, rows), strict=True):
        warped = None
        if inliers >= localizer.config.localize.inliers:
            warped = warp_region(transform, region, localizer.size(row))
        out.append(PredictedMask(np.zeros(localizer.size(row), bool) if warped is None else warped.mask))
    return out


def _geometric_or_discovery(localizer: Localizer, query: int, rows: Sequence[int]) -> list[PredictedMask]:
    verified, discovered = _geometric(localizer, query, rows), _discovery(localizer, query, rows)
    return [one if one.mask.any() else other for one, other in zip(verified, discovered, strict=True)]


# (localizer, query, rows) -> masks; `sret_jax.register` adds to them.
Method = Callable[[Localizer, int, Sequence[int]], list[PredictedMask]]
METHODS: dict[str, Method] = {
    "everything": _everything,
    "lost": _lost,
    "lost_inwards": _lost_inwards,
    "query_lost": _query_lost,
    "seed_lost": partial(_query_lost, own_seed=True),
    "discovery": _discovery,
    "regions": _regions,
    "dense": _dense,
    "sv": _geometric,
    "sv+discovery": _geometric_or_discovery,
}
