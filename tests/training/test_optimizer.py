import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sret_jax.config import ModelConfig, TrainConfig
from sret_jax.models.backbones import build_backbone
from sret_jax.training.optimizer import build_optimizer, learning_rate, trained_backbone

MODEL = ModelConfig(backbone="efficientnet_lite0", stage="c3")


def parameters(value=1.0):
    image = jnp.zeros((1, 64, 64, 3), jnp.uint8), jnp.ones((1, 64, 64), bool)
    backbone = jax.eval_shape(build_backbone(MODEL.backbone).init, jax.random.key(0), *image)["params"]
    shapes = {
        "network": {
            "backbone": backbone,
            "pool": {"p": jax.ShapeDtypeStruct((4,), jnp.float32)},
            "whitening": {
                "kernel": jax.ShapeDtypeStruct((4, 3), jnp.float32),
                "bias": jax.ShapeDtypeStruct((3,), jnp.float32),
            },
        },
        "loss": {"weights": jax.ShapeDtypeStruct((5, 3), jnp.float32)},
    }
    return jax.tree.map(lambda x: np.full(x.shape, value, x.dtype), shapes)


def step(config, params, gradient):
    optimizer = build_optimizer(config, MODEL, params)
    state = jax.jit(optimizer.init)(params)
    updates, _ = jax.jit(optimizer.update)(gradient, state, params)
    return updates, state


def test_learning_rate_warms_up_and_falls():
    config = TrainConfig(steps=100, warmup_steps=10, learning_rate=2.0)
    rate = [float(learning_rate(config)(t)) for t in range(100)]
    assert 0 < rate[0] < 0.25 and np.argmax(rate) == 10
    assert rate[10] == pytest.approx(2.0) and rate[55] == pytest.approx(1.0, abs=1e-3) and 0 < rate[99] < 0.01
    assert all(a < b for a, b in zip(rate[:10], rate[1:11], strict=True))
    assert float(learning_rate(TrainConfig(steps=10, warmup_steps=0, learning_rate=2.0))(0)) == 2.0
    assert np.isfinite(float(learning_rate(TrainConfig(steps=5, warmup_steps=20))(4)))


def test_trained_backbone_counts_stages_from_their_names():
    def blocks(train_from, stage="last"):
        paths = trained_backbone(ModelConfig(backbone="efficientnet_lite0", stage=stage), train_from)
        return {path[0] for path in paths}

    everything = {"stem", "head"} | {f"block{i}" for i in range(16)}
    assert blocks("all") == everything
    assert blocks("c1") == everything
    assert blocks("none") == set()
    assert blocks("last") == {"head"}
    assert blocks("c5") == {"head", "block11", "block12", "block13", "block14", "block15"}
    assert blocks("c3", "c3") == {"block3", "block4"}  # what lies behind the pooled stage is not used
    assert blocks("c5", "c3") == set()


@pytest.mark.parametrize(("backbone", "first"), [("resnet18", "layer4_0"), ("dinov2_vits14", "block6")])
def test_the_last_stage_trains_where_it_is_another_name_of_c5(backbone, first):
    config = ModelConfig(backbone=backbone)
    trained = trained_backbone(config, "last")
    assert trained == trained_backbone(config, "c5") and first in {path[0] for path in trained}


def test_groups_have_their_own_rates():
    """Each SGD step at rate r on a gradient of ones moves a parameter by r (1.9: Nesterov's first step)."""
    params = parameters()
    config = TrainConfig(
        optimizer="sgd", learning_rate=1.0, backbone_lr=0.1, pool_lr=10.0, whitening_lr=0.5,
        warmup_steps=0, weight_decay=0.0, clip_norm=1e9, train_from="c3",
    )  # fmt: skip
    updates, _ = step(config, params, jax.tree.map(jnp.ones_like, params))
    network = updates["network"]
    np.testing.assert_allclose(network["whitening"]["kernel"], -0.95, rtol=1e-6)
    np.testing.assert_allclose(updates["loss"]["weights"], -1.9, rtol=1e-6)
    np.testing.assert_allclose(network["pool"]["p"], -19.0, rtol=1e-6)
    for name, block in network["backbone"].items():
        expected = -0.19 if name in ("block3", "block4") else 0.0
        for leaf in jax.tree.leaves(block):
            np.testing.assert_allclose(leaf, expected, rtol=1e-6)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_decay_acts_on_kernels_alone(kind):
    params = parameters(2.0)
    config = TrainConfig(
        optimizer=kind,
        learning_rate=1.0,
        whitening_lr=1.0,
        weight_decay=0.1,
        warmup_steps=0,
        train_from="c3",
        backbone_lr=1.0,
    )
    updates, _ = step(config, params, jax.tree.map(jnp.zeros_like, params))
    flat = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(updates)}
    moved = {name for name, leaf in flat.items() if np.any(leaf)}
    assert moved and all("kernel" in name or "weights" in name for name in moved)
    assert any("block4" in name for name in moved) and not any("block2" in name for name in moved)
    factor = 1.9 if kind == "sgd" else 1.0
    np.testing.assert_allclose(updates["network"]["whitening"]["kernel"], -0.2 * factor, rtol=1e-6)


def test_frozen_parameters_cost_no_memory_and_do_not_count_in_the_norm():
    params = parameters()
    gradient = jax.tree.map(jnp.zeros_like, params)
    gradient["network"]["backbone"]["stem"] = jax.tree.map(lambda x: 1e6 + x, gradient["network"]["backbone"]["stem"])
    gradient["network"]["whitening"]["bias"] = jnp.array([0.0, 3.0, 4.0])
    config = TrainConfig(
        optimizer="sgd",
        learning_rate=1.0,
        whitening_lr=1.0,
        warmup_steps=0,
        weight_decay=0.0,
        clip_norm=1.0,
        train_from="none",
    )
    updates, state = step(config, params, gradient)
    np.testing.assert_allclose(updates["network"]["whitening"]["bias"], [0, -0.6 * 1.9, -0.8 * 1.9], rtol=1e-6)
    assert not np.any(updates["network"]["backbone"]["stem"]["kernel"])
    heads = sum(x.size for x in jax.tree.leaves((params["network"]["pool"], params["network"]["whitening"])))
    heads += params["loss"]["weights"].size
    _, adam = step(TrainConfig(train_from="none"), params, gradient)
    assert sum(x.size for x in jax.tree.leaves(adam)) <= 2 * heads + 5  # two moments and a few counters


def test_an_exponential_schedule_falls_once_an_epoch():
    config = TrainConfig(schedule="exponential", epoch_steps=4, epoch_decay=0.5, warmup_steps=2, learning_rate=2.0)
    rate = [float(learning_rate(config)(t)) for t in range(12)]
    np.testing.assert_allclose(rate, [2 / 3, 4 / 3, 2, 2, 2, 2, 1, 1, 1, 1, 0.5, 0.5], rtol=1e-6)


def test_all_but_the_exponents_may_decay_and_the_norm_may_stay_unclipped():
    params = parameters(2.0)
    config = TrainConfig(
        optimizer="sgd", learning_rate=1.0, whitening_lr=1.0, backbone_lr=1.0, pool_lr=1.0, warmup_steps=0,
        weight_decay=0.1, decayed="all", clip_norm=0.0, train_from="c3",
    )  # fmt: skip
    updates, _ = step(config, params, jax.tree.map(lambda x: jnp.full_like(x, 1e3), params))
    np.testing.assert_allclose(updates["network"]["whitening"]["bias"], -1.9 * 1000.2, rtol=1e-6)
    np.testing.assert_allclose(updates["network"]["pool"]["p"], -1.9e3, rtol=1e-6)
    for leaf in jax.tree.leaves(updates["network"]["backbone"]["block4"]):
        np.testing.assert_allclose(leaf, -1.9 * 1000.2, rtol=1e-6)


@pytest.mark.parity
@pytest.mark.parametrize("stepped", ["after", "before"])
@pytest.mark.parametrize("times", [10.0, 100.0])
def test_adam_with_groups_equals_torchs_as_cirtorch_and_solar_set_it_up(times, stepped):
    """Coupled decay 1e-6 but not on p, p at 10 (cirtorch) or 100 (SOLAR) times the rate, which falls by exp(-0.01).

    Stepped after an epoch, as SOLAR and HOW do it, the first runs at the rate itself. Before it, as cirtorch does it,
    this torch already lets the first one fall: the same schedule from a rate that is smaller by that.
    """
    torch = pytest.importorskip("torch")
    rng, decay = np.random.default_rng(0), float(np.exp(-0.01))
    shapes = {"kernel": (4, 3), "bias": (3,), "p": (4,)}
    start = {name: 1e3 * rng.normal(size=shape) for name, shape in shapes.items()}
    gradients = [{name: 1e-3 * rng.normal(size=shape) for name, shape in shapes.items()} for _ in range(9)]
    theirs = {name: torch.tensor(x, requires_grad=True) for name, x in start.items()}
    groups = [
        {"params": [theirs["kernel"], theirs["bias"]]},
        {"params": [theirs["p"]], "lr": 0.01 * times, "weight_decay": 0},
    ]
    adam = torch.optim.Adam(groups, 0.01, weight_decay=1e-6)
    schedule = torch.optim.lr_scheduler.ExponentialLR(adam, gamma=decay)
    for i, gradient in enumerate(gradients):
        if stepped == "before" and i % 3 == 0:
            with warnings.catch_warnings(action="ignore"):  # torch warns of this order
                schedule.step()
        for name, x in theirs.items():
            x.grad = torch.tensor(gradient[name])
        adam.step()
        if stepped == "after" and i % 3 == 2:
            schedule.step()

    config = TrainConfig(
        optimizer="adam", learning_rate=0.01 * (decay if stepped == "before" else 1), whitening_lr=1.0, pool_lr=times,
        weight_decay=1e-6, decayed="all", clip_norm=0.0, warmup_steps=0, schedule="exponential", epoch_steps=3,
        epoch_decay=decay,
    )  # fmt: skip

    def tree(values):
        layer = {"kernel": jnp.asarray(values["kernel"]), "bias": jnp.asarray(values["bias"])}
        return {"network": {"whitening": layer, "pool": {"p": jnp.asarray(values["p"])}}, "loss": {}}

    with jax.enable_x64(True):  # decay of a thousand beside steps of a hundredth: float32 resolves 6e-5 there
        ours = tree(start)
        optimizer = build_optimizer(config, MODEL, ours)
        state = optimizer.init(ours)
        for gradient in gradients:
            updates, state = optimizer.update(tree(gradient), state, ours)
            ours = optax.apply_updates(ours, updates)
    for name, x in (ours["network"]["whitening"] | ours["network"]["pool"]).items():
        moved, expected = np.asarray(x) - start[name], theirs[name].detach().numpy() - start[name]
        assert np.abs(expected).min() > 0
        np.testing.assert_allclose(moved, expected, rtol=1e-8)


def test_adamw_equals_optax_where_all_trains_at_one_rate():
    params = {"network": {"whitening": {"kernel": jnp.arange(6.0).reshape(2, 3)}}, "loss": {}}
    gradient = jax.tree.map(lambda x: jnp.sin(x), params)
    config = TrainConfig(warmup_steps=0, learning_rate=0.1, whitening_lr=1.0, weight_decay=0.05, clip_norm=1e9)
    ours, _ = step(config, params, gradient)
    reference = optax.adamw(0.1, weight_decay=0.05)
    theirs, _ = reference.update(gradient, reference.init(params), params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, theirs)
