"""Spatial verification: how many matched features of two photographs one transform of the plane explains, by RANSAC.

A transform T [3 3] carries (x, y) of the query to (u/w, v/w) of the candidate, where (u, v, w) = T (x, y, 1). Through
the matches q_j -> c_j of a sample it is

    T (q, 1) = p_1 + (p_2 - p_1, p_3 - p_1) (q_2 - q_1, q_3 - q_1)^-1 (q - q_1),    p_j = a_j (c_j, 1)

an affine transform where all a_j = 1. Where a_j is the barycentric coordinate j of c_4 in the triangle of the other c,
over that of q_4, it is the homography that carries q_4 to c_4, too. A match q -> c is an inlier if w > 0 and
|(u/w, v/w) - c| <= tolerance.

References: Fischler, Bolles, Random sample consensus, CACM 1981; Chum, Matas, Kittler, Locally optimized RANSAC, DAGM
2003; Philbin, Chum, Isard, Sivic, Zisserman, Object retrieval with large vocabularies and fast spatial matching, CVPR
2007.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from sret_jax.errors import UserError
from sret_jax.reranking.matching import Matches
from sret_jax.reranking.ranking import reorder

SAMPLE = {"affine": 3, "homography": 4}  # matches that determine a transform
PARAMETERS = {"affine": 6, "homography": 8}
TRIANGLES = np.array([(0, 1, 2), (3, 1, 2), (0, 3, 2), (0, 1, 3)])  # of a sample: one, or point 3 in place of 0, 1, 2
SMALLEST_TRIANGLE = 1e-4  # in the query, twice its area; a smaller one says nothing about the rest
LARGEST_SCALE = 10.0  # of lengths by the transform, and its inverse
LARGEST_STRETCH = 5.0  # of one direction against another; a plane that is turned by 78 degrees
REFINEMENTS = 3
EXACT = jax.lax.Precision.HIGHEST


class Verification(NamedTuple):
    """What one transform explains of the matches of a query with each of k candidates.

    inliers    different features of the candidate among the inlying matches. A sample explains itself: with as many
               as that, 3 or 4, nothing is verified. 0 where there is no transform
    transform  from positions in the query to positions in the candidate; w > 0 at the inliers, 1 at their mean
               position. The identity where there is none
    inlying    the matches that are inliers
    box        (left, top, right, bottom) of the inliers in the candidate, zeros where there are none
    """

    inliers: Int32[Array, "k"]
    transform: Float32[Array, "k 3 3"]
    inlying: Bool[Array, "k m"]
    box: Float32[Array, "k 4"]


@partial(jax.jit, static_argnames=("kind", "trials", "tolerance", "seed"))
def verify(
    query_position: Float[Array, "n 2"],
    candidate_position: Float[Array, "k s 2"],
    matches: Matches,
    *,
    kind: str,
    trials: int,
    tolerance: float,
    seed: int,
) -> Verification:
    """RANSAC for the matches of one query with each of k candidates, one candidate after the other.

    The best of `trials` transforms is refined by least squares over its inliers while that costs none. Matches with
    the same feature of the candidate share one vote.

    All pairs of photographs use the same random numbers, each to draw from its own matches: the result of a pair
    depends on the pair and the seed, not on the other candidates. Beside the matches, memory is that of trials * m
    residuals.

    Args:
        query_position, candidate_position: as in `LocalFeatures`.
        kind: "affine" or "homography".
        trials: samples drawn, those included that repeat a match, lie on a line, or imply a mirror or an absurd scale.
        tolerance: distance in the candidate, whose longest side is 1: 20 pixels of 1024 are 0.0195.

    Raises:
        UserError: there is no such kind.
    """
    if kind not in SAMPLE:
        raise UserError(f"no transform of kind {kind!r}; take one of {', '.join(SAMPLE)}")
    draws = jax.random.uniform(jax.random.key(seed), (trials, SAMPLE[kind]))

    def one(pair: tuple[Float[Array, "s 2"], Matches]) -> Verification:
        position, (query_row, candidate_row, valid) = pair
        source, target = (x.astype(jnp.float32) for x in (query_position[query_row], position[candidate_row]))
        sharing = jnp.zeros(len(position)).at[candidate_row].add(valid)
        votes = jnp.where(valid, 1 / jnp.maximum(sharing[candidate_row], 1), 0)

        order = jnp.nonzero(valid, size=len(valid), fill_value=0)[0]
        sample = order[(draws * jnp.sum(valid)).astype(jnp.int32)]
        transforms, plausible = _through(source[sample], target[sample])

        def score_of(transform: Array) -> Array:
            return jnp.sum(jnp.where(_inlying(transform, source, target, tolerance), votes, 0))

        scores = jnp.where(plausible, jax.vmap(score_of)(transforms), 0)
        best = jnp.argmax(scores)

        def refine(_: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
            old, old_score = state
            weight = _inlying(old, source, target, tolerance) & valid
            new = _least_squares(old, source, target, weight, PARAMETERS[kind])
            new_score = score_of(new)
            # Nothing comes of samples that were refused, nor a mirror of one that is almost a line.
            better = (old_score > 0) & (new_score >= old_score) & (jnp.linalg.det(new) > 0)
            return jnp.where(better, new, old), jnp.where(better, new_score, old_score)

        transform, score = jax.lax.fori_loop(0, REFINEMENTS, refine, (transforms[best], scores[best]))
        inlying = _inlying(transform, source, target, tolerance) & valid & (score > 0)
        found = inlying.any()
        w = jnp.sum(transform[2] * _homogeneous(_mean(source, inlying)))
        upper = jnp.where(inlying[:, None], target, jnp.inf).min(axis=0)
        lower = jnp.where(inlying[:, None], target, -jnp.inf).max(axis=0)
        return Verification(
            inliers=jnp.zeros(len(position), jnp.int32).at[candidate_row].max(inlying.astype(jnp.int32)).sum(),
            transform=jnp.where(found, transform / w, jnp.eye(3)),
            inlying=inlying,
            box=jnp.where(found, jnp.concatenate([upper, lower]), 0),
        )

    return jax.lax.map(one, (candidate_position, matches))


def _through(
    source: Float[Array, "t s 2"], target: Float[Array, "t s 2"]
) -> tuple[Float[Array, "t 3 3"], Bool[Array, "t"]]:
    """The transform through each sample, and whether it is a plausible one.

    Every triangle of a sample must be large enough, and keep its orientation (else the transform mirrors, or a point
    is behind the camera) and its size within bounds; this refuses repeated points and points on a line, too.
    """
    homography = source.shape[1] == 4
    triangles = TRIANGLES if homography else TRIANGLES[:1]
    before, after = _doubled_areas(source[:, triangles]), _doubled_areas(target[:, triangles])
    large = jnp.abs(before) >= SMALLEST_TRIANGLE
    growth = after / jnp.where(large, before, 1)
    plausible = jnp.all(large & (growth >= LARGEST_SCALE**-2) & (growth <= LARGEST_SCALE**2), axis=1)

    (x2, y2), (x3, y3) = (jnp.moveaxis(source[:, j] - source[:, 0], -1, 0) for j in (1, 2))
    inverse = jnp.stack([y3, -x3, -y2, x2], axis=1) / jnp.where(large[:, 0], before[:, 0], 1)[:, None]
    inverse = inverse.reshape(-1, 2, 2)
    flat = _matmul(jnp.moveaxis(target[:, 1:3] - target[:, :1], 1, 2), inverse)
    # s1^2 + s2^2 <= (r + 1/r) s1 s2 where the singular values s1 >= s2 have a ratio of at most r.
    plausible &= jnp.sum(flat**2, axis=(1, 2)) <= (LARGEST_STRETCH + 1 / LARGEST_STRETCH) * growth[:, 0]

    p = _homogeneous(target[:, :3])
    if homography:
        p = p * (growth[:, 1:] / jnp.where(plausible, growth[:, 0], 1)[:, None])[..., None]
    linear = _matmul(jnp.moveaxis(p[:, 1:] - p[:, :1], 1, 2), inverse)
    constant = p[:, 0, :, None] - _matmul(linear, source[:, 0, :, None])
    return jnp.concatenate([linear, constant], axis=2), plausible


def _doubled_areas(x: Float[Array, "*t 3 2"]) -> Float[Array, "*t"]:
    """Of triangles, with the sign of their orientation."""
    a, b = x[..., 1, :] - x[..., 0, :], x[..., 2, :] - x[..., 0, :]
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _inlying(
    transform: Float[Array, "3 3"], source: Float[Array, "m 2"], target: Float[Array, "m 2"], tolerance: float
) -> Bool[Array, "m"]:
    x, y = source.T
    u, v, w = (row[0] * x + row[1] * y + row[2] for row in transform)  # unlike a product, not kept for all transforms
    x, y = target.T
    return (w > 0) & ((u - w * x) ** 2 + (v - w * y) ** 2 <= (tolerance * w) ** 2)  # multiplied by w: no division by 0


def _least_squares(
    transform: Float[Array, "3 3"],
    source: Float[Array, "m 2"],
    target: Float[Array, "m 2"],
    weight: Bool[Array, "m"],
    parameters: int,
) -> Float[Array, "3 3"]:
    """One Gauss-Newton step to the least sum of squared distances of the weighted matches.

    Of an affine transform that is the solution. Positions in the query are first moved and scaled to mean 0 and mean
    square 1, where w = 1 fixes the scale of a homography: the mean w of inliers is not 0. nan where there is no
    unique solution.
    """
    mean = _mean(source, weight)
    spread = jnp.sqrt(_mean(jnp.sum((source - mean[None]) ** 2, axis=1, keepdims=True), weight))[0]
    old = jnp.concatenate([transform[:, :2] * spread, _matmul(transform, _homogeneous(mean)[:, None])], axis=1)
    old = old / old[2, 2]
    points = _homogeneous((source - mean[None]) / spread)
    u, v, w = _matmul(old, points.T)
    w = jnp.where(weight, w, 1)
    u, v, points = u / w, v / w, points / w[:, None]

    none, xy = jnp.zeros_like(points), points[:, :2]
    of_u = jnp.concatenate([points, none, -u[:, None] * xy], axis=1)
    of_v = jnp.concatenate([none, points, -v[:, None] * xy], axis=1)
    derivatives = (jnp.concatenate([of_u, of_v]) * jnp.tile(weight, 2)[:, None])[:, :parameters]
    residuals = jnp.concatenate([u, v]) - target.T.ravel()
    normal, gradient = _matmul(derivatives.T, derivatives), _matmul(derivatives.T, residuals[:, None])[:, 0]
    step = jax.scipy.linalg.solve(normal, gradient, assume_a="pos")
    new = old - jnp.pad(step, (0, 9 - parameters)).reshape(3, 3)
    linear = new[:, :2] / spread
    return jnp.concatenate([linear, new[:, 2:] - _matmul(linear, mean[:, None])], axis=1)


def _mean(x: Float[Array, "m c"], weight: Bool[Array, "m"]) -> Float[Array, "c"]:
    return jnp.sum(jnp.where(weight[:, None], x, 0), axis=0) / jnp.maximum(weight.sum(), 1)


def _homogeneous(x: Float[Array, "*b 2"]) -> Float[Array, "*b 3"]:
    return jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1)


def _matmul(a: Float[Array, "*b n m"], b: Float[Array, "*b m p"]) -> Float[Array, "*b n p"]:
    return jnp.matmul(a, b, precision=EXACT)


def rerank_by_inliers(
    ids: Int[np.ndarray, "q k"], scores: Float[np.ndarray, "q k"], inliers: Int[np.ndarray, "q top"], *, trusted: int
) -> tuple[Int[np.ndarray, "q k"], Float[np.ndarray, "q k"]]:
    """The first `top` photographs of each ranking by falling number of inliers, equals by their old score.

    Args:
        ids, scores: best first; -1 = none, only at the end.
        inliers: of the first `top`.
        trusted: fewer inliers than this count as none: chance gives them, too. 0 for the published procedures.

    Returns:
        ids and scores. The score of the first `top` is the number of inliers; the others keep their order and their
        score, but no more than the least number of inliers before them.
    """
    return reorder(ids, scores, np.where(inliers < trusted, 0, inliers).astype(np.float32))
