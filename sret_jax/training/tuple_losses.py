"""Losses over tuples: a query, one matching photograph and n photographs of other instances, mined or of one batch.

All take L2-normalised descriptors `q [t d]`, `p [t d]` and `n [t n d]` of t tuples. They are the losses of the systems
that train on mined tuples, with their sums and epsilons.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sret_jax.training.pair_losses import pairs, root, squared_distances

EPS = 1e-6  # added to every difference under the root of the contrastive loss


def tuple_contrastive(
    q: Float[Array, "t d"], p: Float[Array, "t d"], n: Float[Array, "t n d"], *, margin: float
) -> Float[Array, ""]:
    """Sum over the tuples of 1/2 D(q, p)^2 + sum over n of 1/2 max(0, m - D(q, n))^2.

        D(x, y) = sqrt(sum over d of (x_d - y_d + 1e-6)^2)

    Args:
        margin: m, a distance: 0.7 to 0.85 for global descriptors, 0.8 for aggregated local ones.

    Reference: F. Radenovic et al., Fine-tuning CNN Image Retrieval with No Human Annotation, PAMI 2019, eq. 4; also
    G. Tolias et al., Learning and aggregating deep local descriptors for instance-level recognition, ECCV 2020.
    """
    positive = jnp.sum((q - p + EPS) ** 2, axis=-1)
    negative = root(jnp.sum((q[:, None] - n + EPS) ** 2, axis=-1))
    return jnp.sum(positive) / 2 + jnp.sum(jnp.maximum(margin - negative, 0) ** 2) / 2


def tuple_triplet(
    q: Float[Array, "t d"], p: Float[Array, "t d"], n: Float[Array, "t n d"], *, margin: float
) -> Float[Array, ""]:
    """Sum over the tuples and over n of max(0, |q - p|^2 - |q - n|^2 + m).

    Args:
        margin: m, a squared distance: 0.1, or 0.5 with a trained whitening layer.

    Reference: F. Schroff et al., FaceNet: A Unified Embedding for Face Recognition and Clustering, CVPR 2015, eq. 3.
    """
    return jnp.sum(jnp.maximum(_squared(q, p)[:, None] - _squared(q[:, None], n) + margin, 0))


def solar(
    q: Float[Array, "t d"],
    p: Float[Array, "t d"],
    n: Float[Array, "t n d"],
    *,
    margin: float,
    weight: float,
    where: Bool[Array, "t n"] | None = None,
) -> Float[Array, ""]:
    """Triplet loss with second-order similarity: query and positive shall see every negative from the same distance,

        L = 1/t sum over t, n of max(0, |q - p|^2 - |q - n|^2 + m)
          + lambda/t sqrt( sum over t, n of (|q - n|^2 - |p - n|^2)^2 )

    The root is over the whole batch; where it is 0 its gradient is taken as 0.

    Args:
        margin: m, a squared distance, 1.25.
        weight: lambda, 10.
        where: which negatives count; t is then the number of tuples that have one. None: all.

    Reference: T. Ng et al., SOLAR: Second-Order Loss and Attention for Image Retrieval, ECCV 2020.
    """
    where = jnp.ones(n.shape[:2], bool) if where is None else where
    tuples = jnp.maximum(jnp.sum(where.any(1)), 1)
    from_query, from_positive = _squared(q[:, None], n), _squared(p[:, None], n)
    triplets = jnp.maximum(_squared(q, p)[:, None] - from_query + margin, 0)
    second_order = root(jnp.sum((from_query - from_positive) ** 2, where=where))
    return (jnp.sum(triplets, where=where) + weight * second_order) / tuples


def hardest_tuples(
    x: Float[Array, "b d"], labels: Int[Array, "b"], negatives: int
) -> tuple[Int[Array, "b"], Int[Array, "b n"], Bool[Array, "b n"]]:
    """A tuple for each photograph of a labelled batch: its farthest positive and its nearest negatives.

    Returns:
        The row of the positive, the rows of the negatives, and which of these are such: where a photograph lacks a
        positive, or has too few negatives, the rows mean nothing.
    """
    positive, negative = pairs(labels)
    squared = jax.lax.stop_gradient(squared_distances(x))
    farthest = jnp.argmax(jnp.where(positive, squared, -1), axis=1)
    nearness, nearest = jax.lax.top_k(jnp.where(negative, -squared, -jnp.inf), min(negatives, len(x)))
    return farthest, nearest, (nearness > -jnp.inf) & positive.any(1, keepdims=True)


def _squared(x: Float[Array, "... d"], y: Float[Array, "... d"]) -> Float[Array, "..."]:
    return jnp.sum((x - y) ** 2, axis=-1)
