"""Linear adaptation: one layer on finished descriptors, trained with the instances as classes.

    y = A x + b,    y <- y / |y|,    loss = softmax cross-entropy of s cos(y, w_j) over the instances j

x is the L2-normalised descriptor of a frozen network. The vectors w_j are trained along and thrown away; what stays is
a projection like that of a whitening, `(x - mean) @ projection` with b = -mean @ projection.

As in ILIAS: the layer with its bias, the normalisation on both sides, the loss (NormSoftmax, of scale 16), Adam with a
decay of 1e-6 that is part of the gradient, batches of 128 drawn without replacement of which an incomplete last one is
dropped, 512 numbers. Otherwise than there: the photographs are one's own and not the million of UnED, so that more
epochs are short; the layer starts from a closed form and the w_j from the means of their instances, where there both
are random (`start="random"` does that), and learns at 3e-4 instead of 1e-3, which is as good on the instances that
decide and costs less on photographs of another kind; and after every epoch instances that are held out are searched.
The layer of the best epoch is kept, and only where it is better than the descriptors as they are by more than a
standard error. ILIAS keeps the last and has no validation.

References: Kordopatis-Zilos et al., ILIAS: Instance-Level Image retrieval At Scale, CVPR 2025; the loss: Zhai, Wu,
Classification is a strong baseline for deep metric learning, BMVC 2019.
"""

import logging
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from sret_jax.config.adaptation import AdaptConfig
from sret_jax.config.rules import check
from sret_jax.errors import UserError
from sret_jax.metrics.ranking import leave_one_out_map
from sret_jax.models.whitening import LearnedWhitening, apply_whitening, pca_whitening
from sret_jax.training.margin_losses import cosface
from sret_jax.training.validation import warn_of_few
from sret_jax.training.whitening import ridge_whitening

log = logging.getLogger(__name__)
Params = dict[str, Array]


class Labelled(NamedTuple):
    """Descriptors and the instance of each; -1 has none, it is searched only."""

    x: Float[np.ndarray, "n c"]
    labels: Int[np.ndarray, "n"]


class Adaptation(NamedTuple):
    """What was learned, and how good it is: leave-one-out mAP on the instances held out, averaged over them, percent.

    best, epoch   the layer of the best epoch
    before, gain  of the descriptors as they are, and what the best layer adds
    error         standard error of the gain over instances
    curve         after every epoch; epoch 0 is the closed form, or the random layer
    """

    best: LearnedWhitening
    before: float
    after: float
    gain: float
    error: float
    epoch: int
    curve: list[float]

    @property
    def layer(self) -> LearnedWhitening | None:
        """The best, or None where it is not better than the start by more than the standard error of the gain."""
        return self.best if self.gain > max(self.error, 0) else None

    def verdict(self) -> str:
        """One sentence on what was kept and why."""
        gain = f"{self.gain:+.2f} ± {self.error:.2f}"
        if self.layer is not None:
            return (
                f"adapted: mAP {self.after:.2f} on held-out instances after epoch {self.epoch}, {gain} over the start"
            )
        return (
            f"the adaptation does not help: at best mAP {self.after:.2f} on held-out instances, {gain} over the start "
            f"({self.before:.2f}), which may be chance, so the start is kept"
        )


def adapt(train: Labelled, held_out: Labelled, settings: AdaptConfig, before: np.ndarray | None = None) -> Adaptation:
    """Trains the layer on `train` and keeps it where it is better on `held_out`. The same seed gives the same bits.

    Args:
      before: the descriptors of `held_out` to be better than; by default its own.

    Raises `UserError` for settings that cannot be used, and descriptors that are not finite or have no two instances to
    tell apart.
    """
    check(settings, "AdaptConfig.")
    x, held = _normalized(train.x, "to train on"), _normalized(held_out.x, "held out")
    m = len(np.unique(held_out.labels[held_out.labels >= 0]))
    if m < 2:
        raise UserError(f"{m} held-out instances decide nothing; give photographs of more objects, or raise --held_out")
    warn_of_few(m, "--held_out")
    start = _per_instance(held if before is None else _normalized(before, "held out"), held_out.labels)
    known = train.labels >= 0
    _, labels = np.unique(train.labels[known], return_inverse=True)
    if labels.max(initial=0) < 1:
        raise UserError("an adaptation tells instances apart: give photographs of at least two to train on")
    params = _start(x, train.labels, labels, known, settings)
    rng = np.random.default_rng(settings.seed)
    rows, size = np.flatnonzero(known), min(settings.batch_size, int(known.sum()))
    memory, on_device = _optimizer(settings).init(params), jnp.asarray(x, jnp.float32)
    best, measured = params, [_per_instance(_adapted(held, params), held_out.labels)]
    for epoch in range(1, settings.epochs + 1):
        order = rng.permutation(len(rows))[: len(rows) // size * size].reshape(-1, size)
        batch = jnp.asarray(rows[order]), jnp.asarray(labels[order])
        params, memory, losses = _train_epoch(settings, params, memory, on_device, *batch)
        if not np.isfinite(losses).all():
            raise UserError(f"epoch {epoch}: the loss is not finite; lower the learning rate")
        measured.append(_per_instance(_adapted(held, params), held_out.labels))
        if measured[-1].mean() > max(found.mean() for found in measured[:-1]):
            best = params
        log.info("epoch %d: loss %.4f, mAP %.2f on held-out instances", epoch, losses.mean(), measured[-1].mean())
    curve = [float(found.mean()) for found in measured]
    epoch = int(np.argmax(curve))
    difference = measured[epoch] - start
    error = float(difference.std(ddof=1) / np.sqrt(len(difference)))
    gain = float(difference.mean())
    return Adaptation(_layer(best), float(start.mean()), curve[epoch], gain, error, epoch, curve)


def adaptation_loss(params: Params, x: Float[Array, "b c"], labels: Int[Array, "b"], scale: float) -> Float[Array, ""]:
    """The loss of a batch; `params`: "kernel" [c d], "bias" [d], and "weights" [k d] of the instances."""
    y = jnp.matmul(x, params["kernel"], precision=jax.lax.Precision.HIGHEST) + params["bias"][None]
    y = y * jax.lax.rsqrt(jnp.maximum(jnp.sum(y**2, axis=1, keepdims=True), 1e-24))
    return cosface(y, labels, params["weights"], margin=0.0, scale=scale)


def _optimizer(settings: AdaptConfig) -> optax.GradientTransformation:
    rate = optax.scale_by_learning_rate(settings.learning_rate)
    return optax.chain(optax.add_decayed_weights(settings.weight_decay), optax.scale_by_adam(), rate)


@partial(jax.jit, static_argnums=0)
def _train_epoch(
    settings: AdaptConfig,
    params: Params,
    memory: Any,
    x: Float[Array, "n c"],
    rows: Int[Array, "s b"],
    labels: Int[Array, "s b"],
) -> tuple[Params, Any, Float[Array, "s"]]:
    """A step on each batch, of the rows of x and their classes."""

    def step(carry: tuple[Params, Any], batch: tuple[Array, Array]) -> tuple[tuple[Params, Any], Array]:
        params, memory = carry
        loss, gradient = jax.value_and_grad(adaptation_loss)(params, x[batch[0]], batch[1], settings.scale)
        updates, memory = _optimizer(settings).update(gradient, memory, params)
        moved: Any = optax.apply_updates(params, updates)
        return (moved, memory), loss

    (params, memory), losses = jax.lax.scan(step, (params, memory), (rows, labels))
    return params, memory, losses


def _start(x: np.ndarray, labels: np.ndarray, classes: np.ndarray, known: np.ndarray, settings: AdaptConfig) -> Params:
    """The parameters before the first step."""
    dim, key = min(settings.dim or x.shape[1], x.shape[1]), jax.random.key(settings.seed)
    if settings.start == "random":
        kernel = jax.nn.initializers.glorot_uniform()(jax.random.fold_in(key, 0), (x.shape[1], dim))
        weights = jax.random.normal(jax.random.fold_in(key, 1), (classes.max() + 1, dim)) / jnp.sqrt(dim)
        return {"kernel": kernel, "bias": jnp.zeros(dim), "weights": weights}
    mean, projection = (
        pca_whitening(x, dim, 0.0) if settings.start == "pca" else ridge_whitening(x, labels, dim, settings.ridge)
    )
    y = apply_whitening(x[known], mean, projection)
    means = np.stack([y[classes == j].mean(0) for j in range(classes.max() + 1)])
    start = {"kernel": projection, "bias": -mean @ projection, "weights": means}
    return {name: jnp.asarray(value, jnp.float32) for name, value in start.items()}


def _adapted(x: np.ndarray, params: Params) -> Float[np.ndarray, "n d"]:
    y: np.ndarray = x @ np.asarray(params["kernel"]) + np.asarray(params["bias"])
    return y / np.maximum(np.linalg.norm(y, axis=1, keepdims=True), 1e-12)


def _layer(params: Params) -> LearnedWhitening:
    """`(x - mean) @ projection` of the layer: the mean that gives its bias and is the shortest."""
    kernel, bias = (np.asarray(params[name], np.float64) for name in ("kernel", "bias"))
    mean = -np.linalg.lstsq(kernel.T, bias, rcond=None)[0]
    return LearnedWhitening(mean.astype(np.float32), kernel.astype(np.float32))


def _per_instance(x: np.ndarray, labels: np.ndarray) -> Float[np.ndarray, "m"]:
    """AP of every instance, averaged over its queries, in percent."""
    found = leave_one_out_map(x @ x.T, labels)["per_instance"]
    return np.array([found[label] for label in sorted(found)])


def _normalized(x: np.ndarray, what: str) -> Float[np.ndarray, "n c"]:
    if not np.isfinite(x).all():
        count = int((~np.isfinite(x)).any(1).sum())
        raise UserError(f"{count} of the {len(x)} descriptors {what} are not finite; describe their photographs again")
    norms = np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    return (x / np.maximum(norms, 1e-12)).astype(np.float32)
