"""Smoothing that is not learned, by the equation of the learned one: what method 1 is compared with.

All are `smooth` with c = 1: the average with a = 0, the others with a = 1 and kernel features that say how far apart
two positions are.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from sret_jax.models.pooling import l2_normalize
from sret_jax.models.smoothing import smooth


def average(x: Float[Array, "b h w c"], window: int, *, mask: Bool[Array, "b h w"]) -> Float[Array, "b h w c"]:
    """The mean of each window, without what lies outside the map or the mask, as HOW smooths.

    Reference: Tolias, Jenicek, Chum, Learning and aggregating deep local descriptors for instance-level recognition,
    ECCV 2020.
    """
    alike = jnp.zeros((*mask.shape, 1))
    return smooth(x, alike, alike[..., 0], jnp.ones(mask.shape), window=window, mask=mask)


def gaussian(
    x: Float[Array, "b h w c"], sigma: float, *, window: int, mask: Bool[Array, "b h w"]
) -> Float[Array, "b h w c"]:
    """Average of each window, weighted by distance: w[p,q] = exp(-|p - q|^2 / (2 sigma^2)), p and q in positions."""
    return _smoothed(x, _positions(mask, sigma), window, mask)


def bilateral(
    x: Float[Array, "b h w c"], sigma: float, sigma_range: float, *, window: int, mask: Bool[Array, "b h w"]
) -> Float[Array, "b h w c"]:
    """Average of each window, weighted by distance and by likeness:

        w[p,q] = exp(-|p - q|^2 / (2 sigma^2) - |n(x[p]) - n(x[q])|^2 / (2 sigma_range^2)),    n(v) = v / |v|

    The directions of the local features are compared, because their lengths depend on the backbone.

    Reference: Tomasi, Manduchi, Bilateral filtering for gray and color images, ICCV 1998.
    """
    likeness = l2_normalize(x.astype(jnp.float32)) / (np.sqrt(2) * sigma_range)
    return _smoothed(x, jnp.concatenate([_positions(mask, sigma), likeness], axis=-1), window, mask)


def _positions(mask: Bool[Array, "b h w"], sigma: float) -> Float[Array, "b h w 2"]:
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in mask.shape[1:]), indexing="ij"), -1) / (np.sqrt(2) * sigma)
    return jnp.broadcast_to(jnp.asarray(grid, jnp.float32), (*mask.shape, 2))


def _smoothed(x: Array, f: Array, window: int, mask: Array) -> Array:
    ones = jnp.ones(mask.shape)
    return smooth(x, f, ones, ones, window=window, mask=mask)
