"""Rankings and marks that something else made, by name, in a file: scored on every benchmark, and gaps are reported."""

import csv
import io
import json
import unicodedata

import numpy as np
import pytest

from sret_jax.errors import UserError
from sret_jax.evaluation.external import scoring
from sret_jax.evaluation.external.named import read_answers
from sret_jax.evaluation.external.rankings import ranked_depth
from sret_jax.evaluation.request import Request
from sret_jax.storage.artifacts import read_sealed
from tests.support.commands import run_eval
from tests.support.miniatures import gldv2, ilias, labelled, masked_paintings, million, write_benchmark
from tests.support.networks import NETWORK, VARIABLES
from tests.support.photos import write_photos
from tests.support.runs import config, measure

QUERIES, PHOTOS = ["p", "a tower/1.jpg"], ["a", "b/c.jpg", "a tower/1.jpg", 'the "old" one']


def answers(path, rows):
    """Written as anybody would: the csv module twice, so that names with spaces are quoted."""

    def joined(names):
        text = io.StringIO()
        csv.writer(text, delimiter=" ", lineterminator="").writerow(names)
        return text.getvalue()

    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([["id", "images"], *([query, joined(names)] for query, names in rows.items())])
    return path


def test_names_become_rows(tmp_path):
    path = answers(tmp_path / "s.csv", {"a tower/1.jpg": PHOTOS[::-1], "p": ["b/c.jpg"]})
    assert read_answers(path, QUERIES, PHOTOS, [0, 1]).tolist() == [[1, -1, -1, -1], [3, 2, 1, 0]]
    (tmp_path / "s.csv").write_text("id,images\np,  b/c.jpg   a \n")
    assert read_answers(path, QUERIES, PHOTOS, [0]).tolist() == [[1, 0], [-1, -1]]
    (tmp_path / "s.csv").write_text("id,images\np,\n")
    assert read_answers(path, QUERIES, PHOTOS, [0]).shape == (2, 0)


def test_names_are_the_same_however_accents_are_written(tmp_path):
    one, two = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    path = answers(tmp_path / "s.csv", {one: [f"{one}/1.jpg", "a"]})
    assert read_answers(path, [two], ["a", f"{two}/1.jpg"], [0]).tolist() == [[1, 0]]
    path = answers(tmp_path / "s.csv", {one: [f"{one}/1.jpg", f"{two}/1.jpg"]})
    assert read_answers(path, [two], [f"{one}/1.jpg", f"{two}/1.jpg"], [0]).tolist() == [[0, 1]]
    with pytest.raises(UserError, match="is named twice"):
        read_answers(path, [two], ["a", f"{two}/1.jpg"], [0])


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("p,a\nz,a", "line 3: unknown query 'z'; query names look like 'p'"),
        ("p,a\np,b/c.jpg", "line 3: query 'p' is answered twice"),
        ("p,a d e", r"line 2: unknown photograph 'd' \(2 such\); names look like 'a'"),
        ("p,a tower/1.jpg", "line 2: unknown photograph 'tower/1.jpg' .*a name with a space is quoted"),
        ("p,a b/c.jpg a a", r"line 2: 'a' is named twice \(2 such\)"),
        ("p,b/c.png b/c.jpg", "line 2: 'b/c.jpg' is named twice"),
        ('p,"""a"', "line 2: images .* cannot be read"),
        ("p,a", r"1 of the 2 queries are not in it \('a tower/1.jpg'\); one without answers has a line without images"),
        ("p", "line 2: not as many fields"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, lines, says):
    (tmp_path / "s.csv").write_text("id,images\n" + lines + "\n")
    with pytest.raises(UserError, match=says):
        read_answers(tmp_path / "s.csv", QUERIES, PHOTOS, [0, 1])


def test_the_depth_in_words():
    words, distractors = ranked_depth(np.array([[0, 1], [1, 6]]), 3)
    assert words.startswith(
        "2 photographs for every query, of 3 and 4 distractors; 1 of the benchmark's photographs are"
    )
    assert distractors == 4
    assert ranked_depth(np.array([[0, 1], [2, -1]]), 3)[0] == "1 to 2 photographs for a query, of 3 and 0 distractors"
    assert ranked_depth(np.empty((2, 0), int), 1)[0].startswith("0 photographs for every query, of 1 and 0")


MINIATURES = {"ilias": ilias, "paintings": masked_paintings, "folder": write_photos}


@pytest.mark.parametrize("benchmark", MINIATURES)
def test_our_own_rankings_are_worth_the_same(tmp_path, benchmark, capsys):
    request = Request(root=str(MINIATURES[benchmark](tmp_path / "root")))
    measured = measure(
        NETWORK, VARIABLES, config(), benchmark, tmp_path / "run", root=request.root, cache_dir=tmp_path / "cache"
    )
    rows: dict[str, list[str]] = {}
    for row in csv.DictReader((tmp_path / "run/rankings.csv").open(encoding="utf-8")):
        rows.setdefault(row["query"], []).append(row["photo"])
    path, out = answers(tmp_path / "s.csv", rows), tmp_path / "scored"
    own = scoring.score_rankings(benchmark, tmp_path / "run/rankings.csv", out, request, cache_dir=tmp_path / "cache")
    scored = scoring.score_rankings(benchmark, path, out, request, cache_dir=tmp_path / "cache")
    assert scored.metrics == own.metrics == measured["metrics"] and scored.to_dict() == read_sealed(
        out / "results.json"
    )
    assert f"mAP{'@1000' * (benchmark == 'ilias')}, %" in capsys.readouterr().out

    short = {query: names[:1] for query, names in rows.items()}
    scored = scoring.score_rankings(benchmark, answers(path, short), out, request, cache_dir=tmp_path / "cache")
    metric = next(name for name in measured["metrics"] if name.startswith("mAP"))
    assert scored.metrics[metric] < measured["metrics"][metric]
    assert scored.ranked.startswith("1 photographs for every query, of ")
    assert "of the benchmark's photographs are in no ranking and count as never found" in scored.ranked

    last = list(rows)[-1]
    with pytest.raises(UserError, match=f"1 of the {len(rows)} queries are not in it .'{last}'"):
        short.pop(last)
        scoring.score_rankings(benchmark, answers(path, short), out, request, cache_dir=tmp_path / "cache")


def test_queries_of_their_own_and_distractors(tmp_path):
    write_photos(tmp_path / "root", instances=2, photos=2)
    write_photos(tmp_path / "asked", instances=1, photos=1, seed=1)
    request = Request(str(tmp_path / "root"), str(tmp_path / "asked"), distractors=(str(million(tmp_path / "m")),))
    best = ["revisitop1m/00/a.jpg", "tower 0/1.jpg", "tower 0/0.jpg"]
    path = answers(tmp_path / "s.csv", {"tower 0/0.jpg": best})
    scored = scoring.score_rankings("folder", path, tmp_path / "out", request)
    assert scored.metrics["mAP"] == pytest.approx(100 * (1 / 2 + 2 / 3) / 2) and scored.metrics["queries"] == 1
    assert scored.ranked.startswith("3 photographs for every query, of 4 and 1 distractors; 2 of")


def test_distractors_are_in_the_file_itself(tmp_path):
    root = gldv2(tmp_path / "root")
    with pytest.raises(UserError, match="holds the distractors that were ranked: give --benchmark=gldv2"):
        scoring.score_rankings("gldv2+1m", tmp_path / "s.csv", tmp_path / "out", Request(root=str(root)))


def test_the_completeness_of_predicted_masks_is_reported(tmp_path, capsys):
    root = labelled(tmp_path / "root", "roxford5k")
    marks = [{"category_id": q, "image_id": i, "bbox": [0, 0, 48, 32]} for q, i in ((0, 0), (0, 2), (1, 5))]
    (tmp_path / "m.json").write_text(json.dumps(marks))  # of the relevant pairs 0_0, 0_2, 1_1 and 1_3
    np.save(tmp_path / "r.npy", np.array([[0, 1], [2, 3]]))
    options = Request(root=str(root)), tmp_path / "cache"
    found = scoring.score_marks(
        "proxford", tmp_path / "m.json", tmp_path / "out", *options, rankings=str(tmp_path / "r.npy")
    )
    assert found.to_dict() == read_sealed(tmp_path / "out/results.json")
    assert found.marked == (
        "marks for 2 of 4 relevant pairs; the others count as not found: 'query_1' in 'photo_1', 'query_1' in 'photo_3'"
    )
    assert found.ranked.startswith("2 photographs for every query, of 6 and 0 distractors; 2 of the benchmark's")
    shown = capsys.readouterr().out
    assert "marked: marks for 2 of 4" in shown and "ranked: 2 photographs for every query" in shown

    everything = [{"category_id": q, "image_id": i, "bbox": [0, 0, 48, 32]} for q in range(2) for i in range(q, 6, 2)]
    (tmp_path / "m.json").write_text(json.dumps(everything))
    by_name = {f"query_{q}": [f"photo_{i}" for i in range(q, 6, 2)] for q in range(2)}
    path = str(answers(tmp_path / "r.csv", by_name))
    found = scoring.score_marks("proxford", tmp_path / "m.json", tmp_path / "out", *options, rankings=path)
    assert found.marked == "marks for 4 of 4 relevant pairs"
    (metrics,) = found.localization.values()
    assert metrics["strict"]["mAP@50:5:95"] == pytest.approx(100)


def test_the_command_scores_names(tmp_path):
    write_photos(tmp_path / "root", instances=1, photos=3)
    rows = {f"tower 0/{i}.jpg": [f"tower 0/{j}.jpg" for j in range(3) if j != i] for i in range(3)}
    answers(tmp_path / "mine.csv", rows)
    done = run_eval("--benchmark=folder", "--root=root", "--rankings=mine.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "100.00" in done.stdout and "ranked: 2 photographs for every query, of 3" in done.stdout
    assert (tmp_path / "runs/rankings-mine/folder/results.json").exists()


def test_named_rankings_of_the_revisited_kind(tmp_path):
    """The rankings.csv of an evaluation with distractors, whose names the ground truth does not know."""
    root = write_benchmark(tmp_path / "root")
    request = Request(root=str(root), gnd=str(root / "gnd_tiny.json"))
    ids = np.array([[4, 0, 6, 2], [1, 7, 3, 5]])
    np.save(tmp_path / "r.npy", ids.T)
    names = [f"photo_{i}" for i in range(6)] + ["more/x.jpg", "more/y.jpg"]
    rows = [f"query_{q},{rank},{names[i]},0.5" for q in (1, 0) for rank, i in enumerate(ids[q], 1)]
    (tmp_path / "rankings.csv").write_text("query,rank,photo,score\n" + "\n".join(rows))
    by_number, by_name = (
        scoring.score_rankings("revisited", tmp_path / name, tmp_path / "out", request)
        for name in ("r.npy", "rankings.csv")
    )
    assert by_name.metrics == by_number.metrics and by_name.ranked == by_number.ranked
    assert "of 6 and 2 distractors" in by_name.ranked
