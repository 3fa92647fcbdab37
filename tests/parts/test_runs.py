"""Runs whose parts are somebody's own: what they go on with, what they refuse, and that no folder brings code along."""

import dataclasses
import json
import logging

import jax
import numpy as np
import pytest

import sret_jax
from sret_jax.config.own_parts import own_part
from sret_jax.errors import UserError
from sret_jax.training import loop
from tests.support.own_parts import forget, forgotten, small_config, use_examples, write_parts
from tests.support.photos import write_photos
from tests.support.tiny_training import Killed, make_run

POOLING = '''
@sret_jax.register("pooling", "mine")
class Mine(nn.Module):
    """A comment."""
    @nn.compact
    def __call__(self, x, mask):
        weight = self.param("weight", nn.initializers.ones, (1, x.shape[-1]))
        return (jnp.where(mask[..., None], x, 0).sum((1, 2)) / mask.sum((1, 2))[:, None]) * weight

@sret_jax.register("loss", "near")
def near(x, labels, margin=1.0):
    alike = labels[:, None] == labels[None]
    return jnp.where(alike, 1 - x @ x.T, jnp.maximum(x @ x.T - 1 + margin, 0)).mean()
'''
MODEL = {"backbone": "patches", "pool": "mine"}


@pytest.fixture(autouse=True)
def registered():
    with forgotten():
        use_examples("backbone")
        yield


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"))


def config(photos, **more):
    return dataclasses.replace(small_config(photos, model=MODEL, loss="near", parts={"near": {"margin": 0.5}}), **more)


def test_a_run_goes_on_to_the_same_bits_and_refuses_another_source(photos, tmp_path, monkeypatch):
    file = write_parts(tmp_path / "own.py", POOLING)
    run, settings = make_run(monkeypatch), config(photos)
    whole = run(settings, tmp_path / "whole")
    with pytest.raises(Killed):
        run(settings, tmp_path / "killed", 2)
    write_parts(file, POOLING.replace("A comment.", "Another."))  # the same source
    again = run(settings, tmp_path / "killed")
    jax.tree.map(np.testing.assert_array_equal, whole.params, again.params)

    with pytest.raises(Killed):
        run(settings, tmp_path / "changed", 2)
    write_parts(file, POOLING.replace("1 - x @ x.T", "2 - x @ x.T"))
    says = r"own\.py:16: the loss 'near' is not what .*changed was made with; .*--config.changed_parts=True"
    with pytest.raises(UserError, match=says):
        run(settings, tmp_path / "changed")
    run(dataclasses.replace(settings, changed_parts=True), tmp_path / "changed")
    before, now = (
        json.loads((tmp_path / name / "config.json").read_text())["config"]["sources"] for name in ("whole", "changed")
    )
    assert before["loss near"] != now["loss near"] and before["pooling mine"] == now["pooling mine"]


def test_a_finished_run_is_measured_with_a_source_that_was_accepted(photos, tmp_path):
    file, settings = write_parts(tmp_path / "own.py", POOLING), config(photos)
    sret_jax.train(settings, tmp_path / "run")
    write_parts(file, POOLING.replace("* weight", "* weight * 2"))
    with pytest.raises(UserError, match="the pooling 'mine' is not what .*run was made with"):
        sret_jax.train(settings, tmp_path / "run")
    sret_jax.train(dataclasses.replace(settings, changed_parts=True), tmp_path / "run")


def test_a_network_says_which_part_of_which_file_it_needs_and_imports_none(photos, tmp_path):
    file, found = write_parts(tmp_path / "own.py", POOLING), sret_jax.open_photos(photos)
    retriever = sret_jax.train(config(photos), tmp_path / "run")
    saved, expected = tmp_path / "saved", retriever.describe(found)
    retriever.save(saved)
    (tmp_path / "run/own.py").write_text("raise SystemExit('a folder was executed')\n")
    with forgotten():
        forget()
        use_examples("backbone")
        for folder in (saved, tmp_path / "run"):
            with pytest.raises(UserError, match=r"needs the pooling 'mine' of own\.py, .*--parts=own\.py") as error:
                sret_jax.load(folder)
            assert "\n" not in str(error.value)
        assert own_part("pooling", "mine") is None

        write_parts(file, POOLING.partition('@sret_jax.register("loss"')[0])  # describing needs no loss
        again = sret_jax.load(tmp_path / "run")
        np.testing.assert_array_equal(again.describe(found), expected)
        again.save(saved)
        np.testing.assert_array_equal(sret_jax.load(saved).describe(found), expected)

        write_parts(file, POOLING.replace("* weight", "* weight * 2"))
        with pytest.raises(UserError, match=r"own\.py:8: the pooling 'mine' is not what .*saved was made with"):
            sret_jax.load(saved)
        accepted = sret_jax.load(saved, dataclasses.replace(again.config, changed_parts=True))
        assert accepted.fingerprint != again.fingerprint  # what was stored with the other source is made again


def test_numbers_that_are_not_finite_name_the_part(photos, tmp_path, monkeypatch):
    write_parts(tmp_path / "own.py", POOLING.replace("return jnp.where(alike", "return jnp.nan * jnp.where(alike"))
    says = r"step 1: .* is nan.*look first at your own .*own\.py:8 \(pooling 'mine'\), own\.py:16 \(loss 'near'\)"
    with pytest.raises(UserError, match=says):
        loop.train(config(photos), tmp_path / "run")


def test_a_descriptor_that_is_not_finite_names_the_part(photos, tmp_path):
    write_parts(tmp_path / "own.py", POOLING.replace("* weight", "* weight * jnp.nan"))
    retriever = sret_jax.load(small_config(photos, model=MODEL | {"whitening": False}))
    with pytest.raises(UserError, match=r"0\.jpg: its descriptor is not finite; look first at your own .*own\.py:8"):
        retriever.extract(sret_jax.open_photos(photos), tmp_path / "store")


def test_an_error_in_training_has_the_line_of_theirs(photos, tmp_path, caplog):
    caplog.set_level(logging.ERROR)
    write_parts(tmp_path / "own.py", POOLING.replace("    alike = ", "    x @ x\n    alike = "))
    with pytest.raises(UserError, match=r"own\.py:17: loss 'near': TypeError: .*"):
        loop.train(config(photos), tmp_path / "run")


def test_a_backbone_brings_its_own_weights(tmp_path):
    text = """
def weights():
    return {"params": {"scale": np.full((1, 1, 1, 3), 2.0, np.float32)}}

@sret_jax.register("backbone", "scaled")
class Scaled(nn.Module):
    size_multiple = 1
    stages, channels, pretrained = {"last": 1}, {"last": 3}, staticmethod(weights)
    @nn.compact
    def __call__(self, images, mask, train=False, last_stage="last"):
        x = images.astype(jnp.float32) * self.param("scale", nn.initializers.ones, (1, 1, 1, 3))
        return {"last": (x, mask)}
"""
    write_parts(tmp_path / "own.py", text)
    model = {"backbone": "scaled", "pool": "spoc", "whitening": False}
    retriever = sret_jax.load(small_config("", model=model | {"weights": "auto"}))
    assert (retriever.variables["params"]["backbone"]["own"]["scale"] == 2).all()
    with pytest.raises(UserError, match=r"config.model.weights='x.pth': .*'scaled' takes \"auto\" \(its own\) or"):
        sret_jax.load(small_config("", model=model | {"weights": "x.pth"}))
