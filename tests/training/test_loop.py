"""Whole runs: on photographs as people have them, on stored maps, and with validation that keeps the best network."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from sret_jax.errors import UserError
from sret_jax.extraction.descriptors import Extractor
from sret_jax.metrics.ranking import leave_one_out_map
from sret_jax.models.descriptor import build_network
from sret_jax.training import loop, parallel
from sret_jax.training.checkpoint import Checkpoints, load_network
from sret_jax.training.shown import Shown
from sret_jax.training.whitening import whitened_start
from tests.support.photos import write_photo, write_photos
from tests.support.tiny_training import Killed, config, logged, make_run, make_tiny, validated


@pytest.fixture
def tiny(monkeypatch):
    prepare = loop.prepare_photos
    run = make_tiny(monkeypatch)
    monkeypatch.setattr(loop, "prepare_photos", prepare)
    return run


def test_a_run_on_unsorted_photographs_of_two_folders_resumes_to_the_same_bits(tiny, tmp_path):
    for seed, name in enumerate(("one/a.jpg", "one/deep/b.jpg", "two/a.jpg", "two/c.jpg", "two/d.jpg")):
        write_photo(tmp_path / name, seed)
    settings = config(steps=2, accumulate=1)
    settings.data.dataset, settings.data.sampling, settings.data.source_balance = "photos", "instances", 0.5
    settings.data.root, settings.data.cache_dir = f"{tmp_path}/one,{tmp_path}/two", str(tmp_path / "cache")
    settings.data.instances_per_batch, settings.data.photos_per_instance = 4, 2
    whole = tiny(settings, tmp_path / "whole")
    with pytest.raises(Killed):
        tiny(settings, tmp_path / "killed", 1)
    jax.tree.map(np.testing.assert_array_equal, whole, tiny(settings, tmp_path / "killed"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def run(monkeypatch):
    return make_run(monkeypatch)


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def copied(tree):
    return jax.tree.map(np.array, tree)


def assert_same_runs(ours, theirs):
    saved, expected = (Checkpoints(workdir / "checkpoints", 2).latest() for workdir in (ours, theirs))
    assert saved.step == expected.step
    same(saved.arrays, expected.arrays)
    for name in ("data", "validation", "finished"):
        assert saved.record[name] == expected.record[name]
    assert logged(ours) == logged(theirs)


def test_a_run_that_is_validated_ends_with_the_same_bits_however_often_it_is_killed(run, cache, tmp_path):
    settings = validated(cache)
    whole = run(settings, tmp_path / "whole")
    for steps in (1, 3, 1):  # before anything is saved, after a validation that is not, between two
        with pytest.raises(Killed):
            run(settings, tmp_path / "killed", steps)
    same(whole, run(settings, tmp_path / "killed"))
    assert_same_runs(tmp_path / "killed", tmp_path / "whole")
    lines = logged(tmp_path / "whole")
    assert [line["step"] for line in lines if "val_mAP" in line] == [0, 2, 4, 6]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert int(whole.step) == 6


def test_the_network_that_is_used_is_the_one_that_validation_chose(run, cache, tmp_path):
    """Here it gets better, and then worse."""
    settings = validated(cache, steps=12, validate_every=3, whitening_refit="none", loss="infonce")
    settings.model.whitening_init, settings.train.whitening_lr, settings.train.learning_rate = "random", 1.0, 0.2
    seen = []
    state = run(settings, tmp_path, measure=lambda network, tag: seen.append(network))
    saved, loaded = Checkpoints(tmp_path / "checkpoints", 2).latest(), load_network(tmp_path)
    curve = [tuple(point) for point in saved.record["validation"]["curve"]]
    assert [step for step, _ in curve] == [0, 3, 6, 9, 12] and int(state.step) == saved.step == 12
    best = max(curve, key=lambda point: point[1])[0]
    assert 0 < best < 12 and loaded.step == seen[0].step == saved.record["validation"]["step"] == best
    same(loaded.variables["params"], saved.arrays["chosen"]["variables"]["params"])
    same(seen[0].variables["params"], loaded.variables["params"])
    train_photos, held_out = loop.split_for_validation(settings, tmp_path, loop.prepare_photos(settings, tmp_path))
    assert (len(train_photos.instances), len(held_out.instances)) == (4, 2)
    x = Extractor(build_network(settings.model), loaded.variables, settings).describe(held_out, range(8))
    measured = leave_one_out_map(x @ x.T, held_out.labels)["mAP"]
    np.testing.assert_allclose(measured, dict(curve)[best], atol=0.5)
    lines = {line["step"]: line for line in logged(tmp_path) if "val_mAP" in line}
    assert lines[best]["val_best_step"] == lines[12]["val_best_step"] == best


def test_patience_ends_a_run_and_what_has_ended_is_not_trained_again(run, cache, tmp_path, caplog):
    settings = validated(cache, patience=1, learning_rate=1e-9)  # no network is better
    state = run(settings, tmp_path)
    assert int(state.step) == 2 and "training ends after step 2: no better network since step 0" in caplog.text
    caplog.clear()
    seen = []
    same(run(settings, tmp_path, 0, lambda network, tag: seen.append(network)), state)
    assert "is finished; it is measured again" in caplog.text and "training did not help" in caplog.text
    same(seen[0].variables["params"], load_network(tmp_path).variables["params"])
    assert seen[0].step == 0


def test_killed_after_patience_has_ended_it_a_run_is_not_trained_on(run, cache, tmp_path, monkeypatch):
    settings = validated(cache, patience=1, learning_rate=1e-9)
    whole = run(settings, tmp_path / "whole")

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(loop, "learn_whitening", killed)
        run(settings, tmp_path / "killed")
    same(run(settings, tmp_path / "killed", 0), whole)
    assert_same_runs(tmp_path / "killed", tmp_path / "whole")


def test_where_training_makes_it_worse_the_start_is_kept(run, cache, tmp_path, caplog):
    settings = validated(cache, whitening_refit="none", whitening_lr=1.0, learning_rate=30.0, optimizer="adam")
    settings.eval.untrained, seen = True, {}
    state = run(settings, tmp_path, measure=lambda network, tag: seen.update({tag: copied(network.variables)}))
    loaded, start = load_network(tmp_path), seen["-untrained"]
    same(loaded.variables["params"], start["params"])
    same(seen[""]["params"], start["params"])
    assert loaded.step == 0 and "training did not help: no step beats the start" in caplog.text
    assert np.abs(state.params["network"]["whitening"]["kernel"] - start["params"]["whitening"]["kernel"]).max() > 1


def test_without_validation_the_whitening_of_the_last_network_is_filled_again(run, cache, tmp_path):
    settings = validated(cache, validate_every=0, steps=2)
    state = run(settings, tmp_path / "run")
    loaded = load_network(tmp_path / "run")
    assert loaded.step == 2
    photos = loop.prepare_photos(settings, tmp_path)
    last = {"params": state.params["network"], "batch_stats": state.batch_stats}
    expected = whitened_start(settings, last, Shown(photos, settings), "within")["params"]["whitening"]
    np.testing.assert_allclose(loaded.variables["params"]["whitening"]["kernel"], expected["kernel"], atol=0.02)
    same(loaded.variables["params"]["pool"], state.params["network"]["pool"])
    assert "val_mAP" not in str(logged(tmp_path / "run"))
    same(run(settings, tmp_path / "run", 0), state)  # and is not trained again


def test_the_backbone_that_is_used_lies_between_start_and_end_and_a_killed_run_has_the_same(run, cache, tmp_path):
    settings = validated(cache, validate_every=0, steps=2, on_maps=False, train_from="c2", backbone_lr=1.0)
    settings.train.start_share, settings.train.whitening_refit, settings.eval.untrained = 0.25, "none", True
    seen = {}
    state = run(settings, tmp_path / "run", measure=lambda network, tag: seen.update({tag: copied(network.variables)}))
    start, last = seen["-untrained"]["params"], copied(state.params["network"])
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), start["backbone"], last["backbone"])
    assert max(jax.tree.leaves(moved)) > 0.005
    used = load_network(tmp_path / "run").variables["params"]
    expected = jax.tree.map(lambda a, b: 0.25 * a + 0.75 * b, start["backbone"], last["backbone"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), used["backbone"], expected)
    same(used["whitening"], last["whitening"])
    same(seen[""]["params"], used)
    with pytest.raises(Killed):
        run(settings, tmp_path / "killed", 1)
    run(settings, tmp_path / "killed")
    same(load_network(tmp_path / "killed").variables["params"], used)


def test_on_maps_a_run_learns_what_it_learns_on_photographs_that_are_shown_as_they_are(run, cache, tmp_path):
    plain = {"crop_area": (1.0, 1.0), "flip": 0.0, "colour": 0.0, "jpeg": 0.0}
    params = []
    for on_maps in (True, False):
        settings = validated(cache, validate_every=0, steps=2, on_maps=on_maps, optimizer="sgd", whitening_lr=1.0)
        settings.data = dataclasses.replace(settings.data, **plain)
        params.append(run(settings, tmp_path / str(on_maps)).params["network"])
    for part in ("pool", "whitening"):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=0.01), params[0][part], params[1][part])


def test_a_loss_that_is_not_finite_is_named_before_its_network_is_validated(run, cache, tmp_path, monkeypatch):
    compiled = parallel.data_parallel

    def spoiled(step, by):
        run_step = compiled(step, by)

        def second_is_not_a_number(state, batch):
            state, metrics = run_step(state, batch)
            if int(state.step) == 2:
                params = jax.tree.map(lambda leaf: leaf * np.float32("nan"), state.params)
                state, metrics = state.replace(params=params), metrics | {"loss": metrics["loss"] * np.float32("nan")}
            return state, metrics

        return second_is_not_a_number

    monkeypatch.setattr(parallel, "data_parallel", spoiled)
    with pytest.raises(UserError, match=r"step 2: loss is nan, training stops; lower config.train.learning_rate"):
        run(validated(cache), tmp_path)
    assert not any((tmp_path / "checkpoints").iterdir())


def test_the_split_that_is_named_is_validated_on(tmp_path):
    write_photos(tmp_path / "photos", instances=6)
    own = ["tower 0", "tower 1", "tower 5"]
    splits = {"train": own, "val": ["tower 2", "tower 4"], "test": ["tower 3"]}
    (tmp_path / "splits.json").write_text(json.dumps(splits))
    settings = validated(tmp_path / "cache")
    settings.data.dataset, settings.data.root = "folder", str(tmp_path / "photos")
    settings.data.splits = str(tmp_path / "splits.json")

    def split():
        photos, held_out = loop.split_for_validation(settings, tmp_path, loop.prepare_photos(settings, tmp_path))
        return photos.instances, held_out and held_out.instances

    assert split() == (own, ["tower 2", "tower 4"])
    settings.data.validation, settings.data.held_out = "nothing", 0.3
    train_photos, held_out = split()
    assert len(train_photos) == 2 and len(held_out) == 1 and {*train_photos, *held_out} == set(own)
    settings.train.validate_every = 0
    assert split() == (own, None)
