"""Pooling that looks at regions of the map first: R-MAC's squares, SuperGlobal's neighbourhoods."""

import math
from functools import cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int

from sret_jax.models.pooling import GeM, l2_normalize, mac
from sret_jax.models.shapes import Size

_MOST = 6  # regions that the long side can have more than the short one


def rmac(x: Float[Array, "b h w c"], *, mask: Bool[Array, "b h w"], levels: int = 3) -> Float32[Array, "b c"]:
    """Regional maximum activations: the maximum over the whole photo and over square regions, each normalised, summed.

        rmac(x) = n(mac(x)) + sum_regions n(mac(x in region)),    n(v) = v / (|v| + 1e-6)

    The regions are `rmac_regions` of the photo's own size. `mask` must be a rectangle from the upper left corner, as
    padding at the bottom and the right leaves it. The result is not normalised; a photo without any position gives 0.

    Reference: Tolias, Sicre, Jegou, Particular object retrieval with integral max-pooling of CNN activations, ICLR
    2016.
    """
    height, width = mask.any(2).sum(1), mask.any(1).sum(1)
    regions = jnp.asarray(_region_table(*x.shape[1:3], levels))[height, width]
    rows, columns = (jnp.arange(n)[None] for n in x.shape[1:3])

    @jax.checkpoint  # else the gradient keeps a map per region
    def of_region(region: Array) -> Array:
        top, left, side = region.T[..., None]
        in_rows, in_columns = (rows >= top) & (rows < top + side), (columns >= left) & (columns < left + side)
        pooled = mac(x, mask=in_rows[:, :, None] & in_columns[:, None, :] & mask)
        return l2_normalize(pooled, 1e-6, added=True)

    def add(total: Array, region: Array) -> tuple[Array, None]:
        nothing = jnp.zeros_like(total)
        return total + jax.lax.cond(jnp.any(region[:, 2] > 0), of_region, lambda _: nothing, region), None

    whole = l2_normalize(mac(x, mask=mask), 1e-6, added=True)
    return jax.lax.scan(add, whole, jnp.moveaxis(regions, 1, 0))[0]


class RMAC(nn.Module):
    def __call__(self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"]) -> Float32[Array, "b c"]:
        return rmac(x, mask=mask)


def rmac_regions(height: int, width: int, levels: int = 3) -> list[tuple[int, int, int]]:
    """(top, left, side) of the square regions of a map: at level l, l along the short side and more along the long one.

    Regions of level l have the side 2 short / (l + 1) and are spread evenly. The long side has as many more of them as
    bring the overlap of neighbours on the first level closest to 40 %. In float32, as the authors of cirtorch compute
    it: exact arithmetic places some regions one position further on.
    """
    short, long = min(height, width), max(height, width)
    apart = np.float32(long - short) / np.arange(1, _MOST + 1, dtype=np.float32)
    overlap = (np.float32(short**2) - np.float32(short) * apart) / np.float32(short**2)
    more = int(np.argmin(np.abs(overlap - np.float32(0.4)))) + 1 if long > short else 0

    def starts(length: int, side: int, count: int) -> list[int]:
        shift = math.floor(side / 2 - 1)
        step = np.float32((length - side) / (count - 1) if count > 1 else 0)
        centres = np.floor(np.float32(shift) + np.arange(count, dtype=np.float32) * step)
        return (centres - shift).astype(int).tolist()

    regions = []
    for level in range(1, levels + 1):
        side = 2 * short // (level + 1)
        if side == 0:
            continue
        tops = starts(height, side, level + more * (height > width))
        lefts = starts(width, side, level + more * (width > height))
        regions += [(top, left, side) for top in tops for left in lefts]
    return regions


@cache
def _region_table(height: int, width: int, levels: int) -> Int[np.ndarray, "h w r 3"]:
    """The regions of a photo of any size up to this one, in rows of equal length; regions of side 0 fill them up."""
    sizes = [(h, w) for h in range(1, height + 1) for w in range(1, width + 1)]
    found = {size: rmac_regions(*size, levels) for size in sizes}
    table = np.zeros((height + 1, width + 1, max(map(len, found.values())), 3), np.int32)
    for size, regions in found.items():
        table[size][: len(regions)] = regions
    return table


def regional_gem(
    x: Float[Array, "b h w c"],
    p: float | Float[Array, ""] = 2.5,
    *,
    mask: Bool[Array, "b h w"],
    window: int = 5,
) -> Float32[Array, "b h w c"]:
    """Half the map and half the generalised mean of each window, mirrored at the borders of the photo.

        y[xy] = x[xy] / 2 + ( mean_uv x[uv]^p )^(1 / p) / 2,    (u,v) in the window around (x,y)

    x must not be negative, as behind a ReLU; what is counts as 0 in the mean. `mask` must be a rectangle from the upper
    left corner, as padding at the bottom and the right leaves it. The result is 0 outside of it.

    Reference: Shao, Chen, Karpur, Cui, Araujo, Cao, Global features are all you need for image retrieval and
    reranking, ICCV 2023 (Regional-GeM).
    """
    x = jnp.where(mask[..., None], x.astype(jnp.float32), 0)
    powers = jnp.where(x > 0, jnp.where(x > 0, x, 1) ** p, 0)
    rows, columns = (_window_mean(mask.any(axis).sum(1), mask.shape[3 - axis], window) for axis in (2, 1))
    means = jnp.einsum("bij,bjwc->biwc", rows, powers, precision="highest")
    means = jnp.einsum("bij,bhjc->bhic", columns, means, precision="highest")
    pooled = jnp.where(means > 0, jnp.where(means > 0, means, 1) ** (1 / p), 0)
    return jnp.where(mask[..., None], (pooled + x) / 2, 0)


def _window_mean(length: Int[Array, "b"], size: Size, window: int) -> Float32[Array, "b n n"]:
    """Matrices that average `window` neighbours along an axis of `size`, mirrored at 0 and at each photo's length."""
    length = length[:, None, None]
    steps = np.arange(window) - window // 2
    period = jnp.maximum(2 * (length - 1), 1)
    at = (jnp.arange(size)[:, None] + steps[None])[None] % period
    at = jnp.where(at >= length, period - at, at)
    return jax.nn.one_hot(at, size).mean(2)


class SuperGlobalPooling(GeM):
    """`regional_gem`, then GeM with a smaller eps. The published exponent is 4.6, for all channels and not trained."""

    p_init: float = 4.6
    eps: float = 1e-8

    def __call__(self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"]) -> Float[Array, "b c"]:
        return super().__call__(regional_gem(x, mask=mask), mask)
