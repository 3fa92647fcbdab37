"""What a run leaves to look at, read as the viewer reads it."""

import json
import os

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sret_jax.storage.metrics_file import read_metrics
from sret_jax.training.checkpoint import Checkpoints
from sret_jax.training.metrics_log import MetricsLog, check_log
from tests.support.limits import largest_file
from tests.support.tiny_training import config


def run(workdir, start, stop, loss):
    with MetricsLog(workdir, start, 30, log_every=10, photos_per_step=4, active=True) as log:
        for step in range(start + 1, stop + 1):
            log.write(step, {"loss": loss + step})


def test_steps_that_a_restarted_run_repeats_are_shown_once(tmp_path):
    run(tmp_path, 0, 20, 0.0)
    run(tmp_path, 10, 30, 0.5)  # its last checkpoint was at 10
    expected = [(10, 10.0), (20, 20.5), (30, 30.5)]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == expected
    shown = EventAccumulator(str(tmp_path / "tensorboard"))
    shown.Reload()
    assert set(shown.Tags()["scalars"]) == {"loss", "images_per_second"}
    assert [(event.step, event.value) for event in shown.Scalars("loss")] == expected


def test_a_run_that_is_killed_before_its_first_checkpoint_shows_its_start_once(tmp_path):
    for kept in (1.0, 2.0):
        with MetricsLog(tmp_path, 0, 30, log_every=10, photos_per_step=4, active=True) as log:
            log.write_validation(0, kept, 0)
            log.write(10, {"loss": kept})
            log.write_validation(10, kept + 1, 10)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    validated = [(line["step"], line["val_mAP"], line["val_best_step"]) for line in lines if "val_mAP" in line]
    assert validated == [(0, 2.0, 0), (10, 3.0, 10)] and [line["loss"] for line in lines if "loss" in line] == [2.0]
    shown = EventAccumulator(str(tmp_path / "tensorboard"))
    shown.Reload()
    assert [(event.step, event.value) for event in shown.Scalars("val_mAP")] == [(0, 2.0), (10, 3.0)]


def test_no_checkpoint_is_ahead_of_the_log_on_the_disk(tiny, tmp_path, monkeypatch):
    synced, save, done = os.fsync, Checkpoints.save, []

    def sync(handle):
        done.append(os.readlink(f"/proc/self/fd/{handle}"))
        synced(handle)

    def saved(self, step, *rest, **named):
        last = json.loads((tmp_path / "metrics.jsonl").read_bytes().splitlines()[-1])["step"]
        assert last == step and done[-1] == str(tmp_path / "metrics.jsonl")
        save(self, step, *rest, **named)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Checkpoints, "save", saved)
    tiny(config(steps=2, log_every=1), tmp_path)


@pytest.mark.parametrize("name", ["metrics.jsonl", "tensorboard/events"])
def test_a_file_of_the_log_that_may_not_grow_is_named(tmp_path, name):
    with MetricsLog(tmp_path, 0, 30, log_every=10, photos_per_step=4, active=True) as log:
        log.write(10, {"loss": 1.0})
        (grown,) = tmp_path.glob(f"{name}*")
        other = max(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file() and path != grown)
        with open(grown, "ab") as file:  # the longer of the two, so that it is the one that is cut
            file.write(bytes(other))
        with largest_file(grown.stat().st_size + 5), pytest.raises(OSError, match=name):
            log.write(20, {"loss": 1.0})


def test_an_inactive_log_writes_nothing(tmp_path):
    with MetricsLog(tmp_path, 0, 30, log_every=10, photos_per_step=4, active=False) as log:
        log.write(10, {"loss": 1.0})
        log.write_validation(10, 1.0, 0)
    assert not list(tmp_path.iterdir())


def write_lines(tmp_path):
    run(tmp_path, 0, 30, 0.0)
    return (tmp_path / "metrics.jsonl").read_bytes().splitlines(keepends=True)


def test_a_damaged_line_is_left_out_and_said_and_the_others_stay(tmp_path, caplog):
    first, second, third = write_lines(tmp_path)
    for damaged in (
        second.replace(b'"step"', b'"stfp"'),
        second.replace(b'"loss"', b'"lnss"'),
        second.replace(b'"step": 20', b'"step": 28'),
        second.replace(b"20.0", b"28.0"),
        second[:-5] + b"\n",
        b"\xff\xfe\n",
        b"[1]\n",
        b"[" * 100_000 + b"\n",
    ):
        caplog.clear()
        (tmp_path / "metrics.jsonl").write_bytes(first + damaged + third)
        run(tmp_path, 30, 30, 0.0)
        assert (tmp_path / "metrics.jsonl").read_bytes() == first + third
        assert caplog.text.count("line 2 is not what was written, and is left out") == 1


def test_half_a_line_at_the_end_is_left_by_a_kill_and_not_damage(tmp_path, caplog):
    first, second, third = write_lines(tmp_path)
    (tmp_path / "metrics.jsonl").write_bytes(first + second + third[:20])
    run(tmp_path, 20, 30, 0.0)
    again = (tmp_path / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    assert again[:2] == [first, second] and json.loads(again[2])["step"] == 30 and not caplog.text


def test_lines_of_earlier_versions_count(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 10, "loss": 0.5}\n')
    run(tmp_path, 10, 20, 0.0)
    assert [values["loss"] for _, values in read_metrics(tmp_path / "metrics.jsonl")] == [0.5, 20.0]


def test_every_flipped_bit_of_a_line_is_noticed_or_changes_nothing(tmp_path):
    path = tmp_path / "metrics.jsonl"
    line = write_lines(tmp_path)[0]
    path.write_bytes(line)
    ((_, written),) = read_metrics(path)
    for at in range(len(line) - 1):
        for bit in range(8):
            path.write_bytes(line[:at] + bytes([line[at] ^ 1 << bit]) + line[at + 1 :])
            for _, values in read_metrics(path):
                assert {name: values.get(name) for name in written} == written


def test_a_log_that_ends_too_early_is_said(tmp_path, caplog):
    first, second, third = write_lines(tmp_path)
    check_log(tmp_path, 30, 10)
    check_log(tmp_path, 34, 10)
    assert not caplog.text
    (tmp_path / "metrics.jsonl").write_bytes(first + second + third[:9])
    check_log(tmp_path, 30, 10)
    assert caplog.text.count("metrics.jsonl: has no line after step 20 of 30") == 1
    (tmp_path / "metrics.jsonl").unlink()
    check_log(tmp_path, 30, 10)
    assert "has no line after step 0 of 30" in caplog.text
