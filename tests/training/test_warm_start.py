"""Runs that start from a run: the weights of the instances, the first step, and a start that has changed since."""

import dataclasses
import logging

import jax
import numpy as np
import pytest

from sret_jax.config import Config, ModelConfig, to_dict
from sret_jax.errors import UserError
from sret_jax.storage.checkpoint import write_step
from sret_jax.storage.workdir import Workdir
from sret_jax.training.checkpoint import Checkpoints, load_network
from sret_jax.training.warm_start import class_weights, instances_key
from tests.support.tiny_training import Killed, make_run, validated

INSTANCES = ["a", "b", "c"]
FRESH = {"weights": np.zeros((3, 4), np.float32)}


def write_run(workdir, instances=INSTANCES, loss=None, model=None, **arrays):
    loss = {"weights": np.ones((3, 4), np.float32)} if loss is None else loss
    state = {"params": {"network": {"x": np.zeros(2)}, "loss": loss}}
    record = {
        "step": 2,
        "config": to_dict(Config(model=model or ModelConfig())),
        "instances_key": instances_key(instances),
    }
    write_step(Workdir(workdir).checkpoint(2), {"state": state} | arrays, record)
    return workdir


def config(weights, **model):
    return Config(model=ModelConfig(**({"weights": str(weights), "whitening_init": "weights"} | model)))


@pytest.mark.parametrize(
    "instances, written, model, said",
    [
        (INSTANCES, {}, {}, "the weights of its 3 instances are taken"),
        (INSTANCES, {}, {"whitening": False, "whitening_init": "pca"}, "anew: config.model.whitening was another"),
        (INSTANCES, {}, {"pool": "mac"}, "anew: config.model.pool was another"),
        (["a", "b", "d"], {}, {}, "anew: it was trained on other instances"),
        (INSTANCES, {"loss": {"weights": np.ones((3, 2, 4))}}, {}, "anew: its loss has others"),
        (INSTANCES, {}, {"whitening_init": "pca"}, "anew: the whitening layer is made anew, too"),
        (INSTANCES, {"chosen": {"variables": {"x": np.ones(1)}}}, {}, "anew: its network is not that of its last step"),
    ],
)
def test_weights_of_instances_are_taken_where_they_mean_the_same(tmp_path, caplog, instances, written, model, said):
    write_run(tmp_path, **written)
    with caplog.at_level(logging.WARNING):
        found = class_weights(config(tmp_path, **model), instances, FRESH)
    np.testing.assert_array_equal(found["weights"], np.full((3, 4), float("taken" in said), np.float32))
    assert said in caplog.text and caplog.text.count("\n") == 1


def test_a_stage_that_the_pooling_does_not_read_changes_nothing(tmp_path, caplog):
    fields = {"backbone": "dinov2_vits14", "pool": "class_token"}
    write_run(tmp_path, model=ModelConfig(stage="c4", **fields))
    with caplog.at_level(logging.WARNING):
        class_weights(config(tmp_path, stage="last", **fields), INSTANCES, FRESH)
    assert "weights of its 3 instances are taken" in caplog.text


def test_losses_without_weights_read_nothing(tmp_path):
    assert class_weights(config(tmp_path), INSTANCES, {}) == {}
    assert class_weights(config("auto"), INSTANCES, FRESH) is FRESH


@pytest.mark.slow
def test_a_run_starts_from_the_network_of_another_and_refuses_one_that_changed(monkeypatch, tmp_path):
    run, seen = make_run(monkeypatch), []
    first = validated(tmp_path / "cache", steps=2, validate_every=0, whitening_refit="none", loss="arcface", margin=0.2)
    first.model.whitening_init = "random"
    run(first, tmp_path / "first")
    second = dataclasses.replace(first, seed=1, train=dataclasses.replace(first.train, steps=3, save_every=1))
    second.model = dataclasses.replace(first.model, weights=str(tmp_path / "first"), whitening_init="weights")
    second.eval = dataclasses.replace(first.eval, untrained=True)
    with pytest.raises(Killed):
        run(second, tmp_path / "second", 2, measure=lambda network, tag: seen.append((tag, network)))
    ((tag, start),) = seen
    assert tag == "-untrained"
    trained = load_network(tmp_path / "first")
    jax.tree.map(np.testing.assert_array_equal, start.variables["params"], trained.variables["params"])
    state = Checkpoints(tmp_path / "second" / "checkpoints", 2).latest()
    assert state.step in (1, 2) and state.record["start"]
    state.record["start"] = "0"
    write_step(Workdir(tmp_path / "second").checkpoint(state.step), state.arrays, state.record)
    with pytest.raises(UserError, match=r"begun with other weights in config.model.weights=.*trained since"):
        run(second, tmp_path / "second")
