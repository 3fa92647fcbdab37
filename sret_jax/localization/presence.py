"""Whether the object of a query region is in another photograph at all.

    y[p]             of the photograph's map and of the query's, as in `query_region`
    presence         = sum_i w[i] max_p y[p] . y_query[i] / sum_i w[i]
    mutual presence  = the same, where only pairs count of which each is the other's most similar

Every part of the region looks for its counterpart anywhere in the photograph; the mean of how like they are says how
much of the region was found. Fine maps have many positions, one of which is like anything: there the choice has to be
mutual.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32

from sret_jax.localization.query_region import EPSILON, deviations

# From this presence on an object counts as found. Of the first ten answers to held-out objects, 90 % of the right ones
# have it, and 47 % of those that have it are right (34 % of all are); of paintings 97 and 22 % (10 %). Measured by
# benchmarks/region_found.py with the query's map of what `data.regions.described_box` cuts out, all maps of 320 pixels
# on the longest side. On the map of the whole query photograph presence tells next to nothing.
FOUND = 0.375
# The same of the cosine of the descriptors + `mutual_presence` on maps of stage c4: 75 % of the right answers to
# held-out objects have it, and 70 % of those that have it are right (34 % of all are); of landmarks 93 and 98 % (98 %),
# of pictures looked for in museum photographs 84 and 44 % (13 %).
FOUND_WITH_COSINE = 0.481


@jax.jit
def presence(
    query: Float[Array, "h2 w2 c"],
    weights: Float[Array, "h2 w2"],
    x: Float[Array, "b h w c"],
    mask: Bool[Array, "b h w"],
    mean: Float[Array, "c"],
) -> Float32[Array, "b"]:
    """presence of the module's equations, -1 to 1; the object counts as found from `FOUND` on.

    Args:
        query: the map of what is described of the query, cut out of it: see `data.regions.cut_out`.
        weights: of its positions, those of `data.regions.region_within` as `query_region.region_weights` gives them.
        x: maps of the photographs.
        mask: their photographs' positions; one without any has presence 0.
        mean: `query_region.mean_direction` of the collection.
    """
    cosine, share = _cosines(query, weights, x, mean)
    best = jnp.max(cosine, axis=1, where=mask.reshape(len(x), -1, 1), initial=-1)
    return jnp.where(mask.any((1, 2)), best @ share, 0)


@jax.jit
def mutual_presence(
    query: Float[Array, "h2 w2 c"],
    weights: Float[Array, "h2 w2"],
    x: Float[Array, "b h w c"],
    mask: Bool[Array, "b h w"],
    mean: Float[Array, "c"],
) -> Float32[Array, "b"]:
    """mutual presence of the module's equations, 0 to 1. Arguments as for `presence`."""
    cosine, share = _cosines(query, weights, x, mean)
    cosine = jnp.where(mask.reshape(len(x), -1, 1) & (share > 0)[None, None], cosine, -jnp.inf)
    chosen = (cosine == cosine.max(1, keepdims=True)) & (cosine == cosine.max(2, keepdims=True))
    pairs = jnp.where(chosen & jnp.isfinite(cosine), jnp.maximum(cosine, 0), 0)
    return jnp.max(pairs, axis=1) @ share


def _cosines(
    query: Float[Array, "h2 w2 c"], weights: Float[Array, "h2 w2"], x: Float[Array, "b h w c"], mean: Float[Array, "c"]
) -> tuple[Float32[Array, "b p i"], Float32[Array, "i"]]:
    """y[p] . y_query[i] of the module's equations, and w[i] / sum w."""
    y_query = deviations(query, mean).reshape(-1, query.shape[-1])
    cosine = jnp.einsum("bhwc,ic->bhwi", deviations(x, mean), y_query).reshape(len(x), -1, len(y_query))
    return cosine, weights.reshape(-1) / jnp.maximum(weights.sum(), EPSILON)
