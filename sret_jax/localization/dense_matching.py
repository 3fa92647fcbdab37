"""Dense matching: which patch of the query every patch of a gallery photograph shows, and one smooth map behind it.

    coarse    maps averaged over 2 x 2 patches; pairs that are each other's most similar (mutual)
    fine      for the patches below a coarse pair, mutual pairs among the patches below it and its neighbours
    flow      the affine map A from gallery to query that most pairs agree with:
              min_A sum_i c[i] rho(|A p[i] - q[i]|),   rho(d) = s^2 d^2 / (s^2 + d^2),   c the cosine of a pair
    matched   the patches that A maps into the query region

rho counts a far pair at most s^2, so that wrong pairs do not pull. It has many minima: s starts where it is almost the
square and goes down (graduated non-convexity). Coordinates are 0 to 1 over each photograph.

References: Geman, McClure 1985 (rho); Blake, Zisserman, Visual reconstruction, 1987; coarse-to-fine mutual matching as
in Rocco, Arandjelovic, Sivic, Efficient neighbourhood consensus networks via submanifold sparse convolutions, ECCV
2020.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32

from sret_jax.localization.query_region import deviations, directions

SCALES = tuple(float(s) for s in np.geomspace(1.0, 0.05, 12))  # s of rho, of the photograph's sides
RIDGE = 1e-4  # keeps the fit defined: pulls A to the identity, as strongly as this many sure pairs


class DenseMatch(NamedTuple):
    """The query region in b gallery photographs.

    heat       share of each patch in the query region
    flow       (x, y, 1) of the gallery to (x, y) of the query, both 0 to 1 over the photograph
    agreement  share of the mutual pairs' cosines that the flow explains, 0 to 1
    """

    heat: Float32[Array, "b h w"]
    flow: Float32[Array, "b 2 3"]
    agreement: Float32[Array, "b"]


@jax.jit
def match_region(
    query: Float[Array, "h2 w2 c"],
    query_mask: Bool[Array, "h2 w2"],
    weights: Float[Array, "h2 w2"],
    x: Float[Array, "b h w c"],
    mask: Bool[Array, "b h w"],
    mean: Float[Array, "c"],
) -> DenseMatch:
    """Matches all of the query and returns where its region ends up; arguments as for `query_region.region_heat`.

    Masks must be rectangles from the upper left corner. Without any pair the flow is the identity, agreement 0.
    """
    y_query = jnp.where(query_mask[..., None], deviations(query, mean), 0)
    at_query = positions(query_mask)

    def of_photo(photo: tuple[Array, Array]) -> DenseMatch:
        one, inside = photo
        y = jnp.where(inside[..., None], deviations(one, mean), 0)
        at = positions(inside)
        best, confidence = mutual_pairs(y, inside, y_query, query_mask)
        flow, agreement = fit_flow(at.reshape(-1, 2), at_query.reshape(-1, 2)[best], confidence)
        there = _homogeneous(at) @ flow.T
        return DenseMatch(jnp.where(inside, _sample(weights, query_mask, there), 0), flow, agreement)

    return jax.lax.map(of_photo, (x, mask))


@jax.jit
def positions(mask: Bool[Array, "h w"]) -> Float32[Array, "h w 2"]:
    """(x, y) of the centres of a map's patches, 0 to 1 over the rectangle of the mask."""
    h, w = mask.shape
    size = jnp.stack([mask.any(0).sum(), mask.any(1).sum()])
    grid = np.stack(np.meshgrid(np.arange(w) + 0.5, np.arange(h) + 0.5), axis=2)
    return jnp.asarray(grid, jnp.float32) / jnp.maximum(size, 1)[None, None]


@jax.jit
def mutual_pairs(
    y: Float[Array, "h w c"], mask: Bool[Array, "h w"], other: Float[Array, "h2 w2 c"], other_mask: Bool[Array, "h2 w2"]
) -> tuple[Array, Float32[Array, "n"]]:
    """For every patch of `y` its partner in `other` (row-major), and the cosine where both chose each other, else 0."""
    fine = _cosines(y, mask, other, other_mask)
    coarse = _cosines(_halved(y), _halved(mask), _halved(other), _halved(other_mask))
    paired = _mutual(coarse)
    (h, w), (h2, w2) = y.shape[:2], other.shape[:2]
    near = _spread(paired.reshape(*_halved(mask).shape, *_halved(other_mask).shape))
    rows, columns, rows2, columns2 = (np.arange(n) // 2 for n in (h, w, h2, w2))
    below = near[rows][:, columns][:, :, rows2][:, :, :, columns2].reshape(h * w, h2 * w2)
    fine = jnp.where(below, fine, -jnp.inf)
    best = jnp.argmax(fine, axis=1)
    confidence = jnp.max(jnp.where(_mutual(fine), fine, 0), axis=1)
    return best, jnp.maximum(confidence, 0)


def _cosines(y: Array, mask: Array, other: Array, other_mask: Array) -> Float32[Array, "n m"]:
    both = mask.reshape(-1, 1) & other_mask.reshape(1, -1)
    cosine = jnp.einsum("pc,qc->pq", y.reshape(-1, y.shape[-1]), other.reshape(-1, y.shape[-1]))
    return jnp.where(both, cosine, -jnp.inf)


def _mutual(cosine: Float32[Array, "n m"]) -> Bool[Array, "n m"]:
    """The pairs that are the best of their row and of their column, and allowed at all."""
    top = (cosine == cosine.max(1, keepdims=True)) & (cosine == cosine.max(0, keepdims=True))
    return top & jnp.isfinite(cosine)


def _halved(z: Array) -> Array:
    """Directions of the sums over 2 x 2 patches of a map; of a mask, whether any of the four is inside."""
    h, w = z.shape[:2]
    z = jnp.pad(z, ((0, h % 2), (0, w % 2)) + ((0, 0),) * (z.ndim - 2))
    z = z.reshape((h + 1) // 2, 2, (w + 1) // 2, 2, *z.shape[2:])
    return z.any((1, 3)) if z.dtype == bool else directions(z.sum((1, 3)))


def _spread(pairs: Bool[Array, "h w h2 w2"]) -> Bool[Array, "h w h2 w2"]:
    """Pairs and those whose second patch is one of the eight neighbours of a pair's."""
    return jax.lax.reduce_window(pairs, False, jax.lax.bitwise_or, (1, 1, 3, 3), (1, 1, 1, 1), "SAME")


def _homogeneous(x: Float[Array, "*b 2"]) -> Float[Array, "*b 3"]:
    return jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1)


@jax.jit
def fit_flow(
    x: Float[Array, "n 2"], target: Float[Array, "n 2"], confidence: Float[Array, "n"]
) -> tuple[Float32[Array, "2 3"], Float32[Array, ""]]:
    """A of the module's equations, and the share of the confidence that lies on pairs it explains.

    Each step solves the least squares problem with weights c / (1 + d^2 / s^2)^2 of the last residuals d.
    """
    points, total = _homogeneous(x), jnp.maximum(confidence.sum(), 1e-12)
    identity = jnp.eye(2, 3)

    def step(flow: Array, s: Array) -> tuple[Array, Array]:
        far = jnp.sum(jnp.square(points @ flow.T - target), axis=1)
        kept = jnp.square(s**2 / (s**2 + far))
        weighted = points * (confidence * kept)[:, None]
        normal = points.T @ weighted + RIDGE * jnp.eye(3)
        flow = jnp.linalg.solve(normal, weighted.T @ target + RIDGE * identity.T).T
        return flow, jnp.sum(confidence * kept) / total

    flow, explained = jax.lax.scan(step, identity, jnp.repeat(jnp.array(SCALES, jnp.float32), 3))
    return flow, explained[-1]


def _sample(weights: Float[Array, "h w"], mask: Bool[Array, "h w"], at: Float[Array, "*b 2"]) -> Float32[Array, "*b"]:
    """Weights bilinear at positions 0 to 1 of the mask's rectangle, edge patches continued to its rim; 0 beyond it."""
    size = jnp.stack([mask.any(0).sum(), mask.any(1).sum()]).astype(jnp.float32)
    inside = jnp.all((at >= 0) & (at <= 1), axis=-1)
    column, row = (jnp.clip(at[..., i] * size[i] - 0.5, 0, jnp.maximum(size[i] - 1, 0)) for i in (0, 1))
    sampled = jax.scipy.ndimage.map_coordinates(weights.astype(jnp.float32), [row, column], order=1, mode="nearest")
    return jnp.where(inside, sampled, 0)
