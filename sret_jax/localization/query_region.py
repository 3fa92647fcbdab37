"""Where the object of a query region is in other photographs: object discovery that a query has a say in.

    y[p]      = n(n(x[p]) - mean),  n(v) = v / |v|            of the gallery's maps x, and of the query's map likewise
    r[p]      = max_i w[i] max(0, y[p] . y_query[i])          likeness to the region with weights w
    z[p]      = n(n(x[p]) - mean_q n(x[q]))                   what differs from the rest of its own photograph
    heat[p]   = r[p] - mean_{e in border} z[p] . z[e]         like the region, and unlike the border of its photograph

`mean` is what the directions of all features of a collection have in common; without it all are alike. The border
stands for the background: where the object itself reaches it, only the heat of that part sinks.
The maximum over i lets every part of an object find its own counterpart, wherever it is in the photograph; a mean over
the region would look for the average of a painting, which is nowhere in it. `region_heat` gives the heat, which
`pixels` turns into a mask. `discover_region` is LOST itself with the seeds that the query chooses instead of those of
lowest degree.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32

from sret_jax.data.regions import Region, checked_region, region_box
from sret_jax.localization.object_discovery import (
    DiscoveredObjects,
    border,
    centre,
    expand_seed,
    grow_object,
    similarities,
)

EPSILON = 1e-12  # keeps the direction of a zero vector defined: zero
PHOTOS_AT_ONCE = 8  # of the gallery, whose similarities to the query are in memory together


def region_weights(region: Region, size: tuple[int, int], mask: Bool[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
    """The share of each patch's area that lies in the region of a photograph, 0 outside the map's mask.

    Args:
        region: as in `data.regions`; a click takes the whole patch below it.
        size: (height, width) of the photograph, pixels.
        mask: the positions of the photograph's map, a rectangle from the upper left corner.

    Raises:
        UserError: a region that is none, see `checked_region`.
    """
    weights = np.zeros(mask.shape, np.float32)
    rows, columns = int(mask.any(1).sum()), int(mask.any(0).sum())
    weights[:rows, :columns] = _patch_shares(region, size, (rows, columns))
    return weights


def region_pixels(region: Region, size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """The pixels of a region that `region_weights` takes, those that it touches; of a click a square around it."""
    found = checked_region(region, size)
    if found is not None and found.ndim == 2:
        return found
    out = np.zeros(size, bool)
    left, top, right, bottom = region_box(region, size)
    out[top:bottom, left:right] = True
    return out


def _patch_shares(region: Region, size: tuple[int, int], patches: tuple[int, int]) -> Float[np.ndarray, "h w"]:
    height, width = size
    found = checked_region(region, size)
    if found is None:
        return np.ones(patches)
    if found.ndim == 2:
        down, across = (_overlaps(np.arange(n), np.arange(n) + 1, n, p) for n, p in zip(size, patches, strict=True))
        return down @ found @ across.T / (height / patches[0] * width / patches[1])
    if len(found) == 2:
        x, y = found
        shares = np.zeros(patches)
        shares[int(y * patches[0] / height), int(x * patches[1] / width)] = 1
        return shares
    low, high = found[[1, 0]], found[[3, 2]]
    down, across = (_overlaps(low[i : i + 1], high[i : i + 1], size[i], patches[i])[:, 0] for i in (0, 1))
    return np.outer(down, across) / (height / patches[0] * width / patches[1])


def _overlaps(low: np.ndarray, high: np.ndarray, length: int, patches: int) -> Float[np.ndarray, "p n"]:
    """Pixels that patch p of an axis shares with the interval n from low to high."""
    edges = np.arange(patches + 1)[:, None] * (length / patches)
    return np.maximum(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0)


def directions(x: Float[Array, "*b c"]) -> Float32[Array, "*b c"]:
    """Features of unit length; zero stays zero."""
    x = x.astype(jnp.float32)
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), EPSILON)


def deviations(x: Float[Array, "*b c"], mean: Float[Array, "c"]) -> Float32[Array, "*b c"]:
    """y of the module's equations."""
    return directions(directions(x) - mean.reshape((1,) * (x.ndim - 1) + (-1,)))


@jax.jit
def mean_direction(x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"]) -> Float32[Array, "c"]:
    """The mean direction of all features of some photographs."""
    return jnp.mean(directions(x), axis=(0, 1, 2), where=mask[..., None])


@jax.jit
def region_heat(
    query: Float[Array, "h2 w2 c"],
    weights: Float[Array, "h2 w2"],
    x: Float[Array, "b h w c"],
    mask: Bool[Array, "b h w"],
    mean: Float[Array, "c"],
) -> Float32[Array, "b h w"]:
    """heat of the module's equations, 0 outside the mask.

    Args:
        query: the query's map.
        weights: of its positions, as `region_weights` gives them.
        x: maps of gallery photographs, as the network gives them. Of any number: they are gone through in parts.
        mask: their photographs' positions.
        mean: `mean_direction` of a collection.
    """
    y_query = deviations(query, mean).reshape(-1, query.shape[-1])
    weights = weights.reshape(1, 1, -1)

    def of_photo(photo: tuple[Array, Array]) -> Array:
        one, inside = photo
        z = directions(centre(directions(one)[None], inside[None])[0])
        cosine = jnp.einsum("hwc,ic->hwi", deviations(one, mean), y_query)
        likeness = jnp.max(jnp.maximum(cosine, 0) * weights, axis=-1)
        edge = border(inside[None])[0][..., None]
        background = jnp.sum(z, (0, 1), where=edge) / jnp.maximum(edge.sum(), 1)
        return jnp.where(inside, likeness - z @ background, 0)

    return jax.lax.map(of_photo, (x, mask), batch_size=PHOTOS_AT_ONCE)


@partial(jax.jit, static_argnames="k")
def discover_region(
    query: Float[Array, "h2 w2 c"],
    query_mask: Bool[Array, "h2 w2"],
    weights: Float[Array, "h2 w2"] | None,
    x: Float[Array, "b h w c"],
    mask: Bool[Array, "b h w"],
    *,
    k: int = 100,
) -> DiscoveredObjects:
    """LOST in each gallery photograph, with seeds that the query chooses.

        seed  = the patch most similar (cosine) to a patch of the region
        S     = {s whose most similar patch of the query lies in the region: a[seed,s] > 0}

    and the rest as in `object_discovery`. Without weights the region is LOST's own S in the query, and the gallery's
    seed is the patch most similar to LOST's seed there: for the query photograph itself the result is that of
    `discover`, to the last bit.

    Args:
        query, x: features with both signs, as for `discover`.
        query_mask, mask: the photographs' positions.
        weights: of the query's positions, as `region_weights` gives them; a patch belongs to the region where more
            than half of its area does, or where no patch has that much, where it has most.
        k: patches of lowest degree that LOST's own seed in the query may expand to.
    """
    patches = directions(query).reshape(-1, query.shape[-1])
    if weights is None:
        seed, grown = expand_seed(similarities(query[None], query_mask[None]), query_mask[None], k)
        region, sought = grown[0], jax.nn.one_hot(seed[0], patches.shape[0], dtype=bool)
    else:
        flat = weights.reshape(-1)
        region = sought = (flat > 0) & (flat >= jnp.minimum(0.5, flat.max()))

    def of_photo(photo: tuple[Array, Array]) -> DiscoveredObjects:
        one, inside = (z[None] for z in photo)
        cosine = jnp.einsum("hwc,ic->hwi", directions(one[0]), patches, precision="highest")
        cosine = jnp.where(query_mask.reshape(1, 1, -1), cosine, -jnp.inf).reshape(-1, patches.shape[0])
        best = jnp.max(jnp.where(sought[None], cosine, -jnp.inf), axis=1)
        seed = jnp.argmax(jnp.where(inside.reshape(-1), best, -jnp.inf)).astype(jnp.int32)[None]
        a = similarities(one, inside)
        grown = region[jnp.argmax(cosine, axis=1)] & (a[0, seed[0]] > 0) & inside.reshape(-1)
        return jax.tree.map(lambda z: z[0], grow_object(a, inside, seed, grown[None]))

    return jax.lax.map(of_photo, (x, mask))
