"""Rankings by name, as programs, spreadsheets and an evaluation itself write them."""

import pytest

from sret_jax.errors import UserError
from sret_jax.evaluation.external.named import landmark_id, named_lists, read_answers, without_ending

QUERIES, PHOTOS = ["p", "q"], ["a", "b/c.jpg", "b/d.jpg", "b/d.png"]


def written(tmp_path, text):
    path = tmp_path / "s.csv"
    path.write_text(text)
    return path


def rows(tmp_path, text, **options):
    return read_answers(written(tmp_path, text), QUERIES, PHOTOS, [0, 1], **options).tolist()


@pytest.mark.parametrize(
    "line",
    [
        "a b/c.jpg b/d.png",
        "a.jpg b/c b/d.png",
        "a.PNG b/c.jpeg b/d.png",
        "data/mine/a data/mine/b/c.jpg data/mine/b/d.png",
        "/mnt/a.jpg /mnt/b/c /mnt/b/d.png",
    ],
)
def test_endings_and_a_folder_before_the_names(tmp_path, line):
    assert rows(tmp_path, f"id,images\np.jpg,{line}\nqueries/q,\n") == [[0, 1, 3], [-1, -1, -1]]


@pytest.mark.parametrize(
    ("line", "unknown"),
    [
        ("b/d", "b/d"),  # which of two it is cannot be told
        ("b/d.webp", "b/d.webp"),
        ("c.jpg", "c.jpg"),
        ("one/a two/a", "two/a"),  # two photographs below two folders
        ("a.gif", "a.gif"),
    ],
)
def test_what_cannot_be_told_is_unknown(tmp_path, line, unknown):
    with pytest.raises(UserError, match=rf"line 2: unknown photograph '{unknown}' \(1 such\)"):
        rows(tmp_path, f"id,images\np,{line}\nq,\n")


def test_the_rankings_of_an_evaluation(tmp_path):
    text = "query,rank,photo,score\nq,2,a,0.1\nq,1,b/c.jpg,0.9\np,1,b/d.png,0.5\nq,3,b/d.jpg,0\n"
    assert rows(tmp_path, text) == [[3, -1, -1], [1, 0, 2]]
    assert [(query, found) for _, query, found in named_lists(tmp_path / "s.csv")] == [
        ("q", ["b/c.jpg", "a", "b/d.jpg"]),
        ("p", ["b/d.png"]),
    ]
    for line, says in [
        ("q,1,a,0", "line 3: query 'q' has rank 1 twice"),
        ("q,first,a,0", "line 3: rank 'first' is no number"),
        ("q,2,a,0", r"line 2: 'a' is named twice \(1 such\)"),
        ("q,2,z,0", "line 2: unknown photograph 'z'"),
        ("z,2,a,0", "line 3: unknown query 'z'"),
        ("q,2,b/c.jpg,0", r"1 of the 2 queries are not in it \('p'\)"),
    ]:
        with pytest.raises(UserError, match=says):
            rows(tmp_path, f"query,rank,photo,score\nq,1,a,0\n{line}\n")


def test_unknown_photographs_may_be_distractors(tmp_path):
    text = "id,images\np,x a y\nq,y b/c.jpg\n"
    assert rows(tmp_path, text, distractors=True) == [[4, 0, 5], [5, 1, -1]]
    with pytest.raises(UserError, match="none of the benchmark's 4 photographs is ranked, but 2 others like 'x'"):
        rows(tmp_path, "id,images\np,x y\nq,\n", distractors=True)


def test_ids_in_file_names():
    for name in ("0ab", "0ab.jpg", "index/0/a/b/0ab.JPG", "C:\\index\\0ab.png", " 0ab"):
        assert landmark_id(name) == "0ab"
    assert [without_ending(n) for n in ("a.b", "a.b.jpeg", ".jpg")] == ["a.b", "a.b", ".jpg"]
