"""ASMK: a photograph as a set of visual words with one aggregated residual each, and the kernel that compares them.

    r[w]       = sum over the local features x assigned to word w of (x - c[w])
    bits[w]    = r[w] > 0                                 binary, packed into uint32
    v[w]       = r[w] / (|r[w]| + 1e-6)                   real-valued
    u          = 1 - 2 hamming(bits_a[w], bits_b[w]) / c  or  v_a[w] . v_b[w],       in [-1, 1]
    sigma(u)   = sign(u) |u|^alpha   if u >= tau, else 0
    K(a, b)    = sum over the words w that both have of sigma(u) / sqrt(words of a * words of b)

References: Tolias, Avrithis, Jegou, Image search with selective match kernels, IJCV 2016; values as in
Tolias, Jenicek, Chum, Learning and aggregating deep local descriptors for instance-level recognition, ECCV 2020.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int, Int32, UInt32

from sret_jax.retrieval.codebook import nearest_words

BITS = 32  # of one packed integer


class AggregatedFeatures(NamedTuple):
    """The visual words of b photographs, and what was aggregated in each.

    words    ascending; the number of words of the codebook in slots that are not used
    vectors  packed signs [b m c/32], or unit vectors [b m c]
    """

    words: Int32[Array, "b m"]
    vectors: UInt32[Array, "b m _"] | Float32[Array, "b m _"]


@partial(jax.jit, static_argnames=("assignments", "binary"))
def aggregate(
    x: Float[Array, "b n c"],
    count: Int[Array, "b"],
    centroids: Float32[Array, "v c"],
    *,
    assignments: int = 1,
    binary: bool = True,
) -> AggregatedFeatures:
    """Residuals summed per photograph and visual word, in m = n * assignments slots.

    Args:
        x: local features; the first `count` of a photograph are used.
        centroids: the visual words.
        assignments: words that each feature is assigned to: 1 in the collection, 5 in queries.
        binary: keep the signs only. c must be a multiple of 32.
    """
    b, n, c = x.shape
    absent, slots = len(centroids), n * assignments
    words = nearest_words(x.reshape(b * n, c), centroids, assignments).reshape(b, n, assignments)
    words = jnp.where((jnp.arange(n)[None] < count[:, None])[..., None], words, absent).reshape(b, slots)
    order = jnp.argsort(words, axis=1, stable=True)
    words = jnp.take_along_axis(words, order, axis=1)
    first = jnp.concatenate([jnp.ones((b, 1), bool), words[:, 1:] != words[:, :-1]], axis=1)
    slot = jnp.cumsum(first, axis=1) - 1 + slots * jnp.arange(b)[:, None]
    features = jnp.take_along_axis(x, order[..., None] // assignments, axis=1)
    residuals = features.astype(jnp.float32) - centroids[jnp.minimum(words, absent - 1)]
    residuals = jnp.where((words < absent)[..., None], residuals, 0)
    sums = jax.ops.segment_sum(residuals.reshape(-1, c), slot.ravel(), b * slots, indices_are_sorted=True)
    own_words = jnp.full(b * slots, absent, jnp.int32).at[slot].set(words).reshape(b, slots)
    vectors = pack_signs(sums) if binary else sums / (jnp.linalg.norm(sums, axis=1, keepdims=True) + 1e-6)
    return AggregatedFeatures(own_words, vectors.reshape(b, slots, -1))


def pack_signs(x: Float[Array, "*b c"]) -> UInt32[Array, "*b w"]:
    """Bit i of the c bits is x[i] > 0; 32 of them in an integer, the first one highest."""
    if x.shape[-1] % BITS:
        raise ValueError(f"local features have {x.shape[-1]} channels: signs are packed in multiples of {BITS}")
    bits = (x > 0).reshape(*x.shape[:-1], -1, BITS).astype(jnp.uint32)
    weights = jnp.uint32(1) << jnp.arange(BITS - 1, -1, -1, dtype=jnp.uint32)
    return jnp.sum(bits * weights.reshape((1,) * (bits.ndim - 1) + (BITS,)), axis=-1, dtype=jnp.uint32)


def similarity(
    a: UInt32[Array, "*#b w"] | Float32[Array, "*#b w"], b: UInt32[Array, "*#b w"] | Float32[Array, "*#b w"]
) -> Float32[Array, "*b"]:
    """u of the module's equations: from the Hamming distance of packed signs, or the dot product of unit vectors."""
    if a.dtype == jnp.uint32:
        distance = jnp.sum(jax.lax.population_count(a ^ b), axis=-1, dtype=jnp.int32)
        return 1 - 2 * distance.astype(jnp.float32) / (BITS * a.shape[-1])
    return jnp.sum(a * b, axis=-1)


def selectivity(u: Float32[Array, "*b"], *, alpha: float = 3.0, threshold: float = 0.0) -> Float32[Array, "*b"]:
    """sigma(u) = sign(u) |u|^alpha where u >= threshold, 0 elsewhere."""
    power = int(alpha) if float(alpha).is_integer() else alpha  # a product instead of a logarithm
    return jnp.where(u >= threshold, jnp.sign(u) * jnp.abs(u) ** power, 0)


@jax.jit
def distinct_words(
    x: Float[Array, "b n c"], count: Int[Array, "b"], centroids: Float32[Array, "v c"]
) -> Int32[Array, "b"]:
    """The number of visual words of each photograph, with one word for each of its `count` local features.

    Far fewer than features: the photograph bursts, one pattern is counted many times.
    """
    words = aggregate(x, count, centroids, binary=False).words
    return jnp.sum(words < len(centroids), axis=1, dtype=jnp.int32)
