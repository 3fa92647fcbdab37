"""What other methods have marked, read from each kind of file and measured."""

import json
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from sret_jax.data.photo_set import PhotoSet
from sret_jax.errors import UserError
from sret_jax.evaluation.external import scoring
from sret_jax.evaluation.external.marks import read_marks
from sret_jax.evaluation.request import Request
from tests.support.miniatures import labelled, masked_paintings
from tests.support.photos import write_photos
from tests.support.twins import runs_of

QUERIES = ["p", "q"]
PHOTOS = PhotoSet("x", ["a", "b"], np.array([-1, -1]), [], np.array([[10, 20], [12, 16]]), ["", ""], [{}, {}], [])


def rectangle(size, left, top, right, bottom):
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


def read(path):
    return read_marks(path, QUERIES, PHOTOS).mask


def pair(query, photo):
    """The key of a pair in the authors' results."""
    return f"qimlist_{query}_imlist_{photo}"


def coco(tmp_path, *entries):
    path = tmp_path / "marks.json"
    path.write_text(json.dumps(list(entries)))
    return path


def test_runs_polygons_and_boxes_by_name_or_number(tmp_path):
    here = rectangle((10, 20), 2, 3, 9, 8)
    runs = {"counts": runs_of(here), "size": [10, 20]}
    mark = read(
        coco(
            tmp_path,
            {"category_id": "p", "image_id": "a", "segmentation": runs},
            {
                "category_id": 0,
                "image_id": 1,
                "segmentation": [[1, 1, 5.9, 1, 5, 4, 1, 4], [9, 9, 11, 9, 11, 10, 9, 10]],
            },
            {"category_id": 1, "image_id": "a", "bbox": [1.6, 2, 3, 100]},
        )
    )
    np.testing.assert_array_equal(mark(0, 0), here)
    np.testing.assert_array_equal(
        mark(0, 1), rectangle((12, 16), 1, 1, 6, 5) | rectangle((12, 16), 9, 9, 12, 11)
    )  # polygons with their borders
    np.testing.assert_array_equal(mark(1, 0), rectangle((10, 20), 2, 2, 5, 10))
    assert mark(1, 1).shape == (12, 16) and not mark(1, 1).any()


def test_names_are_the_same_however_accents_are_written(tmp_path):
    one, two = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    path = coco(tmp_path, {"category_id": one, "image_id": one, "bbox": [3, 2, 5, 4]})
    mark = read_marks(path, ["p", two], replace(PHOTOS, names=[two, "b"])).mask
    np.testing.assert_array_equal(mark(1, 0), rectangle((10, 20), 3, 2, 8, 6))


def test_of_several_for_a_pair_the_best_scored_count_together(tmp_path):
    same = {"category_id": 0, "image_id": 0}
    boxes = {0.2: [0, 0, 9, 9], 0.9: [1, 1, 2, 2]}
    entries = [same | {"bbox": box, "score": score} for score, box in boxes.items()]
    mark = read(coco(tmp_path, *entries, same | {"bbox": [5, 5, 1, 1], "score": 0.9}))
    expected = rectangle((10, 20), 1, 1, 3, 3) | rectangle((10, 20), 5, 5, 6, 6)
    np.testing.assert_array_equal(mark(0, 0), expected)


def test_pictures_in_the_forms_of_other_tools(tmp_path):
    expected = rectangle((12, 16), 3, 2, 8, 7)
    opacity = np.dstack([np.full((12, 16, 3), 255), expected * 255]).astype(np.uint8)
    Image.fromarray(opacity).save(tmp_path / "0_1.png")
    Image.fromarray(expected.astype(np.uint8)).save(tmp_path / "1_1.bmp")
    Image.new("L", (20, 10)).save(tmp_path / "1_0.PNG")
    mark = read(tmp_path)
    np.testing.assert_array_equal(mark(0, 1), expected)
    np.testing.assert_array_equal(mark(1, 1), expected)
    assert not mark(1, 0).any()  # not found
    Image.new("L", (16, 12), 90).save(tmp_path / "0_1.png")
    with pytest.raises(UserError, match="0_1.png: is grey 90 everywhere.*; give a PNG that is white"):
        mark(0, 1)
    Image.new("L", (16, 12)).save(tmp_path / "0_1.gif")
    with pytest.raises(UserError, match="0_1.*: its pair has another picture; keep one of them"):
        read(tmp_path)


def test_pictures_and_polygons_by_number(tmp_path):
    expected = rectangle((12, 16), 3, 2, 8, 7)
    Image.fromarray(expected).convert("L").save(tmp_path / "1_1.png")
    np.save(tmp_path / "m.npy", {pair(1, 1): [[3, 2], [7, 2], [7, 6], [3, 6]], pair(0, 0): []})
    for path in (tmp_path, tmp_path / "m.npy"):
        mark = read(path)
        np.testing.assert_array_equal(mark(1, 1), expected)
        assert not mark(0, 0).any()


@pytest.mark.parametrize(
    "points",
    [
        [[3, 2], [7.9, 2], [7, 6], [3, 6]],
        [(3, 2), (7, 2), (7, 6), (3, 6)],
        np.array([[3, 2], [7, 2], [7, 6], [3, 6]]),
        np.array([[3.5, 2], [7, 2], [7, 6.9], [3, 6]], np.float32),
        [np.array([3, 2]), np.array([7, 2]), np.array([7, 6]), np.array([3, 6])],
        [[np.int64(3), np.int64(2)], [np.float32(7), 2], [7, 6], [3, 6]],
    ],
)
def test_a_polygon_may_be_written_in_any_numbers(tmp_path, points):
    """x before y, cut to whole pixels: of lists, tuples, arrays and numbers of numpy."""
    np.save(tmp_path / "m.npy", {pair(1, 1): points, pair(0, 1): np.array([]), pair(1, 0): ()})
    marks = read_marks(tmp_path / "m.npy", QUERIES, PHOTOS)
    assert marks.outline(1, 1).tolist() == [[3, 2], [7, 2], [7, 6], [3, 6]]
    np.testing.assert_array_equal(marks.mask(1, 1), rectangle((12, 16), 3, 2, 8, 7))
    assert not len(marks.outline(0, 1)) and not len(marks.outline(1, 0)) and not len(marks.outline(0, 0))


def test_outlines_are_those_of_the_file_or_of_the_mask(tmp_path):
    far = [[-5, 2], [40, 2], [40, 6], [-5, 6]]
    np.save(tmp_path / "m.npy", {pair(1, 1): far})
    marks = read_marks(tmp_path / "m.npy", QUERIES, PHOTOS)
    assert marks.outline(1, 1).tolist() == far
    np.testing.assert_array_equal(marks.mask(1, 1), rectangle((12, 16), 0, 2, 16, 7))
    marks = read_marks(coco(tmp_path, {"category_id": 1, "image_id": 1, "bbox": [3, 2, 5, 4]}), QUERIES, PHOTOS)
    assert sorted(marks.outline(1, 1).tolist()) == [[3, 2], [3, 5], [7, 2], [7, 5]]


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"category_id": 2}, "entry 0: category_id 2 is no name or number"),
        ({"category_id": "0"}, "category_id '0' is no name"),
        ({"image_id": None}, "image_id None"),
        ({"image_id": True}, "image_id True"),
        ({"image_id": [1]}, r"image_id \[1\]"),
        ({"score": "high"}, "score is 'high', not a number"),
        ({"bbox": [1, 2, 3]}, "neither run lengths, nor polygons, nor a box"),
        ({"bbox": [1, 2, 0, 5]}, "a box without area"),
        ({"bbox": [1, 2, float("nan"), 5]}, "NaN is no number"),
        ({"bbox": [1, 2, float("inf"), 5]}, "Infinity is no number"),
        ({"bbox": None, "segmentation": None}, "nor a box"),
        ({"segmentation": [[1, 2, 3]]}, "nor polygons"),
        ({"segmentation": [[1, 2, 3, 1e99]]}, "a polygon is 1e.99, not a number"),
        ({"segmentation": {"counts": [200]}}, "neither run lengths"),
        ({"segmentation": {"counts": [200], "size": 3}}, "neither run lengths"),
        ({"segmentation": {"counts": [200], "size": [20, 10]}}, "a mask of 10x20 for a photo of 20x10 pixels"),
        ({"segmentation": {"counts": [199], "size": [10, 20]}}, "entry 0: runs that do not fill 20x10 pixels"),
        ({"segmentation": {"counts": None, "size": [10, 20]}}, "entry 0: runs that do not fill"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, entry, says):
    path = coco(tmp_path, {"category_id": 0, "image_id": 0, "bbox": [1, 1, 2, 2]} | entry)
    with pytest.raises(UserError, match=says):
        read(path)(0, 0)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("m.json", b"{}", "it is {}, not a list"),
        ("m.json", b"[1]", "an entry is 1, not an object"),
        ("m.json", b"[" * 100_000, "not COCO's results"),
        ("m.json", b"[]", "marks nothing"),
        ("m.npy", b"x", "m.npy: refused"),
        ("m.txt", b"x", "give COCO's results"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=says):
        read(tmp_path / name)


def test_pairs_outside_the_benchmark_are_refused(tmp_path):
    (tmp_path / "0_2.png").write_bytes(b"")
    with pytest.raises(UserError, match="'0_2' is no <query>_<photo> of the benchmark's 2 queries and 2 photos"):
        read(tmp_path)
    for points in ("here", [[1, 2], [3]], [1, 2], {"x": 1}, None, [[1, 2], [3, 1 << 20]]):
        np.save(tmp_path / "m.npy", {pair(1, 1): points})
        with pytest.raises(UserError, match="'qimlist_1_imlist_1' is no polygon"):
            read(tmp_path / "m.npy")
    for key in ("1_1", pair(2, 0), pair(0, 2), pair(-1, 0), pair(1, 5000 * "1"), pair(1, 1) + " "):
        np.save(tmp_path / "m.npy", {key: []})
        with pytest.raises(UserError, match="is no qimlist_<query>_imlist_<photo> of the benchmark's 2 queries"):
            read(tmp_path / "m.npy")
    with pytest.raises(UserError, match="marks nothing"):
        (tmp_path / "empty").mkdir()
        read(tmp_path / "empty")


def test_a_perfect_file_of_the_authors_form_is_perfect(tmp_path, capsys):
    """Every pair of a miniature PROxford as it was drawn, by query, best first: the rankings that go with it too."""
    root = labelled(tmp_path / "root", "roxford5k")
    quarter = [[0, 0], [47, 0], [47, 31], [0, 31]]
    np.save(tmp_path / "m.npy", {pair(q, i): quarter for q in range(2) for i in range(q, 6, 2)})
    np.save(tmp_path / "ranks.npy", np.array([[0, 2, 4, 1, 3, 5], [1, 3, 5, 0, 2, 4]]).T)
    options = (Request(root=str(root)), tmp_path / "cache")
    found = scoring.score_marks("proxford", tmp_path / "m.npy", tmp_path / "out", *options, str(tmp_path / "ranks.npy"))
    (metrics,) = found.localization.values()
    assert len(metrics["strict"]) == 9 and set(metrics["strict"].values()) == {100}
    assert metrics["official"] == {name: 100 for name in metrics["strict"] if name != "CorLoc"}
    alone = scoring.score_marks("proxford", tmp_path / "m.npy", tmp_path / "alone", *options)
    (own,) = alone.localization.values()
    assert own["strict"] == {name: value for name, value in metrics["strict"].items() if "mAP" not in name}
    assert json.loads((tmp_path / "out/results.json").read_bytes())["marks"].endswith("m.npy")
    assert "what others marked" in capsys.readouterr().out


def test_boxes_of_paintings_are_measured(tmp_path):
    root = masked_paintings(tmp_path / "root")
    path = coco(tmp_path, {"category_id": 0, "image_id": 0, "bbox": [0, 0, 9, 9]})
    found = scoring.score_marks("paintings", path, tmp_path / "out", Request(root=str(root)), tmp_path / "cache")
    assert 0 < found.localization["marks.json"]["strict"]["mIoU"] < 50
    write_photos(tmp_path / "photos", instances=1, photos=2)
    with pytest.raises(UserError, match="choose a benchmark that has masks"):
        scoring.score_marks("folder", path, tmp_path, Request(root=str(tmp_path / "photos")), tmp_path / "cache")
