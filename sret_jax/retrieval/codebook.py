"""Visual words: k-means over the local features of many photographs, and the words nearest to a feature."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int32, Shaped

from sret_jax.errors import UserError

DISTANCES = 2**24  # distances from features to words held at once: 64 MB
ROWS = 2**18  # features on the device at once
SPLIT = 1 / 1024  # by how much the two halves of a divided cluster differ at first, relative


@partial(jax.jit, static_argnames="k")
def nearest_words(x: Float[Array, "n c"], centroids: Float32[Array, "v c"], k: int = 1) -> Int32[Array, "n k"]:
    """The k nearest of v visual words, nearest first; of equally near ones the first.

    |x - c|^2 = |x|^2 - 2 (c.x - |c|^2 / 2), in full precision. Never more than `DISTANCES` of them are held.
    """
    half = jnp.sum(centroids**2, axis=1) / 2

    def nearest(row: Array) -> Array:
        likeness = jnp.dot(centroids, row, precision=jax.lax.Precision.HIGHEST) - half
        if k == 1:
            return jnp.argmax(likeness)[None].astype(jnp.int32)
        return jax.lax.top_k(likeness, k)[1]

    return jax.lax.map(nearest, x.astype(jnp.float32), batch_size=max(1, min(len(x), DISTANCES // len(centroids))))


def kmeans(
    x: Float[np.ndarray, "n c"], words: int, *, iterations: int = 10, seed: int = 0, features_per_word: int = 256
) -> Float32[np.ndarray, "v c"]:
    """Centroids of `words` clusters of the features, by Lloyd's iterations from randomly chosen features.

    As faiss does, at most `features_per_word` features per word are looked at, drawn at random, and after each
    iteration every empty cluster takes half of another one: both go on from its mean, times 1 +- 1/1024 in alternate
    channels. The clusters to divide are drawn without replacement, with chances proportional to their size less one.

    The same seed gives the same centroids, on a GPU up to the order in which it adds. Memory on the device:
    `ROWS` features, `DISTANCES` distances and three times the centroids. One iteration costs 2 n v c FLOP.

    Args:
        x: local features; stay on the host.
        words: v.

    Raises:
        UserError: fewer features than words, or a feature is not finite.
    """
    if len(x) < words:
        raise UserError(f"{len(x)} local features are too few for {words} visual words; ask for fewer words")
    rng = np.random.default_rng(seed)
    if len(x) > words * features_per_word:
        x = x[np.sort(rng.choice(len(x), words * features_per_word, replace=False))]
    if not all(np.isfinite(part).all() for part in _parts(x)):
        raise UserError("k-means: a local feature is not finite; check the photographs and the network's parameters")
    centroids = jnp.asarray(x[np.sort(rng.choice(len(x), words, replace=False))], jnp.float32)
    for i in range(iterations):
        sums = jnp.zeros_like(centroids), jnp.zeros(words, jnp.int32)
        for part in _parts(x):
            padded = np.zeros((min(ROWS, len(x)), x.shape[1]), np.float32)
            padded[: len(part)] = part
            sums = _add(*sums, padded, len(part), centroids)
        centroids = _update(*sums, centroids, jax.random.fold_in(jax.random.key(seed), i))
    return np.asarray(centroids)


def _parts(x: Shaped[np.ndarray, "n c"]) -> list[Shaped[np.ndarray, "m c"]]:
    return [x[start : start + ROWS] for start in range(0, len(x), ROWS)]


@jax.jit
def _add(sums: Array, counts: Array, x: Array, rows: Array, centroids: Array) -> tuple[Array, Array]:
    """Sums and counts of the clusters with the first `rows` of x added to them."""
    words = nearest_words(x, centroids)[:, 0]
    words = jnp.where(jnp.arange(len(x)) < rows, words, len(centroids))  # the others are dropped
    return sums.at[words].add(x, mode="drop"), counts.at[words].add(1, mode="drop")


@jax.jit
def _update(sums: Array, counts: Array, centroids: Array, key: Array) -> Array:
    """Means of the clusters; the empty ones divide others."""
    empty = counts == 0
    means = jnp.where(empty[:, None], centroids, sums / jnp.maximum(counts, 1)[:, None])
    # Adding Gumbel noise to log-chances and sorting draws without replacement.
    chances = jnp.log(jnp.maximum(counts - 1, 0)) + jax.random.gumbel(key, counts.shape)
    order = jnp.argsort(-chances)
    divided = order[jnp.cumsum(empty) - 1]
    taken = empty & (counts[divided] > 1)
    sign = jnp.where(jnp.arange(centroids.shape[1]) % 2 == 0, SPLIT, -SPLIT)[None]
    new = jnp.where(taken[:, None], means[divided] * (1 + sign), means)
    return new.at[jnp.where(taken, divided, len(counts))].multiply(1 - sign, mode="drop")
