"""The drawn photographs are the same everywhere, and their masks are the pixels that show the object."""

import subprocess
import sys

import numpy as np
import pytest

from sret_jax.datasets import synthetic_objects
from sret_jax.datasets.synthetic_objects import SOURCES, FlatObject, draw_objects, source_photo
from sret_jax.datasets.synthetic_textures import FAMILIES, PALETTES
from sret_jax.datasets.synthetic_views import BEFORE, OBJECT, Scene, paste, prepare_synthetic, random_pose
from sret_jax.errors import UserError


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def photos(cache):
    return prepare_synthetic(cache, instances=7, photos=3, seed=3, split="test")


def test_the_set(photos):
    assert len(photos) == 21 and len(photos.instances) == 7 and photos.name == "synthetic-test"
    assert photos.labels.tolist() == np.repeat(np.arange(7), 3).tolist()
    for row in range(21):
        photo, mask = photos.photo(row), photos.mask(row)
        assert photo.shape[:2] == mask.shape == tuple(photos.sizes[row])
        assert 256 <= max(mask.shape) <= 320 and min(mask.shape) >= 144
        assert 0.06 < mask.mean() < 1.0 and photo.std() > 5
    assert len({tuple(size) for size in photos.sizes}) > 10


def test_the_same_bytes_in_another_process_and_another_cache(photos, tmp_path):
    code = (
        "import sys; from sret_jax.datasets.synthetic_views import prepare_synthetic as p\n"
        "print(p(sys.argv[1], instances=7, photos=3, seed=3, split='test').fingerprint)"
    )
    out = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert out.stdout.split()[-1:] == [photos.fingerprint], out.stderr[-1000:]


def test_the_first_photographs_do_not_depend_on_how_many_follow(photos):
    scene = Scene("test", 12, 3)
    for row in (0, 7, 20):
        data, mask = scene.photograph(row // 3, row % 3)
        assert data == photos.source[row]["image"]
        np.testing.assert_array_equal(mask, photos.mask(row))


def test_seeds_splits_and_views_differ():
    one, other, train = Scene("test", 6, 0), Scene("test", 6, 1), Scene("train", 6, 0)
    views = [scene.photograph(k, n)[0] for scene in (one, other, train) for k in range(3) for n in range(2)]
    assert len(set(views)) == len(views)


def test_nothing_of_the_test_objects_is_trained_on():
    assert not set(SOURCES["train"]) & set(SOURCES["test"])
    train, test = Scene("train", 20, 0), Scene("test", 20, 0)
    pictures = [thing.picture.tobytes() for scene in (train, test) for thing in scene.objects + scene.clutter]
    assert len(set(pictures)) == len(pictures)


def test_objects_are_enough_different_and_not_blank():
    things = list(draw_objects(np.random.default_rng(0), "train", 150))
    assert len(things) == 150 and len({thing.picture.tobytes() for thing in things}) == 150
    assert {thing.kind for thing in things} >= set(FAMILIES)
    for thing in things:
        assert max(thing.picture.shape) == 256 and thing.picture.std() > 8, thing.kind


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shape", [(256, 150), (256, 256)])
def test_textures(family, shape):
    first, again, other = (FAMILIES[family](np.random.default_rng(seed), shape, PALETTES[0]) for seed in (0, 0, 1))
    assert first.shape == (*shape, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.05


def one_colour(colour, outline=None):
    return FlatObject("flat", np.full((256, 180, 3), colour, np.uint8), outline)


@pytest.mark.parametrize("seed", range(8))
def test_the_mask_is_exactly_the_pixels_that_show_the_object(seed):
    """Objects of one colour each on a black canvas: the pixels of the object's colour are its mask, to the pixel."""
    rng = np.random.default_rng(seed)
    outline = (rng.uniform(0, 0.05, 5), rng.uniform(0, 6, 5)) if seed % 2 else None
    shape = (240, 320) if seed % 3 else (320, 180)
    canvas = np.zeros((*shape, 3), np.uint8)
    canvas, whole = paste(canvas, one_colour((200, 10, 30), outline), random_pose(rng, (256, 180), shape, OBJECT))
    np.testing.assert_array_equal((canvas == (200, 10, 30)).all(-1), whole)
    assert not canvas[~whole].any() and whole.any()
    covered, hidden = paste(canvas, one_colour((10, 200, 30)), random_pose(rng, (256, 180), shape, BEFORE))
    np.testing.assert_array_equal((covered == (200, 10, 30)).all(-1), whole & ~hidden)


@pytest.mark.parametrize("seed", range(4))
def test_the_pose_is_the_homography_of_the_corners(seed):
    """The quadrilateral of the projected corners and the mask of a rectangle are the same set of pixels."""
    rng = np.random.default_rng(seed)
    shape = (240, 320)
    pose = random_pose(rng, (256, 180), shape, OBJECT)
    _, mask = paste(np.zeros((*shape, 3), np.uint8), one_colour((1, 2, 3)), pose)
    corners = np.linalg.inv(pose.to_plane) @ np.array([[-1, 1, 1, -1], [-1, -1, 1, 1], [1, 1, 1, 1]])
    x, y = corners[:2] / corners[2]
    py, px = np.mgrid[: shape[0], : shape[1]] + 0.5
    sides = [(x[(k + 1) % 4] - x[k]) * (py - y[k]) - (y[(k + 1) % 4] - y[k]) * (px - x[k]) > 0 for k in range(4)]
    np.testing.assert_array_equal(mask, np.all(sides, 0))


def test_the_picture_is_pasted_where_its_pose_says():
    """Each quarter of the picture has a colour; a pixel inside the mask shows that of its plane coordinates."""
    picture = np.zeros((256, 200, 3), np.uint8)
    picture[:128, :100], picture[:128, 100:], picture[128:, :100], picture[128:, 100:] = 50, 100, 150, 200
    rng = np.random.default_rng(0)
    for _ in range(4):
        pose = random_pose(rng, (256, 200), (240, 320), OBJECT)
        canvas, mask = paste(np.zeros((240, 320, 3), np.uint8), FlatObject("q", picture, None), pose)
        y, x = np.nonzero(mask)
        u, v, t = pose.to_plane @ np.stack([x + 0.5, y + 0.5, np.ones(len(x))])
        u, v = u / t, v / t
        expected = 50 + 50 * (u > 0) + 100 * (v > 0)
        clear = (np.abs(u) > 0.06) & (np.abs(v) > 0.06)  # away from the seams, which the filter blends
        np.testing.assert_allclose(canvas[y, x, 0][clear], expected[clear], atol=1)


def test_a_missing_package_file_is_named(monkeypatch):
    with pytest.raises(UserError, match="skimage/data/none.png.*pip install --force-reinstall scikit-image"):
        source_photo("skimage/data/none.png")
    monkeypatch.setattr(synthetic_objects.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="the package is not installed.*scikit-learn"):
        source_photo("sklearn/datasets/images/none.jpg")


def test_wrong_arguments(cache):
    with pytest.raises(UserError, match="no split 'val'; choose one of train, test"):
        prepare_synthetic(cache, instances=2, photos=2, seed=0, split="val")
    with pytest.raises(UserError, match="must be positive"):
        prepare_synthetic(cache, instances=0, photos=2, seed=0, split="test")
