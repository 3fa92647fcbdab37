"""One-shot detection: the box of a gallery photograph whose features, aggregated, are most like the query region's.

    d(box) = n( sum of y[p] over the patches p in the box ),    y[p] as in `query_region`, n(v) = v / |v|
    score  = d(box) . d(query region)

over windows of several sizes and objects that were discovered without the query. The sums come from one integral map.

Reference: Teichmann, Araujo, Zhu, Sim, Detect-to-retrieve: efficient regional aggregation for image search, CVPR 2019.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from sret_jax.localization.query_region import PHOTOS_AT_ONCE, deviations, directions

SHARES = (0.35, 0.5, 0.7, 0.85, 1.0)  # of the photograph's height and width, in any combination
OVERLAP = 2 / 3  # of neighbouring windows, at least


@cache
def windows() -> Float[np.ndarray, "r 4"]:
    """(left, top, right, bottom) of windows of all `SHARES`, evenly spread; 0 to 1 over the photograph."""

    def spans(share: float) -> list[tuple[float, float]]:
        count = 1 + int(np.ceil((1 - share) / (share * (1 - OVERLAP)) - 1e-9))
        return [(start, start + share) for start in np.linspace(0, 1 - share, count)]

    every = [span for share in SHARES for span in spans(share)]
    return np.array([(left, top, right, bottom) for top, bottom in every for left, right in every])


@jax.jit
def window_boxes(mask: Bool[Array, "b h w"]) -> Int32[Array, "b r 4"]:
    """The windows in patches of each photograph's own part of the map, at least one patch a side."""
    size = jnp.stack([mask.any(1).sum(1), mask.any(2).sum(1)], axis=1)[:, None]  # width, height
    low, high = (jnp.round(windows()[None, :, i : i + 2] * size).astype(jnp.int32) for i in (0, 2))
    low = jnp.minimum(low, jnp.maximum(size - 1, 0))
    return jnp.concatenate([low, jnp.maximum(high, low + 1)], axis=2)


@jax.jit
def region_descriptors(y: Float[Array, "h w c"], boxes: Int[Array, "r 4"]) -> Float32[Array, "r c"]:
    """d of the module's equations for boxes of one map, ends exclusive; zero where the sum is zero or the box empty."""
    integral = jnp.pad(jnp.cumsum(jnp.cumsum(y.astype(jnp.float32), 0), 1), ((1, 0), (1, 0), (0, 0)))
    left, top, right, bottom = boxes.T
    sums = integral[bottom, right] - integral[top, right] - integral[bottom, left] + integral[top, left]
    empty = (right <= left) | (bottom <= top)
    return jnp.where(empty[:, None], 0, directions(sums))


@jax.jit
def best_box(
    query: Float[Array, "h2 w2 c"],
    weights: Float[Array, "h2 w2"],
    x: Float[Array, "b h w c"],
    mask: Bool[Array, "b h w"],
    mean: Float[Array, "c"],
    proposals: Int[Array, "b r 4"],
) -> tuple[Int32[Array, "b 4"], Float32[Array, "b"]]:
    """The proposal most like the query region in each gallery photograph, and its score, -1 to 1.

    Equal scores: the first. A photograph without any position gives its first proposal and 0.

    Args:
        query, weights, x, mask, mean: as for `query_region.region_heat`.
        proposals: boxes in patches, ends exclusive: `window_boxes`, and those of `discover_several` behind them; empty
            ones are never chosen where there are others.
    """
    region = directions(jnp.sum(deviations(query, mean) * weights[..., None], axis=(0, 1)))

    def of_photo(photo: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        one, inside, boxes = photo
        y = jnp.where(inside[..., None], deviations(one, mean), 0)
        score = region_descriptors(y, boxes) @ region
        empty = (boxes[:, 2] <= boxes[:, 0]) | (boxes[:, 3] <= boxes[:, 1])
        best = jnp.argmax(jnp.where(empty, -jnp.inf, score))
        return boxes[best].astype(jnp.int32), score[best]

    return jax.lax.map(of_photo, (x, mask, proposals), batch_size=PHOTOS_AT_ONCE)
