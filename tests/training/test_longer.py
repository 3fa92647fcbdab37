"""A run that grows: what it goes on with, at which rate, and what is done anew."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sret_jax.config import TrainConfig
from sret_jax.errors import UserError
from sret_jax.training import loop, optimizer
from sret_jax.training.checkpoint import Checkpoints
from sret_jax.training.optimizer import learning_rate
from sret_jax.training.validation import Validation
from tests.support.tiny_training import Killed, config, logged, make_run, validated


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def lengths(workdir):
    return json.loads((workdir / "config.json").read_text())["lengths"]


@pytest.fixture
def piecewise(monkeypatch):
    """`f(run, settings, workdir, 4, 8)`: a run of the last length that no checkpoint divides, at the rates of each."""

    def whole(run, settings, workdir, first, last):
        of = learning_rate
        rates = [of(dataclasses.replace(settings.train, steps=steps)) for steps in (first, last)]
        with monkeypatch.context() as patch:
            patch.setattr(
                optimizer,
                "learning_rate",
                lambda *_: lambda step: jnp.where(step < first, rates[0](step), rates[1](step)),
            )
            settings.train.steps = last
            return run(settings, workdir)

    return whole


def test_the_rate_of_a_run_that_grew_is_that_of_its_length_at_every_step():
    settings = TrainConfig(steps=900, warmup_steps=20)
    grown = learning_rate(settings, ((0, 300), (300, 600), (450, 900)))
    of = {steps: learning_rate(dataclasses.replace(settings, steps=steps)) for steps in (300, 600, 900)}
    for step in (0, 10, 20, 299, 300, 449, 450, 899):
        steps = 300 if step < 300 else 600 if step < 450 else 900
        assert grown(step) == of[steps](step)
    assert grown(299) < 1e-6 and abs(grown(300) - settings.learning_rate / 2) < 3e-5


def test_a_run_that_grows_equals_one_with_the_same_rates(tiny, piecewise, tmp_path):
    tiny(config(steps=4), tmp_path / "grown")
    grown = tiny(config(steps=8), tmp_path / "grown")
    same(grown, piecewise(tiny, config(), tmp_path / "whole", 4, 8))
    assert int(grown.step) == 8 and lengths(tmp_path / "grown") == [[0, 4], [4, 8]]
    assert [line["step"] for line in logged(tmp_path / "grown")][-1] == 8


def test_growing_at_once_equals_having_grown_where_the_rate_falls_by_epochs(tiny, tmp_path):
    settings = {"schedule": "exponential", "epoch_steps": 2, "epoch_decay": 0.5}
    for steps in (3, 4, 8):
        grown = tiny(config(steps=steps, **settings), tmp_path / "grown")
    same(grown, tiny(config(steps=8, **settings), tmp_path / "whole"))
    assert lengths(tmp_path / "grown") == [[0, 3], [3, 4], [4, 8]]


def test_killed_in_its_second_part_it_ends_with_the_same_bits(tiny, piecewise, tmp_path):
    tiny(config(steps=4, save_every=3), tmp_path / "grown")
    for steps in (1, 3):  # before anything of the second part is saved, and after
        with pytest.raises(Killed):
            tiny(config(steps=8, save_every=3), tmp_path / "grown", steps)
    same(tiny(config(steps=8, save_every=3), tmp_path / "grown"), piecewise(tiny, config(), tmp_path / "whole", 4, 8))


def test_damage_of_the_step_it_grew_from_costs_an_interval_and_no_bit(tiny, piecewise, tmp_path):
    tiny(config(steps=4), tmp_path / "grown")
    with pytest.raises(Killed):
        tiny(config(steps=8), tmp_path / "grown", 1)
    for step in (4, 5):
        (tmp_path / "grown" / "checkpoints" / str(step) / "record.json").write_text("{}")
    grown = tiny(config(steps=8), tmp_path / "grown")
    assert (tmp_path / "grown" / "checkpoints" / "4.damaged").exists()
    same(grown, piecewise(tiny, config(), tmp_path / "whole", 4, 8))


def test_a_run_that_was_stopped_grows_from_the_step_that_is_saved(tiny, piecewise, tmp_path):
    with pytest.raises(Killed):
        tiny(config(steps=6, save_every=2), tmp_path / "grown", 3)
    grown = tiny(config(steps=8, save_every=2), tmp_path / "grown")
    assert lengths(tmp_path / "grown")[1] == [2, 8]

    def of(steps):
        return learning_rate(dataclasses.replace(config().train, steps=steps))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimizer, "learning_rate", lambda *_: lambda step: jnp.where(step < 2, of(6)(step), of(8)(step)))
        same(grown, tiny(config(steps=8), tmp_path / "whole"))


def test_nothing_but_its_length_may_change_and_that_only_grow(tiny, tmp_path):
    tiny(config(steps=4), tmp_path)
    with pytest.raises(UserError, match=r"begun with config.train.steps=4, now it is 3: a run can only grow"):
        tiny(config(steps=3), tmp_path)
    with pytest.raises(UserError, match=r"begun with config.train.learning_rate=0.05, now it is 0.1"):
        tiny(config(steps=8, learning_rate=0.1), tmp_path)
    assert lengths(tmp_path) == [[0, 4]]


def test_what_follows_training_is_done_anew(monkeypatch, tmp_path):
    """The network that validation chose, the whitening layer, the whitening learned afterwards, and the measurement."""
    run, seen = make_run(monkeypatch), []

    def settings(steps):
        found = validated(tmp_path / "cache", steps=steps, keep=9)
        found.whitening = dataclasses.replace(found.whitening, kind="pca", dim=4)
        return found

    def measure(network, tag):
        seen.append(network)

    run(settings(4), tmp_path / "grown", measure=measure)
    run(settings(8), tmp_path / "grown", measure=measure)
    first, second = seen
    assert second.config.train.steps == 8 and second.whitening.projection.shape == (8, 4)
    saved = Checkpoints(tmp_path / "grown" / "checkpoints", 9).latest()
    assert (saved.step, saved.record["finished"], saved.record["lengths"]) == (8, True, [[0, 4], [4, 8]])
    assert [step for step, _ in saved.record["validation"]["curve"]] == [0, 2, 4, 6, 8]
    same(saved.whitening, second.whitening)
    same(saved.arrays["chosen"]["variables"], second.variables)
    with pytest.raises(Killed):
        run(settings(8), tmp_path / "killed", 0)  # with the rates of 8 steps all along: not the same run
    assert lengths(tmp_path / "killed") == [[0, 8]]
    run(settings(8), tmp_path / "grown", measure=measure)  # finished: measured again, and nothing else
    same(seen[2].variables, second.variables)
    assert loop.Workdir(tmp_path / "grown").checkpoint(8).is_dir()


def test_a_run_that_patience_ended_goes_on_when_it_grows(tmp_path, monkeypatch):
    monkeypatch.setattr(Validation, "measure", never_better)
    for steps, last in ((6, 2), (8, 4)):
        loop.train(validated(tmp_path / "cache", steps=steps, patience=1, keep=9), tmp_path / "run")
        assert Checkpoints(tmp_path / "run/checkpoints", 9).latest().step == last
    assert lengths(tmp_path / "run") == [[0, 6], [2, 8]]


def never_better(validation, step, variables):
    validation.curve.append((step, 50.0))
    if validation.start is None:
        validation.start = validation.best = np.full(2, 50.0)
    validation.variables = validation.variables or variables
    return 50.0
