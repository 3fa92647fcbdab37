"""The learned projections against what defines them and against the published code, written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.decomposition import PCA

from sret_jax.errors import UserError
from sret_jax.models.whitening import (
    Whitening,
    apply_whitening,
    pair_whitening,
    pca_whitening,
    ridge_powers,
    within_spectrum,
    within_whitening,
)


def descriptors(n=60, c=8, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, c)) @ rng.normal(size=(c, c)) + rng.normal(size=c)).astype(np.float32)


def gram(x, mean, projection):
    y = (np.asarray(x, np.float64) - mean) @ projection
    return y @ y.T


@pytest.mark.parametrize("dim", [0, 8, 3])
def test_pca_whitened_descriptors_have_the_identity_as_covariance(dim):
    x = descriptors()
    mean, projection = pca_whitening(x, dim)
    y = (x - mean) @ projection
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(y.T @ y / len(y), np.eye(dim or 8), atol=1e-9)


@pytest.mark.parametrize("shrinkage", [0.0, 0.5, 1.0])
def test_pca_equals_the_published_code(shrinkage):
    x = descriptors()
    mean, projection = pca_whitening(x, 5, shrinkage)
    centred = x.astype(np.float64) - x.astype(np.float64).mean(0)
    values, vectors = np.linalg.eig(centred.T @ centred / len(x))
    order = values.argsort()[::-1]
    published = np.linalg.inv(np.diag(values[order] ** (0.5 * shrinkage))) @ vectors[:, order].T
    np.testing.assert_allclose(gram(x, mean, projection), gram(x, mean, published[:5].T), atol=1e-9)
    variances = ((x - mean) @ projection).var(0)
    assert (np.diff(variances) <= 1e-9).all()


def test_pca_of_fewer_photos_than_components_is_tame_in_the_missing_ones():
    rng = np.random.default_rng(0)
    deviations = 0.5 ** np.arange(20)
    x, new = (rng.normal(size=(n, 20)) * deviations for n in (6, 1000))
    mean, projection = pca_whitening(x, 20)
    assert np.isfinite(projection).all()
    lengths = np.linalg.norm(projection, axis=0)
    assert lengths.max() < 20 * lengths.min()
    np.testing.assert_allclose(lengths[5:], lengths[5], rtol=1e-9)  # nothing known of them, all alike
    assert ((new - mean) @ projection).std(0).max() < 10


def test_pca_of_a_dead_channel_regularises_only_when_it_is_kept():
    x = descriptors()
    x[:, 2] = 7
    mean, projection = pca_whitening(x, 7)
    np.testing.assert_allclose(np.cov(((x - mean) @ projection).T, bias=True), np.eye(7), atol=1e-9)
    assert np.abs(pca_whitening(x, 8)[1]).max() < 1e3


def published_whitenlearn(x, queries, positives):
    """Columns as descriptors, Cholesky with a growing diagonal, `eig`, as in the authors' code."""
    x = x.T.astype(np.float64)
    mean = x[:, queries].mean(axis=1, keepdims=True)
    difference = x[:, queries] - x[:, positives]
    s = difference @ difference.T / difference.shape[1]
    alpha = 0
    while True:
        try:
            lower = np.linalg.cholesky(s + alpha * np.eye(len(s)))
            break
        except np.linalg.LinAlgError:
            alpha = 1e-10 if alpha == 0 else alpha * 10
    p = np.linalg.inv(lower)
    projected = p @ (x - mean)
    values, vectors = np.linalg.eig(projected @ projected.T)
    order = values.argsort()[::-1]
    return mean[:, 0], (vectors[:, order].T @ p).T


@pytest.mark.parametrize("dim", [8, 3])
def test_pair_whitening_equals_the_published_code(dim):
    x = descriptors()
    queries, positives = np.arange(0, 30), np.arange(30, 60)
    mean, projection = pair_whitening(x, queries, positives, dim)
    published_mean, published = published_whitenlearn(x, queries, positives)
    np.testing.assert_allclose(mean, published_mean, rtol=1e-12)
    np.testing.assert_allclose(gram(x, mean, projection), gram(x, mean, published[:, :dim]), rtol=1e-8, atol=1e-8)


def test_pair_whitening_of_fewer_pairs_than_channels_equals_the_published_code():
    x = descriptors()
    queries, positives = np.arange(0, 4), np.arange(4, 8)
    mean, projection = pair_whitening(x, queries, positives, 8)
    ours, theirs = (gram(x, mean, z) for z in (projection, published_whitenlearn(x, queries, positives)[1]))
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())
    assert np.abs(pair_whitening(x, queries, positives, 8, shrinkage=0.2)[1]).max() < np.abs(projection).max()


def test_pair_differences_are_white_and_the_descriptors_uncorrelated():
    x = descriptors()
    queries, positives = np.arange(0, 30), np.arange(30, 60)
    mean, projection = pair_whitening(x, queries, positives, 0)
    difference = (x[queries].astype(np.float64) - x[positives]) @ projection
    np.testing.assert_allclose(difference.T @ difference / 30, np.eye(8), atol=1e-9)
    y = (x - mean) @ projection
    scatter = y.T @ y
    np.testing.assert_allclose(scatter, np.diag(np.diag(scatter)), atol=1e-8)
    assert (np.diff(np.diag(scatter)) <= 0).all()


def test_no_shrinkage_exponent_leaves_distances_as_they_are():
    x = descriptors()
    mean, projection = pair_whitening(x, np.arange(0, 30), np.arange(30, 60), 0, shrinkage=0.0)
    np.testing.assert_allclose(projection.T @ projection, np.eye(8), atol=1e-9)
    np.testing.assert_allclose(pca_whitening(x, 0, 0.0)[1].T @ pca_whitening(x, 0, 0.0)[1], np.eye(8), atol=1e-9)


def instances(sizes=(2, 3, 7, 4, 1), without=3, c=6, seed=0):
    """Photographs that differ from those of their instance in some directions more than in others."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.append(np.repeat(np.arange(len(sizes)), sizes), np.full(without, -1)))
    centres, spread = rng.normal(size=(len(sizes) + 1, c)), rng.normal(size=(c, c)) * 0.5 ** np.arange(c)[:, None]
    return (centres[labels] + 0.5 * rng.normal(size=(len(labels), c)) @ spread + 1).astype(np.float32), labels


def scatter_in_loops(x, labels):
    """S photograph by photograph."""
    total = np.zeros((x.shape[1], x.shape[1]))
    for label in set(labels.tolist()) - {-1}:
        own = [v for v, other in zip(x.astype(np.float64), labels, strict=True) if other == label]
        for v in own if len(own) > 1 else []:
            difference = v - sum(own) / len(own)
            total += np.outer(difference, difference) / np.sqrt(len(own) - 1)
    return total


def within_in_loops(x, labels, dim, ridge):
    """The equations as they are written, in an eigenbasis that the code does not use."""
    c, x = x.shape[1], x.astype(np.float64)
    s = scatter_in_loops(x, labels)
    values, vectors = np.linalg.eig(np.linalg.inv(s + ridge * np.trace(s) / c * np.eye(c)))
    w = vectors @ np.diag(np.sqrt(values)) @ np.linalg.inv(vectors)

    def covariance(points):
        mean, total = sum(points) / len(points), 0
        for point in points:
            total = total + np.outer(w @ (point - mean), w @ (point - mean))
        return total

    means = [x[labels == label].mean(0) for label in set(labels.tolist()) - {-1}]
    b, t = covariance(means), covariance(list(x))
    values, v = np.linalg.eig(b / np.trace(b) + 0.01 * t / np.trace(t))
    return x.mean(0), w @ v[:, values.argsort()[::-1][:dim]]


@pytest.mark.parametrize("ridge", [0.03, 1.0, 30.0])
@pytest.mark.parametrize("dim", [6, 2])
def test_within_whitening_equals_its_loops(dim, ridge):
    """To a factor, which no cosine shows: here it makes an eigenvalue of 1 stay 1."""
    x, labels = instances()
    mean, projection = within_whitening(x, labels, dim, ridge)
    their_mean, theirs = within_in_loops(x, labels, dim, ridge)
    np.testing.assert_allclose(mean, their_mean, rtol=1e-12)
    factor = (1 + ridge) * np.trace(scatter_in_loops(x, labels)) / 6
    np.testing.assert_allclose(gram(x, mean, projection), factor * gram(x, mean, theirs), rtol=1e-8, atol=1e-8)


def test_within_whitening_with_an_infinite_ridge_only_rotates():
    x, labels = instances()
    mean, projection = within_whitening(x, labels, 0, np.inf)
    np.testing.assert_allclose(projection.T @ projection, np.eye(6), atol=1e-9)
    almost = within_whitening(x, labels, 0, 1e9)[1]
    np.testing.assert_allclose(gram(x, mean, almost), gram(x, mean, projection), atol=1e-6)


def test_within_whitening_with_hardly_a_ridge_makes_photographs_of_an_instance_differ_alike_everywhere():
    x, labels = instances(sizes=(40,) * 10, without=0)
    _, projection = within_whitening(x, labels, 0, 1e-12)
    differences = np.concatenate([x[labels == label] - x[labels == label].mean(0) for label in range(10)]) @ projection
    covariance = differences.T @ differences
    np.testing.assert_allclose(covariance / covariance[0, 0], np.eye(6), atol=1e-5)


def test_within_whitening_puts_first_what_instances_differ_in():
    x, labels = instances(sizes=(6,) * 8, without=0)
    x[:, 0] += 20 * labels
    mean, projection = within_whitening(x, labels, 1, np.inf)
    first = (x - mean) @ projection[:, 0]
    assert abs(np.corrcoef(first, labels)[0, 1]) > 0.99


def test_photographs_without_an_instance_count_in_the_mean_and_in_the_order_alone():
    x, labels = instances()
    alone = x[labels >= 0], labels[labels >= 0]
    for ours, theirs in zip(within_spectrum(x, labels), within_spectrum(*alone), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    mean, projection = within_whitening(x, labels, 0, 0.5)
    np.testing.assert_allclose(mean, x.astype(np.float64).mean(0), rtol=1e-12)
    other = within_whitening(*alone, 0, 0.5)[1]  # all directions are kept, so that their order does not matter
    np.testing.assert_allclose(gram(x, mean, projection), gram(x, mean, other), atol=1e-8)


@pytest.mark.parametrize("dim", [0, 3])
def test_within_whitening_turns_with_the_descriptors(dim):
    x, labels = instances()
    x = x.astype(np.float64)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0]
    ours, turned = (gram(y, *within_whitening(y, labels, dim, 0.3)) for y in (x, 2 * x @ rotation))
    np.testing.assert_allclose(turned, 4 * ours, atol=1e-8)


def test_the_spectrum_is_that_of_the_scatter_in_units_of_its_mean():
    x, labels = instances()
    values, u = within_spectrum(x, labels)
    s = scatter_in_loops(x, labels)
    np.testing.assert_allclose(u * values @ u.T, s * 6 / np.trace(s), atol=1e-9)
    np.testing.assert_allclose(values.mean(), 1, rtol=1e-12)
    few = within_spectrum(*instances(sizes=(2, 2), without=0))[0]
    assert (few >= 0).all() and (few < 1e-9).sum() == 4  # two pairs span two directions


def test_powers_of_the_ridge():
    values = np.array([0.0, 0.5, 1.0, 4.0])
    np.testing.assert_array_equal(ridge_powers(values, np.inf), np.ones(4))
    for ridge in (0.03, 1.0, 30.0):
        expected = [((value + ridge) / (1 + ridge)) ** -0.5 for value in values]
        np.testing.assert_allclose(ridge_powers(values, ridge), expected, rtol=1e-12)


def test_apply_normalises_and_keeps_the_type():
    x = descriptors()
    mean, projection = pca_whitening(x, 4)
    y = apply_whitening(x, mean, projection)
    assert y.dtype == np.float32 and y.shape == (60, 4)
    np.testing.assert_allclose(np.linalg.norm(y, axis=1), 1, rtol=1e-6)
    assert not apply_whitening(mean[None], mean, projection).any()


def test_the_layer_holds_a_projection():
    x = descriptors()
    mean, projection = pca_whitening(x, 4)
    layer = Whitening(4)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), jnp.asarray(x))
    assert jax.tree.map(jnp.shape, shapes) == {"params": {"kernel": (8, 4), "bias": (4,)}}
    variables = {"params": {"kernel": jnp.float32(projection), "bias": jnp.float32(-mean @ projection)}}
    np.testing.assert_allclose(layer.apply(variables, jnp.asarray(x)), (x - mean) @ projection, atol=1e-5)


PAIR = np.array([0]), np.array([1])
TWOS = np.repeat(np.arange(30), 2)


@pytest.mark.parametrize(
    "call, text",
    [
        (lambda x: pca_whitening(x[:1], 2), "at least 2"),
        (lambda x: pca_whitening(x, 9), "dim=9"),
        (lambda x: pca_whitening(np.ones((4, 3)), 3), "equal"),
        (lambda x: pca_whitening(np.where(np.arange(60)[:, None] == 3, np.nan, x), 2), "1 of 60"),
        (lambda x: pair_whitening(x, PAIR[0][:0], PAIR[1][:0], 2), "no matching pair"),
        (lambda x: pair_whitening(x, PAIR[0], PAIR[1] + 59, 2), "60"),
        (lambda x: pair_whitening(np.full((3, 5), np.float32(0.1)), *PAIR, 2), "from pairs: all descriptors are equal"),
        (lambda x: pair_whitening(x[:1], *PAIR, 2), "at least 2"),
        (lambda x: pair_whitening(x, *PAIR, -1), "dim=-1"),
        (lambda x: within_whitening(x, TWOS, 9, 1.0), "dim=9 of descriptors of 8; choose 1..8"),
        (lambda x: within_whitening(x, np.arange(60), 2, 1.0), "no two different photographs.*give at least one"),
        (lambda x: within_whitening(x, np.full(60, -1), 2, 1.0), "no two different photographs.*give at least one"),
        (lambda x: within_whitening(x[TWOS], TWOS, 2, 1.0), "no two different photographs.*give at least one"),
        (lambda x: within_whitening(x[:1], TWOS[:1], 2, 1.0), "at least 2"),
        (lambda x: within_whitening(np.where(x > 2, np.inf, x), TWOS, 2, 1.0), "of 60 descriptors are not finite"),
    ],
)
def test_bad_use_names_the_remedy(call, text):
    with pytest.raises(UserError, match=text):
        call(descriptors())


@pytest.mark.parametrize("power", [0.25, 0.5])
def test_a_power_of_the_variances_is_half_a_shrinkage(power):
    """DIR divides the PCA of scikit-learn by variance^power; it counts n - 1 photographs, which no cosine shows."""
    x = descriptors()
    pca = PCA(n_components=5, svd_solver="full", whiten=True).fit(x.astype(np.float64))
    theirs = (x - pca.mean_) @ pca.components_.T / pca.explained_variance_**power
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    ours = apply_whitening(x.astype(np.float64), *pca_whitening(x, 5, 2 * power))
    np.testing.assert_allclose(ours @ ours.T, theirs @ theirs.T, atol=1e-9)
