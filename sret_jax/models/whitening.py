"""Whitening of descriptors: the layer that is trained, and the projections that are learned in closed form.

A projection is used as `(x - mean) @ projection`: as a layer, `kernel = projection`, `bias = -mean @ projection`.
The closed forms are computed in float64, on the host. Their columns are unique up to sign, and up to rotation where
eigenvalues are equal.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer

from sret_jax.errors import UserError


class LearnedWhitening(NamedTuple):
    """A projection learned after training, which acts on finished descriptors: `apply_whitening(x, *whitening)`."""

    mean: Float[np.ndarray, "c"]
    projection: Float[np.ndarray, "c d"]


class Whitening(nn.Module):
    """Fully connected layer `x @ kernel + bias` in float32; kernel [c, dim], bias [dim]."""

    dim: int

    @nn.compact
    def __call__(self, x: Float[Array, "b c"]) -> Float[Array, "b {self.dim}"]:
        kernel = self.param("kernel", nn.initializers.orthogonal(), (x.shape[-1], self.dim), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.dim,), jnp.float32)
        # Accelerators round the factors of float32 products to fewer bits unless they are told not to.
        return jnp.matmul(x.astype(jnp.float32), kernel, precision="highest") + bias[None]


def pca_whitening(
    x: Float[np.ndarray, "n c"], dim: int, shrinkage: float = 1.0
) -> tuple[Float[np.ndarray, "c"], Float[np.ndarray, "c d"]]:
    """PCA of the covariance of x, largest variance first, each component divided by its deviation^shrinkage.

        cov = V diag(l) V^T,    projection = V diag(l^(-shrinkage / 2))

    Args:
        x: descriptors, one per row.
        dim: components kept, 0 for all.
        shrinkage: 1 whitens (the covariance of the result is the identity), 0 only rotates. Where a system divides by
            variance^power, as Deep Image Retrieval with a power of 0.25, it is twice that power.

    When x spans fewer than `dim` directions, the eigenvalues of the missing ones are zero only for want of samples, and
    dividing by them would blow up whatever a new descriptor has there. The covariance is then replaced by its
    Ledoit-Wolf estimate (1 - t) cov + t mean(l) I, which keeps V and needs no parameter.

    References: Jegou, Chum, Negative evidences and co-occurrences in image retrieval, ECCV 2012; shrinkage: Tolias,
    Jenicek, Chum, Learning and aggregating deep local descriptors for instance-level recognition, ECCV 2020; Ledoit,
    Wolf, A well-conditioned estimator for large-dimensional covariance matrices, 2004.
    """
    x = _checked(x, "PCA whitening")
    dim = _checked_dim(dim, x.shape[1])
    mean = x.mean(0)
    centred = x - mean
    cov = centred.T @ centred / len(x)
    values, v = _eigh_descending(cov)
    if values[dim - 1] <= values[0] * max(x.shape) * np.finfo(np.float64).eps:
        t = _ledoit_wolf(centred, cov)
        values = (1 - t) * np.maximum(values, 0) + t * values.mean()
        if values[0] <= 0:
            raise UserError("PCA whitening: all descriptors are equal; give photographs that differ")
    return mean, v[:, :dim] * values[:dim] ** (-shrinkage / 2)


def pair_whitening(
    x: Float[np.ndarray, "n c"],
    queries: Integer[np.ndarray, "m"],
    positives: Integer[np.ndarray, "m"],
    dim: int,
    shrinkage: float = 1.0,
) -> tuple[Float[np.ndarray, "c"], Float[np.ndarray, "c d"]]:
    """Whitens the differences of matching pairs, then rotates to the directions in which all descriptors vary most.

        S = mean over pairs of (x_q - x_p) (x_q - x_p)^T + alpha I,    W = S^(-shrinkage / 2)
        projection = W V,  V the eigenvectors of W (x - mean)^T (x - mean) W, largest first;  mean = mean of the x_q

    Args:
        x: descriptors, one per row.
        queries: row of the first of each matching pair.
        positives: row of the second.
        dim: components kept, 0 for all.
        shrinkage: 1 is the published method; less trusts the pairs less.

    alpha is 0, or the first of 1e-10, 1e-9, ... with which S is positive definite: with fewer pairs than channels the
    directions no pair varies in are blown up, as they are in the authors' code. Use a shrinkage below 1 there.

    References: Mikolajczyk, Matas, Improving descriptors for fast tree matching by optimal linear projection, ICCV
    2007; Radenovic, Tolias, Chum, TPAMI 2019, section 3.4 (`whitenlearn` of their code).
    """
    x = _checked(x, "whitening from pairs")
    dim = _checked_dim(dim, x.shape[1])
    if len(queries) == 0:
        raise UserError("whitening from pairs: no matching pair; give at least one instance with two photographs")
    rows = np.concatenate([queries, positives])
    if rows.min() < 0 or rows.max() >= len(x):
        raise UserError(f"whitening from pairs: rows must lie in 0..{len(x) - 1}, got {rows.min()}..{rows.max()}")
    if not np.ptp(x, axis=0).any():
        raise UserError("whitening from pairs: all descriptors are equal; give photographs that differ")
    mean = x[queries].mean(0)
    difference = x[queries] - x[positives]
    values, u = np.linalg.eigh(_positive_definite(difference.T @ difference / len(difference)))
    w = u * values ** (-shrinkage / 2) @ u.T
    projected = (x - mean) @ w
    _, v = _eigh_descending(projected.T @ projected)
    return mean, (w @ v)[:, :dim]


def within_whitening(
    x: Float[np.ndarray, "n c"], labels: Integer[np.ndarray, "n"], dim: int, ridge: float
) -> tuple[Float[np.ndarray, "c"], Float[np.ndarray, "c d"]]:
    """Whitens what photographs of one instance differ in, regularised, then rotates to what instances differ in.

        S = within-instance covariance,    W = (S + ridge tr(S) / c I)^(-1/2)
        projection = W V,  V the eigenvectors of B / tr(B) + 0.01 T / tr(T), largest first;  mean = mean of all x

    B is the covariance of the instances' means after W, T that of all photographs, which gives an order to directions
    in which the means do not differ, of which there are many where instances are few. In S an instance of m photographs
    counts sqrt(m - 1) fold, so that a few large ones do not decide alone.

    Args:
        x: descriptors, one per row.
        labels: instance of each; -1 has none and counts in T and the mean alone.
        dim: components kept, 0 for all.
        ridge: lambda > 0, in units of the mean variance. Infinite: nothing is whitened.

    Raises `UserError` when no instance has two photographs.

    References: Hatch, Kajarekar, Stolcke, Within-class covariance normalization for SVM-based speaker recognition,
    Interspeech 2006; the ridge: Friedman, Regularized discriminant analysis, JASA 1989.
    """
    x = _checked(x, "whitening within instances")
    dim = _checked_dim(dim, x.shape[1])
    mean = x.mean(0)
    values, u = within_spectrum(x, labels)
    w = u * ridge_powers(values, ridge) @ u.T
    means = np.stack([x[labels == label].mean(0) for label in np.unique(labels[labels >= 0])])
    total = np.zeros((x.shape[1], x.shape[1]))
    for points, share in ((means, 1.0), (x, 0.01)):
        projected = (points - points.mean(0)) @ w
        covariance = projected.T @ projected
        total += share * covariance / max(np.trace(covariance), 1e-300)
    _, v = _eigh_descending(total)
    return mean, (w @ v)[:, :dim]


def within_spectrum(
    x: Float[np.ndarray, "n c"], labels: Integer[np.ndarray, "n"]
) -> tuple[Float[np.ndarray, "c"], Float[np.ndarray, "c c"]]:
    """Eigenvalues, divided by their mean, and eigenvectors of the S of `within_whitening`."""
    parts = []
    for label in np.unique(labels[labels >= 0]):
        own = x[labels == label].astype(np.float64)
        if len(own) > 1:
            parts.append((own - own.mean(0)) * (len(own) - 1) ** -0.25)
    deviations = np.concatenate(parts) if parts else np.zeros((0, x.shape[1]))
    scatter = deviations.T @ deviations
    if np.trace(scatter) <= 0:
        raise UserError(
            "whitening within instances: no two different photographs of one instance; give at least one such pair"
        )
    values, u = np.linalg.eigh(scatter * (len(scatter) / np.trace(scatter)))
    return np.maximum(values, 0), u


def ridge_powers(values: Float[np.ndarray, "c"], ridge: float) -> Float[np.ndarray, "c"]:
    """(values + ridge)^(-1/2), divided by its value at an eigenvalue of 1, so that an infinite ridge gives ones."""
    return np.ones_like(values) if np.isinf(ridge) else np.sqrt((1 + ridge) / (values + ridge))


def apply_whitening(
    x: Float[np.ndarray, "n c"], mean: Float[np.ndarray, "c"], projection: Float[np.ndarray, "c d"]
) -> Float[np.ndarray, "n d"]:
    """L2-normalised `(x - mean) @ projection`, in the type of x; a descriptor equal to the mean becomes zero."""
    y = (x.astype(np.float64) - mean) @ projection
    y /= np.maximum(np.linalg.norm(y, axis=1, keepdims=True), 1e-12)
    return y.astype(x.dtype)


def _checked(x: np.ndarray, name: str) -> np.ndarray:
    if len(x) < 2:
        raise UserError(f"{name}: needs at least 2 descriptors, got {len(x)}; give more photographs")
    if not np.isfinite(x).all():
        raise UserError(f"{name}: {int((~np.isfinite(x)).any(1).sum())} of {len(x)} descriptors are not finite")
    return x.astype(np.float64)


def _checked_dim(dim: int, channels: int) -> int:
    if not 0 <= dim <= channels:
        raise UserError(f"whitening: dim={dim} of descriptors of {channels}; choose 1..{channels}, or 0 for all")
    return dim or channels


def _eigh_descending(s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values, vectors = np.linalg.eigh(s)
    return values[::-1], vectors[:, ::-1]


def _ledoit_wolf(centred: np.ndarray, cov: np.ndarray) -> float:
    """Weight of the scaled identity that minimises the expected squared error of the covariance, 0..1."""
    n, c = centred.shape
    distance = np.sum((cov - np.trace(cov) / c * np.eye(c)) ** 2)
    error = (np.sum(np.sum(centred**2, 1) ** 2) / n - np.sum(cov**2)) / n
    return float(min(error, distance) / distance) if distance > 0 else 1.0


def _positive_definite(s: np.ndarray) -> np.ndarray:
    alpha = 0.0
    while True:
        try:
            candidate = s + alpha * np.eye(len(s))
            np.linalg.cholesky(candidate)
            return candidate
        except np.linalg.LinAlgError:
            alpha = alpha * 10 or 1e-10
