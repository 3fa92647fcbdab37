"""Submissions and files of ranks, in the forms in which they are found."""

import logging
import zipfile

import numpy as np
import pytest

from sret_jax.errors import UserError
from sret_jax.evaluation.external import scoring, submissions
from sret_jax.evaluation.external.submissions import read_ranks
from sret_jax.evaluation.request import Request

QUERIES = [f"{i:016x}" for i in range(4)]
IDS = [f"{i:016x}" for i in range(100, 140)]


@pytest.fixture
def solution(tmp_path):
    (tmp_path / "retrieval_solution_v2.1.csv").write_text(
        f"id,images,Usage\n{QUERIES[0]},{IDS[0]} {IDS[1]},Public\n{QUERIES[1]},{IDS[2]},Private\n"
        f"{QUERIES[2]},None,Ignored\n"
    )
    (tmp_path / "recognition_solution_v2.1.csv").write_text(
        f"id,landmarks,Usage\n{QUERIES[0]},7,Public\n{QUERIES[1]},,Private\n{QUERIES[2]},,Ignored\n"
    )
    return tmp_path


def scored(root, data):
    path = root / "s.csv"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return scoring.score_rankings("gldv2", path, root / "out", Request(root=str(root)))


RIGHT = f"id,images\n{QUERIES[0]},{IDS[0]} {IDS[1]}\n{QUERIES[1]},{IDS[2]}\n"
DEEP = "".join(f" {i:016x}" for i in range(1000, 9000))
SAME = {
    "plain": RIGHT,
    "byte-order mark": b"\xef\xbb\xbf" + RIGHT.encode(),
    "UTF-16": RIGHT.encode("utf-16"),
    "semicolons": RIGHT.replace(",", ";"),
    "tabs": RIGHT.replace(",", "\t"),
    "deep": RIGHT.replace(f"{IDS[1]}\n", f"{IDS[1]}{DEEP}\n"),
    "endings": "id,images\n"
    + "".join(
        f"{query}.jpg,{' '.join(f'{i}.jpg' for i in found)}\n"
        for query, found in ((QUERIES[0], IDS[:2]), (QUERIES[1], IDS[2:3]))
    ),
    "folders": "id,images\n"
    + "".join(
        f"test/{query},{' '.join(f'index/0/0/0/{i}.png' for i in found)}\n"
        for query, found in ((QUERIES[0], IDS[:2]), (QUERIES[1], IDS[2:3]))
    ),
    "rankings.csv": "query,rank,photo,score\n"
    f"{QUERIES[0]},1,{IDS[0]},0.9\n{QUERIES[0]},2,{IDS[1]},0.8\n{QUERIES[1]},1,{IDS[2]},1\n",
}


@pytest.mark.parametrize("form", SAME)
def test_each_form_of_a_submission_is_worth_the_same(solution, form):
    found = scored(solution, SAME[form])
    assert found.metrics == {"mAP@100": 100, "mAP@100 private": 100, "mAP@100 public": 100, "queries": 2}
    assert found.ranked == "2 of 2 queries are answered"


def test_test_images_that_are_ignored_are_not_scored_and_counted(solution):
    found = scored(solution, RIGHT + f"{QUERIES[2]},{IDS[0]}\n")
    assert found.metrics["mAP@100"] == 100
    assert found.ranked == "2 of 2 queries are answered; 1 test images that the challenge ignores are not scored"
    found = scored(solution, f"id,landmarks\n{QUERIES[0]},7 0.9\n{QUERIES[1]},\n{QUERIES[2]},9 0.95\n")
    assert found.metrics["µAP"] == 100 and "1 test images that the challenge ignores" in found.ranked
    for line, says in [
        (f"{QUERIES[3]},x", "line 2: unknown query"),
        (f"{QUERIES[2]},x\n{QUERIES[2]}.jpg,x", "line 3: .*twice"),
    ]:
        with pytest.raises(UserError, match=says):
            scored(solution, f"id,images\n{line}\n")


def test_repeated_and_unknown_answers_are_counted_as_the_metric_treats_them(solution):
    again = RIGHT.replace(f"{IDS[0]} ", f"{IDS[0]} {IDS[0]} {IDS[9]} ")
    found = scored(solution, again)
    assert found.metrics["mAP@100 public"] == pytest.approx(100 * (1 + 2 / 4) / 2)  # each takes its rank
    assert found.ranked.endswith("; 1 answers are named again, which takes a rank and finds nothing")
    (solution / "index.csv").write_text("id\n" + "\n".join(IDS[:5]) + "\n")
    found = scored(solution, again)
    assert found.ranked.endswith(f"; 1 answers like '{IDS[9]}' are not in index.csv and count as wrong")
    with pytest.raises(UserError, match=f"none of its 2 answers, like '{IDS[8]}', is listed in .*index.csv"):
        scored(solution, f"id,images\n{QUERIES[0]},{IDS[9]} {IDS[8]}\n")


RANKS = np.array([[2, 0], [0, 1], [1, 2]])


def test_arrays_in_a_zipped_file(tmp_path):
    for name, arrays in {"one": {"x": RANKS}, "named": {"scores": RANKS / 2, "ranks": RANKS}}.items():
        for save in (np.savez, np.savez_compressed):
            save(tmp_path / f"{name}.npz", **arrays)
            np.testing.assert_array_equal(read_ranks(tmp_path / f"{name}.npz", 2, 3), RANKS.T)
    np.savez(tmp_path / "x.npz", first=RANKS, second=RANKS)
    with pytest.raises(
        UserError, match="x.npz: holds the arrays first, second, and none is called 'ranks'; save only that one"
    ):
        read_ranks(tmp_path / "x.npz", 2, 3)
    np.savez(tmp_path / "x.npz", ranks=RANKS.T)
    with pytest.raises(UserError, match="it is turned"):
        read_ranks(tmp_path / "x.npz", 2, 4)


def test_a_zipped_file_that_is_none_of_ranks(tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    np.savez(path, ranks=np.array([{"a": 1}], object))
    with pytest.raises(UserError, match="not numbers along 2 axes; give a .npy file of integers"):
        read_ranks(path, 2, 3)
    for content, says in [
        ({}, "holds no array"),
        ({"a.txt": b"x"}, "holds no array"),
        ({"ranks.npy": b"x"}, "damaged, or no .npy file"),
    ]:
        with zipfile.ZipFile(path, "w") as file:
            for name, data in content.items():
                file.writestr(name, data)
        with pytest.raises(UserError, match=says):
            read_ranks(path, 2, 3)
    np.save(tmp_path / "x.npy", np.zeros((100, 2), int))
    for shape in (b"(True,2)", b"(-1, 2) "):
        (tmp_path / "y.npy").write_bytes((tmp_path / "x.npy").read_bytes().replace(b"(100, 2)", shape))
        with pytest.raises(UserError, match="y.npy: .*give a .npy file of integers"):
            read_ranks(tmp_path / "y.npy", 2, 3)
    for shape in (b"(999, 2)", b"(1 << 40"):  # it claims more than it holds, or nothing that is a shape
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("ranks.npy", (tmp_path / "x.npy").read_bytes().replace(b"(100, 2)", shape))
        with pytest.raises(UserError, match="x.npz: .*(cut off or damaged|no .npy file)"):
            read_ranks(path, 2, 3)
    np.savez_compressed(path, ranks=np.zeros((1000, 2), int))
    monkeypatch.setattr(submissions, "MOST_UNPACKED", 1000)
    with pytest.raises(UserError, match="'ranks.npy' is larger than"):
        read_ranks(path, 2, 3)


def test_a_photo_has_one_rank_and_distractors_may_share_a_number(tmp_path):
    path = tmp_path / "ranks.npy"
    ranks = np.array([[0, 2], [7, 1], [1, 7], [7, 7], [2, -1], [-1, -1]])
    np.save(path, ranks)
    assert np.array_equal(read_ranks(path, 2, 3), ranks.T)
    ranks[4, 0] = 0
    np.save(path, ranks)
    with pytest.raises(UserError, match=r"query 0 has photo 0 twice \(1 such\); every photo has one rank"):
        read_ranks(path, 2, 3)


def test_numbers_from_1_are_suspected(tmp_path, caplog):
    path = tmp_path / "r.npy"
    np.save(path, RANKS + 1)
    with pytest.raises(UserError, match="r.npy: its numbers are 1 to 3, and photos are numbered from 0; subtract 1"):
        read_ranks(path, 2, 3)
    with caplog.at_level(logging.WARNING):
        np.save(path, RANKS[:2] + 1)  # all of them again: one query has what the other lacks
        with pytest.raises(UserError, match="subtract 1"):
            read_ranks(path, 2, 3)
        np.save(path, np.array([[1, 3], [3, 1]]))
        read_ranks(path, 2, 3)
        assert "the greatest, 3, is a distractor where photos are numbered from 0" in caplog.text
        caplog.clear()
        for ranks in (RANKS, np.array([[1, 2], [2, 1]]), np.array([[1, 2], [2, 4]]), np.array([[0, 3], [3, 1]])):
            np.save(path, ranks)
            np.testing.assert_array_equal(read_ranks(path, 2, 3), ranks.T)
        assert not caplog.text
