"""The tables of the ablation and of the choices: their cells, and files named by their groups."""

import argparse
import importlib
import json
from functools import partial
from pathlib import Path

import pytest

from tests.support.commands import REPOSITORY

RUNS = [
    {"row": "ours", "split": "a", "seed": seed, "mAP": mean, "R@1": 90.0, "parameters": 4_030_000, "bytes": 2048}
    | {"easy": 50.0, "medium": mean / 2, "hard": 10.0}
    for seed, mean in enumerate([80.0, 82.0])
]
RUNS[0]["words"] = (261.0, 58.4)
TIMES = {"milliseconds": 24.06, "times_first": 1.204, "training_seconds": 60.4}


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    return importlib.import_module


def test_cells_of_a_row(benchmarks):
    columns = benchmarks("ablation_table").columns
    cells = columns(RUNS, 80.5, TIMES)
    assert cells == {
        "mAP": "81.00 ± 1.41",
        "over untrained": "+0.50",
        "R@1": "90.00 ± 0.00",
        "revisited E / M / H": "50.0 ± 0.0 / 40.5 ± 0.7 / 10.0 ± 0.0",
        "parameters": "4.03 M",
        "training": "60 s",
        "per photo": "24.1 ms",
        "of the first row's": "1.20",
        "index": "2048 B",
        "C_X / \\|X\\|": "58 / 261",
    }
    untimed = columns(RUNS, 80.5, {})
    assert untimed == {name: cells[name] for name in untimed} and "per photo" not in untimed and "index" in untimed
    assert columns(RUNS, 80.5, {"milliseconds": 1.0, "times_first": 1.0})["training"] == "–"


def test_a_seed_counts_once_however_many_splits_it_has(benchmarks):
    runs = [{"seed": seed, "mAP": ap} for seed, ap in [(0, 80.0), (0, 90.0), (1, 84.0), (1, 90.0)]]
    assert benchmarks("ablation_table").over_seeds(runs, "mAP") == "86.00 ± 1.41"


def test_a_line_of_the_csv_has_words_and_times_of_its_row(benchmarks):
    flat = benchmarks("ablation_table").flat
    run = {"row": "GeM", "mAP": 1.0, "per_query": [1.0]}
    assert flat(run | {"words": (261.0, 58.5)}, {}) == {"row": "GeM", "mAP": 1.0, "|X|": 261.0, "C_X": 58.5}
    assert flat(run, {"milliseconds": 2.0}) == {"row": "GeM", "mAP": 1.0, "milliseconds": 2.0}


def test_a_run_is_measured_again_when_requested_metrics_are_missing(tmp_path, benchmarks, monkeypatch):
    ablation = benchmarks("ablation")

    class Measured(Exception):
        pass

    def measure(*_):
        raise Measured

    monkeypatch.setattr(ablation, "row_config", measure)
    args = argparse.Namespace(workdir=tmp_path, gnd="")
    asked = partial(ablation.run, "GeM", args, Path("splits.json"), 0)
    with pytest.raises(Measured):
        asked()
    kept = ablation.row_folder(tmp_path, "GeM", Path("splits.json"), 0) / "measured.json"
    kept.write_text(json.dumps({"mAP": 80.0}))
    assert asked() == {"mAP": 80.0}
    args.gnd = "gnd.json"
    with pytest.raises(Measured):
        asked()
    kept.write_text(json.dumps({"mAP": 80.0, "medium": 40.0}))
    assert asked() == {"mAP": 80.0, "medium": 40.0}


def test_times_are_kept_for_the_same_rows_until_measured_again(tmp_path, benchmarks, monkeypatch):
    ablation, taken = benchmarks("ablation"), []

    def times_of_rows(configs, trained, rounds):
        taken.append((list(configs), trained, rounds))
        return {name: {"milliseconds": float(len(taken)), "times_first": 1.0} for name in configs}

    monkeypatch.setattr(ablation, "times_of_rows", times_of_rows)
    monkeypatch.setattr(ablation, "row_config", lambda *_: None)
    args = argparse.Namespace(workdir=tmp_path, splits="splits.json", times=False, rounds=3)
    names = ["untrained GeM", "GeM"]
    first = ablation.row_times(names, args)
    assert taken == [(names, {"GeM"}, 3)] and first["about"].startswith("3 rounds of all rows in turn")
    assert ablation.row_times(names, args) == first and len(taken) == 1
    assert list(ablation.row_times(["GeM"], args)["rows"]) == ["GeM"] and len(taken) == 2
    args.times = True
    assert ablation.row_times(["GeM"], args)["rows"]["GeM"]["milliseconds"] == 3.0


def test_files_of_choices_are_named_by_their_groups(benchmarks):
    groups = benchmarks("choice_groups")
    assert groups.stem_of(list(groups.GROUPS)) == "choices"
    assert groups.stem_of(["rows", "smoothing"]) == "choices_smoothing" and groups.stem_of(["rows"]) == "choices_rows"
    assert groups.stem_of(["graph", "rates"]) == "choices_graph_rates"


def test_every_setting_is_compared_with_a_row(benchmarks):
    groups = benchmarks("choice_groups")
    bases = {(group, name): groups.base_of(group, name) for group in groups.GROUPS for name in groups.GROUPS[group]}
    assert all(name in groups.GROUPS[group] for group, name in bases.values())
    assert bases["training", "both, 4 x steps"] == ("rows", "smoothing + refinement")
    assert bases["rates", "refinement, 64 nodes, learning rate / 4"] == ("rows", "refinement")
    assert bases["smoothing", "d = 4"] == ("rows", "smoothing") and bases["rows", "GeM"] == ("rows", "GeM")
