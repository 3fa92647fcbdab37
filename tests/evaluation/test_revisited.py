"""From a folder in the form of ROxford5k to what is left on disk about it."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from sret_jax.config import Config, DataConfig, ModelConfig
from sret_jax.datasets.ground_truth import read_ground_truth
from sret_jax.errors import UserError
from sret_jax.evaluation.anchors import ANCHORS, published
from sret_jax.evaluation.benchmark import open_benchmark
from sret_jax.evaluation.external import scoring
from sret_jax.evaluation.external.submissions import ranks_file, read_ranks, read_retrieval_csv, retrieval_csv
from sret_jax.evaluation.report.pictures import boxed
from sret_jax.evaluation.report.table import print_results
from sret_jax.evaluation.request import Request
from sret_jax.evaluation.results import read_results
from sret_jax.evaluation.scorers import RIGHT, UNJUDGED, WRONG, RevisitedScorer
from sret_jax.metrics.ranking import revisited_map
from sret_jax.models.descriptor import build_network, init_network
from sret_jax.retrieval.index import Index
from sret_jax.storage.artifacts import read_sealed
from tests.support.answers import scored
from tests.support.commands import run_eval
from tests.support.miniatures import gldv2, ilias, paintings, write_benchmark
from tests.support.networks import NETWORK, VARIABLES
from tests.support.photos import write_photos
from tests.support.runs import config, measure
from tests.support.twins import search_over


def evaluate(tmp_path: Path, settings: Config | None = None, out: str = "revisited", **options) -> dict:
    """The tiny benchmark of two colours."""
    options = {"root": str(tmp_path / "root"), "gnd": str(tmp_path / "root/gnd_tiny.json")} | options
    return measure(
        NETWORK,
        VARIABLES,
        settings or config(),
        "revisited",
        tmp_path / "run/eval" / out,
        cache_dir=tmp_path / "cache",
        **options,
    )


def distractors(folder: Path, count: int = 3) -> Path:
    rng = np.random.default_rng(0)
    (folder / "deep").mkdir(parents=True)
    for i in range(count):
        Image.fromarray(rng.integers(0, 255, (40, 60, 3), np.uint8)).save(folder / "deep" / f"photo_{i}.png")
    return folder


def test_everything_a_benchmark_leaves_on_disk(tmp_path):
    write_benchmark(tmp_path / "root")
    results = evaluate(tmp_path, distractors=[str(distractors(tmp_path / "others"))])
    out = tmp_path / "run/eval/revisited"
    assert results == read_sealed(out / "results.json")
    metrics = results["metrics"]
    assert set(metrics) == {"easy", "medium", "hard", "mAP", "queries", "per_query"}
    assert set(metrics["hard"]) == {"mAP", "mP@1", "mP@5", "mP@10", "queries"} and metrics["hard"]["queries"] == 2
    assert metrics["mAP"] == metrics["medium"]["mAP"] and set(metrics["per_query"]) == {"query_0", "query_1"}
    assert results["photos"] == 9 and results["distractors"] == {"others": 3} and results["extracted"] == 9
    assert "cut to their boxes" in results["queries_from"] and results["protocol"] == ""
    assert results["ranked"] == "all 9 photographs for every query" and "md5" in results["ground_truth"]

    # What is on disk gives the same numbers again.
    truth = read_ground_truth(tmp_path / "root/gnd_tiny.json")
    rankings = read_ranks(out / "ranks.npy", 2, 6)
    assert rankings.shape == (2, 9) and np.load(out / "ranks.npy").dtype == np.int32
    assert {n: metrics[n] for n in ("easy", "medium", "hard")} == revisited_map(
        rankings, truth.easy, truth.hard, truth.junk
    )
    names = truth.photos + [f"others/deep/photo_{i}.png" for i in range(3)]
    rows = list(csv.DictReader((out / "rankings.csv").open(encoding="utf-8")))
    assert [row["photo"] for row in rows] == [names[i] for i in rankings.ravel()]
    page = (out / "report.html").read_text()
    assert "AP per query" in page and "mAP medium, %" in page and "<bdi>query_0</bdi>" in page
    assert {p.name for p in (tmp_path / "run/descriptors").iterdir()} == {
        "revisited",
        "revisited-queries",
        "distractors-others",
    }


def test_descriptors_are_shared_between_the_variants_and_the_query_s_part_matters(tmp_path):
    write_benchmark(tmp_path / "root")
    evaluate(tmp_path)
    other = evaluate(
        tmp_path,
        out="revisited+uncropped+others",
        protocol="compat:uncropped",
        distractors=[str(distractors(tmp_path / "others"))],
    )
    assert other["extracted"] == 3 and "not comparable" in other["protocol"] and "not cut" in other["queries_from"]
    cut, whole = (
        {(row["query"], row["photo"]): float(row["score"]) for row in csv.DictReader(path.open())}
        for path in sorted((tmp_path / "run/eval").glob("*/rankings.csv"))
    )
    assert all(abs(whole[pair] - score) > 1e-4 for pair, score in cut.items())
    with pytest.raises(UserError, match="goes with roxford5k"):
        measure(
            NETWORK, VARIABLES, config(tmp_path), "folder", tmp_path, protocol="compat:uncropped", cache_dir=tmp_path
        )


def test_a_truncated_ranking_says_so_and_finds_less(tmp_path):
    write_benchmark(tmp_path / "root")
    settings = config()
    settings = replace(settings, eval=replace(settings.eval, ranked=1))
    results = evaluate(tmp_path, settings)
    assert results["ranked"] == "the first 1 of 6 photographs for every query"
    assert results["metrics"]["mAP"] <= 50 < evaluate(tmp_path)["metrics"]["mAP"]


def test_photographs_unranked_by_approximate_search_are_reported(tmp_path, monkeypatch):
    """On every benchmark, in the same words."""
    roots = {"revisited": write_benchmark(tmp_path / "root"), "gldv2": gldv2(tmp_path / "g")}
    roots |= {"ilias": ilias(tmp_path / "i"), "paintings": paintings(tmp_path / "p")}
    roots["folder"] = write_photos(tmp_path / "f", instances=2, photos=3)
    opened = {name: {"root": str(root)} for name, root in roots.items()}
    opened["revisited"]["gnd"] = str(tmp_path / "root/gnd_tiny.json")
    queries = str(write_photos(tmp_path / "q", instances=2, photos=1))
    cases = [*opened.items(), ("folder", opened["folder"] | {"queries": queries})]
    search = Index.search

    def leaky(self, queries, k):
        """Finds three photographs at most."""
        found = search(self, queries, k)
        return replace(found, ids=np.where(np.arange(k) < 3, found.ids, -1))

    for i, (name, where) in enumerate(cases):
        benchmark = open_benchmark(name, config=config(), cache=tmp_path / "cache", **where)
        n, asked = len(benchmark.database), len(benchmark.query_photos)
        out = tmp_path / f"run{i}/eval" / name
        found = measure(NETWORK, VARIABLES, config(), name, out, opened=benchmark)["ranked"]
        assert str(n) in found and "empty" not in found
        with monkeypatch.context() as patched:
            patched.setattr(Index, "search", leaky)
            found = measure(NETWORK, VARIABLES, config(), name, out, opened=benchmark)["ranked"]
        empty, places = (n - 3) * asked, n * asked
        words = f"but approximate search left {empty} of {places} places empty: set search.method=exact"
        assert found.endswith(words), name


def test_a_deviating_protocol_is_in_the_name_of_every_row(tmp_path, capsys):
    write_benchmark(tmp_path / "root")
    settings = config()
    settings = replace(settings, rerank=replace(settings.rerank, stages=("alpha_qe:2",)))
    options = {"root": str(tmp_path / "root"), "gnd": str(tmp_path / "root/gnd_tiny.json")}
    out = tmp_path / "run/eval/revisited+junk-first"
    results = measure(
        NETWORK,
        VARIABLES,
        settings,
        "revisited",
        out,
        **options,
        protocol="compat:junk-first",
        cache_dir=tmp_path / "cache",
    )
    print_results(read_results(out), out)
    assert results["compat"] == "compat:junk-first" and results["protocol"].startswith("compat: what a set does not")
    shown = capsys.readouterr().out
    rows = [line.split("│")[1].strip() for line in shown.splitlines() if line.startswith("│")]
    assert len(rows) == 6 and all(row.endswith(", compat:junk-first") for row in rows)
    page = (out / "report.html").read_text()
    assert "benchmark revisited, compat:junk-first" in page and "mAP medium, compat:junk-first, %" in page
    assert (
        evaluate(tmp_path)["compat"] == ""
        and "compat:" not in (tmp_path / "run/eval/revisited/report.html").read_text()
    )


@pytest.mark.parametrize("noted", [True, False])
def test_versions_of_ground_truth_and_photographs_are_told(tmp_path, noted, capsys):
    root = write_benchmark(tmp_path / "root/roxford5k", name="roxford5k")
    if noted:
        archive = {"name": "oxbuild_images.tgz", "bytes": 1980280017, "md5": "f" * 32, "version": "original"}
        (root / "DOWNLOADED.json").write_text(json.dumps({"https://x.org/oxbuild_images-v1.tgz": archive}))
    out, options = tmp_path / "run/eval/x", {"root": str(tmp_path / "root"), "cache_dir": tmp_path / "cache"}
    results = measure(NETWORK, VARIABLES, config(), "roxford5k", out, **options)
    print_results(read_results(out), out)
    version = f"original: oxbuild_images.tgz (1980280017 bytes, md5 {'f' * 32})" if noted else "unknown version"
    assert results["photographs"].startswith(version)
    assert results["photographs"].endswith(f"; fingerprint {results['photo_fingerprint']}")
    assert results["ground_truth"].startswith("no published version (md5 ")
    shown, page = capsys.readouterr().out, (out / "report.html").read_text()
    for line in (results["photographs"], results["ground_truth"]):
        assert line in shown and line in page


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"gnd": ""}, "give --gnd=FILE"),
        ({"root": ""}, "needs photographs: give --root=DIR"),
        ({"distractors": ["/nothing"]}, "--distractors=/nothing: no such folder"),
        ({"protocol": "compat:easy"}, "no protocol 'compat:easy'; choose one of standard, compat:uncropped"),
    ],
)
def test_bad_use_names_the_remedy(tmp_path, options, reason):
    write_benchmark(tmp_path / "root")
    with pytest.raises(UserError, match=reason):
        evaluate(tmp_path, **options)


def test_nothing_is_measured_on_a_part(tmp_path):
    write_benchmark(tmp_path / "root")
    (tmp_path / "root/jpg/photo_5.jpg").unlink()
    with pytest.raises(UserError, match="1 of its 8 photographs cannot be used .photo_5"):
        evaluate(tmp_path)
    assert not (tmp_path / "run/eval/revisited/results.json").exists()


def test_foreign_rankings_are_scored_without_photographs(tmp_path, capsys):
    root = write_benchmark(tmp_path / "root", name="roxford5k")
    measured = measure(
        NETWORK, VARIABLES, config(), "roxford5k", tmp_path / "run/eval/x", root=str(root), cache_dir=tmp_path / "cache"
    )
    scored = scoring.score_rankings(
        "roxford5k", tmp_path / "run/eval/x/ranks.npy", tmp_path / "out", Request(root=str(root)), anchors=True
    )
    assert scored.metrics == measured["metrics"]
    assert scored.to_dict() == read_sealed(tmp_path / "out/results.json")
    shown = capsys.readouterr().out
    assert "medium" in shown and "SOLAR" in shown and "of 6 and 0 distractors" in shown
    short = tmp_path / "short.npy"
    np.save(short, np.array([[0, 1], [8, 0]]))
    scored = scoring.score_rankings("roxford5k", short, tmp_path / "out", Request(root=str(root)))
    assert "4 of the benchmark's photographs are in no ranking" in scored.ranked
    assert "3 distractors" in scored.ranked
    with pytest.raises(UserError, match="not on 'synthetic'"):
        scoring.score_rankings("synthetic", short, tmp_path / "out", Request())


def test_ranks_survive_the_file_and_what_does_not_fit_is_named(tmp_path):
    rankings = np.array([[2, 0, 1, 3], [1, 3, 2, -1], [0, 1, 2, 3]])
    (tmp_path / "r.npy").write_bytes(ranks_file(rankings))
    np.testing.assert_array_equal(read_ranks(tmp_path / "r.npy", 3, 3), rankings)
    for array, reason in [
        (np.zeros((3, 4), int), "it is turned"),
        (np.zeros((5, 7), int), "7 columns, but the benchmark has 3"),
        (np.zeros((4, 3)), "float64"),
        (np.zeros(3, int), "integers"),
        (np.full((4, 3), -2), "holds -2"),
        (np.full((4, 3), 9), "none of the 3 photos"),
    ]:
        np.save(tmp_path / "x.npy", array)
        with pytest.raises(UserError, match=reason):
            read_ranks(tmp_path / "x.npy", 3, 3)
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(UserError, match="give a .npy file of integers"):
        read_ranks(tmp_path / "x.npy", 3, 3)
    with pytest.raises(UserError, match="No such file"):
        read_ranks(tmp_path / "none.npy", 3, 3)


def test_the_retrieval_submission(tmp_path):
    path = tmp_path / "s.csv"
    path.write_bytes(retrieval_csv(["a", "b", "c"], [["x", "y"], [], ["z"]]))
    assert path.read_text() == "id,images\na,x y\nb,\nc,z\n"
    assert read_retrieval_csv(path, {"a", "b", "c"}) == {"a": ["x", "y"], "b": [], "c": ["z"]}
    with pytest.raises(UserError, match="line 4: unknown query 'c'; query names look like"):
        read_retrieval_csv(path, {"a", "b"})
    path.write_text("id,images\na,x\na,y\n")
    with pytest.raises(UserError, match="line 3: query 'a' is answered twice"):
        read_retrieval_csv(path, {"a"})
    for text, reason in [("id,pictures\na,b\n", "no column 'images'"), ("id,images\na,b,c\n", "line 2: not as many")]:
        path.write_text(text)
        with pytest.raises(UserError, match=reason):
            read_retrieval_csv(path, {"a"})


def test_junk_is_ignored_by_the_protocol(tmp_path):
    truth = read_ground_truth(write_benchmark(tmp_path / "root") / "gnd_tiny.json")  # 0 easy, 2 hard, 4 junk of query 0
    x = np.eye(7, dtype=np.float32)
    queries = np.array([[4, 0, 3, 0, 5, 0, 2], [0, 9, 0, 8, 0, 7, 0]], np.float32)
    ranked = scored(RevisitedScorer(truth, 7, keep=3), search_over(x), queries)
    assert np.load(io.BytesIO(ranked.files["ranks.npy"])).shape == (7, 2)
    assert ranked.ids.tolist() == [
        [4, 0, 2],
        [1, 3, 5],
    ]
    assert ranked.verdicts.tolist() == [[UNJUDGED, RIGHT, RIGHT], [RIGHT, RIGHT, UNJUDGED]]
    assert ranked.ap.tolist() == [1, 1] and ranked.metrics["medium"]["mP@1"] == 100
    ranked = scored(RevisitedScorer(truth, 7, keep=2), search_over(x), -queries)
    assert ranked.verdicts[0].tolist() == [WRONG, WRONG]


def test_the_box_of_a_query_is_drawn():
    photo = np.full((60, 80, 3), 100, np.uint8)
    drawn = boxed(photo, np.array([20, 10, 50, 40]))
    assert (drawn[25, 35] == 100).all() and (drawn[50, 70] > 140).all() and not (photo == drawn).all()
    assert (drawn[10, 20:50] == [250, 204, 21]).all() and (drawn[39, 30] == [250, 204, 21]).all()


def test_anchors_belong_to_one_protocol():
    assert all(0 < value <= 100 for a in ANCHORS for value in a.metrics.values()) and all(a.source for a in ANCHORS)
    plain, million = (published("roxford5k", n, "standard") for n in (0, 1_001_001))
    assert {a["method"] for a in million} < {a["method"] for a in plain}
    by_method = {a["method"]: a["metrics"] for a in plain}
    for a in million:  # distractors never help
        assert all(value < by_method[a["method"]][name] for name, value in a["metrics"].items())
    assert published("roxford5k", 1185, "standard") == []
    assert published("roxford5k", 0, "compat:uncropped") and published("synthetic", 0, "standard") == []


@pytest.mark.photos
@pytest.mark.slow
def test_the_revisited_protocol_on_real_photographs(tmp_path, photos):
    root = photos / "allsouls"
    data = DataConfig(image_size=160, bucket_ratios=())
    settings = Config(data=data, model=ModelConfig(whitening=False))
    network = build_network(settings.model)
    variables = init_network(network, settings.model, jax.random.key(0))
    results = measure(
        network,
        variables,
        settings,
        "revisited",
        tmp_path / "out",
        root=str(root),
        gnd=str(root / "gnd_allsouls_subset.json"),
        distractors=[str(photos / "provence/images/nice__negresco")],
        cache_dir=tmp_path / "cache",
    )
    assert results["metrics"]["medium"]["queries"] == 6 and results["photos"] > 120
    assert results["metrics"]["medium"]["mAP"] > results["metrics"]["hard"]["mAP"] > 5


def test_the_command_scores_a_ranking(tmp_path):
    write_benchmark(tmp_path / "root", name="rparis6k")
    np.save(tmp_path / "perfect.npy", np.array([[0, 1], [2, 3], [4, 5], [1, 0], [3, 2], [5, 4]]))
    flags = ["--benchmark=rparis6k", "--root=root", "--rankings=perfect.npy", "--anchors"]
    done = run_eval(*flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "100.00" in done.stdout and "DOLG R101" in done.stdout
    results = json.loads((tmp_path / "runs/rankings-perfect/rparis6k/results.json").read_text())
    assert results["metrics"]["hard"]["mAP"] == pytest.approx(100) and results["anchors"]
