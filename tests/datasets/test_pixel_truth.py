"""Masks as the authors of benchmarks publish them."""

import json
import unicodedata

import numpy as np
import pytest
from PIL import Image

from sret_jax.data.photo_set import PhotoSet
from sret_jax.datasets.ground_truth import read_ground_truth
from sret_jax.datasets.lookups import prepare_paintings
from sret_jax.datasets.pixel_truth import OVERSHOOT, folder_truth, labelled_truth, paintings_truth, read_labelme
from sret_jax.datasets.polygons import polygon_mask
from sret_jax.errors import UserError


def save(path, size, value=90):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 20, 30)).save(path)


def paintings(root):
    """One museum photograph with two paintings, 40 wide and 30 high."""
    for i in range(2):
        save(root / f"db/{i}.jpg", (18, 18), i)
    save(root / "q/0.jpg", (40, 30))
    mask = np.zeros((30, 40), np.uint8)
    mask[5:15, 2:12] = mask[5:15, 20:30] = 255
    Image.fromarray(mask).save(root / "q/0.png")
    objects = [{"painting": f"db/{i}.jpg", "box_xyxy": [18 * i, 3, 18 * i + 16, 20]} for i in range(2)]
    entry = {"image": "q/0.jpg", "mask": "q/0.png", "size_wh": [40, 30], "objects": objects}
    (root / "ground_truth.json").write_text(json.dumps([entry]))


def test_of_two_paintings_each_has_its_part_of_the_mask(tmp_path):
    paintings(tmp_path)
    truth = paintings_truth(tmp_path, prepare_paintings(tmp_path, tmp_path / "cache"))
    for query, left in ((0, 2), (1, 20)):
        expected = np.zeros((30, 40), bool)
        expected[5:15, left : left + 10] = True
        np.testing.assert_array_equal(truth.mask(query, 0), expected)
    assert [r.tolist() for r in truth.relevant] == [[0], [0]]


def test_a_mask_of_another_size_or_none_is_named(tmp_path):
    paintings(tmp_path)
    truth = paintings_truth(tmp_path, prepare_paintings(tmp_path, tmp_path / "cache"))
    Image.new("L", (41, 30)).save(tmp_path / "q/0.png")
    with pytest.raises(UserError, match="q/0.png: a mask of 41x30 for a photo of 40x30"):
        truth.mask(0, 0)
    Image.new("L", (40, 30)).save(tmp_path / "q/0.png")
    with pytest.raises(UserError, match="q/0.png: nothing of 'db/0.jpg'"):
        truth.mask(0, 0)
    (tmp_path / "q/0.png").unlink()
    with pytest.raises(UserError, match="q/0.png"):
        truth.mask(0, 0)


def test_masks_of_a_folder_are_named_like_its_photos(tmp_path, caplog):
    names = ["a/0.jpg", "a/1.jpeg", "a/2.jpg", "b/0.jpg"]
    photos = PhotoSet("x", names, np.array([0, 0, 0, 1]), ["a", "b"], np.full((4, 2), 20), [""] * 4, [{}] * 4, [])
    with pytest.raises(UserError, match=r"no mask of the 4 photos; that of 'a/0.jpg' would be .*a/0.png"):
        folder_truth(tmp_path, photos)
    for name in ("a/0.png", "a/1.png"):
        mask = Image.new("L", (20, 20))
        mask.paste(255, (3, 4, 9, 8))
        (tmp_path / name).parent.mkdir(exist_ok=True)
        mask.save(tmp_path / name)
    truth = folder_truth(tmp_path, photos)
    assert "2 of 4 photos have no mask" in caplog.text
    assert [rows.tolist() for rows in truth.relevant] == [[1], [0], [0, 1], []]
    assert [rows.tolist() for rows in truth.junk] == [[0, 2], [1, 2], [2], [3]]
    expected = np.zeros((20, 20), bool)
    expected[4:8, 3:9] = True
    np.testing.assert_array_equal(truth.mask(0, 1), expected)
    (tmp_path / "a/1.png").unlink()
    Image.fromarray(expected.astype(np.uint8)).save(tmp_path / "a/1.tif")  # labels of another tool
    np.testing.assert_array_equal(folder_truth(tmp_path, photos).mask(0, 1), expected)
    Image.new("L", (20, 20)).save(tmp_path / "a/1.png")
    with pytest.raises(UserError, match="a/1.png: nothing is marked in it"):
        truth.mask(0, 1)


def test_a_mask_is_found_however_accents_are_written(tmp_path):
    one, two = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    (tmp_path / one).mkdir()
    Image.new("L", (20, 20), 255).save(tmp_path / one / f"{one}.png")
    names = [f"{two}/0.jpg", f"{two}/{two}.jpg"]
    photos = PhotoSet("x", names, np.array([0, 0]), [two], np.full((2, 2), 20), [""] * 2, [{}] * 2, [])
    truth = folder_truth(tmp_path, photos)
    assert truth.relevant[0].tolist() == [1] and truth.mask(0, 1).all()


def labels(root):
    """Two queries, of which photo 0 shows the first and photo 1 both."""
    gnd = [
        {"easy": [0], "hard": [1], "junk": [], "bbx": [0, 0, 5, 5]},
        {"easy": [], "hard": [1], "junk": [0], "bbx": [0, 0, 5, 5]},
    ]
    (root / "gnd.json").write_text(json.dumps({"imlist": ["a", "b"], "qimlist": ["p", "q"], "gnd": gnd}))
    (root / "labels").mkdir()
    for pair, corner in {"0_0": 1, "0_1": 2, "1_1": 9}.items():
        points = [[corner + 0.9, 1.2], [corner + 4.1, 1.0], [corner + 4, 6.7], [corner, 6]]
        (root / f"labels/{pair}.json").write_text(json.dumps({"shapes": [{"points": points}]}))
    where = {pair: f"/home/them/labels/{pair}.json" for pair in ("0_0", "0_1", "1_1")}
    np.save(root / "oxford_pair2labelpath.npy", where)
    sizes = np.array([[10, 20], [12, 16]])
    photos = PhotoSet("x", ["a", "b"], np.array([-1, -1]), [], sizes, ["", ""], [{}, {}], [])
    return read_ground_truth(root / "gnd.json"), photos


def test_polygons_are_filled_with_their_borders(tmp_path):
    truth, photos = labels(tmp_path)
    pixels = labelled_truth(tmp_path, "roxford5k", truth, photos)
    expected = np.zeros((12, 16), bool)
    expected[1:7, 9:14] = True  # from (9, 1) to (13, 6), both borders included
    np.testing.assert_array_equal(pixels.mask(1, 1), expected)
    assert pixels.mask(0, 0).shape == (10, 20) and pixels.unlabelled == (56, 63)
    assert [r.tolist() for r in pixels.relevant] == [[0, 1], [1]]
    (shape,) = pixels.shapes(1, 1)
    assert shape.tolist() == [[9, 1], [13, 1], [13, 6], [9, 6]] and pixels.shapes(1, 0) is None


def test_shapes_of_a_label_are_joined(tmp_path):
    squares = [{"points": [[x, 0], [x + 1, 0], [x + 1, 1], [x, 1]]} for x in (0, 4)]
    (tmp_path / "l.json").write_text(json.dumps({"shapes": squares}))
    mask = polygon_mask(read_labelme(tmp_path / "l.json", (3, 8)), (3, 8))
    assert mask[:2].tolist() == 2 * [[True, True, False, False, True, True, False, False]] and not mask[2].any()


def test_a_missing_label_is_named(tmp_path):
    truth, photos = labels(tmp_path)
    np.save(tmp_path / "oxford_pair2labelpath.npy", {"0_0": "labels/0_0.json", "0_1": "labels/0_1.json"})
    with pytest.raises(UserError, match="no label for query 'q' in photo 'b'"):
        labelled_truth(tmp_path, "roxford5k", truth, photos)
    np.save(tmp_path / "oxford_pair2labelpath.npy", {"0_0": "labels/none.json"})
    with pytest.raises(UserError, match="no label 'labels/none.json'"):
        labelled_truth(tmp_path, "roxford5k", truth, photos)
    (tmp_path / "oxford_pair2labelpath.npy").unlink()
    with pytest.raises(
        UserError, match="no oxford_pair2labelpath.npy.*unpack https://.*pixel_retrieval_benchmarks.rar"
    ):
        labelled_truth(tmp_path, "roxford5k", truth, photos)
    (tmp_path / "bad.json").write_text('{"shapes": [{"points": 3}]}')
    with pytest.raises(UserError, match="bad.json: not a labelme file"):
        read_labelme(tmp_path / "bad.json", (10, 10))


def label(path, points, **more):
    path.write_text(json.dumps({"shapes": [{"points": points}]} | more))
    return path


def test_a_label_of_another_photo_is_refused_by_its_name(tmp_path):
    points, path = [[0, 0], [19, 0], [19, 9], [0, 9]], tmp_path / "label.json"
    absent = ({}, {"imageHeight": None, "imageWidth": None}, {"imageWidth": 20}, {"imageHeight": 10, "imageWidth": 20})
    for more in absent:
        assert read_labelme(label(path, points, **more), (10, 20))[0].tolist() == points
    for more in ({"imageHeight": 20, "imageWidth": 10}, {"imageHeight": 11}, {"imageWidth": "wide"}):
        with pytest.raises(UserError, match="label.json: drawn on a photo of .* pixels, but this one has 20x10"):
            read_labelme(label(path, points, **more), (10, 20))


def test_clicks_at_the_border_are_cut_and_points_elsewhere_refused(tmp_path):
    points = [[-OVERSHOOT - 0.9, 0], [20 + OVERSHOOT + 0.9, 0], [20, 10 + OVERSHOOT], [0, 10]]
    path = tmp_path / "l.json"
    shapes = read_labelme(label(path, points), (10, 20))
    assert polygon_mask(shapes, (10, 20)).all() and shapes[0].min() == -OVERSHOOT
    for x, y in ((20 + OVERSHOOT + 1, 5), (5, 10 + OVERSHOOT + 1), (-OVERSHOOT - 1, 5), (5, -OVERSHOOT - 1)):
        with pytest.raises(UserError, match=rf"l.json: its point \({x}, {y}\) is not on the photo of 20x10 pixels"):
            read_labelme(label(path, [[0, 0], [x, y], [9, 9]]), (10, 20))
    truth, photos = labels(tmp_path)
    label(tmp_path / "labels/0_1.json", [[0, 0], [40, 0], [40, 30]])
    with pytest.raises(UserError, match=r"labels/0_1.json: its point \(40, 0\) is not on the photo of 16x12 pixels"):
        labelled_truth(tmp_path, "roxford5k", truth, photos).mask(0, 1)
