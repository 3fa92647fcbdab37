"""Where the object of a query is in each answer, from the maps that the collection keeps."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Float32, Int8, UInt8

from sret_jax.collection.query import Query
from sret_jax.config import LocalizeConfig
from sret_jax.data.concurrency import thread_count
from sret_jax.data.regions import Box
from sret_jax.errors import UserError
from sret_jax.localization.methods import working_mask
from sret_jax.localization.object_discovery import centre, discover, facing_inwards
from sret_jax.localization.pixels import pixel_box
from sret_jax.localization.presence import FOUND_WITH_COSINE, mutual_presence
from sret_jax.localization.query_region import directions, mean_direction, region_heat

Outline = tuple[tuple[int, int], ...]
ROUNDED = 4  # positions: maps are padded to squares of a multiple of it, so that few shapes are compiled
TOGETHER = 10  # answers marked in one call
LEAST_PART = 0.05  # of the largest part's area: smaller parts are not outlined
STRAIGHT = 1.0  # how far an outline may pass from the border, working pixels


@dataclass(frozen=True)
class Mark:
    """The object in one answer.

    found     whether it is there, by `presence.FOUND_WITH_COSINE`; None where the photograph cannot be read any more
    box       (left, top, right, bottom), pixels; None where it is not
    outlines  closed polygons (x, y), pixels
    """

    found: bool | None
    box: Box | None = None
    outlines: tuple[Outline, ...] = ()


class Marker:
    """Marks the object of a query in photographs of one collection."""

    def __init__(self, sample: Sequence[Int8[np.ndarray, "_ _ c"]], settings: LocalizeConfig):
        """
        Args:
          sample: maps of the collection, whose mean direction all of them have in common.
          settings: `refine` says how the pixels of the object are told.
        """
        self._settings = settings
        # A mean of means: every photograph counts alike, whatever its shape. Padded, so that one program is compiled.
        means = [mean_direction(*map(jnp.asarray, _padded([x], 1))) for x in sample]
        # Not on the device, where another number of photographs would be another program.
        self._mean = jnp.asarray(np.mean([np.asarray(one) for one in means], axis=0))

    def mark(
        self,
        query: Query,
        cosines: Sequence[float],
        maps: Sequence[Int8[np.ndarray, "_ _ c"]],
        photos: Sequence[Callable[[], UInt8[np.ndarray, "_ _ 3"]]],
        sizes: Sequence[tuple[int, int]],
    ) -> list[Mark]:
        """The object in each of some photographs.

        Args:
          cosines: of the photographs' descriptors to the query's.
          maps: of the photographs.
          photos: read their pixels, of any size from `methods.WORKING_SIDE` on.
          sizes: (height, width) of the photographs, pixels.
        """
        marks: list[Mark] = []
        with ThreadPoolExecutor(thread_count()) as threads:
            for start in range(0, len(maps), TOGETHER):
                part = slice(start, start + TOGETHER)
                present, heats = self._compared(query, maps[part])
                scores = [one + other for one, other in zip(cosines[part], present, strict=True)]
                marks += threads.map(self._marked, scores, heats, photos[part], sizes[part])
        return marks

    def heat(
        self,
        query: Query,
        own: Int8[np.ndarray, "_ _ c"],
        photo: Callable[[], UInt8[np.ndarray, "_ _ 3"]],
        size: tuple[int, int],
    ) -> Float[np.ndarray, "H W"]:
        """How much each pixel is like the region, at `methods.WORKING_SIDE` pixels."""
        _, (heat,) = self._compared(query, [own])
        _, out = working_mask(heat, np.ones(heat.shape, bool), size, "guided", photo)
        return out

    def _compared(
        self, query: Query, maps: Sequence[Int8[np.ndarray, "_ _ c"]]
    ) -> tuple[list[float], list[Float32[np.ndarray, "_ _"]]]:
        """Mutual presence and heat of each map. All are padded to one shape, and filled up to `TOGETHER`."""
        x, mask = _padded(maps, TOGETHER if len(maps) > 1 else 1)
        (own,), (inside,) = _padded([query.map], 1)
        weights = np.zeros(inside.shape, np.float32)
        weights[: query.map.shape[0], : query.map.shape[1]] = query.weights
        scores = mutual_presence(own, weights, x, mask, self._mean)
        heats = region_heat(own, weights, x, mask, self._mean)
        cut = [heat[: one.shape[0], : one.shape[1]] for heat, one in zip(np.asarray(heats), maps, strict=False)]
        return np.asarray(scores)[: len(maps)].tolist(), cut

    def _marked(
        self,
        score: float,
        heat: Float32[np.ndarray, "h w"],
        photo: Callable[[], UInt8[np.ndarray, "_ _ 3"]],
        size: tuple[int, int],
    ) -> Mark:
        if score < FOUND_WITH_COSINE:
            return Mark(False)
        try:
            mask, _ = working_mask(heat, np.ones(heat.shape, bool), size, self._settings.refine, photo)
        except UserError:  # the file has changed, or is gone
            return Mark(None)
        outlines = _outlines(mask, size)
        if not outlines:
            return Mark(False)
        points = np.array([point for outline in outlines for point in outline])
        (left, top), (right, bottom) = points.min(0).tolist(), points.max(0).tolist()
        return Mark(True, (left, top, right, bottom), outlines)


def discovered_box(own: Int8[np.ndarray, "h w c"], size: tuple[int, int]) -> Box:
    """The box of the object that LOST discovers in a photograph of `size` (height, width) by its map, pixels."""
    x, mask = _padded([own], 1)
    directed = centre(directions(jnp.asarray(x)), jnp.asarray(mask))
    found = facing_inwards(discover(directed, jnp.asarray(mask)), jnp.asarray(mask))
    left, top, right, bottom = np.rint(pixel_box(np.asarray(found.box[0]), mask[0], size)).astype(int).tolist()
    return left, top, right, bottom


def _padded(
    maps: Sequence[Int8[np.ndarray, "_ _ c"]], count: int
) -> tuple[Float32[np.ndarray, "b h w c"], Bool[np.ndarray, "b h w"]]:
    side = -(-max(max(x.shape[:2]) for x in maps) // ROUNDED) * ROUNDED
    x = np.zeros((max(count, len(maps)), side, side, maps[0].shape[2]), np.float32)
    mask = np.zeros(x.shape[:3], bool)
    for i, own in enumerate(maps):
        x[i, : own.shape[0], : own.shape[1]], mask[i, : own.shape[0], : own.shape[1]] = own, True
    return x, mask


def _outlines(mask: Bool[np.ndarray, "H W"], size: tuple[int, int]) -> tuple[Outline, ...]:
    """The borders of the parts of a mask, largest first, in the pixels of a photograph of `size`."""
    borders, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    areas = [cv2.contourArea(border) for border in borders]
    scale = np.array([size[1] / mask.shape[1], size[0] / mask.shape[0]])
    out = []
    for i in np.argsort(areas)[::-1]:
        if areas[i] >= max(1.0, LEAST_PART * max(areas)):
            points = cv2.approxPolyDP(borders[i], STRAIGHT, True)[:, 0]
            # The middle of a pixel; so that what fills the photograph is outlined at its border, stretched.
            stretched = (points + 0.5 + 0.5 * np.sign(2 * points + 1 - mask.shape[::-1])) * scale
            out.append(tuple((int(x), int(y)) for x, y in np.rint(stretched)))
    return tuple(out)
