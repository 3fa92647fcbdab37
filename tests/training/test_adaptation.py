"""Linear adaptation against a step written with numpy, against torch, and on descriptors whose best layer is known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sret_jax.config.adaptation import AdaptConfig
from sret_jax.errors import UserError
from sret_jax.models.whitening import apply_whitening
from sret_jax.training.adaptation import Labelled, _layer, _optimizer, _train_epoch, adapt, adaptation_loss

SETTINGS = AdaptConfig(dim=4, start="random", epochs=40, batch_size=16, learning_rate=0.02)


def drawn(instances, seed, photos=6, signal=1.0, noise=0.15, clutter=0.8):
    """Descriptors whose first four numbers tell the instance, and whose other eight are large and tell nothing."""
    rng = np.random.default_rng(seed)
    own = np.repeat(rng.normal(0, signal, (instances, 4)), photos, axis=0)
    x = np.concatenate([own + rng.normal(0, noise, own.shape), rng.normal(0, clutter, (len(own), 8))], axis=1)
    return Labelled(
        (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), np.repeat(np.arange(instances), photos)
    )


def some_params(seed=0, c=12, d=4, k=5):
    rng = np.random.default_rng(seed)
    return {
        "kernel": rng.normal(size=(c, d)).astype(np.float32),
        "bias": rng.normal(size=d).astype(np.float32),
        "weights": rng.normal(size=(k, d)).astype(np.float32),
    }


def test_the_loss_is_its_formula():
    params, data = some_params(), drawn(5, 1)
    terms = []
    for x, label in zip(data.x.astype(np.float64), data.labels, strict=True):
        y = params["kernel"].T.astype(np.float64) @ x + params["bias"]
        y /= np.linalg.norm(y)
        logits = [16 * y @ w / np.linalg.norm(w) for w in params["weights"].astype(np.float64)]
        terms.append(np.log(np.sum(np.exp(logits))) - logits[label])
    loss = adaptation_loss(jax.tree.map(jnp.asarray, params), jnp.asarray(data.x), jnp.asarray(data.labels), 16.0)
    np.testing.assert_allclose(loss, np.mean(terms), rtol=1e-5)


@pytest.mark.parity
def test_epochs_equal_those_of_torch():
    """A linear layer, a cosine classifier of scale 16, cross-entropy, and Adam with its weight decay."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    params, data = some_params(), drawn(5, 1)
    rows = np.random.default_rng(0).permutation(30).reshape(3, 10)
    settings = dataclasses.replace(SETTINGS, weight_decay=1e-2)
    ours = jax.tree.map(jnp.asarray, params)
    memory = _optimizer(settings).init(ours)
    for _ in range(4):
        ours, memory, losses = _train_epoch(
            settings, ours, memory, jnp.asarray(data.x), jnp.asarray(rows), jnp.asarray(data.labels[rows])
        )
    theirs = {name: torch.tensor(value, requires_grad=True) for name, value in params.items()}
    adam = torch.optim.Adam(theirs.values(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    for _ in range(4):
        for own in rows:
            adam.zero_grad()
            y = functional.normalize(torch.tensor(data.x[own]) @ theirs["kernel"] + theirs["bias"])
            cosines = y @ functional.normalize(theirs["weights"]).T
            loss = functional.cross_entropy(16 * cosines, torch.tensor(data.labels[own]).long())
            loss.backward()
            adam.step()
    np.testing.assert_allclose(losses[-1], loss.item(), rtol=1e-3)
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value.detach().numpy(), atol=2e-4, err_msg=name)


def test_the_layer_is_kept_as_mean_and_projection():
    params, data = some_params(), drawn(5, 1)
    y = data.x.astype(np.float64) @ params["kernel"] + params["bias"]
    found = apply_whitening(data.x, *_layer(jax.tree.map(jnp.asarray, params)))
    np.testing.assert_allclose(found, y / np.linalg.norm(y, axis=1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize("start", ["random", "pca", "within"])
def test_it_finds_what_tells_instances_apart_and_the_same_with_a_seed(start):
    settings = dataclasses.replace(SETTINGS, start=start)
    found = adapt(drawn(24, 0), drawn(12, 1), settings)
    assert found.layer is not None and found.gain > 10 and found.after == max(found.curve)
    assert found.layer.projection.shape == (12, 4) and len(found.curve) == settings.epochs + 1
    signal = np.linalg.norm(found.layer.projection[:4]) / np.linalg.norm(found.layer.projection)
    assert signal > 0.9
    again = adapt(drawn(24, 0), drawn(12, 1), settings)
    np.testing.assert_array_equal(again.layer.projection, found.layer.projection)
    assert again.curve == found.curve
    x = drawn(12, 1)
    better = apply_whitening(x.x, *found.layer)
    assert (better @ better.T)[x.labels[:, None] == x.labels].mean() > (x.x @ x.x.T)[
        x.labels[:, None] == x.labels
    ].mean()


def test_where_it_does_not_help_the_start_is_kept_and_that_is_said():
    found = adapt(drawn(6, 0, signal=0.0), drawn(12, 1, noise=0.02, clutter=0.02), SETTINGS)
    assert found.layer is None
    assert "does not help" in found.verdict() and f"{found.gain:+.2f}" in found.verdict()
    assert found.gain <= found.error


def test_what_it_has_to_beat_can_be_given():
    train, held_out = drawn(24, 0), drawn(12, 1)
    perfect = np.eye(12, dtype=np.float32)[held_out.labels]
    found = adapt(train, held_out, SETTINGS, before=perfect)
    assert found.before == 100 and found.layer is None


def test_descriptors_without_an_instance_are_not_trained_on():
    train, held_out = drawn(24, 0), drawn(12, 1)
    labels = np.where(train.labels < 12, train.labels, -1)
    left_out = adapt(Labelled(train.x, labels), held_out, SETTINGS)
    never_there = adapt(Labelled(train.x[labels >= 0], labels[labels >= 0]), held_out, SETTINGS)
    assert left_out.curve == never_there.curve


def test_bad_input_is_named():
    train, held_out = drawn(4, 0), drawn(4, 1)
    with pytest.raises(UserError, match="AdaptConfig.start='wihtin': choose one of within, pca, random"):
        adapt(train, held_out, dataclasses.replace(SETTINGS, start="wihtin"))
    with pytest.raises(UserError, match="at least two to train on"):
        adapt(Labelled(train.x, np.zeros(len(train.x), int)), held_out, SETTINGS)
    broken = train.x.copy()
    broken[2, 0] = np.nan
    with pytest.raises(UserError, match="1 of the 24 descriptors to train on are not finite"):
        adapt(Labelled(broken, train.labels), held_out, SETTINGS)
