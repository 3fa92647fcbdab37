"""k-means against Lloyd's iterations in loops and against faiss, and the nearest words against a sorted list."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sret_jax.errors import UserError
from sret_jax.retrieval import codebook
from sret_jax.retrieval.codebook import kmeans, nearest_words


def clusters(seed=0, count=6, per=40, c=8):
    rng = np.random.default_rng(seed)
    middles = 5 * rng.normal(size=(count, c))
    return (middles[:, None] + rng.normal(size=(count, per, c))).reshape(-1, c).astype(np.float32), middles


def inertia(x, centroids):
    return np.min(((x[:, None].astype(np.float64) - centroids[None]) ** 2).sum(-1), 1).mean()


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("distances", [codebook.DISTANCES, 100])  # one block, and many with a rest
def test_nearest_words_are_the_first_of_all_in_order(k, distances, monkeypatch):
    monkeypatch.setattr(codebook, "DISTANCES", distances)
    x, _ = clusters()
    words = np.random.default_rng(1).normal(size=(13, 8)).astype(np.float32) * 5
    squared = ((x[:, None] - words[None]) ** 2).sum(-1)
    nearest_words.clear_cache()
    found = nearest_words(jnp.asarray(x), jnp.asarray(words), k)
    np.testing.assert_array_equal(found, np.argsort(squared, 1)[:, :k])
    nearest_words.clear_cache()


def lloyd_in_loops(x, words, iterations, seed):
    rng = np.random.default_rng(seed)
    centroids = x[np.sort(rng.choice(len(x), words, replace=False))].astype(np.float64)
    for _ in range(iterations):
        members = [[] for _ in range(words)]
        for row in x:
            members[int(np.argmin(((centroids - row) ** 2).sum(1)))].append(row)
        assert all(members)  # the rule for empty clusters has a test of its own
        centroids = np.array([np.mean(rows, axis=0) for rows in members])
    return centroids


@pytest.mark.parametrize("rows", [codebook.ROWS, 77])  # at once, and in parts of which the last is incomplete
def test_kmeans_equals_lloyd_in_loops(rows, monkeypatch):
    monkeypatch.setattr(codebook, "ROWS", rows)
    x, _ = clusters()
    np.testing.assert_allclose(kmeans(x, 9, iterations=4, seed=3), lloyd_in_loops(x, 9, 4, 3), atol=1e-4)


def test_the_seed_decides():
    x, _ = clusters()
    np.testing.assert_array_equal(kmeans(x, 9, seed=1), kmeans(x, 9, seed=1))
    assert np.abs(kmeans(x, 9, seed=1, iterations=1) - kmeans(x, 9, seed=2, iterations=1)).max() > 0.1


def test_an_empty_cluster_takes_half_of_another():
    sums, counts = jnp.array([[8.0, 8.0, 8.0], [0, 0, 0], [5, 6, 7]]), jnp.array([4, 0, 1])
    before = jnp.array([[9.0, 9, 9], [1, 2, 3], [9, 9, 9]])
    after = np.asarray(codebook._update(sums, counts, before, jax.random.key(0)))
    up, down = 1 + 1 / 1024, 1 - 1 / 1024
    np.testing.assert_allclose(after[1], [2 * up, 2 * down, 2 * up], rtol=1e-6)  # only the first can be divided
    np.testing.assert_allclose(after[0], [2 * down, 2 * up, 2 * down], rtol=1e-6)
    np.testing.assert_array_equal(after[2], [5, 6, 7])


def test_no_cluster_stays_empty_where_there_are_points_enough():
    x = np.concatenate([np.zeros((60, 4)), clusters(c=4)[0]]).astype(np.float32)  # many equal points: empty at first
    centroids = kmeans(x, 40, iterations=10, seed=0)
    used = np.unique(np.asarray(nearest_words(jnp.asarray(x), jnp.asarray(centroids))))
    assert np.isfinite(centroids).all() and len(used) >= 38


def test_only_some_features_are_looked_at():
    x, _ = clusters(count=2, per=500)
    mean = kmeans(x, 1, iterations=1, features_per_word=10)
    rows = np.sort(np.random.default_rng(0).choice(1000, 10, replace=False))
    np.testing.assert_allclose(mean[0], x[rows].mean(0), atol=1e-5)


def test_what_cannot_be_clustered_is_named():
    x, _ = clusters()
    with pytest.raises(UserError, match="240 local features are too few for 241"):
        kmeans(x, 241)
    x[7, 3] = np.nan
    with pytest.raises(UserError, match="not finite"):
        kmeans(x, 4)


@pytest.mark.parity
def test_inertia_is_that_of_faiss():
    faiss = pytest.importorskip("faiss")
    x = np.random.default_rng(0).normal(size=(4000, 16)).astype(np.float32)
    x[:2000] += np.repeat(np.random.default_rng(1).normal(size=(20, 16)), 100, 0).astype(np.float32) * 3
    theirs = faiss.Clustering(16, 64)
    theirs.niter, theirs.verbose = 10, False
    theirs.train(x, faiss.IndexFlatL2(16))
    reference = inertia(x, faiss.vector_float_to_array(theirs.centroids).reshape(64, 16))
    ours = [inertia(x, kmeans(x, 64, iterations=10, seed=seed)) for seed in range(3)]
    assert np.mean(ours) < 1.02 * reference
