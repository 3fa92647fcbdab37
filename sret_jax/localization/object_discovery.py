"""LOST: the object of a photograph from the features of its map alone, without labels.

    a[p,q]   = x[p] . x[q]                                   similarity of the patches p and q
    degree   = number of q != p with a[p,q] > 0
    seed     = the patch of lowest degree: objects correlate with fewer patches than the background does
    S        = {s among the k patches of lowest degree: a[seed,s] > 0}
    m[p]     = sum_{s in S} a[s,p]
    object   = the 4-connected component of {m > 0} that holds the seed

Patches are the positions of a map in row-major order; equal degrees are ordered by position. Only positions of the mask
take part. `discover` is the published method; `facing_inwards`, which may follow it, is ours.

Reference: Simeoni, Puy, Vo, Roburin, Gidaris, Bursuc, Perez, Marlet, Ponce, Localizing objects with self-supervised
transformers and no labels, BMVC 2021.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32


class DiscoveredObjects(NamedTuple):
    """One object in each of b maps; of a map without any position the mask is empty, and seed and box are 0.

    mask      its patches
    box       (left, top, right, bottom) of the mask in patches, right and bottom exclusive
    seed      row * w + column of the patch that it grew from
    heat      m of the module's equations; 0 outside the map's mask
    """

    mask: Bool[Array, "b h w"]
    box: Int32[Array, "b 4"]
    seed: Int32[Array, "b"]
    heat: Float32[Array, "b h w"]


@jax.jit
def centre(x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"]) -> Float32[Array, "b h w c"]:
    """The map less its mean over the photograph's positions, and 0 outside of them.

    Behind a ReLU all features lie in one orthant, every similarity is positive and every degree the same: "positive
    correlation" says something only about their deviations. The keys of a transformer, for which the method was
    published, have both signs and are taken as they are.
    """
    x, inside = x.astype(jnp.float32), mask[..., None]
    mean = jnp.sum(x, (1, 2), keepdims=True, where=inside) / jnp.maximum(inside.sum((1, 2), keepdims=True), 1)
    return jnp.where(inside, x - mean, 0)


@partial(jax.jit, static_argnames="k")
def discover(x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"], *, k: int = 100) -> DiscoveredObjects:
    """The one object that LOST finds in each photograph.

    A seed without correlation even to itself (a constant map after `centre`) is an object of one patch; the published
    procedure fails there.

    Args:
        x: features, with both signs: keys of a transformer, or a `centre`d map of a convolutional network.
        mask: the photograph's positions.
        k: patches of lowest degree that the seed may expand to.
    """
    a = similarities(x, mask)
    seed, grown = expand_seed(a, mask, k)
    return grow_object(a, mask, seed, grown)


def similarities(x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"]) -> Float32[Array, "b n n"]:
    """a of the module's equations, n = h * w; 0 wherever one of the two is outside the mask."""
    b, h, w, c = x.shape
    x = jnp.where(mask[..., None], x, 0).astype(jnp.float32).reshape(b, h * w, c)
    return jnp.einsum("bpc,bqc->bpq", x, x, precision="highest")


def degrees(a: Float32[Array, "b n n"]) -> Int32[Array, "b n"]:
    """With how many other patches each is positively correlated."""
    n = a.shape[1]
    return jnp.sum((a > 0) & ~jnp.eye(n, dtype=bool)[None], axis=2, dtype=jnp.int32)


def expand_seed(
    a: Float32[Array, "b n n"], mask: Bool[Array, "b h w"], k: int
) -> tuple[Int32[Array, "b"], Bool[Array, "b n"]]:
    """The seed, and S as a mask over the patches; `mask` may be smaller than the one that `a` was computed with."""
    b, n = a.shape[:2]
    inside = mask.reshape(b, n)
    order = jnp.argsort(jnp.where(inside, degrees(a), n), axis=1, stable=True)
    rank = jnp.argsort(order, axis=1)  # the inverse permutation
    seed = order[:, 0].astype(jnp.int32)
    to_seed = jnp.take_along_axis(a, seed[:, None, None], axis=1)[:, 0]
    return seed, (rank < k) & (to_seed > 0) & inside


def grow_object(
    a: Float32[Array, "b n n"], mask: Bool[Array, "b h w"], seed: Int32[Array, "b"], grown: Bool[Array, "b n"]
) -> DiscoveredObjects:
    """The object of a seed and of its S, as a mask over the patches."""
    heat = jnp.einsum("bs,bsp->bp", grown.astype(jnp.float32), a, precision="highest").reshape(mask.shape)
    heat = jnp.where(mask, heat, 0)
    at_seed = jax.nn.one_hot(seed, a.shape[1], dtype=bool).reshape(mask.shape) & mask
    component = connected(((heat > 0) & mask) | at_seed, at_seed)
    return DiscoveredObjects(component, mask_boxes(component), jnp.where(mask.any((1, 2)), seed, 0), heat)


@jax.jit
def connected(within: Bool[Array, "b h w"], start: Bool[Array, "b h w"]) -> Bool[Array, "b h w"]:
    """The positions of `within` that a path of horizontal and vertical steps inside it joins to one of `start`.

    Grown by one step at a time, as often as the longest path needs.
    """

    def grow(state: tuple[Array, Array]) -> tuple[Array, Array]:
        x = state[0]
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1)))
        neighbours = padded[:, :-2, 1:-1] | padded[:, 2:, 1:-1] | padded[:, 1:-1, :-2] | padded[:, 1:-1, 2:]
        grown = within & (x | neighbours)
        return grown, jnp.any(grown != x)

    return jax.lax.while_loop(lambda state: state[1], grow, (within & start, jnp.array(True)))[0]


@jax.jit
def mask_boxes(mask: Bool[Array, "b h w"]) -> Int32[Array, "b 4"]:
    """The smallest box (left, top, right, bottom) around each mask, right and bottom exclusive; 0 of an empty mask."""

    def extent(along: Bool[Array, "b n"]) -> tuple[Array, Array]:
        n = along.shape[1]
        return jnp.argmax(along, axis=1), jnp.where(along.any(1), n - jnp.argmax(along[:, ::-1], axis=1), 0)

    (left, right), (top, bottom) = extent(mask.any(1)), extent(mask.any(2))
    return jnp.stack([left, top, right, bottom], axis=1).astype(jnp.int32)


def border(mask: Bool[Array, "b h w"]) -> Bool[Array, "b h w"]:
    """The positions of a mask with a horizontal or vertical neighbour outside of it, or none at all."""
    padded = jnp.pad(mask, ((0, 0), (1, 1), (1, 1)))
    return mask & ~(padded[:, :-2, 1:-1] & padded[:, 2:, 1:-1] & padded[:, 1:-1, :-2] & padded[:, 1:-1, 2:])


@jax.jit
def facing_inwards(found: DiscoveredObjects, mask: Bool[Array, "b h w"]) -> DiscoveredObjects:
    """The same, but the other side of what covers more than half of its photograph's border. Not part of LOST.

    An object that fills most of the photograph correlates with more patches than the background does, so that the seed
    of lowest degree lies in the background. That is told by the border, which background runs along and an object
    seldom covers. Its seed is then the patch that agrees least with what was found, and its mask that patch's component
    outside of it; `heat` changes its sign. Where nothing is left outside, the object stays.
    """
    edge, outside = border(mask), mask & ~found.mask
    turned = 2 * (found.mask & edge).sum((1, 2)) > edge.sum((1, 2))
    turned = turned & outside.any((1, 2))
    least = jnp.argmin(jnp.where(outside, found.heat, jnp.inf).reshape(len(mask), -1), axis=1)
    at_seed = jax.nn.one_hot(least, mask[0].size, dtype=bool).reshape(mask.shape)
    other = connected(outside, at_seed)
    component = jnp.where(turned[:, None, None], other, found.mask)
    return DiscoveredObjects(
        component,
        mask_boxes(component),
        jnp.where(turned, least, found.seed).astype(jnp.int32),
        jnp.where(turned[:, None, None], -found.heat, found.heat),
    )


@partial(jax.jit, static_argnames=("most", "k"))
def discover_several(
    x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"], *, most: int = 5, k: int = 100
) -> tuple[DiscoveredObjects, Int32[Array, "b"]]:
    """Up to `most` objects of each photograph, and how many they are; fields are [b most ...].

    The first is that of `discover`. Then the patches of what was found are taken away, and the next seed is the patch
    of lowest degree among the rest, degrees still counted in the whole photograph. The last object is found when that
    seed correlates with half of the photograph or more: it is background then, not an object. Slots behind the last
    object are empty.
    """
    b, h, w = mask.shape
    a = similarities(x, mask)
    degree, half = degrees(a), mask.sum((1, 2)) / 2

    def following(
        state: tuple[Array, Array], index: Array
    ) -> tuple[tuple[Array, Array], tuple[DiscoveredObjects, Array]]:
        left, going = state
        seed, grown = expand_seed(a, left, k)
        of_few = jnp.take_along_axis(degree, seed[:, None], axis=1)[:, 0] < half
        going = going & left.any((1, 2)) & ((index == 0) | of_few)
        found = grow_object(a, left & going[:, None, None], seed, grown)
        return (left & ~found.mask, going), (found, going)

    _, (found, there) = jax.lax.scan(following, (mask, jnp.ones(b, bool)), jnp.arange(most))
    return DiscoveredObjects(*(jnp.moveaxis(z, 0, 1) for z in found)), there.sum(0, dtype=jnp.int32)
