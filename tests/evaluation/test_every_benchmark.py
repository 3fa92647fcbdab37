"""Every benchmark by its name, in a miniature of its format: builder, descriptors, search, metric. One tiny network."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sret_jax.config import LocalizeConfig, LocalSearchConfig
from sret_jax.errors import UserError
from sret_jax.evaluation.benchmark import open_benchmark, open_benchmarks
from sret_jax.evaluation.external import scoring
from sret_jax.evaluation.report.table import print_results, print_summary
from sret_jax.evaluation.request import BENCHMARKS, REVISITED, Request, variant
from sret_jax.evaluation.results import Results, read_results
from sret_jax.localization.methods import METHODS
from tests.support.commands import CONFIG, run_eval
from tests.support.miniatures import (
    MINIATURES,
    QUERIES,
    SEARCHED,
    datasets,
    labelled,
    million,
)
from tests.support.networks import NETWORK, VARIABLES
from tests.support.photos import write_photos
from tests.support.runs import config, measure


def test_every_benchmark_has_a_miniature():
    assert set(MINIATURES) == set(BENCHMARKS) == {*SEARCHED, "synthetic"} == {*QUERIES, "synthetic"}


@pytest.fixture(scope="module")
def distractors(tmp_path_factory):
    return million(tmp_path_factory.mktemp("million"))


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_it_is_measured_and_distractors_only_add_wrong_answers(tmp_path, benchmark, distractors):
    root = MINIATURES[benchmark](tmp_path / "root")
    settings = config()
    settings = replace(settings, eval=replace(settings.eval, synthetic_instances=2, synthetic_photos=2))
    options = {"root": str(root) if root else "", "cache_dir": tmp_path / "cache"}
    if benchmark == "revisited":
        options["gnd"] = str(root / "gnd_own.json")

    def measured(out: str, **more) -> dict:
        return measure(NETWORK, VARIABLES, settings, benchmark, tmp_path / "run/eval" / out, **options, **more)

    alone, more = measured("alone"), measured("more", distractors=[str(distractors)])
    assert alone["photos"] == SEARCHED.get(benchmark, 4) and more["photos"] == alone["photos"] + 3
    assert alone["metrics"]["queries"] == QUERIES.get(benchmark, 4) and more["distractors"] == {"revisitop1m": 3}
    name = next(name for name in alone["metrics"] if name.startswith("mAP"))
    assert 0 < more["metrics"][name] <= alone["metrics"][name] <= 100
    assert ("medium" in alone["metrics"]) == (benchmark in REVISITED)
    assert alone["index_recall"] == {} and (tmp_path / "run/eval/more/report.html").stat().st_size


@pytest.mark.parametrize("benchmark", ["synthetic", "paintings", "proxford"])
def test_localization_is_measured_where_ground_truth_masks_exist(tmp_path, benchmark, capsys):
    root = MINIATURES[benchmark](tmp_path / "root")
    local = LocalSearchConfig(most=50)
    settings = replace(config(), localize=LocalizeConfig(tuple(METHODS), image_size=64, query_size=64), local=local)
    settings = replace(settings, eval=replace(settings.eval, synthetic_instances=2, synthetic_photos=2))
    found = measure(
        NETWORK,
        VARIABLES,
        settings,
        benchmark,
        tmp_path / "run/eval/x",
        root=str(root) if root else "",
        cache_dir=tmp_path / "cache",
    )
    assert set(found["localization"]) == set(METHODS)
    for of in found["localization"].values():
        assert all(0 <= value <= 100 for rules in ("strict", "official") for value in of[rules].values())
    everything = found["localization"]["everything"]["strict"]
    if benchmark == "proxford":
        assert everything["mIoU"] == pytest.approx(25) and everything["mAP@50:5:95"] == 0
        for method, of in found["localization"].items():
            assert_written_marks_are_worth_as_much(tmp_path / "run/eval/x", method, of["official"], root)
    assert ("mIoU hard" in everything) == (benchmark == "proxford")
    print_results(read_results(tmp_path / "run/eval/x"), tmp_path)
    assert "everything" in capsys.readouterr().out


def assert_written_marks_are_worth_as_much(out: Path, method: str, official: dict, root: Path) -> None:
    file, ranks, request = out / f"marks-{method}.npy", str(out / "ranks.npy"), Request(root=str(root))
    pairs = np.load(file, allow_pickle=True).item()
    assert set(pairs) == {f"qimlist_{q}_imlist_{i}" for q in range(2) for i in (q, q + 2)}  # easy and hard, not junk
    scored = scoring.score_marks("proxford", file, out / "scored", request, out / "cache", ranks)
    assert scored.localization[file.name]["official"] == official


def test_a_folder_brings_its_masks(tmp_path):
    write_photos(tmp_path / "root", instances=2, photos=2)
    for path in (tmp_path / "root").glob("*/*.jpg"):
        mask = tmp_path / "masks" / path.relative_to(tmp_path / "root").with_suffix(".png")
        mask.parent.mkdir(parents=True, exist_ok=True)
        half = Image.new("L", (64, 48))
        half.paste(255, (0, 0, 32, 48))
        half.save(mask)
    settings = replace(config(), localize=LocalizeConfig(("everything",)))
    options = {"root": str(tmp_path / "root"), "masks": str(tmp_path / "masks"), "cache_dir": tmp_path / "cache"}
    found = measure(NETWORK, VARIABLES, settings, "folder", tmp_path / "x", **options)
    assert found["localization"]["everything"]["strict"]["mIoU"] == pytest.approx(50)


def test_localization_without_ground_truth_masks_is_refused(tmp_path):
    root = MINIATURES["roxford5k"](tmp_path / "root")
    settings = replace(config(), localize=LocalizeConfig(("everything",)))
    with pytest.raises(UserError, match="no ground-truth masks for .* choose a benchmark that has masks"):
        measure(NETWORK, VARIABLES, settings, "roxford5k", tmp_path / "x", root=str(root), cache_dir=tmp_path / "cache")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return datasets(tmp_path_factory.mktemp("several") / "datasets")


def test_one_root_serves_all(tmp_path, folder):
    names = ["roxford5k", "rparis6k+1m", "gldv2", "ilias", "paintings", "proxford"]
    opened = open_benchmarks(names, config(), Request(root=str(folder)), tmp_path / "cache")
    assert [len(one.photos) for one in opened.values()] == [6, 8, 6, 5, 4, 6]
    assert [len(one.database) for one in opened.values()] == [6, 8 + 3, 6, 5, 4, 6]
    places = ["roxford5k", "rparis6k", "gldv2", "ilias", "paintings", "roxford5k"]
    assert [one.folder for one in opened.values()] == [folder / place for place in places]
    assert opened["proxford"].pixels.mask(0, 2).sum() == 48 * 32


@pytest.mark.parametrize("labels", [".", "pixel_retrieval_benchmarks", "roxford5k", "proxford"])
def test_the_labels_of_proxford_have_several_places(tmp_path, folder, labels):
    root = tmp_path / "root"
    shutil.copytree(folder / "roxford5k", root / "roxford5k")
    shutil.copytree(folder / "proxford", root / labels, dirs_exist_ok=True)
    assert open_benchmark("proxford", root, cache=tmp_path / "cache").pixels


def test_photographs_of_proxford_may_be_beside_its_labels(tmp_path):
    labelled(tmp_path / "root/proxford", "roxford5k")
    opened = open_benchmark("proxford", tmp_path / "root", cache=tmp_path / "cache")
    assert opened.folder == tmp_path / "root/proxford" and opened.pixels


@pytest.mark.parametrize(
    ("gone", "reason"),
    [
        ("gldv2/index.csv", "no file .*index_image_to_landmark.csv"),
        ("gldv2/test/a/0/c/a0cdef0123456789.jpg", "gldv2 queries: 1 of its 2 photographs cannot be used"),
        ("rparis6k/jpg/photo_3.jpg", "rparis6k: 1 of its 10 photographs cannot be used .photo_3"),
        ("revisitop1m/jpg/f3/c.jpg", "revisitop1m: 1 of its 3 photographs cannot be used"),
        ("revisitop1m/revisitop1m.txt", r"'rparis6k\+1m': no revisitop1m.txt in .*; fetch it there with"),
    ],
)
def test_what_is_missing_is_found_before_anything_is_read(tmp_path, folder, gone, reason):
    root = shutil.copytree(folder, tmp_path / "root")
    (root / gone).unlink()
    with pytest.raises(UserError, match=reason):
        open_benchmarks(["roxford5k", "rparis6k+1m", "gldv2"], config(), Request(root=str(root)), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("text", ["rparis6k+2m", "rparis6k+", "rparis6k+1m+1m", "+1m", "rparis6k+others"])
def test_another_suffix_is_refused_with_the_choices(tmp_path, folder, text):
    with pytest.raises(UserError, match=r"no benchmark .*; .*hoose one of synthetic, .*, or NAME\+1m of one of them"):
        open_benchmark(text, folder, cache=tmp_path)


def test_the_million_needs_a_root(tmp_path):
    with pytest.raises(UserError, match=r"'folder\+1m' needs photographs: give --root=DIR"):
        open_benchmark("folder+1m", config=config(tmp_path), cache=tmp_path)


def test_deviations_get_the_same_folder_from_flags_and_config(tmp_path):
    standard = config()
    by_config = replace(
        standard,
        eval=replace(standard.eval, protocol="compat:uncropped", distractors=("photos/others",)),
        rerank=replace(standard.rerank, stages=("sv:100",)),
    )
    by_flag = Request(protocol="compat:uncropped", distractors=("photos/others",))
    assert variant("roxford5k", standard, Request(root="x")) == "roxford5k"
    assert variant("roxford5k", by_config, Request()) == "roxford5k+uncropped+sv-100+others"
    assert variant("roxford5k+1m", standard, by_flag) == "roxford5k+1m+uncropped+others"
    assert variant("roxford5k", by_config, Request(protocol="standard")) == "roxford5k+sv-100+others"


def test_several_are_measured_and_one_table_has_them_all(tmp_path, folder, capsys):
    names, request = ["roxford5k", "rparis6k+1m", "gldv2"], {"root": str(folder)}
    opened = open_benchmarks(names, config(), Request(**request), tmp_path / "cache")
    measured = [
        measure(
            NETWORK,
            VARIABLES,
            config(),
            name,
            tmp_path / "run/eval" / name,
            **request,
            anchors=True,
            cache_dir=tmp_path / "cache",
            opened=opened[name],
        )
        for name in names
    ]
    paris = measured[1]
    assert paris["benchmark"] == "rparis6k+1m" and paris["distractors"] == {"revisitop1m": 3} and paris["photos"] == 11
    assert not measured[0]["distractors"] and measured[0]["timings"]["prepare"] > 0
    assert {path.name for path in (tmp_path / "run/descriptors").iterdir()} >= {"rparis6k", "distractors-revisitop1m"}
    capsys.readouterr()
    print_summary([Results(**one) for one in measured])
    shown = capsys.readouterr().out
    assert_one_table(shown, measured)
    assert "  SOLAR R101, GLDv1, published" in shown and "R101 ArcFace, GLDv1 + v2-clean, published" in shown
    print_summary(
        [Results(**one) for one in (measured[0] | {"compat": "compat:uncropped", "anchors": []}, measured[2])]
    )
    assert "roxford5k, compat:uncropped" in capsys.readouterr().out


def assert_one_table(shown: str, measured: list[dict]) -> None:
    """A row of each, with its numbers under their names."""
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if "│" in line]
    (header,) = [line for line in shown.splitlines() if "all benchmarks" in line]
    columns = [cell.strip() for cell in header.split("┃")[1:-1]]
    assert columns[:4] == ["all benchmarks", "mAP medium, %", "mAP hard, %", "mAP easy, %"] and "mAP@100, %" in columns
    for results in measured:
        (row,) = [dict(zip(columns, cells, strict=True)) for cells in lines if cells[0] == results["benchmark"]]
        metrics = results["metrics"]
        for name in ("medium", "hard") if "medium" in metrics else ():
            assert row[f"mAP {name}, %"] == f"{metrics[name]['mAP']:.2f}" and not row["mAP@100, %"]
        if "medium" not in metrics:
            assert row["mAP@100, %"] == f"{metrics['mAP@100']:.2f}" and not row["mAP hard, %"]
        assert row["queries"] == "2"


@pytest.mark.slow
def test_the_command_measures_several(tmp_path, folder):
    """As the README gives it, in a folder with DATASETS."""
    shutil.copytree(folder, tmp_path / "DATASETS")
    (tmp_path / "tiny.py").write_text(CONFIG)
    flags = ["--benchmark=roxford5k,rparis6k+1m,gldv2", "--root=DATASETS", "--anchors"]
    done = run_eval("--config=tiny.py", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "runs/untrained-tiny/eval"
    assert {path.name for path in out.iterdir()} == {"roxford5k", "rparis6k+1m", "gldv2"}
    measured = [json.loads((out / name / "results.json").read_text()) for name in ("roxford5k", "rparis6k+1m", "gldv2")]
    assert [results["photos"] for results in measured] == [6, 11, 6]
    assert measured[0]["anchors"] and not measured[1]["anchors"]  # nothing was published with three distractors
    table = done.stdout[done.stdout.index("all benchmarks") - 100 :]
    assert done.stdout.count("all benchmarks") == 1 and "report:" not in table  # it comes last
    assert_one_table(table, measured)

    standard = (out / "roxford5k/results.json").read_bytes()
    flags = ["--benchmark=roxford5k", "--root=DATASETS", "--config.eval.protocol=compat:uncropped"]
    done = run_eval("--config=tiny.py", *flags, cwd=tmp_path)
    assert done.returncode == 0 and "medium, compat:uncropped" in done.stdout, done.stderr
    assert (out / "roxford5k/results.json").read_bytes() == standard
    assert json.loads((out / "roxford5k+uncropped/results.json").read_text())["compat"] == "compat:uncropped"

    (tmp_path / "DATASETS/gldv2/index.csv").unlink()
    shutil.rmtree(out)
    done = run_eval("--config=tiny.py", "--benchmark=roxford5k,gldv2", "--root=DATASETS", cwd=tmp_path)
    assert done.returncode == 2 and "index_image_to_landmark.csv" in done.stderr and not out.exists()
