import io
import json

import numpy as np
import pytest
from PIL import Image

from sret_jax.config import Config, TrainConfig, to_dict
from sret_jax.evaluation.report.curve import read_losses
from sret_jax.evaluation.report.curve_picture import curve_png
from sret_jax.storage.workdir import Workdir


def write_run(folder, lines, lengths=((0, 6),)):
    run = {"config": to_dict(Config(train=TrainConfig(steps=6))), "lengths": lengths}
    (folder / "config.json").write_text(json.dumps(run))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 7, "lo')
    return Workdir(folder)


LOSSES = [{"step": step, "loss": 1 / step} for step in range(1, 7)]
SCORES = [{"step": step, "val_mAP": 50.0 + step, "val_best_step": step} for step in (0, 3, 6)]


def test_a_run_without_validation_has_no_panel_for_it(tmp_path):
    shapes = [
        np.asarray(Image.open(io.BytesIO(curve_png(write_run(tmp_path, lines))))).shape
        for lines in (LOSSES, LOSSES + SCORES)
    ]
    assert shapes == [(460, 900, 4), (690, 900, 4)]


def test_the_picture_shows_where_a_run_grew(tmp_path):
    plain = curve_png(write_run(tmp_path, LOSSES + SCORES))
    assert plain == curve_png(write_run(tmp_path, LOSSES + SCORES))
    assert plain != curve_png(write_run(tmp_path, LOSSES + SCORES, [(0, 3), (3, 6)]))


@pytest.mark.parametrize("lines", [[], SCORES])
def test_a_run_that_has_logged_no_loss_has_no_picture(tmp_path, lines):
    assert curve_png(write_run(tmp_path, lines)) is None
    assert curve_png(Workdir(tmp_path / "nothing")) is None


def test_only_whole_lines_of_losses_are_read(tmp_path):
    place = write_run(tmp_path, LOSSES + SCORES)
    assert read_losses(place) == [(step, 1 / step) for step in range(1, 7)]
