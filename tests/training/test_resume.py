"""A run ends with the same bits whatever happened to it on the way."""

import json
import random
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from sret_jax.errors import UserError
from sret_jax.storage import artifacts
from sret_jax.training import loop
from sret_jax.training.checkpoint import Checkpoints
from sret_jax.training.loop import train
from tests.support import train_driver
from tests.support.commands import run_command, start_driver, wait_for


def drive(workdir, cache, *endings):
    """`{ending: (status, digest)}` of runs of `train_driver` in one workdir, and their log."""
    lines, log = wait_for(start_driver(workdir, cache, *endings))
    return {ending: (int(status), digest) for ending, status, digest in lines}, log


def arrays(workdir):
    return Checkpoints(workdir / "checkpoints", 2).latest()


def logged(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: line[name] for name in ("step", "loss", "gradient_norm")} for line in lines]


pytestmark = pytest.mark.slow  # all but one compare with a run that is made once


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """`(workdir, cache, digest)` of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    ended, _ = drive(folder / "run", folder / "cache", "done")
    return folder / "run", folder / "cache", ended["done"][1]


def assert_same_run(workdir, whole_workdir):
    ours, theirs = arrays(workdir), arrays(whole_workdir)
    assert ours.step == theirs.step == train_driver.STEPS
    assert jax.tree.structure(ours.arrays) == jax.tree.structure(theirs.arrays)
    jax.tree.map(np.testing.assert_array_equal, ours.arrays, theirs.arrays)
    assert ours.record["data"] == theirs.record["data"]
    assert logged(workdir) == logged(whole_workdir)


def test_killed_at_random_steps_it_ends_with_the_same_bits(whole, tmp_path):
    rng = random.Random(0)
    kills = [f"kill@step:{rng.randint(2, 5)}" for _ in range(3)]
    ended, log = drive(tmp_path / "run", whole[1], *kills, "done")
    assert all(ended[kill][0] == -9 for kill in kills)
    assert ended["done"] == (0, whole[2])
    assert "going on after step" in log
    assert_same_run(tmp_path / "run", whole[0])


def test_killed_inside_saves_it_ends_with_the_same_bits(whole, tmp_path):
    kills = "kill@seal:1", "kill@rename:2", "kill@seal:2"
    ended, _ = drive(tmp_path / "run", whole[1], *kills, "done")
    assert all(ended[kill][0] == -9 for kill in kills)
    assert ended["done"] == (0, whole[2])
    assert_same_run(tmp_path / "run", whole[0])


def test_sigterm_saves_the_current_step(whole, tmp_path):
    ended, log = drive(tmp_path / "run", whole[1], "term@step:3", "done")
    assert ended["term@step:3"][0] == 128 + 15
    assert "stopped by SIGTERM after step 3, which is saved" in log and "run the same command again" in log
    assert "going on after step 3" in log
    assert ended["done"] == (0, whole[2])
    assert_same_run(tmp_path / "run", whole[0])


def test_killed_under_pmap_it_goes_on_by_shard_map_with_the_same_bits(whole, tmp_path):
    drive(tmp_path / "run", whole[1], "kill@step:5")
    ended, _ = drive(tmp_path / "run", whole[1], "done", "--parallel=shard_map")
    assert ended["done"] == (0, whole[2])
    assert_same_run(tmp_path / "run", whole[0])


@pytest.fixture
def finished(whole, tmp_path):
    """A copy of the finished run to go on with in this process."""
    shutil.copytree(whole[0], tmp_path / "run")
    return tmp_path / "run", train_driver.driven_config(whole[1])


def test_a_finished_run_is_only_evaluated_again(finished, caplog):
    workdir, config = finished
    seen, before = [], (workdir / "metrics.jsonl").read_bytes()
    state = train(config, workdir, lambda network, tag: seen.append((tag, network)))
    ((tag, network),) = seen
    assert (tag, network.step, network.whitening, network.config) == ("", train_driver.STEPS, None, config)
    jax.tree.map(np.testing.assert_array_equal, network.variables["params"], state.params["network"])
    assert "is finished; it is measured again" in caplog.text
    assert (workdir / "metrics.jsonl").read_bytes() == before and int(state.step) == train_driver.STEPS


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("train.learning_rate", 0.5, r"config.train.learning_rate=0.001, now it is 0.5"),
        ("model.whitening_dim", 4, r"config.model.whitening_dim=8, now it is 4"),
        ("seed", 1, r"config.seed=0, now it is 1"),
        ("data.synthetic_photos", 5, r"config.data.synthetic_photos=4, now it is 5"),
    ],
)
def test_another_config_in_the_same_workdir_is_refused_by_field(finished, field, value, message):
    workdir, config = finished
    *path, last = field.split(".")
    node = config
    for part in path:
        node = getattr(node, part)
    setattr(node, last, value)
    with pytest.raises(UserError, match=message):
        train(config, workdir)


def test_other_photographs_in_the_same_workdir_are_refused(finished):
    workdir, config = finished
    run = artifacts.read_sealed(workdir / "config.json")
    artifacts.write_sealed(workdir / "config.json", run | {"data_fingerprint": "0"})
    with pytest.raises(UserError, match="begun with other photographs"):
        train(config, workdir)


def test_fields_that_cannot_reach_the_parameters_may_change(finished):
    workdir, config = finished
    config.train.log_every, config.train.keep, config.data.threads = 5, 1, 1
    assert int(train(config, workdir).step) == train_driver.STEPS
    assert json.loads((workdir / "config.json").read_text())["config"]["train"]["keep"] == 1


def test_other_devices_are_refused_while_steps_remain(finished):
    workdir, config = finished
    shutil.rmtree(workdir / "checkpoints" / "8")
    record = workdir / "checkpoints" / "6" / "record.json"
    record.write_text(record.read_text().replace('"devices": 4', '"devices": 2'))
    (workdir / "checkpoints" / "6" / artifacts.MANIFEST).unlink()
    artifacts.seal_folder(workdir / "checkpoints" / "6")
    with pytest.raises(UserError, match="trained with devices=2, here it is 4"):
        train(config, workdir)


def test_a_damaged_checkpoint_costs_one_interval(finished, whole, caplog):
    workdir, config = finished
    file = next(path for path in (workdir / "checkpoints" / "8" / "arrays" / "d").iterdir())
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    state = train(config, workdir)
    assert "checkpoint of step 8 is damaged" in caplog.text and "going on after step 6" in caplog.text
    assert train_driver.digest((state.params, state.batch_stats)) == whole[2]


@pytest.mark.parametrize("word", ['"size"', '"sha256"', '"files"'])
def test_a_flipped_bit_in_a_word_of_its_manifest_costs_one_interval(finished, caplog, word):
    workdir, config = finished
    manifest = workdir / "checkpoints" / "8" / artifacts.MANIFEST
    manifest.write_text(manifest.read_text().replace(word, word[:-2] + "~" + word[-1], 1))
    assert int(train(config, workdir).step) == train_driver.STEPS
    assert "checkpoint of step 8 is damaged" in caplog.text and "going on after step 6" in caplog.text


def test_a_checkpoint_copied_over_another_is_not_taken_for_it(finished, caplog):
    workdir, config = finished
    shutil.rmtree(workdir / "checkpoints" / "8")
    shutil.copytree(workdir / "checkpoints" / "6", workdir / "checkpoints" / "8")
    assert int(train(config, workdir).step) == train_driver.STEPS
    assert "holds step 6" in caplog.text and "going on after step 6" in caplog.text


def test_a_loss_that_is_not_finite_stops_training_and_is_not_saved(whole, tmp_path, monkeypatch):
    def spoiled(config, variables, *_):
        variables["params"]["whitening"]["bias"] = variables["params"]["whitening"]["bias"] + np.float32("nan")
        return variables

    monkeypatch.setattr(loop, "whitened_start", spoiled)
    with pytest.raises(UserError, match=r"step 1: (loss|gradient_norm) is nan.*photographs of the batch \(.+, .+\)"):
        train(train_driver.driven_config(whole[1]), tmp_path)
    assert not any((tmp_path / "checkpoints").iterdir())


def test_one_process_at_a_time(finished):
    workdir, config = finished
    other = "import sys, time; from sret_jax.storage.artifacts import lock_folder; from pathlib import Path\n"
    other += "with lock_folder(Path(sys.argv[1])): print('locked', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", other, workdir], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match=f"in use by process {holder.pid} on "):
            train(config, workdir)
        holder.kill()
        holder.wait()
    assert int(train(config, workdir).step) == train_driver.STEPS


def test_bad_use_is_one_line_with_exit_code_2(tmp_path):
    config = tmp_path / "small.py"
    config.write_text("from sret_jax.config import Config\n\ndef get_config():\n    return Config()\n")
    for words, message in [
        ([f"--config={config}", "--workdir=w", "--config.train.stepz=3"], "stepz"),
        ([f"--config={tmp_path / 'no.py'}", "--workdir=w"], "no such file"),
        ([f"--config={config}", "--workdir=w", "--config.data.root=/nowhere"], "/nowhere"),
    ]:
        done = run_command("train.py", *words, cwd=tmp_path)
        assert done.returncode == 2 and message in done.stderr
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
