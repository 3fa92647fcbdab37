import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sret_jax.config import ModelConfig, SmoothingConfig, TrainConfig
from sret_jax.errors import UserError
from sret_jax.models.descriptor import build_network, init_network
from sret_jax.training import losses, parallel
from sret_jax.training.step import TrainState, make_step

DIM, CLASSES = 5, 4


class Tiny(nn.Module):
    """Stands in for the network: a few convolutions, an average, unit length."""

    @nn.compact
    def __call__(self, images, mask, *, train=False):
        x = nn.Conv(8, (3, 3))(images.astype(jnp.float32) / 255 - 0.5)
        x = nn.Dense(DIM)(jnp.tanh(x).mean((1, 2)))
        return x / jnp.linalg.norm(x, axis=1, keepdims=True), {}


def batches(count, rows=8, seed=0):
    rng = np.random.default_rng(seed)
    return [
        {
            "image": rng.integers(0, 256, (rows, 6, 6, 3), np.uint8),
            "mask": np.ones((rows, 6, 6), bool),
            "label": np.repeat(np.arange(CLASSES, dtype=np.int32), rows // CLASSES),
            "stop": np.zeros(rows, bool),
        }
        for _ in range(count)
    ]


def memory_of(config):
    return losses.init_loss_state(config, CLASSES, DIM, jax.random.key(1))


def start(config, optimizer):
    network = Tiny()
    params = {
        "network": network.init(jax.random.key(0), jnp.zeros((1, 6, 6, 3)), None)["params"],
        "loss": losses.init_loss(config, CLASSES, DIM, jax.random.key(1)),
    }
    key = jax.random.key_data(jax.random.key(2))
    state = TrainState(jnp.int32(0), params, {}, optimizer.init(params), key, memory_of(config))
    return network, parallel.fetch(state)


def run(config, optimizer, feed, one_device=False, by="pmap"):
    """The state after a step on each entry of `feed`, a list of lists of batches."""
    network, state = start(config, optimizer)
    step, shard = make_step(network, optimizer, config), parallel.shard
    if one_device:
        one = jax.devices()[:1]
        step = jax.pmap(step, axis_name=parallel.AXIS, in_axes=(None, 0), out_axes=(None, None), devices=one)

        def shard(parts):
            return jax.tree.map(lambda *xs: np.stack(xs)[None], *parts)
    else:
        step, state = parallel.data_parallel(step, by), parallel.place(state)
    for parts in feed:
        state, metrics = step(state, shard(parts))
    return parallel.fetch(state), parallel.fetch(metrics)


def assert_close(a, b, tolerance, rtol=0.0):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=tolerance), a, b)


LOSSES = {
    "arcface": 0.3,
    "contrastive": 1.5,
    "curricularface": 0.3,
    "infonce": 0.0,  # it has a temperature
    "multi_similarity": 0.5,
    "solar": 1.25,
    "triplet": 1.0,
}


@pytest.mark.parametrize("loss", LOSSES)
def test_four_devices_equal_one_after_three_steps(loss):
    config = TrainConfig(loss=loss, margin=LOSSES[loss], scale=8.0, solar_weight=0.1)
    feed = [[batch] for batch in batches(3)]
    (four, four_metrics), (one, one_metrics) = (
        run(config, optax.adamw(1e-2), feed, one_device) for one_device in (False, True)
    )
    assert int(four.step) == 3
    assert_close((four.params, four.loss_state), (one.params, one.loss_state), 1e-6)
    assert (loss == "curricularface") == bool(four.loss_state)
    assert_close(four_metrics, one_metrics, 1e-5, rtol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_shard_map_equals_pmap_to_the_bit(loss):
    config = TrainConfig(loss=loss, margin=LOSSES[loss], scale=8.0, solar_weight=0.1, accumulate=2)
    parts = batches(6)
    feed = [parts[i : i + 2] for i in (0, 2, 4)]
    pmap, shard_map = (run(config, optax.adamw(1e-2), feed, by=by) for by in ("pmap", "shard_map"))
    jax.tree.map(np.testing.assert_array_equal, pmap, shard_map)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_step_takes_the_gradient_of_the_whole_batch(loss):
    """An SGD step of rate 1 subtracts the gradient, here taken without any device axis."""
    config = TrainConfig(loss=loss, margin=LOSSES[loss], scale=8.0, solar_weight=0.1)
    (batch,) = batches(1)
    network, before = start(config, optax.sgd(1.0))

    def loss_of(params):
        descriptors, _ = network.apply({"params": params["network"]}, batch["image"], batch["mask"])
        return losses.batch_loss(config, params["loss"], memory_of(config), descriptors, jnp.array(batch["label"]))[0]

    value, gradient = jax.value_and_grad(loss_of)(jax.tree.map(jnp.array, before.params))
    after, metrics = run(config, optax.sgd(1.0), [[batch]])
    assert_close(jax.tree.map(np.subtract, before.params, after.params), gradient, 2e-6, rtol=2e-5)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    np.testing.assert_allclose(metrics["gradient_norm"], optax.tree.norm(gradient), rtol=1e-4)


def test_a_loss_remembers_every_batch_of_a_step():
    config = TrainConfig(loss="curricularface", margin=0.3, scale=8.0)
    parts = batches(2)
    (apart, _), (together, _) = (
        run(dataclasses.replace(config, accumulate=len(feed[0])), optax.sgd(0.0), feed)
        for feed in ([[part] for part in parts], [parts])
    )
    assert 0 != apart.loss_state["t"] != run(config, optax.sgd(0.0), [parts[:1]])[0].loss_state["t"]
    np.testing.assert_allclose(together.loss_state["t"], apart.loss_state["t"], rtol=1e-6)


@pytest.mark.slow
def test_four_devices_equal_one_on_the_network():
    """With synchronised statistics, and on every device another share of the pixels that are photograph."""
    model = ModelConfig(weights="none", stage="c2", whitening_dim=DIM, smoothing=SmoothingConfig(enabled=True))
    network = build_network(model, train_from="all", batch_stats="updated")
    variables = jax.tree.map(np.array, init_network(network, model, jax.random.key(0)))
    config, optimizer = TrainConfig(loss="contrastive", margin=1.2), optax.sgd(1e-2)
    rng, feed = np.random.default_rng(0), []
    for _ in range(3):
        mask = np.zeros((8, 64, 64), bool)
        for i in range(8):
            mask[i, : 32 * rng.integers(1, 3), : 32 * rng.integers(1, 3)] = True
        image = rng.integers(0, 256, (8, 64, 64, 3), np.uint8) * mask[..., None]
        label = np.repeat(np.arange(4, dtype=np.int32), 2)
        feed.append({"image": image, "mask": mask, "label": label, "stop": np.zeros(8, bool)})

    def train(devices):
        params = {"network": variables["params"], "loss": {}}
        state = TrainState(
            np.int32(0), params, variables["batch_stats"], optimizer.init(params), np.zeros(2, np.uint32)
        )
        step = make_step(network, optimizer, config)
        step = jax.pmap(
            step, axis_name=parallel.AXIS, in_axes=(None, 0), out_axes=(None, None), devices=jax.devices()[:devices]
        )
        for batch in feed:
            shares = {name: x.reshape(devices, 1, 8 // devices, *x.shape[1:]) for name, x in batch.items()}
            state, _ = step(state, shares)
        return parallel.fetch(state)

    one, four = train(1), train(4)
    assert_close(one.params, four.params, 1e-6)
    assert_close(one.batch_stats, four.batch_stats, 1e-6, rtol=1e-5)


def test_accumulated_halves_equal_the_whole_batch():
    """ArcFace is a mean over photographs, so the mean over two half batches is that of the whole one."""
    (whole,) = batches(1, rows=16)
    halves = [{name: x[part::2] for name, x in whole.items()} for part in (0, 1)]
    config = TrainConfig(loss="arcface", margin=0.3, scale=8.0)
    at_once, _ = run(config, optax.sgd(0.1), [[whole]] * 2)
    config.accumulate = 2
    in_two, _ = run(config, optax.sgd(0.1), [halves] * 2)
    assert_close(at_once.params, in_two.params, 1e-6)
    assert int(in_two.step) == 2


@pytest.mark.parametrize("by", ["pmap", "shard_map"])
def test_a_step_compiles_once_and_leaves_host_values_alone(by):
    config = TrainConfig(loss="contrastive", margin=1.5)
    optimizer = optax.adam(1e-2)
    network, state = start(config, optimizer)
    kept = jax.tree.map(np.copy, state)
    step = parallel.data_parallel(make_step(network, optimizer, config), by)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: compiled.append(name))
    running = parallel.place(state)
    for batch in batches(3):
        running, _ = step(running, parallel.shard([batch]))
        jax.block_until_ready(running)
        compiled.append("step")
    first = compiled.index("step")
    assert any("backend_compile" in name for name in compiled[:first])
    assert not any("backend_compile" in name for name in compiled[first:])
    jax.tree.map(np.testing.assert_array_equal, state, kept)


def test_a_stop_request_on_one_device_stops_all():
    config = TrainConfig(loss="contrastive", margin=1.5)
    (batch,) = batches(1)
    assert not run(config, optax.sgd(0.1), [[batch]])[1]["stop"]
    batch["stop"][-1] = True
    assert run(config, optax.sgd(0.1), [[batch]])[1]["stop"]


def test_a_batch_that_does_not_divide_names_the_fields():
    (batch,) = batches(1, rows=12)
    with pytest.raises(UserError, match="10 photographs .* 4 devices.*instances_per_batch"):
        parallel.shard([{name: x[:10] for name, x in batch.items()}])
