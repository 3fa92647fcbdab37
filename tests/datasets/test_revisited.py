"""Benchmarks in the form of ROxford5k: what is complete is prepared, what is not is named."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from sret_jax.data.folders import prepare_folder
from sret_jax.data.photo_set import with_distractors
from sret_jax.data.pipeline import evaluation_batches
from sret_jax.datasets import ground_truth
from sret_jax.datasets.revisited import prepare_revisited
from sret_jax.errors import UserError
from tests.support.miniatures import PUBLISHED, write_benchmark


@pytest.mark.parametrize("nested", [False, True])
def test_queries_are_cut_to_their_boxes_and_photographs_are_not(tmp_path, nested):
    root = tmp_path / "root"
    write_benchmark(root / "tiny" if nested else root)
    found = prepare_revisited("tiny", root, tmp_path / "cache")
    assert found.photos.names == found.truth.photos and found.queries.names == ["query_0", "query_1"]
    assert found.queries.boxes.tolist() == [[0, 0, 64, 48]] * 2 and found.photos.boxes is None
    assert found.queries.photo(0).shape == (48, 64, 3) and found.queries.whole(0).shape == (96, 128, 3)
    np.testing.assert_array_equal(found.queries.photo(1), found.queries.whole(1)[:48, :64])
    assert found.queries.regions.tolist() == [[48, 64]] * 2 and found.queries.sizes.tolist() == [[96, 128]] * 2
    assert found.queries.select([1]).boxes.tolist() == [[0, 0, 64, 48]]
    assert found.queries.fingerprint != found.queries.select([0, 1]).select([1, 0]).fingerprint


def test_a_part_keeps_the_scale_of_its_photograph(tmp_path):
    write_benchmark(tmp_path / "root")
    found = prepare_revisited("tiny", tmp_path / "root", tmp_path / "cache")
    settings = {"image_size": 64, "bucket_ratios": (0.75,), "size_multiple": 8, "batch_size": 1, "threads": 1}
    for photos, size in ((found.queries, (24, 32)), (found.photos, (40, 64))):
        for batch in evaluation_batches(photos, **settings):
            shown = batch["mask"][0]
            # 64 px for the longest side of the whole, so 64 * 64/128 for its half; 64 * 64/96 rounds to 40
            assert (shown.any(1).sum(), shown.any(0).sum()) == size


def test_distractors_follow_the_photographs(tmp_path):
    write_benchmark(tmp_path / "root")
    (tmp_path / "others/deep").mkdir(parents=True)
    Image.new("RGB", (50, 40), (1, 2, 3)).save(tmp_path / "others/deep/photo_0.png")
    found = prepare_revisited("tiny", tmp_path / "root", tmp_path / "cache")
    others = prepare_folder(tmp_path / "others", tmp_path / "cache", labelled=False)
    both = with_distractors(found.photos, [others])
    assert both.names == [*found.truth.photos, "others/deep/photo_0.png"] and both.sizes[-1].tolist() == [40, 50]
    assert (both.photo(6) == [1, 2, 3]).all() and (both.photo(2) == found.photos.photo(2)).all()
    with pytest.raises(IndexError):
        both.source[7]
    assert with_distractors(found.photos, []) is found.photos


def test_a_second_look_reads_nothing_and_a_changed_photograph_is_noticed(tmp_path, monkeypatch):
    root = write_benchmark(tmp_path / "root")
    first = prepare_revisited("tiny", root, tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr("sret_jax.data.lists.read_entry", None)
        assert prepare_revisited("tiny", root, tmp_path / "cache").photos.fingerprint == first.photos.fingerprint
    Image.new("RGB", (96, 64), (9, 9, 9)).save(root / "jpg/photo_3.jpg")
    assert prepare_revisited("tiny", root, tmp_path / "cache").photos.fingerprint != first.photos.fingerprint


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda root: (root / "jpg/photo_3.jpg").unlink(), "1 of its 8 photographs cannot be used .photo_3: not in"),
        (lambda root: (root / "jpg/photo_3.jpg").write_bytes(b"x"), "photo_3: not a JPEG, PNG, WebP"),
        (lambda root: (root / "gnd_tiny.json").unlink(), "no gnd_tiny.pkl in .*--gnd=FILE"),
        (lambda root: Image.new("RGB", (40, 30)).save(root / "jpg/query_1.jpg"), "'query_1': its box .* of 40x30"),
    ],
)
def test_what_is_incomplete_is_named(tmp_path, damage, reason):
    root = write_benchmark(tmp_path / "root")
    damage(root)
    with pytest.raises(UserError, match=reason):
        prepare_revisited("tiny", root, tmp_path / "cache")


@pytest.mark.parametrize("place", [2, 4])
def test_a_query_among_the_photographs_must_be_its_own_junk(tmp_path, place):
    names = [f"photo_{i}" for i in range(6)]
    names[place] = "query_0"  # photograph 4 is junk of query 0, photograph 2 is not
    root = write_benchmark(tmp_path / "root", imlist=names)
    if place == 2:
        with pytest.raises(UserError, match="the query 'query_0' is among the photographs searched"):
            prepare_revisited("tiny", root, tmp_path / "cache")
    else:
        found = prepare_revisited("tiny", root, tmp_path / "cache")
        assert len(found.photos) == 6 and found.queries.names == ["query_0", "query_1"]


def test_the_published_truth_of_another_benchmark_is_refused(tmp_path, monkeypatch):
    """Both have 70 queries: without this, one would be scored by the other's."""
    for name, count in zip(PUBLISHED, (6, 8), strict=True):
        root = write_benchmark(tmp_path / name, name=name, photos=count)
        digest = hashlib.md5((root / f"gnd_{name}.pkl").read_bytes()).hexdigest()
        monkeypatch.setitem(ground_truth.KNOWN, digest, (name, "as published in 2018"))
    paris = tmp_path / "rparis6k/gnd_rparis6k.pkl"
    with pytest.raises(UserError, match="gnd_rparis6k.pkl: the ground truth of rparis6k, not of roxford5k; give gnd_r"):
        prepare_revisited("roxford5k", tmp_path / "roxford5k", tmp_path / "cache", paris)
    assert prepare_revisited("rparis6k", tmp_path, tmp_path / "cache").truth.version == "rparis6k as published in 2018"
    other = prepare_revisited("revisited", tmp_path / "rparis6k", tmp_path / "cache", paris)
    assert other.truth.version == "rparis6k as published in 2018"  # a folder of its own may have any


@pytest.mark.photos
def test_the_published_files_are_told_apart(photos):
    paris = photos / "allsouls/gnd_rparis6k.pkl"
    for benchmark, own in (("roxford5k", paris), ("rparis6k", photos / "allsouls/gnd_roxford5k.pkl")):
        with pytest.raises(UserError, match=f"not of {benchmark}; give gnd_{benchmark}.pkl"):
            prepare_revisited(benchmark, photos / "allsouls", "", own)


def test_no_folder(tmp_path):
    with pytest.raises(UserError, match="no folder .*--root=DIR"):
        prepare_revisited("tiny", tmp_path / "nothing", tmp_path / "cache")


@pytest.mark.photos
def test_real_photographs(tmp_path, photos):
    root = photos / "allsouls"
    found = prepare_revisited("allsouls", root, tmp_path, gnd=root / "gnd_allsouls_subset.json")
    assert len(found.photos) == 94 and len(found.queries) == 6
    assert found.queries.boxes[0].tolist() == [136, 34, 648, 956]  # halves to the even number
