from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sret_jax.config import CLASSIFYING, TrainConfig
from sret_jax.training import losses, margin_losses, pair_losses
from tests.support.descriptors import batch


def arcface_loops(x, labels, weights, margin, scale):
    x, labels, weights = (np.array(v) for v in (x, labels, weights))
    total = 0.0
    for xi, label in zip(x.astype(np.float64), labels, strict=True):
        logits = []
        for j, w in enumerate(weights.astype(np.float64)):
            theta = np.arccos(np.clip(xi @ w / np.linalg.norm(w), -1, 1))
            if j != label:
                logits.append(scale * np.cos(theta))
            elif theta + margin < np.pi:
                logits.append(scale * np.cos(theta + margin))
            else:
                logits.append(scale * (np.cos(theta) - margin * np.sin(margin)))
        logits = np.array(logits)
        total += np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[label]
    return total / len(x)


def cosface_loops(x, labels, weights, margin, scale):
    total, x, weights = 0.0, np.array(x, np.float64), np.array(weights, np.float64)
    for xi, label in zip(x, np.array(labels), strict=True):
        logits = [scale * (xi @ w / np.sqrt(w @ w) - margin * (j == label)) for j, w in enumerate(weights)]
        total += np.log(sum(np.exp(logit) for logit in logits)) - logits[label]
    return total / len(x)


def subcentre_loops(x, labels, weights, margin, scale):
    """ArcFace's loss where each instance has, for each photograph, the nearest of its vectors."""
    total = 0.0
    for xi, label in zip(np.array(x, np.float64), np.array(labels), strict=True):
        nearest = [max(centres, key=lambda w: xi @ w / np.sqrt(w @ w)) for centres in np.array(weights, np.float64)]
        total += arcface_loops(xi[None], label[None], nearest, margin, scale)
    return total / len(x)


def contrastive_loops(x, labels, margin):
    x, labels = np.array(x, np.float64), np.array(labels)
    pulls, pushes = [], []
    for i in range(len(x)):
        for j in range(len(x)):
            distance = np.linalg.norm(x[i] - x[j])
            if i != j and labels[i] == labels[j]:
                pulls.append(distance**2 / 2)
            elif labels[i] != labels[j] and distance < margin:
                pushes.append((margin - distance) ** 2 / 2)
    return (np.mean(pulls) if pulls else 0.0) + (np.mean(pushes) if pushes else 0.0)


def multi_similarity_loops(x, labels, base, alpha=2.0, beta=50.0, slack=0.1):
    x, labels = np.array(x, np.float64), np.array(labels)
    total = 0.0
    for i in range(len(x)):
        positives = [x[i] @ x[j] for j in range(len(x)) if j != i and labels[j] == labels[i]]
        negatives = [x[i] @ x[j] for j in range(len(x)) if labels[j] != labels[i]]
        pulled = [s for s in positives if negatives and s < max(negatives) + slack]
        pushed = [s for s in negatives if positives and s > min(positives) - slack]
        total += np.log(1 + sum(np.exp(-alpha * (s - base)) for s in pulled)) / alpha
        total += np.log(1 + sum(np.exp(beta * (s - base)) for s in pushed)) / beta
    return total / len(x)


def triplet_loops(x, labels, margin):
    x, labels = np.array(x, np.float64), np.array(labels)
    values = []
    for a in range(len(x)):
        distances = [np.sqrt(np.sum((x[a] - x[j]) ** 2) + 1e-6) for j in range(len(x))]
        positives = [distances[j] for j in range(len(x)) if j != a and labels[j] == labels[a]]
        negatives = [distances[j] for j in range(len(x)) if labels[j] != labels[a]]
        if positives and negatives:
            values.append(max(0.0, margin + max(positives) - min(negatives)))
    return np.mean(values) if values else 0.0


def infonce_loops(x, labels, temperature):
    x, labels = np.array(x, np.float64), np.array(labels)
    values = []
    for i in range(len(x)):
        others = [j for j in range(len(x)) if j != i]
        everything = sum(np.exp(x[i] @ x[j] / temperature) for j in others)
        shares = [np.exp(x[i] @ x[j] / temperature) / everything for j in others if labels[j] == labels[i]]
        if shares:
            values.append(-np.mean(np.log(shares)))
    return np.mean(values) if values else 0.0


@partial(jax.jit, static_argnames="margin")
def seven_losses(x, labels, weights, centres, margin):
    return {
        "contrastive": pair_losses.contrastive(x, labels, margin=margin),
        "multi_similarity": pair_losses.multi_similarity(x, labels, base=margin),
        "triplet": pair_losses.triplet(x, labels, margin=margin),
        "infonce": pair_losses.infonce(x, labels, temperature=margin),
        "arcface": margin_losses.arcface(x, labels, weights, margin=margin, scale=16.0),
        "cosface": margin_losses.cosface(x, labels, weights, margin=margin, scale=16.0),
        "subcentre_arcface": margin_losses.subcentre_arcface(x, labels, centres, margin=margin, scale=16.0),
    }


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("margin", [0.2, 0.7, 1.3])
def test_losses_equal_their_definitions_written_as_loops(seed, margin):
    x, labels = batch(seed)
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(5, x.shape[1])).astype(np.float32)
    centres = rng.normal(size=(5, 3, x.shape[1])).astype(np.float32)
    expected = {
        "contrastive": contrastive_loops(x, labels, margin),
        "multi_similarity": multi_similarity_loops(x, labels, margin),
        "triplet": triplet_loops(x, labels, margin),
        "infonce": infonce_loops(x, labels, margin),
        "arcface": arcface_loops(x, labels, weights, margin, 16.0),
        "cosface": cosface_loops(x, labels, weights, margin, 16.0),
        "subcentre_arcface": subcentre_loops(x, labels, centres, margin, 16.0),
    }
    for name, ours in seven_losses(x, labels, weights, centres, margin).items():
        assert expected[name] > 0
        np.testing.assert_allclose(ours, expected[name], rtol=1e-5, err_msg=name)


def test_arcface_goes_on_past_pi():
    x, labels = map(np.asarray, batch(1))
    weights = -np.stack([x[labels == j].mean(0) for j in range(4)])  # every photograph opposite to its own class
    ours = jax.jit(partial(margin_losses.arcface, margin=1.2, scale=8.0))(x, labels, weights)
    np.testing.assert_allclose(ours, arcface_loops(x, labels, weights, 1.2, 8.0), rtol=1e-5)


def of(name, x, labels, weights):
    config = TrainConfig(loss=name, margin=0.5, scale=16.0)
    if name == "subcentre_arcface":
        weights = jnp.stack([weights, weights[::-1]], axis=1)
    memory = losses.init_loss_state(config, len(weights), x.shape[1], jax.random.key(0))
    return losses.batch_loss(config, {"weights": weights}, memory, x, labels)[0]


value_and_gradients = jax.jit(jax.value_and_grad(of, argnums=(1, 3)), static_argnums=0)


PAIRS = ["contrastive", "infonce", "multi_similarity", "triplet", "solar"]
NAMES = [*PAIRS, *CLASSIFYING]


@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_finite_when_photographs_coincide(name):
    x, labels = map(np.asarray, batch(2))
    x = np.repeat(x[:1], len(x), 0)  # all distances 0, positives and negatives alike
    weights = np.repeat(x[:1], len(x), 0)  # all angles 0
    _, gradients = value_and_gradients(name, x, labels, weights)
    assert all(np.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "curricularface"])  # whose t has no gradient
def test_gradient_equals_differences(name):
    with jax.enable_x64(True):  # steps small enough not to cross a margin
        x, labels = map(np.asarray, batch(3))
        rng = np.random.default_rng(9)
        weights, direction = rng.normal(size=(4, x.shape[1])), rng.normal(size=x.shape)
        x, h = x.astype(np.float64), 1e-7
        _, (gradient, _) = value_and_gradients(name, x, labels, weights)
        slope = np.vdot(gradient, direction)
        ahead, behind = (value_and_gradients(name, x + step * direction, labels, weights)[0] for step in (h, -h))
        np.testing.assert_allclose(slope, (ahead - behind) / (2 * h), rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_one_instance_or_lone_photographs_give_a_finite_loss(name):
    x, _ = batch(4)
    weights = np.ones(x.shape, np.float32)
    for labels in (np.zeros(len(x), np.int32), np.arange(len(x), dtype=np.int32)):
        value, (gradient, _) = value_and_gradients(name, x, labels, weights)
        assert np.isfinite(value) and np.isfinite(gradient).all()


def test_infonce_of_a_batch_without_positives_is_0_and_a_lone_photograph_counts_as_nothing():
    loss = jax.jit(jax.value_and_grad(partial(pair_losses.infonce, temperature=0.07)))
    x, labels = map(np.asarray, batch(5))
    for x_alone, different in ((x, np.arange(len(x), dtype=np.int32)), (x[:1], labels[:1])):
        value, gradient = loss(x_alone, different)
        assert value == 0 and not np.any(gradient)
    alone = np.append(labels[1:], 99).astype(np.int32)
    np.testing.assert_allclose(loss(x, alone)[0], infonce_loops(x, alone, 0.07), rtol=1e-5)


@pytest.mark.parametrize("name", PAIRS)
def test_losses_of_pairs_depend_on_angles_and_on_who_shares_a_label_alone(name):
    x, labels = map(np.asarray, batch(6))
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.normal(size=(x.shape[1], x.shape[1])))[0].astype(np.float32)
    order, renamed = rng.permutation(len(x)), rng.permutation(7).astype(np.int32)[labels]
    value, (gradient, _) = value_and_gradients(name, x, labels, x)
    for other, names in ((x @ rotation, labels), (x[order], labels[order]), (x, renamed)):
        np.testing.assert_allclose(value_and_gradients(name, other, names, x)[0], value, rtol=1e-4)
    assert value > 0 and np.any(gradient)


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_those_that_the_loss_needs(name):
    shape = {"subcentre_arcface": (7, 3, 5)}.get(name, (7, 5) if name in CLASSIFYING else None)
    weights = losses.init_loss(TrainConfig(loss=name), 7, 5, jax.random.key(0)).get("weights")
    assert (None if weights is None else weights.shape) == shape
