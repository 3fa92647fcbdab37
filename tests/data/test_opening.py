"""Whatever a person calls photographs becomes the same photo set, and what is none is named in one line."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sret_jax.data.opening import open_photos
from sret_jax.data.pipeline import load
from sret_jax.errors import UserError
from tests.support.photo_files import photo_bytes, quadrants
from tests.support.photos import write_photo


def pixels(seed: int = 0, shape: tuple[int, ...] = (32, 48, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Photographs in folders, in folders of these and beside them, and what is no photograph."""
    root = tmp_path / "mine"
    for i, name in enumerate(("tower/b.jpg", "tower/a.jpg", "arch/old/c.jpg", "d.jpg")):
        write_photo(root / name, i)
    (root / "arch/notes.txt").write_text("bought at the market")
    (root / "tower/half.jpg").write_bytes((root / "d.jpg").read_bytes()[:500])
    return root


def test_folders_at_any_depth_are_instances_and_what_is_no_photograph_is_skipped(folder):
    photos = open_photos(folder)
    assert photos.names == ["arch/old/c.jpg", "d.jpg", "tower/a.jpg", "tower/b.jpg"] and photos.name == "mine"
    assert photos.instances == ["arch", "tower"] and photos.labels.tolist() == [0, -1, 1, 1]
    assert photos.sizes.tolist() == [[48, 64]] * 4
    skipped = dict(photos.skipped)
    assert set(skipped) == {"arch/notes.txt", "tower/half.jpg"} and skipped["tower/half.jpg"].startswith("damaged: ")
    np.testing.assert_array_equal(photos.photo(1), np.asarray(Image.open(folder / "d.jpg")))


def test_a_flat_folder_has_no_labels(tmp_path):
    for i in range(3):
        write_photo(tmp_path / "flat" / f"{i}.jpg", i)
    photos = open_photos(str(tmp_path / "flat"))
    assert photos.names == ["0.jpg", "1.jpg", "2.jpg"] and photos.instances == [] and (photos.labels == -1).all()


def test_a_cache_keeps_the_same_photographs(folder, tmp_path):
    there, kept = open_photos(folder), open_photos(folder, cache=tmp_path / "cache")
    assert (kept.names, kept.instances, kept.fingerprint) == (there.names, there.instances, there.fingerprint)
    assert sorted(kept.skipped) == sorted(there.skipped)
    for row in range(len(there)):
        np.testing.assert_array_equal(kept.photo(row), there.photo(row))
    (folder / "d.jpg").unlink()
    assert kept.photo(1).shape == (48, 64, 3)


def test_everything_that_is_a_photograph_of_a_list(folder, tmp_path):
    drawn = quadrants()
    Image.fromarray(drawn).save(tmp_path / "drawn.png")
    one = open_photos(
        [
            str(tmp_path / "drawn.png"),
            tmp_path / "drawn.png",
            (tmp_path / "drawn.png").read_bytes(),
            Image.fromarray(drawn),
            drawn,
        ],
        names=["str", "path", "bytes", "pillow", "array"],
    )
    assert one.names == ["str", "path", "bytes", "pillow", "array"] and len(set(one.digests[:3])) == 1
    for row in range(5):
        np.testing.assert_array_equal(one.photo(row), drawn)
    assert one.sizes.tolist() == [list(drawn.shape[:2])] * 5 and (one.labels == -1).all()


def test_names_are_paths_and_numbers(folder):
    path = folder / "d.jpg"
    assert open_photos([path, path.read_bytes(), str(folder / "tower/a.jpg")]).names == [
        str(path),
        "photo 1",
        str(folder / "tower/a.jpg"),
    ]
    assert open_photos(path).names == [str(path)] and open_photos(path.read_bytes()).names == ["photo 0"]


def test_one_photograph_and_a_stack_of_them():
    stack = np.stack([pixels(0), pixels(1)])
    several, alone = open_photos(stack), open_photos(stack[1])
    assert len(several) == 2 and len(alone) == 1
    np.testing.assert_array_equal(several.photo(1), alone.photo(0))
    assert len(open_photos(iter([pixels(0), pixels(1)]))) == 2  # any iterable


def test_a_grey_array_is_a_grey_photograph():
    grey = pixels(shape=(32, 48))
    np.testing.assert_array_equal(open_photos(grey).photo(0), np.repeat(grey[..., None], 3, 2))


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA"])
def test_pillow_images_of_any_mode(mode):
    image = Image.fromarray(quadrants()).convert(mode)
    expected = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(open_photos(image).photo(0) - expected).max() <= 1


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_pillow_image_is_turned_as_its_file_is(tmp_path, orientation):
    path = tmp_path / "turned.png"
    path.write_bytes(photo_bytes("PNG", orientation=orientation))
    image = Image.open(path)
    turned, file = open_photos(image), open_photos(path)
    np.testing.assert_array_equal(turned.photo(0), file.photo(0))
    assert turned.sizes.tolist() == file.sizes.tolist()
    assert (turned.photo(0).shape != quadrants().shape) == (orientation in (6, 8))


@pytest.mark.parametrize("listed", [True, False])
def test_a_file_that_has_changed_is_refused_when_it_is_read_again(folder, listed):
    photos = open_photos([folder / "d.jpg"]) if listed else open_photos(folder)
    row = photos.names.index(str(folder / "d.jpg") if listed else "d.jpg")
    np.testing.assert_array_equal(load(photos, row), np.asarray(Image.open(folder / "d.jpg")))
    write_photo(folder / "d.jpg", 7)
    with pytest.raises(UserError, match=r"d.jpg' cannot be read any more \(changed since it was opened; open the phot"):
        load(photos, row)
    (folder / "d.jpg").unlink()
    with pytest.raises(UserError, match=r"d.jpg' cannot be read any more \(cannot be opened: No such file"):
        load(photos, row)


def test_photographs_are_found_from_another_working_directory(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(folder)
    listed, walked = open_photos(["d.jpg"]), open_photos(".")
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(listed.photo(0), walked.photo(walked.names.index("d.jpg")))


def test_home_is_written_as_a_tilde(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert open_photos("~/mine").names == open_photos(folder).names
    np.testing.assert_array_equal(open_photos(["~/mine/d.jpg"]).photo(0), open_photos(folder).photo(1))


NAMES = "names are for a list of photographs; those of a folder are named by their paths"


@pytest.mark.parametrize(
    ("source", "names", "says"),
    [
        ((), None, "the list is empty; give at least one photograph"),
        (pixels().astype(np.float32), None, r"an array float32 \[32, 48, 3\] is no photograph: give uint8 \[h w 3\]"),
        (pixels(shape=(32, 48, 4)), None, r"an array uint8 \[32, 48, 4\] is no photograph"),
        (iter([3]), None, "int is no photograph: give a path, bytes, a Pillow image or an array"),
        ([pixels(), pixels()], ["a", "a"], "'a' is there twice; every photograph needs a name of its own"),
        (["d.jpg", "d.jpg"], None, "'d.jpg' is there twice"),
        ([pixels()], ["a", "b"], "2 names for 1 photographs; give one name each"),
        ("nothing.jpg", None, "nothing.jpg: cannot be opened: No such file or directory; give a photograph, JPEG"),
        (["d.jpg", "arch/notes.txt"], None, "arch/notes.txt: not a JPEG, PNG.* photograph; give"),
        ([b"x" * 100], None, "photo 0: not a JPEG, PNG.* photograph"),
        (pixels(shape=(8, 48, 3)), None, "photo 0: 8x48 pixels: a side is shorter than 16"),
        (".", ["a"], NAMES),
        ("empty", None, "empty: none of its 0 files is a photograph$"),
        ("poor", None, "poor: none of its 1 files is a photograph: a.txt: not a JPEG, PNG.* photograph"),
    ],
)
def test_what_is_no_photograph_is_named_in_one_line(folder, monkeypatch, source, names, says):
    os.makedirs(folder / "empty")
    os.makedirs(folder / "poor")
    (folder / "poor/a.txt").write_text("a")
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match=says) as error:
        open_photos(source, names=names)
    assert "\n" not in str(error.value)
