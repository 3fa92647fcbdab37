"""The tables of the ablation and of the choices: their rows, settings and cells."""

import argparse
import importlib
import json

import numpy as np
import pytest

from sret_jax.config import differences, to_dict
from sret_jax.config.validation import validate
from tests.support.commands import REPOSITORY

COLLECTION = "elsewhere"
RUNS = [
    {"row": "ours", "seed": seed, "parameters": 4_030_000, "bytes": 4096}
    | {
        "collections": {
            COLLECTION: {"mAP": mean, "per_query": [mean - 1, mean + 1]},
            "official": {"mAP": mean / 2, "easy": 50.0, "medium": mean / 2, "hard": 10.0, "per_query": [mean / 2]},
        }
    }
    for seed, mean in enumerate([80.0, 82.0])
]
RUNS[0]["words"] = (261.0, 58.4)
TIMES = {"milliseconds": 24.06, "times_first": 1.204, "step_seconds": 0.254}


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    return importlib.import_module


def test_cells_of_a_row(benchmarks):
    columns = benchmarks("ablation_table").columns
    cells = columns(RUNS, TIMES)
    assert cells == {
        "elsewhere, mAP": "81.00 ± 1.41",
        "official, E / M / H": "50.0 ± 0.0 / 40.5 ± 0.7 / 10.0 ± 0.0",
        "parameters": "4.03 M",
        "training step": "0.25 s",
        "per photo": "24.1 ms",
        "of the first row's": "1.20",
        "index": "4096 B",
        "C_X / \\|X\\|": "58 / 261",
    }
    untimed = columns(RUNS, {})
    assert untimed == {name: cells[name] for name in untimed} and "per photo" not in untimed and "index" in untimed
    assert columns(RUNS, {"milliseconds": 1.0, "times_first": 1.0})["training step"] == "–"


def test_a_line_of_the_csv_has_collections_words_and_times_of_its_row(benchmarks):
    flat = benchmarks("ablation_table").flat
    run = {"row": "GeM", "collections": {COLLECTION: {"mAP": 1.0, "per_query": [1.0]}}}
    assert flat(run | {"words": (261.0, 58.5)}, {}) == {"row": "GeM", "elsewhere mAP": 1.0, "|X|": 261.0, "C_X": 58.5}
    assert flat(run, {"milliseconds": 2.0}) == {"row": "GeM", "elsewhere mAP": 1.0, "milliseconds": 2.0}


def test_every_row_is_compared_with_the_baseline_query_by_query(benchmarks):
    paired = benchmarks("ablation_table").paired_tests
    baseline = [
        {"seed": 0, "collections": {COLLECTION: {"per_query": [70.0, 72.0]}, "official": {"per_query": [41.0]}}},
        {"seed": 1, "collections": {COLLECTION: {"per_query": [70.0, 72.0]}, "official": {"per_query": [41.0]}}},
        {"seed": 2, "collections": {COLLECTION: {"per_query": [0.0, 0.0]}, "official": {"per_query": [0.0]}}},
    ]
    silent = [{"seed": 0, "collections": {COLLECTION: {}, "official": {"per_query": [40.0]}}}]
    lines = paired({"GeM": baseline, "ours": RUNS, "ASMK": silent}, "GeM").splitlines()
    assert lines[0] == "| row | elsewhere | official |"
    assert lines[2] == "| ours | +10.00 (+10.00 to +10.00) | -0.50 (-0.50 to -0.50) |"
    assert lines[3] == "| ASMK | – | -1.00 (-1.00 to -1.00) |"


def test_only_collections_that_are_missing_are_measured(tmp_path, benchmarks, monkeypatch):
    ablation = benchmarks("ablation")

    class Measured(Exception):
        pass

    def measure(*_):
        raise Measured

    monkeypatch.setattr(ablation, "train", measure)
    args = argparse.Namespace(workdir=tmp_path, root="A", splits="A.json", set=[])
    with pytest.raises(Measured):
        ablation.run("GeM", args, {"a": None}, 0)
    values = ablation.values_of(ablation.row_config(ablation.ROWS["GeM"], args, 0))
    kept = {"row": "GeM", "seed": 0, "collections": {"a": {"mAP": 80.0}}, "config": values}
    (ablation.row_folder(tmp_path, "GeM", 0) / "measured.json").write_text(json.dumps(kept))
    assert ablation.run("GeM", args, {"a": None}, 0) == kept
    with pytest.raises(Measured):
        ablation.run("GeM", args, {"a": None, "b": None}, 0)


@pytest.mark.parametrize("name", ["ablation", "choices"])
def test_what_was_measured_under_other_values_is_refused_by_the_field(tmp_path, benchmarks, monkeypatch, name):
    module, ablation, trained = benchmarks(name), benchmarks("ablation"), []
    monkeypatch.setattr(module, "train", lambda config, run: trained.append(config) or run.mkdir(parents=True))
    monkeypatch.setattr(module, "load", lambda *_: argparse.Namespace(variables={"params": {}}))
    monkeypatch.setattr(module, "by_descriptors", lambda *_: {"mAP": 80.0, "per_query": [80.0]})
    monkeypatch.setattr(ablation, "words_of_photographs", lambda *_: (1.0, 1.0))
    monkeypatch.setattr(ablation, "words_sets", lambda *_: ())

    def measured(workdir=tmp_path / "here", **flags):
        values = {"root": "A", "splits": "A.json", "set": [], "words": 8} | flags
        args = argparse.Namespace(workdir=workdir, **values)
        return module.run(*(["GeM"] if name == "ablation" else ["rows", "GeM"]), args, {"a": None}, 0)

    first = measured()
    assert measured() == json.loads(json.dumps(first)) and len(trained) == 1
    moved = (tmp_path / "here").rename(tmp_path / "moved")
    assert measured(moved) == json.loads(json.dumps(first)) and len(trained) == 1
    for flags, field in (
        ({"set": ["train.steps=7"]}, "train.steps=300, now it is 7"),
        ({"root": "B"}, "data.root='A', now it is 'B'"),
    ):
        with pytest.raises(ablation.UserError, match=f"measured.json: was measured with config.{field}"):
            measured(moved, **flags)
    (file,) = moved.glob("*/measured.json")
    file.write_text(json.dumps({key: value for key, value in first.items() if key != "config"}))
    with pytest.raises(ablation.UserError, match="does not say under which values"):
        measured(moved)


def test_rows_differ_from_the_baseline_in_the_model_and_what_trains_of_it(tmp_path, benchmarks):
    ablation = benchmarks("ablation")
    args = argparse.Namespace(workdir=tmp_path, root="A", splits="A.json", set=["train.steps=7"], words=64)
    configs = {name: ablation.row_config(row, args, 3) for name, row in ablation.ROWS.items()}
    assert {config.train.loss for config in configs.values()} == {"infonce"}
    assert {config.train.steps for config in configs.values()} == {7} and configs["GeM"].seed == 3
    row = ablation.Row("gem", {"train.learning_rate": 1.0})
    with pytest.raises(ablation.UserError, match="train.learning_rate is 1.0"):
        ablation.row_config(row, args, 0)


def test_times_are_kept_for_the_same_rows_until_measured_again(tmp_path, benchmarks, monkeypatch):
    ablation, taken = benchmarks("ablation"), []

    def times_of_rows(configs, trained, photos, rounds):
        taken.append((list(configs), trained, photos, rounds))
        return {name: {"milliseconds": float(len(taken)), "times_first": 1.0} for name in configs}

    monkeypatch.setattr(ablation, "times_of_rows", times_of_rows)
    monkeypatch.setattr(ablation, "row_config", lambda *_: None)
    args = argparse.Namespace(workdir=tmp_path, times=False, rounds=3)
    names = ["untrained GeM", "GeM"]
    first = ablation.row_times(names, args, "photos")
    assert taken == [(names, {"GeM"}, "photos", 3)] and first["about"].startswith("3 rounds of all rows in turn")
    assert ablation.row_times(names, args, "photos") == first == ablation.row_times(["GeM"], args, "photos")
    assert list(ablation.row_times(["GeM", "both"], args, "photos")["rows"]) == ["GeM", "both"] and len(taken) == 2
    args.times = True
    assert ablation.row_times(["GeM"], args, "photos")["rows"]["GeM"]["milliseconds"] == 3.0


def test_the_ap_of_a_query_is_the_mean_over_runs(benchmarks):
    found = benchmarks("ablation_table").of_query(RUNS, COLLECTION)
    np.testing.assert_allclose(found, [80, 82])


def test_every_setting_is_a_change_of_a_row_that_can_be_trained(tmp_path, benchmarks):
    choices, ablation = benchmarks("choices"), benchmarks("ablation")
    args = argparse.Namespace(workdir=tmp_path, root="A", splits="A.json", set=[])
    names = [name for settings in choices.GROUPS.values() for name in settings]
    assert len(names) == len(set(names))
    for settings in choices.GROUPS.values():
        for row, fields in settings.values():
            assert row in choices.GROUPS["rows"]
            config = ablation.row_config(ablation.ROWS[row], args, 0)
            before = to_dict(config)
            for field, value in fields.items():
                ablation.set_field(config, field, value)
            assert len(differences(before, to_dict(config))) >= bool(fields)
            validate(config)


def test_a_setting_stands_beside_its_row(benchmarks):
    better = [{"collections": {COLLECTION: {"mAP": 83.0, "per_query": [82.0, 84.0]}}}] * 2
    cells = benchmarks("choices").cells(better, RUNS, [COLLECTION])
    assert cells[f"{COLLECTION}, mAP"] == "83.00 ± 0.00"
    assert cells[f"{COLLECTION}, minus its row (95 %)"] == "+2.00 (+2.00 to +2.00)"
    assert benchmarks("choices").cells(RUNS, RUNS, [COLLECTION])[f"{COLLECTION}, minus its row (95 %)"] == "–"
