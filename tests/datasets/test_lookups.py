"""Miniature copies of Google Landmarks v2, ILIAS, paintings and the million distractors, in their authors' formats."""

import csv

import numpy as np
import pytest

from sret_jax.config import Config, DataConfig
from sret_jax.config.validation import validate
from sret_jax.datasets.lookups import prepare_gldv2, prepare_ilias, prepare_million, prepare_paintings
from sret_jax.errors import UserError
from sret_jax.evaluation.external import scoring
from sret_jax.evaluation.request import Request
from sret_jax.training.loop import prepare_photos
from tests.support.miniatures import gldv2, ilias, million, paintings
from tests.support.networks import NETWORK, VARIABLES
from tests.support.photos import write_photo
from tests.support.runs import config, measure


def test_gldv2(tmp_path):
    found = prepare_gldv2(gldv2(tmp_path / "g"), tmp_path / "cache")
    assert found.queries.names == ["a0cdef0123456789", "a1cdef0123456789"] and found.groups == ["public", "private"]
    assert len(found.photos) == 6 and found.depth == 100 and [r.tolist() for r in found.relevant] == [[0, 3], [1, 4]]


@pytest.mark.parametrize(
    ("solution", "reason"),
    [
        (
            "id,images,Usage\na0cdef0123456789,unknown,Public\n",
            "should find 'unknown', which .*index.csv does not",
        ),
        ("id,images,Usage\na0cdef0123456789,x,Other\n", "has Usage 'Other'"),
        ("id,images,Usage\na,x,Public\na,x,Public\n", "query 'a' is listed twice"),
        ("id,images,Usage\na,,Public\n", "no right answer and is not Ignored"),
        ("id,images,Usage\na,x,Ignored\n", "holds no query"),
        ("id,images\na,x\n", "no column 'Usage'"),
    ],
)
def test_a_mixed_up_solution_is_named(tmp_path, solution, reason):
    with pytest.raises(UserError, match=reason):
        prepare_gldv2(gldv2(tmp_path / "g", solution), tmp_path / "cache")


def test_a_missing_index_photograph_is_named(tmp_path):
    root = gldv2(tmp_path / "g")
    (root / "index/3/b/3/3b3def0123456789.jpg").unlink()
    with pytest.raises(UserError, match="1 of its 6 photographs cannot be used .3b3def0123456789: not in"):
        prepare_gldv2(root, tmp_path / "cache")
    (root / "index.csv").write_text("id,url\n../../etc,x\n")
    with pytest.raises(UserError, match="not an id of Google Landmarks"):
        prepare_gldv2(root, tmp_path / "cache")


@pytest.mark.parametrize("kind", ["v1", "v2", "clean"])
def test_landmark_training_photographs(tmp_path, kind):
    names = ["abc0", "abd1", "bcd2", "bce3"]
    for i, name in enumerate(names):
        write_photo(tmp_path / ("train" if kind == "v1" else f"train/{name[0]}/{name[1]}/{name[2]}") / f"{name}.jpg", i)
    if kind == "clean":
        (tmp_path / "train_clean.csv").write_text("landmark_id,images\n7,abc0 bcd2\n12,abd1 bce3\n")
    else:
        rows = zip(names, ("7", "12", "7", "None" if kind == "v1" else "12"), strict=True)
        (tmp_path / "train.csv").write_text("id,url,landmark_id\n" + "".join(f"{n},x,{i}\n" for n, i in rows))
    settings = Config(data=DataConfig(dataset="landmarks", root=str(tmp_path), cache_dir=str(tmp_path / "cache")))
    validate(settings)
    found = prepare_photos(settings, tmp_path)
    label = {name: found.instances[x] if x >= 0 else None for name, x in zip(found.names, found.labels, strict=True)}
    assert label == {"abc0": "7", "abd1": "12", "bcd2": "7", "bce3": None if kind == "v1" else "12"}


def test_ilias(tmp_path):
    found = prepare_ilias(ilias(tmp_path / "i"), tmp_path / "cache")
    assert found.queries.names == ["bold_bimp_000/query/Q000_00", "zippy_zoot_999/query/Q001_00"]
    assert found.queries.boxes.tolist() == [[10, 5, 65, 40]] * 2 and found.queries.photo(0).shape == (35, 55, 3)
    assert (found.queries.sizes == found.queries.regions).all()  # the part fills the network's input
    assert [r.tolist() for r in found.relevant] == [[0, 1], [2, 3, 4]] and found.depth == 1000
    (tmp_path / "i/ilias_core/bold_bimp_000/query/Q000_00_bbox.txt").write_text("900 900 5 5")
    with pytest.raises(UserError, match="Q000_00_bbox.txt: its boxes are not on the photograph of 80x60"):
        prepare_ilias(tmp_path / "i", tmp_path / "cache")
    for text in ("", "1 2 3", "a b c d"):
        (tmp_path / "i/ilias_core/bold_bimp_000/query/Q000_00_bbox.txt").write_text(text)
        with pytest.raises(UserError, match="Q000_00_bbox.txt"):
            prepare_ilias(tmp_path / "i", tmp_path / "cache")
    (tmp_path / "i/ilias_core/zippy_zoot_999/query/Q001_00.jpg").unlink()
    with pytest.raises(UserError, match="zippy_zoot_999 has no query"):
        prepare_ilias(tmp_path / "i", tmp_path / "cache")
    with pytest.raises(UserError, match="no <object>/query/"):
        prepare_ilias(tmp_path, tmp_path / "cache")


def test_paintings(tmp_path):
    found = prepare_paintings(paintings(tmp_path / "p"), tmp_path / "cache")
    assert found.queries.names == ["db/p_0.jpg", "db/p_1.jpg"] and found.photos.names == [
        f"walls/{i}.jpg" for i in range(4)
    ]
    assert [r.tolist() for r in found.relevant] == [[0, 1], [1]] and found.depth == 0
    (tmp_path / "p/walls/2.jpg").unlink()
    with pytest.raises(UserError, match="walls/2.jpg: not in"):
        prepare_paintings(tmp_path / "p", tmp_path / "cache")
    (tmp_path / "p/ground_truth.json").write_text('[{"image": "walls/1.jpg"}]')
    with pytest.raises(UserError, match="not a list of images with their objects"):
        prepare_paintings(tmp_path / "p", tmp_path / "cache")


def test_the_million_is_what_its_list_says(tmp_path):
    found = prepare_million(million(tmp_path / "m"), tmp_path / "cache")
    assert found.names == ["00/a.jpg", "00/b.jpg", "f3/c.jpg"] and found.name == "revisitop1m"
    (tmp_path / "m/jpg/f3/c.jpg").unlink()
    with pytest.raises(UserError, match="revisitop1m: 1 of its 3 photographs cannot be used .f3/c.jpg"):
        prepare_million(tmp_path / "m", tmp_path / "cache")


@pytest.mark.parametrize(("name", "write"), [("gldv2", gldv2), ("ilias", ilias), ("paintings", paintings)])
def test_each_is_measured(tmp_path, name, write):
    root, out = write(tmp_path / "root"), tmp_path / "run/eval" / name
    results = measure(
        NETWORK,
        VARIABLES,
        config(),
        name,
        out,
        root=str(root),
        distractors=[str(million(tmp_path / "million"))],
        cache_dir=tmp_path / "cache",
    )
    metrics = results["metrics"]
    first = {"gldv2": "mAP@100", "ilias": "mAP@1000", "paintings": "mAP"}[name]
    assert next(iter(metrics)) == first and 0 < metrics[first] <= 100 and metrics["queries"] == 2
    assert np.mean(list(metrics["per_query"].values())) == pytest.approx(metrics[first])
    assert 0 <= metrics["R@1"] <= metrics["R@5"] <= metrics["R@10"] == 100
    assert results["distractors"] == {"revisitop1m": 3} and (out / "report.html").exists()
    if name == "gldv2":
        assert metrics[first] == pytest.approx((metrics["mAP@100 public"] + metrics["mAP@100 private"]) / 2)
        rows = list(csv.DictReader((out / "submission.csv").open()))
        assert [len(row["images"].split()) for row in rows] == [9, 9]
        again = scoring.score_rankings("gldv2", out / "submission.csv", tmp_path / "s", Request(root=str(root)))
        assert again.metrics[first] == pytest.approx(metrics[first])
        assert again.metrics["mAP@100 public"] == pytest.approx(metrics["mAP@100 public"])


def test_an_unanswered_query_counts_zero_and_is_reported(tmp_path):
    root = gldv2(tmp_path / "root")
    (tmp_path / "s.csv").write_text("id,images\na0cdef0123456789,0b0def0123456789 3b3def0123456789\n")
    scored = scoring.score_rankings("gldv2", tmp_path / "s.csv", tmp_path / "s", Request(root=str(root)))
    assert scored.metrics == {"mAP@100": 50, "mAP@100 private": 0, "mAP@100 public": 100, "queries": 2}
    assert scored.ranked == "1 of 2 queries are answered; the others count as zero"


RECOGNITION = "id,landmarks,Usage\na,7,Public\nb,8 9,Private\nc,,Public\nd,3,Private\ne,1,Ignored\n"


def test_recognition_answers_are_scored(tmp_path):
    (tmp_path / "recognition_solution_v2.1.csv").write_text(RECOGNITION)
    (tmp_path / "s.csv").write_text("id,landmarks\na,7 0.5\nb,9 0.9\nc,4 0.7\nd,\n")
    scored = scoring.score_rankings("gldv2", tmp_path / "s.csv", tmp_path / "s", Request(root=str(tmp_path)))
    # All: b right, c wrong, a right, of the three that show a landmark; public: c, a of one; private: b of two.
    assert scored.metrics["µAP"] == pytest.approx(100 * (1 + 2 / 3) / 3)
    assert scored.metrics["µAP public"] == pytest.approx(50) and scored.metrics["µAP private"] == pytest.approx(50)
    assert scored.ranked == "3 of 4 queries are answered" and scored.metrics["queries"] == 4
    for text, reason in [
        ("a,7 0.5\na,7 0.5", "line 3: query 'a' is answered twice"),
        ("z,7 0.5", "line 2: unknown query 'z'; query names look like"),
        ("a,7", "'7' is not a landmark number and a confidence"),
        ("a,7 x", "'7 x' is not"),
        ("a,7 nan", "'7 nan' is not a landmark number and a confidence"),
    ]:
        (tmp_path / "s.csv").write_text("id,landmarks\n" + text + "\n")
        with pytest.raises(UserError, match=reason):
            scoring.score_rankings("gldv2", tmp_path / "s.csv", tmp_path / "s", Request(root=str(tmp_path)))


@pytest.mark.parametrize(
    ("row", "reason"),
    [("a,7,Other", "has Usage 'Other'"), ("a,x,Public", "not numbers"), ("d,3,Public", "listed twice")],
)
def test_a_mixed_up_recognition_solution_is_named(tmp_path, row, reason):
    (tmp_path / "recognition_solution_v2.1.csv").write_text(RECOGNITION.replace("a,7,Public", row))
    (tmp_path / "s.csv").write_text("id,landmarks\n" + "b,9 0.9\n")
    with pytest.raises(UserError, match=reason):
        scoring.score_rankings("gldv2", tmp_path / "s.csv", tmp_path / "s", Request(root=str(tmp_path)))
