"""The tables of the ablation and of the choices: new times change nothing else, files are named by their groups."""

import csv
import importlib
from pathlib import Path

import pytest

TABLE = """About.

| row | mAP | per photo | index | C_X / \\|X\\| |
|---|---|---|---|---|
| GeM | 80.00 ± 0.10 | 24 ms | 5 B | 58 / 261 |
| ours | 81.00 ± 0.10 | 30 ms | 6 B | – |

Paired bootstrap over queries:

| ours minus | mAP | 95 % interval |
|---|---|---|
| GeM | +1.00 | +0.50 to +1.50 |
"""
RUNS = "row,seed,mAP,milliseconds,|X|,C_X\nGeM,0,80.1,24.1,261,58\nGeM,1,79.9,25.0,,\nours,0,81,30,,\n"


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return importlib.import_module


def test_new_times_change_nothing_else(tmp_path, benchmarks):
    retime = benchmarks("ablation_table").retime
    (tmp_path / "ablation.md").write_text(TABLE)
    (tmp_path / "ablation.csv").write_text(RUNS)
    retime(tmp_path, {"GeM": (20.04, 1.0), "ours": (25.0, 1.25)}, "once", {"ours"})
    retime(tmp_path, {"ours": (26.0, 1.3)}, "again", {"ours"})
    text = (tmp_path / "ablation.md").read_text()
    assert "| row | mAP | per photo | of GeM's | index | C_X / \\|X\\| |\n|---|---|---|---|---|---|\n" in text
    assert "| GeM | 80.00 ± 0.10 | 20.0 ms | 1.00 | 5 B | 58 / 261 |" in text
    assert "| ours | 81.00 ± 0.10 | 26.0 ms | 1.30 | 6 B | – |" in text
    assert text.endswith(TABLE[TABLE.index("\nPaired") :]) and text.startswith("About.\n\nTimes: again. ")
    assert "once" not in text
    runs = list(csv.DictReader((tmp_path / "ablation.csv").open()))
    assert [run["milliseconds"] for run in runs] == ["20.040", "20.040", "26.000"]
    assert [(run["mAP"], run["|X|"], run["C_X"]) for run in runs][0] == ("80.1", "261", "58")
    assert (tmp_path / "ablation.png").stat().st_size


def test_words_are_columns_of_a_run(benchmarks):
    flat = benchmarks("ablation_table").flat
    run = {"row": "GeM", "mAP": 1.0, "per_query": [1.0]}
    assert flat(run | {"words": (261.0, 58.5)}) == {"row": "GeM", "mAP": 1.0, "|X|": 261.0, "C_X": 58.5}
    assert flat(run) == {"row": "GeM", "mAP": 1.0}


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
