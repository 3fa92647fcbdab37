"""Losses over all pairs of one batch of labelled descriptors, P instances with K photographs each.

All take L2-normalised descriptors `x [b d]` and the instance of each `labels [b]`, and compare every photograph with
every other one of the batch. `S[i,j] = x_i . x_j` is the cosine similarity and `D[i,j] = |x_i - x_j|` the distance.
Positive pairs share their label (never a photograph with itself), negative pairs do not.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

# Multi-similarity: the values of the paper's section 5.1 (alpha, beta and the mining slack epsilon).
MS_ALPHA, MS_BETA, MS_SLACK = 2.0, 50.0, 0.1


def contrastive(x: Float[Array, "b d"], labels: Int[Array, "b"], *, margin: float) -> Float[Array, ""]:
    """Contrastive loss over all pairs of the batch,

        L = mean over positive pairs of 1/2 D^2  +  mean over active negatives of 1/2 (m - D)^2

    A negative is active while D < m. Averaging over those alone keeps the push as strong when few are left.
    Without a positive pair, or without an active negative, that term is 0.

    Args:
        margin: m, a distance; unit vectors are at most 2 apart.

    Reference: R. Hadsell et al., Dimensionality Reduction by Learning an Invariant Mapping, CVPR 2006, eq. 4;
    as F. Radenovic et al., Fine-tuning CNN Image Retrieval with No Human Annotation, PAMI 2019, eq. 4 use it.
    """
    positive, negative = pairs(labels)
    squared = squared_distances(x)
    distance = root(squared)
    active = negative & (distance < margin)
    return masked_mean(squared / 2, positive) + masked_mean((margin - distance) ** 2 / 2, active)


def multi_similarity(x: Float[Array, "b d"], labels: Int[Array, "b"], *, base: float) -> Float[Array, ""]:
    """Multi-similarity loss with its pair mining, averaged over the b photographs,

        L_i = 1/alpha log(1 + sum_P exp(-alpha (S[i,j] - lambda))) + 1/beta log(1 + sum_N exp(beta (S[i,j] - lambda)))

    N are the negatives more similar than i's least similar positive, S[i,j] > min S[i,positives] - epsilon; P are the
    positives less similar than its most similar negative, S[i,j] < max S[i,negatives] + epsilon.

    Args:
        base: lambda, a similarity.

    Reference: X. Wang et al., Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning, CVPR 2019,
    eq. 11, 12 and 15.
    """
    positive, negative = pairs(labels)
    similarity = products(x, x)
    hardest_positive = jnp.min(similarity, axis=1, keepdims=True, where=positive, initial=jnp.inf)
    hardest_negative = jnp.max(similarity, axis=1, keepdims=True, where=negative, initial=-jnp.inf)
    pulled = positive & (similarity < hardest_negative + MS_SLACK)
    pushed = negative & (similarity > hardest_positive - MS_SLACK)

    def soft(sharpness: float, kept: Bool[Array, "b b"]) -> Float[Array, "b"]:
        terms = jnp.where(kept, sharpness * (similarity - base), -jnp.inf)
        one = jnp.zeros((len(terms), 1))  # exp(0), the 1 under the logarithm
        return jax.nn.logsumexp(jnp.concatenate([one, terms], axis=1), axis=1) / abs(sharpness)

    return (soft(-MS_ALPHA, pulled) + soft(MS_BETA, pushed)).mean()


def triplet(x: Float[Array, "b d"], labels: Int[Array, "b"], *, margin: float) -> Float[Array, ""]:
    """Batch-hard triplet loss, averaged over the photographs that have a positive and a negative in the batch,

        L_a = max(0, m + max over positives of D[a,p] - min over negatives of D[a,n])

    The distances come from `optax.losses.triplet_margin_loss`, which adds 1e-6 under the root.

    Args:
        margin: m, a distance.

    Reference: A. Hermans et al., In Defense of the Triplet Loss for Person Re-Identification, 2017, eq. 5.
    """
    positive, negative = pairs(labels)
    squared = jax.lax.stop_gradient(squared_distances(x))
    farthest = jnp.argmax(jnp.where(positive, squared, -1), axis=1)
    closest = jnp.argmin(jnp.where(negative, squared, jnp.inf), axis=1)
    losses = optax.losses.triplet_margin_loss(x, x[farthest], x[closest], margin=margin)
    return masked_mean(losses, positive.any(1) & negative.any(1))


def infonce(x: Float[Array, "b d"], labels: Int[Array, "b"], *, temperature: float) -> Float[Array, ""]:
    """Supervised InfoNCE, averaged over the photographs that have a positive in the batch,

        L_i = - mean over positives p of log( exp(S[i,p] / T) / sum over all j != i of exp(S[i,j] / T) )

    Every photograph is compared with all others of the batch at once, so no pair has to be mined.

    Args:
        temperature: T, a similarity.

    Reference: P. Khosla et al., Supervised Contrastive Learning, NeurIPS 2020, eq. 2 (L_out).
    """
    positive, _ = pairs(labels)
    logits = jnp.where(jnp.eye(len(labels), dtype=bool), -jnp.inf, products(x, x) / temperature)
    share = jnp.where(positive, logits - jax.nn.logsumexp(logits, axis=1, keepdims=True), 0)
    count = positive.sum(1)
    return masked_mean(-share.sum(1) / jnp.maximum(count, 1), count > 0)


def pairs(labels: Int[Array, "b"]) -> tuple[Bool[Array, "b b"], Bool[Array, "b b"]]:
    same = labels[:, None] == labels[None, :]
    return same & ~jnp.eye(len(labels), dtype=bool), ~same


def products(x: Float[Array, "b d"], y: Float[Array, "k d"]) -> Float[Array, "b k"]:
    # Full precision also where matrix products are rounded by default: distances below are differences of these.
    return jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)


def squared_distances(x: Float[Array, "b d"]) -> Float[Array, "b b"]:
    norms = jnp.sum(x**2, axis=1)
    return jnp.maximum(norms[:, None] + norms[None, :] - 2 * products(x, x), 0)


def root(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Square root whose gradient at 0 is 0 instead of infinite."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), 0)


def masked_mean(values: Float[Array, "..."], where: Bool[Array, "..."]) -> Float[Array, ""]:
    """Mean over the chosen entries, 0 when there are none."""
    return jnp.sum(values, where=where) / jnp.maximum(jnp.sum(where), 1)
