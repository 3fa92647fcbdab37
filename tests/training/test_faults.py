"""Half precision, a full disk and a full device: a run stays exact, or ends with one line and loses nothing."""

import errno
import json
import os
import re

import jax
import numpy as np
import pytest

from sret_jax.config import MiningConfig, to_dict
from sret_jax.errors import UserError
from sret_jax.extraction import descriptors as extraction
from sret_jax.extraction.descriptors import Extractor, extract
from sret_jax.models.descriptor import build_network
from sret_jax.storage import artifacts
from sret_jax.storage.refusals import plainly
from sret_jax.storage.row_store import RowStore
from sret_jax.training import metrics_log, parallel
from sret_jax.training.checkpoint import Checkpoints
from sret_jax.training.loop import train
from sret_jax.training.run_record import check_same_run, describe_run, write_run
from tests.support import train_driver
from tests.support.tiny_training import NETWORK, PHOTOS, config, make_tiny, start


def full(path="x"):
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def exhausted(*_):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 17179869184 bytes.")


def settings():
    out = config(steps=4, loss="contrastive")
    out.data.sampling, out.data.instances_per_batch, out.data.photos_per_instance = "instances", 4, 2
    return out


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        return make_tiny(patch)(settings(), tmp_path_factory.mktemp("whole"))


def assert_goes_on(tiny, workdir, saved, whole):
    """The newest checkpoint is of step `saved` and whole, and from it the run ends as if nothing had been."""
    assert Checkpoints(workdir / "checkpoints", 20).latest().step == saved
    jax.tree.map(np.testing.assert_array_equal, whole, tiny(settings(), workdir))


def one_line(raised):
    text = str(raised.value)
    assert "\n" not in text
    return text


@pytest.mark.slow
def test_a_run_in_bfloat16_keeps_its_parameters_in_float32(tmp_path):
    small = train_driver.small_config(tmp_path / "cache", plain=True)
    small.model.dtype, small.train.loss, small.train.margin = "bfloat16", "contrastive", 0.7
    small.train.steps, small.train.accumulate = 3, 1
    state = train(small, tmp_path / "run")
    leaves = jax.tree.leaves((state.params, state.batch_stats, state.opt_state))
    assert all(x.dtype in (np.float32, np.int32) and np.isfinite(x).all() for x in leaves)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 3 and all(np.isfinite(line["loss"]) and line["gradient_norm"] > 0 for line in lines)
    variables = {"params": state.params["network"], "batch_stats": state.batch_stats}
    image = np.zeros((1, 64, 64, 3), np.uint8), np.ones((1, 64, 64), bool)
    descriptor, seen = jax.eval_shape(build_network(small.model).apply, variables, *image)
    assert seen["backbone"].dtype == jax.numpy.bfloat16 and descriptor.dtype == np.float32


def test_a_disk_that_fills_up_in_a_save_costs_that_save(tiny, whole, tmp_path, monkeypatch):
    write, saves = artifacts.write_json, []

    def fill(path, value):
        if path.name == "record.json":
            saves.append(path)
            if len(saves) == 3:
                raise full(path)
        return write(path, value)

    monkeypatch.setattr(artifacts, "write_json", fill)
    with pytest.raises(UserError) as raised:
        tiny(settings(), tmp_path)
    assert "could not be saved" in one_line(raised) and "No space left on device" in one_line(raised)
    assert "free space" in one_line(raised) and not list((tmp_path / "checkpoints").glob(".*"))
    assert_goes_on(tiny, tmp_path, 2, whole)


def test_a_disk_that_fills_up_in_the_log_loses_no_checkpoint(tiny, whole, tmp_path, monkeypatch):
    write = metrics_log.MetricsLog.write

    def fill(self, step, metrics):
        if step == 3:
            raise full(tmp_path / "metrics.jsonl")
        write(self, step, metrics)

    with monkeypatch.context() as patch:
        patch.setattr(metrics_log.MetricsLog, "write", fill)
        with pytest.raises(UserError) as raised:
            tiny(settings(), tmp_path)
    assert "metrics.jsonl: No space left on device; free space" in one_line(raised)
    assert_goes_on(tiny, tmp_path, 2, whole)


@pytest.mark.parametrize("what", ["batch_stats", "opt_state", "loss_state"])
def test_what_is_not_finite_while_the_loss_is_never_becomes_the_latest(tiny, whole, tmp_path, monkeypatch, what):
    compiled, calls = parallel.data_parallel, []

    def spoiling(step, by):
        run = compiled(step, by)

        def third_spoils(*args):
            state, metrics = run(*args)
            calls.append(args)
            if len(calls) == 3:
                value = getattr(state, what) or {"mean": metrics["loss"]}  # this network and loss have none of the two
                value = jax.tree.map(lambda x: x * np.float32("nan") if x.dtype == np.float32 else x, value)
                state = state.replace(**{what: value})
            return state, metrics

        return third_spoils

    with monkeypatch.context() as patch:
        patch.setattr(parallel, "data_parallel", spoiling)
        with pytest.raises(UserError) as raised:
            tiny(settings(), tmp_path)
    assert re.match(rf"step 3: state/{what}/.* is not finite, so it was not saved; lower", one_line(raised))
    assert_goes_on(tiny, tmp_path, 2, whole)


def test_a_device_that_is_full_names_what_to_lower_and_loses_no_checkpoint(tiny, whole, tmp_path, monkeypatch):
    compiled, calls = parallel.data_parallel, []

    def limited(step, by):
        run = compiled(step, by)

        def third_fails(*args):
            calls.append(args)
            return exhausted() if len(calls) == 3 else run(*args)

        return third_fails

    with monkeypatch.context() as patch:
        patch.setattr(parallel, "data_parallel", limited)
        with pytest.raises(UserError) as raised:
            tiny(settings(), tmp_path)
    assert "out of memory with 8 photographs of 40 px" in one_line(raised)
    assert "instances_per_batch" in one_line(raised) and "image_size" in one_line(raised)
    assert_goes_on(tiny, tmp_path, 2, whole)


def test_a_device_that_is_full_while_describing_names_what_to_lower(monkeypatch):
    monkeypatch.setattr(extraction, "_apply", exhausted)
    with pytest.raises(UserError, match="out of memory describing 16 photographs of up to 40 px.*extract.batch_size"):
        Extractor(NETWORK, start(), settings()).describe(PHOTOS, range(3))


def test_a_disk_that_fills_up_while_describing_keeps_the_chunks_before(tmp_path, monkeypatch):
    small = settings()
    small.extract.chunk_rows = 4
    extractor = Extractor(NETWORK, start(), small)
    write, chunks = RowStore.write, []

    def fill(self, chunk, descriptors):
        chunks.append(chunk)
        if len(chunks) == 3:
            raise full(tmp_path)
        write(self, chunk, descriptors)

    with monkeypatch.context() as patch:
        patch.setattr(RowStore, "write", fill)
        with pytest.raises(UserError, match="No space left on device; free space and run the same command again"):
            extract(extractor, PHOTOS, tmp_path)
    assert extract(extractor, PHOTOS, tmp_path).photos == len(PHOTOS) - 8


def test_other_errors_of_the_system_and_the_device_stay_what_they_are(tmp_path, monkeypatch):
    with pytest.raises(OSError, match="no"), plainly(tmp_path):
        raise OSError(errno.EBADF, "no")

    def broken(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    monkeypatch.setattr(extraction, "_apply", broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        Extractor(NETWORK, start(), settings()).describe(PHOTOS, range(3))


def test_a_run_begun_before_a_field_existed_goes_on_with_its_default(tmp_path):
    run = describe_run(settings(), "photographs")
    earlier = {name: value for name, value in run["config"].items() if name != "mining"}
    write_run(tmp_path, run | {"config": earlier})
    with pytest.raises(UserError, match="config.mining.image_size=0, now it is 24"):
        check_same_run(tmp_path, run)
    check_same_run(tmp_path, run | {"config": run["config"] | {"mining": to_dict(MiningConfig())}})
