"""Boxes, clicks and masks that people write for their own photographs, and what is no region of one."""

import json
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from sret_jax.data.photo_set import PhotoSet
from sret_jax.data.regions import CLICKED
from sret_jax.errors import UserError
from sret_jax.localization.query_region import region_pixels
from sret_jax.localization.region_file import read_regions

SIZES = np.array([[30, 40], [60, 20]])
QUERIES = PhotoSet("x", ["a.jpg", "in/b.jpg"], np.array([-1, -1]), [], SIZES, ["", ""], [{}, {}], [])


def written(tmp_path, regions):
    path = tmp_path / "regions.json"
    path.write_text(json.dumps(regions))
    return path


def block(size, left, top, right, bottom):
    out = np.zeros(size, bool)
    out[top:bottom, left:right] = True
    return out


def test_a_box_a_click_or_a_mask_by_the_name_of_its_photo(tmp_path):
    found = read_regions(written(tmp_path, {"in/b.jpg": [1, 2, 11.5, 40], "a.jpg": [39.5, 0]}), QUERIES)
    assert found[1].tolist() == [1, 2, 11.5, 40] and found[0].tolist() == [39.5, 0]
    mask = block((30, 40), 4, 5, 9, 20)
    Image.fromarray(mask).convert("L").save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_regions(written(tmp_path, {"a.jpg": "m.png"}), QUERIES)[0], mask)
    assert read_regions(written(tmp_path, {}), QUERIES) == {}


def test_a_mask_in_the_form_of_another_tool(tmp_path):
    mask = block((30, 40), 4, 5, 9, 20)
    opacity = np.dstack([np.full((30, 40, 3), 255), mask * 255]).astype(np.uint8)
    Image.fromarray(opacity).save(tmp_path / "m.png")
    Image.fromarray(mask.astype(np.uint8)).save(tmp_path / "m.tif")
    for name in ("m.png", "m.tif"):
        np.testing.assert_array_equal(read_regions(written(tmp_path, {"a.jpg": name}), QUERIES)[0], mask)


@pytest.mark.parametrize(
    ("regions", "says"),
    [
        ({"c.jpg": [1, 2]}, "unknown query 'c.jpg'; query names look like 'a.jpg'"),
        ({"a.jpg": [40, 3]}, r"'a.jpg': query click \(40, 3\): outside the photograph of 40x30 pixels"),
        ({"a.jpg": [50, 0, 60, 30]}, "'a.jpg': query box .* no area inside the photograph"),
        ({"a.jpg": [5, 5, 5, 20]}, "no area inside the photograph"),
        ({"a.jpg": [1, 2, 3]}, r"'a.jpg': the region is \[1, 2, 3\], not 2 or 4 numbers; give"),
        ({"a.jpg": []}, "not 2 or 4 numbers"),
        ({"a.jpg": [1, [2]]}, r"'a.jpg': the region is \[2\], not a number"),
        ({"a.jpg": [1, True]}, "'a.jpg': the region is True, not a number"),
        ({"a.jpg": [1, 10**400]}, "'a.jpg': the region is a number of many digits, not a number up to"),
        ({"a.jpg": None}, "'a.jpg': the region is None, not a list; give"),
        ({"a.jpg": {"x": 1}}, "'a.jpg': the region is .*, not a list; give"),
        ({"a.jpg": [1, float("nan")]}, "NaN is no number of JSON"),
        ({"a.jpg": "none.png"}, "none.png: cannot be opened"),
        ({"a.jpg": "empty.png"}, "'a.jpg': query mask: it is empty"),
        ({"a.jpg": "grey.png"}, "grey.png: is grey 90 everywhere"),
        ({"a.jpg": "small.png"}, "small.png: a mask of 20x20 for a photo of 40x30 pixels"),
        ([1], r"it is \[1\], not an object"),
    ],
)
def test_what_is_no_region_is_named(tmp_path, regions, says):
    Image.new("L", (40, 30)).save(tmp_path / "empty.png")
    Image.new("L", (40, 30), 90).save(tmp_path / "grey.png")
    Image.new("L", (20, 20), 255).save(tmp_path / "small.png")
    with pytest.raises(UserError, match=says) as error:
        read_regions(written(tmp_path, regions), QUERIES)
    assert "\n" not in str(error.value)


def test_names_and_masks_by_either_way_of_writing_accents(tmp_path):
    one, two = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    queries = replace(QUERIES, names=[f"{two}.jpg", "in/b.jpg"])
    assert read_regions(written(tmp_path, {f"{one}.jpg": [1, 2]}), queries)[0].tolist() == [1, 2]
    mask = block((30, 40), 4, 5, 9, 20)
    Image.fromarray(mask).convert("L").save(tmp_path / f"{two}.png")
    found = read_regions(written(tmp_path, {f"{one}.jpg": f"{one}.png"}), queries)
    np.testing.assert_array_equal(found[0], mask)
    with pytest.raises(UserError, match="is there twice"):
        read_regions(written(tmp_path, {f"{one}.jpg": [1, 2], f"{two}.jpg": [3, 4]}), queries)


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "r.json").write_bytes(b"\xff[")
    with pytest.raises(UserError, match="r.json: not JSON .*it is no file of regions"):
        read_regions(tmp_path / "r.json", QUERIES)
    with pytest.raises(UserError, match="none.json: cannot be opened"):
        read_regions(tmp_path / "none.json", QUERIES)


def test_the_pixels_of_a_region():
    size = (30, 40)
    assert region_pixels(None, size).all()
    mask = block(size, 1, 2, 3, 4)
    np.testing.assert_array_equal(region_pixels(mask, size), mask)
    np.testing.assert_array_equal(region_pixels([3.5, -9, 12.1, 20], size), block(size, 3, 0, 13, 20))
    np.testing.assert_array_equal(region_pixels([1.2, 1.2, 1.4, 1.4], size), block(size, 1, 1, 2, 2))
    assert 40 * CLICKED == 12
    np.testing.assert_array_equal(region_pixels([20, 10], size), block(size, 14, 4, 26, 16))
    np.testing.assert_array_equal(region_pixels([0, 29.9], size), block(size, 0, 23, 6, 30))
