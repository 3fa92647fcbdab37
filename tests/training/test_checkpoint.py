import dataclasses
import json
import logging
import os
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sret_jax import config
from sret_jax.config import Config, ModelConfig
from sret_jax.errors import UserError
from sret_jax.models.descriptor import build_network, init_network
from sret_jax.models.whitening import LearnedWhitening
from sret_jax.storage import artifacts
from sret_jax.storage.checkpoint import newest_step, steps_in
from sret_jax.training import checkpoint
from sret_jax.training.checkpoint import Checkpoints, check_same_model, load_network, restore
from sret_jax.training.step import TrainState

LEARNED = LearnedWhitening(np.arange(2.0), np.eye(2))


def state(value=1.0):
    """A state with what makes trees hard: empty nodes, masked nodes, scalars, integers, half precision."""
    params = {"network": {"a": jnp.full((3, 2), value), "b": {"c": jnp.array(value, jnp.bfloat16)}}, "loss": {}}
    optimizer = optax.partition(
        {"on": optax.chain(optax.adam(0.1), optax.trace(0.9)), "off": optax.set_to_zero()},
        {"network": {"a": "on", "b": {"c": "off"}}, "loss": {}},
    )
    memory = jax.tree.map(lambda x: x + jnp.asarray(value, x.dtype), optimizer.init(params))
    return TrainState(jnp.int32(value), params, {"m": jnp.zeros(2)}, memory, jax.random.key_data(jax.random.key(7)))


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert jax.tree.structure(a) == jax.tree.structure(b)


def steps(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_comes_back(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.latest() is None
        checkpoints.save(3, state(3.0), {"data": {"next": 4}}, LEARNED)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        saved = checkpoints.latest()
        assert (saved.step, saved.record["data"]) == (3, {"next": 4})
        back = restore(state(0.0), saved.arrays, "here")
        same(back, state(3.0))
        assert back.params["network"]["b"]["c"].dtype == jnp.bfloat16
        assert isinstance(saved.whitening, LearnedWhitening)
        same(saved.whitening, LEARNED)
        artifacts.verify_folder(tmp_path / "3")


def test_only_the_newest_are_kept_and_a_step_can_be_saved_again(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (5, 10, 15, 15):
            checkpoints.save(step, state(step), {})
        checkpoints.wait()
        assert steps(tmp_path) == ["10", "15"]
        same(restore(state(), checkpoints.latest().arrays, ""), state(15))


def test_saving_does_not_hold_up_training(tmp_path, monkeypatch):
    may_write, write = threading.Event(), checkpoint.artifacts.seal_folder
    monkeypatch.setattr(checkpoint.artifacts, "seal_folder", lambda folder: (may_write.wait(20), write(folder)))
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        values = {"x": np.ones(4, np.float32)}
        checkpoints.save(1, values, {})  # returns although the disk is busy
        values["x"][:] = 2  # training goes on
        assert not (tmp_path / "1").exists()
        may_write.set()
        checkpoints.wait()
        np.testing.assert_array_equal(checkpoints.latest().arrays["state"]["x"], np.ones(4))


def damage_every_file(folder):
    """One damaged copy's worth of work at a time: flips a byte, cuts, removes. Yields after each, then mends it."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        whole = path.read_bytes()
        for kind in ("flip", "cut", "remove"):
            if kind == "remove":
                path.unlink()
            elif not whole:
                continue
            else:
                middle = len(whole) // 2
                flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
                path.write_bytes(flipped if kind == "flip" else whole[:middle])
            yield f"{kind} {path.relative_to(folder)}"
            path.write_bytes(whole)


def test_any_damage_is_noticed_and_the_step_before_is_used(tmp_path, caplog):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(1, state(1.0), {})
        checkpoints.save(2, state(2.0), {})
    tried = 0
    for what in damage_every_file(tmp_path / "2"):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert newest_step(tmp_path) == 1, what
        assert "step 2 is damaged" in caplog.text and str(tmp_path / "2") in caplog.text
        tried += 1
    assert tried > 20 and newest_step(tmp_path) == 2


def test_a_damaged_step_is_set_aside_so_that_it_can_be_saved_again(tmp_path):
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.keep = 2
        checkpoints.save(1, state(1.0), {})
        checkpoints.save(2, state(2.0), {})
        checkpoints.wait()
        (tmp_path / "2" / "record.json").write_text("{}")
        assert checkpoints.latest().step == 1
        assert steps(tmp_path) == ["1", "2.damaged"]
        checkpoints.save(2, state(4.0), {})
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        same(restore(state(), checkpoints.latest().arrays, ""), state(4.0))


def test_leftovers_of_a_kill_are_cleaned_and_a_replaced_step_comes_back(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(1, state(1.0), {})
        checkpoints.save(2, state(2.0), {})
    os.rename(tmp_path / "2", tmp_path / ".2.replaced")  # killed between the two renames
    for name in (".3.building", ".0.deleting", ".1.replaced"):
        (tmp_path / name / "arrays").mkdir(parents=True)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert steps(tmp_path) == ["1", "2"]
        assert checkpoints.latest().step == 2


FLOATS = [
    jax.tree_util.keystr(path)
    for path, leaf in jax.tree_util.tree_leaves_with_path(state())
    if jnp.issubdtype(leaf.dtype, jnp.inexact)
]


def test_a_state_has_parameters_statistics_and_moments_that_may_not_be_finite():
    assert {name.split("[")[0].split(".")[1] for name in FLOATS} == {"params", "batch_stats", "opt_state"}
    assert len(FLOATS) >= 6


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf])
@pytest.mark.parametrize("name", FLOATS)
def test_no_value_of_a_state_that_is_not_finite_is_saved(tmp_path, name, value):
    def spoiled(path, leaf):
        return leaf.at[(0,) * leaf.ndim].set(value) if jax.tree_util.keystr(path) == name else leaf

    bad = jax.tree_util.tree_map_with_path(spoiled, state())
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(8, state(), {})
        with pytest.raises(UserError, match="step 9: state/.* is not finite, so it was not saved"):
            checkpoints.save(9, bad, {})
    assert steps(tmp_path) == ["8"] and newest_step(tmp_path) == 8


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nothing_beside_the_state_that_is_not_finite_is_saved(tmp_path, value):
    learned = LEARNED._replace(mean=np.array([0, value]))
    chosen = {"variables": {"params": {"a": jnp.full(3, value, jnp.bfloat16)}}}
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        with pytest.raises(UserError, match="step 9: whitening/mean is not finite"):
            checkpoints.save(9, state(), {}, learned)
        with pytest.raises(UserError, match="step 9: chosen/variables/params/a is not finite"):
            checkpoints.save(9, state(), {}, LEARNED, chosen)
    assert steps(tmp_path) == []


def test_an_error_of_a_save_is_raised_by_the_next_call(tmp_path):
    (tmp_path / ".1.building").write_text("in the way")
    checkpoints = Checkpoints.__new__(Checkpoints)
    Checkpoints.__init__(checkpoints, tmp_path / "deep", 2)
    (tmp_path / "deep").rmdir()
    (tmp_path / "deep").write_text("a file where the folder was")
    checkpoints.save(1, state(), {})
    with pytest.raises(UserError, match="deep: is gone; put it back"):
        checkpoints.save(2, state(), {})
    checkpoints.close()


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda params: params.pop("a"), "has params/network/a, which this architecture"),
        (lambda params: params.update(z=jnp.zeros(2)), "has no params/network/z"),
        (lambda params: params.update(a=jnp.zeros((3, 5))), r"params/network/a has shape \(3, 2\), expected \(3, 5\)"),
    ],
)
def test_a_state_of_another_shape_is_refused_by_name(tmp_path, change, message):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(1, state(), {})
        checkpoints.wait()
        template = state()
        change(template.params["network"])
        with pytest.raises(UserError, match=message):
            restore(template, checkpoints.latest().arrays, "run")


KILLED = """
import os, sys
import numpy as np
from pathlib import Path
from sret_jax.training.checkpoint import Checkpoints

# For many n a child dies before the n-th file-system call of saves that replace a step and delete another.
calls = target = 0
def killing(call):
    def counted(*args, **kwargs):
        global calls
        calls += 1
        if calls == target:
            os.kill(os.getpid(), 9)
        return call(*args, **kwargs)
    return counted

def state(value):
    return {"x": np.full(1000, value, np.float32), "y": {"z": np.full(10, value, np.float32)}}

def work(folder):
    with Checkpoints(folder, keep=2) as checkpoints:
        checkpoints.save(1, state(1), {})
        checkpoints.save(2, state(2), {})
        checkpoints.wait()
        for name in ("rename", "replace", "fsync", "unlink", "rmdir", "mkdir"):
            setattr(os, name, killing(getattr(os, name)))
        checkpoints.save(2, state(2), {})
        checkpoints.save(3, state(3), {})

while True:
    target += 1 if target < 4 else 5
    child = os.fork()  # nothing of JAX runs in the parent
    if child == 0:
        work(Path(sys.argv[1]) / str(target))
        os._exit(0)
    if os.waitpid(child, 0)[1] != 9:
        break
print(len(os.listdir(sys.argv[1])) - 1)
"""


@pytest.mark.slow
def test_a_save_killed_at_any_file_system_call_leaves_whole_steps(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 12
    for folder in tmp_path.iterdir():
        with Checkpoints(folder, keep=2) as checkpoints:
            for step in steps_in(folder):
                artifacts.verify_folder(folder / str(step))
            saved = checkpoints.latest()
            assert saved.step in (2, 3)
            np.testing.assert_array_equal(saved.arrays["state"]["x"], np.full(1000, saved.step))
            assert not list(folder.glob(".*"))


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A workdir with one checkpoint of a small network."""
    workdir = tmp_path_factory.mktemp("run")
    run = Config(model=ModelConfig(weights="none", stage="c2", whitening_dim=8, whitening_init="random"))
    variables = init_network(build_network(run.model), run.model, jax.random.key(0))
    saved = TrainState(
        np.int32(4), {"network": variables["params"], "loss": {}}, variables["batch_stats"], {}, np.zeros(2, np.uint32)
    )
    with Checkpoints(workdir / "checkpoints", 2) as checkpoints:
        checkpoints.save(4, saved, {"config": config.to_dict(run)})
    return workdir, run, variables


def test_a_network_is_loaded_from_a_workdir_or_a_step(run_folder):
    workdir, run, variables = run_folder
    for path in (workdir, workdir / "checkpoints" / "4"):
        loaded = load_network(path)
        assert (loaded.config, loaded.step, loaded.whitening) == (run, 4, None)
        same(loaded.variables, jax.tree.map(np.array, variables))


def test_a_network_of_another_architecture_is_refused_naming_the_field(run_folder):
    workdir, run, _ = run_folder
    trained = load_network(workdir).config
    check_same_model(trained, None, workdir)
    check_same_model(trained, run, workdir)
    other = Config(model=dataclasses.replace(run.model, whitening_dim=16))
    with pytest.raises(UserError, match="config.model.whitening_dim=8, not 16"):
        check_same_model(trained, other, workdir)


def test_parameters_that_do_not_fit_their_own_config_are_refused(run_folder, tmp_path):
    workdir, run, _ = run_folder
    with Checkpoints(tmp_path / "checkpoints", 2) as checkpoints:
        saved = Checkpoints(workdir / "checkpoints", 2).latest()
        saved.arrays["state"]["params"]["network"]["whitening"]["kernel"] = np.zeros((24, 9), np.float32)
        checkpoints.save(4, saved.arrays["state"], {"config": config.to_dict(run)})
    with pytest.raises(UserError, match=r"params/whitening/kernel has shape \(24, 9\), expected \(24, 8\)"):
        load_network(tmp_path)


def test_a_folder_without_checkpoints_is_named(tmp_path):
    with pytest.raises(UserError, match="holds no checkpoint; train first"):
        load_network(tmp_path)


def test_the_record_is_plain_json(run_folder):
    record = json.loads((run_folder[0] / "checkpoints" / "4" / "record.json").read_text())
    assert record["step"] == 4 and record["config"]["model"]["stage"] == "c2"
