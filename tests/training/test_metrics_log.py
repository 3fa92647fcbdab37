"""What a run leaves to look at, read as the viewer reads it."""

import json

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sret_jax.training.metrics_log import MetricsLog


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


def test_an_inactive_log_writes_nothing(tmp_path):
    with MetricsLog(tmp_path, 0, 30, log_every=10, photos_per_step=4, active=False) as log:
        log.write(10, {"loss": 1.0})
        log.write_validation(10, 1.0, 0)
    assert not list(tmp_path.iterdir())
