"""From a folder of photographs to results on disk, and the one line that bad use gets."""

import csv
import json
import os
import re
import shutil
import subprocess
import tracemalloc
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from sret_jax.config import Config, DataConfig, EvalConfig, ModelConfig, SearchConfig
from sret_jax.data.photo_set import PhotoSet
from sret_jax.errors import UserError
from sret_jax.evaluation import training_run
from sret_jax.evaluation.benchmark import Benchmark, open_benchmark
from sret_jax.evaluation.external.named import _ranked_lines as read_ranked
from sret_jax.evaluation.features import Features
from sret_jax.evaluation.report.table import print_results
from sret_jax.evaluation.request import Request
from sret_jax.evaluation.results import read_results
from sret_jax.evaluation.run import evaluate as measure_retriever
from sret_jax.evaluation.scorers import InstanceScorer
from sret_jax.evaluation.search import open_search
from sret_jax.evaluation.timings import Timings
from sret_jax.extraction.descriptors import Extraction
from sret_jax.models.descriptor import build_network, init_network
from sret_jax.models.weights.shipped import DEFAULT
from sret_jax.retrieval import exact
from sret_jax.retriever import Retriever
from sret_jax.storage.artifacts import read_sealed
from sret_jax.storage.row_store import RowStore
from sret_jax.storage.workdir import Workdir
from sret_jax.training.checkpoint import TrainedNetwork
from sret_jax.training.loop import train
from tests.support import train_driver
from tests.support.commands import CONFIG, REPOSITORY, run_eval
from tests.support.networks import NETWORK, VARIABLES
from tests.support.photos import write_photos
from tests.support.runs import config, measure


def evaluate(tmp_path: Path, benchmark: str = "folder", settings: Config | None = None, **options) -> dict:
    settings = settings or config(tmp_path / "photos")
    options = {"cache_dir": tmp_path / "cache"} | options
    return measure(NETWORK, VARIABLES, settings, benchmark, tmp_path / "run/eval" / benchmark, **options)


def test_everything_a_run_leaves_on_disk(tmp_path):
    root = write_photos(tmp_path / "photos")
    (root / "tower 1" / "notes.txt").write_text("hello")
    results = evaluate(tmp_path)
    out = tmp_path / "run/eval/folder"
    assert results == read_sealed(out / "results.json")
    assert results["metrics"]["mAP"] == pytest.approx(100) and results["metrics"]["R@1"] == 100
    assert results["metrics"]["per_instance"] == {f"tower {i}": pytest.approx(100) for i in range(3)}
    assert results["photos"] == 12 and results["instances"] == 3 and results["extracted"] == 12
    assert set(results["timings"]) == {"prepare", "extract", "index", "search", "score", "report"}
    assert results["versions"]["jax"] == jax.__version__ and "12 photos x 12" in results["index"]
    skipped = json.loads((out / "skipped.json").read_text())
    assert [s["photo"] for s in skipped] == ["tower 1/notes.txt"] and skipped[0]["reason"] and results["skipped"] == 1
    rows = list(csv.DictReader((out / "rankings.csv").open(encoding="utf-8")))
    assert len(rows) == 12 * 11 and not any(row["query"] == row["photo"] for row in rows)
    assert all(row["query"].split("/")[0] == row["photo"].split("/")[0] for row in rows if int(row["rank"]) <= 3)
    queries = list(csv.DictReader((out / "queries.csv").open(encoding="utf-8")))
    assert [row["query"] for row in queries] == sorted({row["query"] for row in rows})
    assert np.mean([float(row["AP"]) for row in queries]) == pytest.approx(results["metrics"]["mAP"], abs=1e-3)
    assert "tower 2" in (out / "report.html").read_text() and (out / "strip.png").stat().st_size
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"descriptors", "eval", "index"}


def test_a_second_run_reuses_and_a_changed_network_does_not(tmp_path):
    write_photos(tmp_path / "photos")
    first = evaluate(tmp_path)
    index = tmp_path / "run/index/folder/index.json"
    written = index.stat().st_mtime_ns
    second = evaluate(tmp_path)
    assert second["extracted"] == 0 and second["metrics"] == first["metrics"]
    assert index.stat().st_mtime_ns == written
    other = jax.tree.map(lambda x: x + 0.01, VARIABLES)
    out = tmp_path / "run/eval/folder"
    third = measure(NETWORK, other, config(tmp_path / "photos"), "folder", out, cache_dir=tmp_path / "cache")
    assert third["extracted"] == 12 and third["fingerprint"] != first["fingerprint"]
    assert index.stat().st_mtime_ns != written


def test_the_figures_before_training_stand_beside_those_after(tmp_path):
    write_photos(tmp_path / "photos")
    settings, out = config(tmp_path / "photos"), tmp_path / "run/eval/folder"
    options = {"cache_dir": tmp_path / "cache"}
    before = measure(
        NETWORK, VARIABLES, settings, "folder", out.with_name("folder-untrained"), **options, workdir=tmp_path / "run"
    )
    after = evaluate(tmp_path)
    assert after["before_training"] == {name: before["metrics"][name] for name in ("mAP", "R@1")}
    write_photos(tmp_path / "others", instances=2, seed=1)
    assert evaluate(tmp_path, root=str(tmp_path / "others"))["before_training"] == {}  # of other photographs


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"[]",
        lambda data: None,
        lambda data: data.replace(b'"mAP"', b'"mAQ"', 1),
        lambda data: data.replace(b'"metrics": {', b'"metrics": [], "old": {', 1),
        lambda data: data.replace(b'"benchmark": "folder"', b'"benchmark": "foldes"', 1),
    ],
)
def test_damaged_figures_of_the_start_are_left_out_and_said(tmp_path, damage, caplog):
    write_photos(tmp_path / "photos")
    evaluate(tmp_path)
    first = tmp_path / "run/eval/folder/results.json"
    start = tmp_path / "run/eval/folder-untrained/results.json"
    start.parent.mkdir()
    damaged = damage(first.read_bytes())
    assert damaged != first.read_bytes()
    if damaged is not None:
        start.write_bytes(damaged)
    assert evaluate(tmp_path)["before_training"] == {}
    assert caplog.text.count("these results are left out, evaluate again") == 1


def test_no_name_in_a_table_is_a_formula_and_the_report_shows_no_folder(tmp_path):
    root = write_photos(tmp_path / "photos")
    for number, name in enumerate(["=1+1", "@sum", "+3", "-3", "'=quoted"]):
        (root / name).mkdir()
        for photo in sorted((root / "tower 1").iterdir())[:2]:
            (root / name / photo.name).write_bytes(photo.read_bytes() + bytes([number]))
    evaluate(tmp_path)
    out = tmp_path / "run/eval/folder"
    for table, columns in (("rankings.csv", ("query", "photo")), ("queries.csv", ("query",))):
        rows = list(csv.DictReader((out / table).open(encoding="utf-8", newline="")))
        cells = [row[column] for row in rows for column in columns]
        assert cells and not [cell for cell in cells if cell[0] in "=+-@"]
        assert any(cell.startswith("'=1+1/") for cell in cells) and any(cell.startswith("''=quoted/") for cell in cells)
    named = {name for _, query, names in read_ranked(out / "rankings.csv") for name in (query, *names)}
    assert {name.split("/")[0] for name in named} >= {"=1+1", "@sum", "+3", "-3", "'=quoted"}
    shown = re.sub(r'href="[^"]*"', "", (out / "report.html").read_text())  # links lead to the originals
    assert str(tmp_path) not in shown and "<dd>photos</dd>" in shown


def test_results_say_the_step_that_was_measured(tmp_path):
    write_photos(tmp_path / "photos")
    settings = config(tmp_path / "photos")
    opened = open_benchmark("folder", config=settings, cache=tmp_path / "cache")
    retriever = Retriever(NETWORK, VARIABLES, settings, step=40)
    assert measure_retriever(retriever, opened, tmp_path / "out").step == 40
    assert "<dd>step 40</dd>" in (tmp_path / "out/report.html").read_text()


def test_what_a_killed_evaluation_left_is_cleared(tmp_path):
    write_photos(tmp_path / "photos")
    left = tmp_path / "run/eval/folder/.rankings.csv.another-host.7.tmp"
    left.parent.mkdir(parents=True)
    left.write_text("half")
    os.utime(left, (0, 0))
    evaluate(tmp_path)
    assert not left.exists()


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount a folder that cannot be written to")
def test_a_run_that_cannot_be_written_to_is_measured_elsewhere(tmp_path):
    settings = train_driver.small_config(tmp_path / "cache", plain=True)
    settings.model.stage, settings.train.steps = "c1", 2
    train(settings, tmp_path / "run")
    flags = [f"--workdir={tmp_path / 'run'}", "--benchmark=synthetic", "--config.eval.synthetic_instances=4"]
    flags.append("--config.local.source=sift")
    wanted = "--rerank=sv:3", "--localize=discovery", "--config.localize.image_size=64"
    assert run_eval(*flags, *wanted, cwd=tmp_path).returncode == 0
    if subprocess.run(["mount", "--bind", tmp_path / "run", tmp_path / "run"], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", tmp_path / "run"], check=True)
        refused = run_eval(*flags, cwd=tmp_path)
        assert refused.returncode == 2 and refused.stderr.count("\n") == 1
        assert f"{tmp_path / 'run'}: Read-only file system; give --out=DIR" in refused.stderr
        done = run_eval(*flags, *wanted, f"--out={tmp_path / 'out'}", cwd=tmp_path)
    finally:
        subprocess.run(["umount", tmp_path / "run"], check=True)
    assert done.returncode == 0, done.stderr
    found, before = (read_sealed(tmp_path / name / "results.json") for name in ("out", "run/eval/synthetic+sv-3"))
    assert found["step"] == 2 and found["metrics"] == before["metrics"]
    assert found["extracted"] == 0  # the run had it all, and none of it is stored again
    assert not {"descriptors", "local", "index", "maps"} & {path.name for path in (tmp_path / "out").iterdir()}


def test_new_photographs_are_noticed(tmp_path):
    write_photos(tmp_path / "photos")
    evaluate(tmp_path)
    Image.new("RGB", (64, 48), (200, 0, 0)).save(tmp_path / "photos/tower 0/new.jpg")
    results = evaluate(tmp_path)
    assert results["photos"] == 13 and results["extracted"] == 13


@pytest.mark.parametrize("file", ["index/folder/scann/dataset.npy", "descriptors/folder/00000.npy"])
def test_what_is_damaged_is_made_again(tmp_path, file, caplog):
    write_photos(tmp_path / "photos")
    first = evaluate(tmp_path)
    path = tmp_path / "run" / file
    data = bytearray(path.read_bytes())
    data[-2] ^= 64
    path.write_bytes(data)
    assert evaluate(tmp_path)["metrics"] == first["metrics"]
    assert path.name in caplog.text


@pytest.mark.parametrize("method", ["exact", "brute_force", "ah"])
def test_the_search_method_is_the_config_s(tmp_path, method, capsys):
    write_photos(tmp_path / "photos", photos=6)
    results = evaluate(tmp_path, settings=config(tmp_path / "photos", search=SearchConfig(method=method)))
    assert ("exact" in results["index"]) == (method == "exact") and results["metrics"]["mAP"] == pytest.approx(100)
    recall = results["index_recall"]  # an approximate index says what it finds of the exact answers
    assert recall == ({"recall@10": 100, "recall@18": 100, "queries": 18, "asked": 18} if method == "ah" else {})
    print_results(read_results(tmp_path / "run/eval/folder"), tmp_path)
    assert ("it finds recall@10 100.0 %" in capsys.readouterr().out) == (method == "ah")


def test_descriptors_are_in_memory_twice_at_most_and_mapped_where_they_are_one_chunk(tmp_path, monkeypatch):
    monkeypatch.setattr(exact, "ROWS_AT_ONCE", 512)
    x = np.random.default_rng(0).normal(size=(20_000, 64)).astype(np.float32)
    names, labels, sizes = [str(i) for i in range(len(x))], np.arange(len(x)) // 2, np.full((len(x), 2), 40)
    photos = PhotoSet("many", names, labels, names, sizes, names, [{}] * len(x), [])
    benchmark = Benchmark("folder", photos, [], photos, None, partial(InstanceScorer, labels, names), "", Request())
    retriever = Retriever(NETWORK, VARIABLES, config(search=SearchConfig(method="exact")))
    for rows, most in (
        (1000, 2.6),
        (20_000, 1.6),
    ):  # the normalised ones, those of several chunks joined, and small pieces
        store = RowStore.resume(tmp_path / f"d{rows}", names, "net", rows)
        for chunk, start, stop in store.chunks():
            store.write(chunk, x[start:stop])
        part = Extraction(store.parts(), "net", 0, 0.0, 0.0, 0.0)
        monkeypatch.setattr(Retriever, "extract", lambda *_, part=part: part)
        tracemalloc.start()
        features = Features(retriever, benchmark, Workdir(tmp_path / f"w{rows}"), Timings())
        index, _ = open_search(features)
        held, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < most * x.nbytes and held < 1.6 * x.nbytes, (rows, held / x.nbytes, peak / x.nbytes)
        assert features.database.descriptors is index.descriptors
        np.testing.assert_allclose(index.descriptors, x / np.linalg.norm(x, axis=1, keepdims=True), atol=1e-6)


def test_a_split_belongs_to_the_config_s_own_folder(tmp_path):
    root = write_photos(tmp_path / "photos")
    splits = tmp_path / "splits.json"
    splits.write_text(json.dumps({"train": ["tower 0"], "test": ["tower 1", "tower 2"]}))
    settings = config(root)
    settings = replace(settings, data=replace(settings.data, splits=str(splits)))
    assert evaluate(tmp_path, settings=settings)["photos"] == 8
    assert evaluate(tmp_path, settings=settings, root=f"{root}/.")["photos"] == 8
    other = write_photos(tmp_path / "other")
    assert evaluate(tmp_path, settings=settings, root=str(other))["photos"] == 12


def test_several_folders_are_measured_each_on_its_own_split(tmp_path):
    one, two = write_photos(tmp_path / "one"), write_photos(tmp_path / "two", seed=1)
    (tmp_path / "one.json").write_text(json.dumps({"train": ["tower 0"], "test": ["tower 1", "tower 2"]}))
    (tmp_path / "two.json").write_text(json.dumps({"train": ["tower 1"]}))
    settings = config(f"{one},{two}")

    def measured(splits: str, root: str = "") -> dict:
        return evaluate(tmp_path, settings=replace(settings, data=replace(settings.data, splits=splits)), root=root)

    results = measured(f"{tmp_path}/one.json,")
    assert results["photos"] == 8 + 12 and "split 'test' of" in results["searched"]
    names = {"one/tower 1", "one/tower 2", "two/tower 0", "two/tower 1", "two/tower 2"}
    assert set(results["metrics"]["per_instance"]) == names and "no archive is in" in results["photographs"]
    assert measured("")["photos"] == 24 and measured("", f"{two}/., {one}")["photos"] == 24
    assert measured(f"{tmp_path}/one.json,", str(one))["photos"] == 8  # one of them has its split, too
    assert measured(f"{tmp_path}/one.json,", str(two))["photos"] == 12
    with pytest.raises(UserError, match="two.json has no split 'test'; known: train"):
        measured(f"{tmp_path}/one.json,{tmp_path}/two.json")
    with pytest.raises(UserError, match=f"--root={tmp_path}/three: no such folder"):
        measured("", f"{one},{tmp_path}/three")


def test_labelled_queries_are_scored(tmp_path):
    write_photos(tmp_path / "photos")
    queries = write_photos(tmp_path / "queries", instances=4, photos=1, seed=1)
    results = evaluate(tmp_path, queries=str(queries))
    assert results["metrics"]["queries"] == 3 and results["metrics"]["mAP"] == pytest.approx(100)
    assert "extract queries" in results["timings"] and results["queries_from"] == str(queries)


def test_queries_without_instances_are_ranked(tmp_path):
    write_photos(tmp_path / "photos")
    (tmp_path / "queries").mkdir()
    Image.new("RGB", (64, 48), (200, 5, 5)).save(tmp_path / "queries/mine.png")
    results = evaluate(tmp_path, queries=str(tmp_path / "queries"))
    assert results["metrics"] == {}
    rows = list(csv.DictReader((tmp_path / "run/eval/folder/rankings.csv").open()))
    assert len(rows) == 12 and rows[0]["query"] == "mine.png" and rows[0]["photo"].startswith("tower 0/")


def test_synthetic_benchmark(tmp_path):
    settings = config(eval=EvalConfig(synthetic_instances=3, synthetic_photos=3))
    results = evaluate(tmp_path, "synthetic", settings)
    assert results["photos"] == 9 and 0 < results["metrics"]["mAP"] <= 100


def test_a_run_measures_a_deviation_in_a_folder_of_its_own(tmp_path, monkeypatch):
    folders = []
    settings = replace(config(), eval=EvalConfig(("roxford5k", "rparis6k+1m"), protocol="compat:uncropped"))
    network = TrainedNetwork(settings, {"params": {}, "batch_stats": {}}, None, 0)
    monkeypatch.setattr(training_run.loop, "train", lambda config, workdir, measure: measure(network, "-untrained"))
    monkeypatch.setattr(training_run, "evaluate", lambda *args, **places: folders.append((args[2], places["workdir"])))
    for name in ("open_requested", "print_results"):
        monkeypatch.setattr(training_run, name, lambda *_: None)
    monkeypatch.setattr(training_run, "load", lambda *_: Retriever.of(network))
    training_run.train(settings, tmp_path)
    names = ["roxford5k+uncropped-untrained", "rparis6k+1m+uncropped-untrained"]
    assert folders == [(tmp_path / "eval" / name, Workdir(tmp_path, "-untrained")) for name in names]


def test_out_may_be_any_folder(tmp_path):
    write_photos(tmp_path / "photos")
    settings = config(tmp_path / "photos")
    measure(NETWORK, VARIABLES, settings, "folder", tmp_path / "x", cache_dir=tmp_path / "cache")
    assert (tmp_path / "x/results.json").exists() and (tmp_path / "x/index/folder").is_dir()


@pytest.mark.parametrize(
    ("benchmark", "options", "text"),
    [
        (
            "oxford",
            {},
            "no benchmark 'oxford'; did you mean '.*oxford.*hoose one of synthetic, folder",
        ),
        ("folder", {"root": "/nothing"}, "--root=/nothing: no such folder"),
        ("folder", {"queries": "/nothing"}, "--queries=/nothing: no such folder"),
        ("folder", {}, "needs photographs: give --root=PATH"),
    ],
)
def test_bad_use_names_the_remedy(tmp_path, benchmark, options, text):
    with pytest.raises(UserError, match=text):
        evaluate(tmp_path, benchmark, config(), **options)


def test_distractors_that_are_the_benchmarks_own_photographs_are_refused(tmp_path):
    """They would be searched twice, and count as wrong."""
    root, others = tmp_path / "photos", tmp_path / "others"
    write_photos(root)
    for folder in (root, tmp_path, root / ".." / "photos"):
        with pytest.raises(
            UserError, match="--distractors=.*: holds --root=.*photos, whose photographs would count as"
        ):
            evaluate(tmp_path, root=str(root), distractors=[str(folder)])
    assert not (tmp_path / "cache").exists()  # nothing is read for that
    some = next(path for path in root.iterdir() if path.is_dir())
    shutil.copytree(some, others)
    for folder in (some, others):
        with pytest.raises(
            UserError, match=rf"--distractors={folder}: \d+ of its photographs are the benchmark's own, such"
        ):
            evaluate(tmp_path, root=str(root), distractors=[str(folder)])


def test_settings_are_checked_before_photographs_are(tmp_path):
    with pytest.raises(UserError, match="config.eval.ranked=-1: must be a whole number from 0"):
        open_benchmark("folder", tmp_path, config=config(eval=EvalConfig(ranked=-1)))


def test_a_folder_with_nothing_to_measure(tmp_path):
    write_photos(tmp_path / "photos", photos=1)
    with pytest.raises(UserError, match="at least two photos"):
        evaluate(tmp_path)


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--workdir=nothing"], "nothing: holds no checkpoint"),
        (["--workdir=nothing", "--benchmark=oxford"], "no benchmark 'oxford'"),
        (["--workdir=nothing", "--benchmark=gldv2,rparis6k+2m"], "no benchmark 'rparis6k+2m'; did you mean 'rparis6k'"),
        (["--workdir=nothing", "--benchmark=synthetic", "--root=."], "--root does not go with --benchmark=synthetic"),
        (["--workdir=nothing", "--benchmark=synthetic", "--queries=."], "--queries goes with --benchmark=folder"),
        (
            [f"--config={REPOSITORY}/configs/published.py:x"],
            "no such network; choose from gem_w, gem, solar, ap_gem",
        ),
        (["--rankings=ranks.npy"], "--rankings=FILE is scored on one benchmark"),
        (["--marks=m.json", "--benchmark=folder,paintings"], "--marks=FILE is scored on one benchmark"),
        (["--workdir=nothing", "--benchmark=folder", "--masks=nowhere"], "--masks=nowhere: no such folder"),
        (["--workdir=nothing", "--benchmark=synthetic", "--masks=."], "--masks says where objects are"),
        (["--workdir=nothing", "--benchmark=folder", "--regions=r.json"], "of the photographs of --queries=DIR"),
    ],
)
def test_bad_flags_get_one_line(tmp_path, flags, text):
    done = run_eval(*flags, cwd=tmp_path)
    assert done.returncode == 2 and text in done.stderr and done.stderr.count("\n") == 1 and not done.stdout


@pytest.mark.slow
def test_without_a_workdir_the_network_that_comes_with_the_package_is_measured(tmp_path):
    done = run_eval("--benchmark=synthetic", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "runs" / DEFAULT / "eval/synthetic/results.json").read_text())
    assert results["metrics"]["mAP"] > 50


@pytest.mark.slow
def test_the_command_measures_an_untrained_config(tmp_path):
    write_photos(tmp_path / "photos")
    (tmp_path / "tiny.py").write_text(CONFIG)
    flags = ["--config=tiny.py", "--benchmark=folder", "--root=photos"]
    done = run_eval(*flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "mAP" in done.stdout and "runs/untrained-tiny/eval/folder/report.html" in done.stdout
    out = tmp_path / "runs/untrained-tiny/eval/folder"
    assert "have not been trained" in (out / "report.html").read_text()
    assert np.isfinite(json.loads((out / "results.json").read_text())["metrics"]["mAP"])


@pytest.mark.photos
@pytest.mark.slow
def test_pretrained_features_find_real_landmarks(tmp_path, photos):
    splits = tmp_path / "splits.json"
    splits.write_text(json.dumps({"test": ["orange__arc_triomphe", "marseille__mucem", "nice__negresco"]}))
    data = DataConfig(root=str(photos / "provence/images"), splits=str(splits), image_size=160, bucket_ratios=())
    settings = Config(data=data, model=ModelConfig(whitening=False, pool_p=2.0))
    network = build_network(settings.model)
    variables = init_network(network, settings.model, jax.random.key(0))
    out = tmp_path / "out"
    results = measure(network, variables, settings, "folder", out, cache_dir=tmp_path / "cache")
    assert results["instances"] == 3 and results["photos"] > 100
    assert results["metrics"]["mAP"] > 85 and results["metrics"]["R@1"] > 95
