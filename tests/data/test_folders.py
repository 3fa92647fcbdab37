"""A photo folder becomes a photo set in which every file is either used or named with its reason."""

import errno
import fcntl
import json
import logging
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import unicodedata
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from sret_jax.config import Config, DataConfig
from sret_jax.data import apart, folders, formats, prepared
from sret_jax.data.folders import folder_names, prepare_folder, prepare_folders, prepare_single_photos
from sret_jax.data.opening import open_photos
from sret_jax.data.pipeline import load
from sret_jax.errors import UserError
from sret_jax.storage.artifacts import DamagedError, seal_folder
from sret_jax.training.loop import prepare_photos
from tests.support import photo_files as files
from tests.support.photos import write_photo, write_photos


def make_folder(root, counts):
    """`counts[instance]` photographs, every one with its own colour."""
    for number, (instance, count) in enumerate(counts.items()):
        (root / instance).mkdir(parents=True)
        for k in range(count):
            photo = np.full((32, 40 + k, 3), (10 * number, 20 * k, 99), np.uint8)
            (root / instance / f"{k}.png").write_bytes(files.encode(files.Image.fromarray(photo), "PNG"))
    return root


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "photos", {"b": 3, "a": 2, "c": 2})


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def test_rows_names_labels_sizes_and_pixels_belong_together(folder, cache):
    photos = prepare_folder(folder, cache)
    assert photos.names == ["a/0.png", "a/1.png", "b/0.png", "b/1.png", "b/2.png", "c/0.png", "c/1.png"]
    assert photos.instances == ["a", "b", "c"] and photos.labels.tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert photos.sizes.tolist() == [[32, 40], [32, 41], [32, 40], [32, 41], [32, 42], [32, 40], [32, 41]]
    assert photos.skipped == [] and len(photos) == 7 and photos.mask(0) is None
    for row, colour in enumerate([(10, 0), (10, 20), (0, 0), (0, 20), (0, 40), (20, 0), (20, 20)]):
        assert photos.photo(row).shape[:2] == tuple(photos.sizes[row])
        assert tuple(photos.photo(row)[0, 0]) == (*colour, 99)
    assert photos.source[3]["image"] == (folder / "b/1.png").read_bytes()


def test_selections_keep_rows_together_and_number_labels_anew(folder, cache):
    photos = prepare_folder(folder, cache)
    some = photos.select([6, 2, 5])
    assert some.names == ["c/1.png", "b/0.png", "c/0.png"] and some.instances == ["b", "c"]
    assert some.labels.tolist() == [1, 0, 1] and some.labels.dtype == np.int32
    assert tuple(some.photo(1)[0, 0]) == (0, 0, 99) and some.sizes.tolist() == [[32, 41], [32, 40], [32, 40]]
    again = some.select(np.array([2]))
    assert again.names == ["c/0.png"] and tuple(again.photo(0)[0, 0]) == (20, 0, 99) and again.labels.tolist() == [0]
    assert photos.select_instances(["c", "a"]).names == ["a/0.png", "a/1.png", "c/0.png", "c/1.png"]
    assert len({photos.fingerprint, some.fingerprint, again.fingerprint}) == 3
    assert some.fingerprint == prepare_folder(folder, cache).select([6, 2, 5]).fingerprint
    with pytest.raises(UserError, match="no instance 'zebra'.*known: a, b, c"):
        photos.select_instances(["a", "zebra"])


def test_the_hostile_folder(folder, cache, caplog):
    """The whole golden table at once: the good photographs come out as if the others were not there."""
    clean = prepare_folder(folder, cache)
    expected = {}
    for name, (data, *_) in files.ACCEPTED.items():
        (folder / "b" / name).write_bytes(data)
    for name, (data, reason) in files.REJECTED.items():
        (folder / "b" / name).write_bytes(data)
        expected["b/" + name] = reason
    (folder / "a" / "odd").mkdir()
    hostile = files.write_hostile_names(folder / "b")
    expected |= {f"b/{name}": reason for name, reason in hostile.items()}
    expected |= {"a/odd": "a folder inside", "loose.jpg": "not in an instance folder", "empty": "an empty folder"}
    expected |= {"circle": "not in an instance folder"}
    (folder / "loose.jpg").write_bytes(files.photo_bytes())
    (folder / "empty").mkdir()
    (folder / ".git").mkdir()
    (folder / "circle").symlink_to("circle")
    started = time.monotonic()
    photos = prepare_folder(folder, cache)
    assert time.monotonic() - started < 60
    skipped = dict(photos.skipped)
    assert set(skipped) == set(expected)
    for name, reason in expected.items():
        assert skipped[name].startswith(reason), name
    assert sorted(photos.names) == sorted([*clean.names, *(f"b/{name}" for name in files.ACCEPTED)])
    for row, name in enumerate(photos.names):
        kind = name.split("/")[1]
        if kind in files.ACCEPTED:
            np.testing.assert_allclose(
                files.corners(photos.photo(row)), files.ACCEPTED[kind][1], atol=files.ACCEPTED[kind][2]
            )
            assert tuple(photos.sizes[row]) == photos.photo(row).shape[:2]
        else:
            np.testing.assert_array_equal(photos.photo(row), clean.photo(clean.names.index(name)))
    assert f"{len(expected)} files skipped" in caplog.text
    report = next(path for path in cache.glob("*/*/skipped.json") if len(json.loads(path.read_text())))
    assert {entry["photo"]: entry["reason"] for entry in json.loads(report.read_text())} == skipped
    assert dict(photos.select_instances(["a"]).skipped).keys() == {"a/odd", "loose.jpg", "empty", "circle"}


def test_what_lies_beside_photographs_is_not_even_listed(folder, cache, monkeypatch):
    clean = prepare_folder(folder, cache)
    for name in ("IMG_1.AAE", "IMG_1.MOV", "._0.jpg", "Thumbs.db", "desktop.ini", ".hidden.jpg", "0.jpg.xmp"):
        (folder / "a" / name).write_bytes(files.photo_bytes())
    for name in ("@eaDir", ".git", "a/.thumbnails"):
        (folder / name).mkdir()
        (folder / name / "x.jpg").write_bytes(files.photo_bytes())
    (folder / ".DS_Store").write_bytes(b"x")
    monkeypatch.setattr(folders, "read_entry", None)  # the set is the one that was prepared before
    for photos in (prepare_folder(folder, cache), open_photos(folder)):
        assert photos.names == clean.names and not photos.skipped


def test_heics_are_read_again_when_they_can_be_decoded(tmp_path, cache, monkeypatch):
    write_photos(tmp_path / "photos", 1, 1)
    (tmp_path / "photos/tower 0/phone.heic").write_bytes(files.HEIC_START)
    installed = formats.installed
    monkeypatch.setattr(apart._processes, "none_start", True)  # another process would know what is installed
    monkeypatch.setattr(formats, "installed", lambda name: name != "HEIF" and installed(name))
    assert "sret_jax[heic]" in dict(prepare_folder(tmp_path / "photos", cache).skipped)["tower 0/phone.heic"]
    monkeypatch.setattr(formats, "installed", lambda name: True)
    pytest.importorskip("pillow_heif")
    (now,) = prepare_folder(tmp_path / "photos", cache).skipped
    assert now[1].startswith("damaged: ")  # it was decoded, or tried to


def test_instances_of_a_split_by_either_way_of_writing_accents(tmp_path, cache):
    written, given = (unicodedata.normalize(form, "café") for form in ("NFD", "NFC"))
    for name in (written, "b"):
        write_photo(tmp_path / "photos" / name / "0.jpg", 0)
    (tmp_path / "splits.json").write_text(json.dumps({"some": [given]}))
    photos = prepare_folder(tmp_path / "photos", cache, splits=tmp_path / "splits.json", split="some")
    assert photos.names == [f"{written}/0.jpg"] and photos.instances == [written]
    write_photo(tmp_path / "photos" / given / "0.jpg", 1)
    photos = prepare_folder(tmp_path / "photos", cache, splits=tmp_path / "splits.json", split="some")
    assert photos.instances == [given]  # both are there, and each is found as it is written
    assert len(prepare_folder(tmp_path / "photos", cache).instances) == 3


def test_odd_but_good_names_are_kept(tmp_path, cache):
    names = ["x" * 200 + ".jpg", "mont-ségur 城.jpg", "two\nlines.jpg", "-dash.jpg", "no ending", "a'\"b.PNG"]
    (tmp_path / "photos/pl ace").mkdir(parents=True)
    for name in names:
        (tmp_path / "photos/pl ace" / name).write_bytes(files.photo_bytes())
    photos = prepare_folder(tmp_path / "photos", cache)
    assert photos.names == [f"pl ace/{name}" for name in sorted(names)] and not photos.skipped


def test_instances_may_be_links_to_folders(folder, cache, tmp_path):
    (folder / "c").rename(tmp_path / "elsewhere")
    (folder / "c").symlink_to(tmp_path / "elsewhere")
    assert prepare_folder(folder, cache).instances == ["a", "b", "c"]


def test_a_folder_without_instances(tmp_path, cache):
    root = tmp_path / "queries"
    (root / "deep/er").mkdir(parents=True)
    for name in ("q.jpg", "deep/r.jpg", "deep/er/s.jpg"):
        (root / name).write_bytes(files.photo_bytes())
    (root / "loop").symlink_to(".")
    photos = prepare_folder(root, cache, labelled=False)
    assert photos.names == ["deep/er/s.jpg", "deep/r.jpg", "q.jpg"]
    assert photos.labels.tolist() == [-1, -1, -1] and photos.instances == []
    assert photos.skipped == [("loop", "a link to a folder")]
    assert photos.select([2]).labels.tolist() == [-1]


def test_splits_share_one_prepared_set(folder, cache, tmp_path):
    splits = tmp_path / "splits.json"
    splits.write_text(json.dumps({"train": ["c", "b"], "test": ["a"], "wrong": ["a", "zz"], "odd": "a"}))
    train = prepare_folder(folder, cache, splits=str(splits), split="train")
    test = prepare_folder(folder, cache, splits=splits, split="test")
    assert train.instances == ["b", "c"] and train.labels.tolist() == [0, 0, 0, 1, 1] and train.name == "photos:train"
    assert test.instances == ["a"] and test.names == ["a/0.png", "a/1.png"]
    assert len(list(cache.glob("image_folder/*/index.json"))) == 1
    with pytest.raises(UserError, match="no split 'val'; known: odd, test, train, wrong"):
        prepare_folder(folder, cache, splits=splits, split="val")
    with pytest.raises(UserError, match="no instance 'zz'"):
        prepare_folder(folder, cache, splits=splits, split="wrong")
    with pytest.raises(UserError, match="the split 'odd' is 'a', not a list"):
        prepare_folder(folder, cache, splits=splits, split="odd")
    with pytest.raises(UserError, match="no splits file"):
        prepare_folder(folder, cache, splits=tmp_path / "none.json", split="train")
    splits.write_text("{")
    with pytest.raises(UserError, match="splits file"):
        prepare_folder(folder, cache, splits=splits, split="train")


@pytest.fixture
def other(tmp_path):
    """A second folder, with an instance of the same name and photographs that are nowhere else."""
    for instance, value in (("a", 130), ("z", 150)):
        (tmp_path / "others" / instance).mkdir(parents=True)
        for k in range(2):
            photo = np.full((30, 30, 3), (value, 20 * k, 9), np.uint8)
            (tmp_path / "others" / instance / f"{k}.png").write_bytes(files.encode(files.Image.fromarray(photo), "PNG"))
    return tmp_path / "others"


def test_one_folder_is_what_it_is_alone(folder, cache):
    alone, given = prepare_folder(folder, cache), prepare_folders(str(folder), cache, splits="", split="train")
    assert given.names == alone.names and given.instances == alone.instances and given.sources is None
    assert given.fingerprint == alone.fingerprint and given.name == alone.name
    odd = folder.rename(folder.with_name("photos, mine"))
    assert prepare_folders(str(odd), cache).names == alone.names
    with pytest.raises(UserError, match="no photo folder given"):
        prepare_folders("", cache)


def test_instances_of_several_folders_never_mix(folder, other, cache, caplog):
    photos = prepare_folders(f"{folder}, {other}", cache)
    assert photos.instances == ["others/a", "others/z", "photos/a", "photos/b", "photos/c"]
    assert photos.sources == ["others"] * 2 + ["photos"] * 3 and photos.name == "photos + others"
    parts = prepare_folder(folder, cache), prepare_folder(other, cache)
    assert photos.names == [f"photos/{name}" for name in parts[0].names] + [f"others/{name}" for name in parts[1].names]
    for row in range(11):
        part, at = (parts[0], row) if row < 7 else (parts[1], row - 7)
        assert photos.instances[photos.labels[row]].split("/")[1] == part.instances[part.labels[at]]
        np.testing.assert_array_equal(photos.photo(row), part.photo(at))
    assert len(list(cache.glob("image_folder/*/index.json"))) == 2 and "negatives" not in caplog.text
    settings = Config(data=DataConfig(root=f"{folder},{other}", cache_dir=str(cache)))
    assert prepare_photos(settings, cache).fingerprint == photos.fingerprint


def test_each_of_several_folders_has_its_splits_or_none(folder, other, cache, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "one.json").write_text(json.dumps({"train": ["b"], "test": ["a"]}))
    (tmp_path / "two.json").write_text(json.dumps({"train": ["z"]}))
    both = "~/photos,~/others"

    def instances(splits, split="train"):
        return prepare_folders(both, cache, splits=splits, split=split).instances

    assert instances("~/one.json,~/two.json") == ["others/z", "photos/b"]
    assert instances("~/one.json,") == ["others/a", "others/z", "photos/b"]
    assert instances(",") == instances("") == ["others/a", "others/z", "photos/a", "photos/b", "photos/c"]
    with pytest.raises(UserError, match="two.json has no split 'test'; known: train"):
        instances("~/one.json,~/two.json", "test")
    with pytest.raises(UserError, match="data.splits=.*names 1 files, config.data.root=.* 2 folders; give a file for"):
        instances("~/one.json")
    with pytest.raises(UserError, match="data.splits=.*names 2 files, config.data.root=.* 1 folders"):
        prepare_folders(folder, cache, splits="~/one.json,~/two.json", split="train")


def test_wrong_folders_among_several_are_named(folder, cache, tmp_path):
    with pytest.raises(UserError, match="no photo folder .*nothing"):
        prepare_folders(f"{folder},{tmp_path}/nothing", cache)
    with pytest.raises(UserError, match="config.data.root=.*an entry is empty"):
        prepare_folders(f"{folder},", cache)
    with pytest.raises(UserError, match="config.data.root=.*is there twice"):
        prepare_folders(f"{folder},{folder}/.", cache)


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["/x/a", "/x/b"], ["a", "b"]),
        (["/x/a", "/y/a", "/x/b"], ["x-a", "y-a", "b"]),
        (["/1/x/a", "/2/x/a", "/3/x-a-2"], ["x-a", "x-a-2", "x-a-2-2"]),
        (["/"], ["photos"]),
    ],
)
def test_every_folder_gets_a_name_of_its_own(folders, names):
    assert folder_names(folders) == names


def test_photographs_in_two_instances_are_warned_of_once(folder, cache, tmp_path, caplog):
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy/new").mkdir()
    (tmp_path / "copy/new/0.png").write_bytes((folder / "a/0.png").read_bytes())
    prepare_folders(f"{folder},{tmp_path}/copy", cache)
    told = [record.message for record in caplog.records if "negatives" in record.message]
    assert len(told) == 1 and "photos + copy: 7 photographs lie in two instances or more" in told[0]
    assert "photos/a/0.png = copy/a/0.png; photos/a/1.png = copy/a/1.png" in told[0] and "b/0.png" not in told[0]


def test_every_photograph_of_a_tree_is_an_instance_of_its_own(folder, other, cache, tmp_path, caplog):
    (folder / "b/deep").mkdir()
    (folder / "b/deep/x.png").write_bytes((folder / "b/0.png").read_bytes())
    (folder / "b.jpg").write_bytes(files.photo_bytes())
    photos = prepare_single_photos(folder, cache)
    assert photos.instances == sorted(photos.names) != photos.names and len(photos) == 9
    assert [photos.instances[label] for label in photos.labels] == photos.names and photos.sources is None
    told = [record.message for record in caplog.records if "negatives" in record.message]
    assert len(told) == 1 and "1 photographs lie in two instances or more" in told[0]
    assert "b/0.png = b/deep/x.png" in told[0] and "one photograph only" not in caplog.text
    settings = Config(data=DataConfig(dataset="photos", root=str(folder)))
    assert prepare_photos(settings, tmp_path / "run").fingerprint == photos.fingerprint
    both = prepare_single_photos(f"{folder},{other}", cache)
    assert len(both.instances) == len(both) == 13 and set(both.sources) == {"photos", "others"}
    assert [both.instances[label] for label in both.labels] == both.names and both.names[-1] == "others/z/1.png"


def test_sources_are_named_by_the_instances_of_a_folder_or_by_the_folders(folder, other, cache, tmp_path):
    root = make_folder(tmp_path / "named", {"shop__a": 2, "shop__b": 2, "street__a": 2})
    assert prepare_folder(root, cache).sources == ["shop", "shop", "street"]
    (tmp_path / "one.json").write_text(json.dumps({"train": ["shop__a", "shop__b"]}))
    assert prepare_folder(root, cache, splits=tmp_path / "one.json", split="train").sources is None
    photos = prepare_folders(f"{root},{other}", cache)
    assert photos.sources == ["named/shop", "named/shop", "named/street", "others", "others"]


def test_an_instance_of_one_photo_is_kept_with_a_warning_and_one_of_none_left_out(folder, cache, tmp_path, caplog):
    (folder / "a/1.png").write_bytes(b"")
    for name in ("0.png", "1.png"):
        (folder / "c" / name).write_bytes(b"")
    splits = tmp_path / "splits.json"
    splits.write_text(json.dumps({"all": ["a", "b", "c"], "bad": ["c"]}))
    photos = prepare_folder(folder, cache, splits=splits, split="all")
    assert photos.instances == ["a", "b"] and len(photos) == 4
    assert "one photograph only" in caplog.text and "without a usable photograph: c" in caplog.text
    with pytest.raises(UserError, match="split 'bad'.*no usable photograph.*2 skipped: c/0.png: empty file"):
        prepare_folder(folder, cache, splits=splits, split="bad")


def test_nothing_to_use_is_one_clear_error(tmp_path, cache):
    with pytest.raises(UserError, match="no photo folder given.*config.data.root"):
        prepare_folder("", cache)  # not the current folder
    with pytest.raises(UserError, match="no photo folder"):
        prepare_folder(tmp_path / "none", cache)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="no photo folder"):
        prepare_folder(tmp_path / "file", cache)
    (tmp_path / "flat").mkdir()
    with pytest.raises(UserError, match="cannot write the data cache.*config.data.cache_dir"):
        prepare_folder(tmp_path / "flat", tmp_path / "file")
    with pytest.raises(UserError, match="flat has no usable photograph.*0 skipped"):
        prepare_folder(tmp_path / "flat", cache)
    (tmp_path / "flat/a.jpg").write_bytes(files.photo_bytes())
    with pytest.raises(UserError, match="<instance>/<photo>.*1 skipped: a.jpg: not in an instance folder"):
        prepare_folder(tmp_path / "flat", cache)
    assert not list(cache.glob("image_folder/*/index.json"))


def test_the_set_is_prepared_once_and_again_when_the_folder_changes(folder, cache):
    first = prepare_folder(folder, cache)
    made = next(cache.glob("image_folder/*/MANIFEST.json"))
    before = made.stat().st_mtime_ns
    assert prepare_folder(folder, cache).fingerprint == first.fingerprint and made.stat().st_mtime_ns == before
    os.utime(folder / "a/0.png", (1, 1))
    assert prepare_folder(folder, cache).fingerprint == first.fingerprint  # read again, the same content
    (folder / "a/9.png").write_bytes((folder / "a/0.png").read_bytes())
    second = prepare_folder(folder, cache)
    assert len(second) == 8 and second.fingerprint != first.fingerprint


def test_the_fingerprint_follows_the_content_not_the_place(folder, cache, tmp_path):
    first = prepare_folder(folder, cache).fingerprint
    shutil.copytree(folder, tmp_path / "moved")
    assert prepare_folder(tmp_path / "moved", tmp_path / "other cache").fingerprint == first


def test_records_may_be_read_from_many_threads(folder, cache):
    photos = prepare_folder(folder, cache)
    rows = np.random.default_rng(0).integers(len(photos), size=400).tolist()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda row: photos.source[row]["image"], rows))
    assert all(data == (folder / photos.names[row]).read_bytes() for row, data in zip(rows, found, strict=True))


def test_a_flipped_bit_is_never_taken_for_a_photograph(folder, cache, monkeypatch):
    monkeypatch.setattr(prepared, "AT_ONCE", 0)  # as in a cache too large to be read when it is opened
    photos = prepare_folder(folder, cache)
    pixels = [photos.photo(row) for row in range(len(photos))]
    record = next(cache.glob("image_folder/*/*/*/*array_record*"))
    whole = record.read_bytes()
    first = whole.index(b"\x89PNG")
    outcomes = []
    for at in np.random.default_rng(0).integers(first, first + 300, size=20):
        record.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        damaged = prepare_folder(folder, cache)
        for row in range(len(photos)):
            try:
                np.testing.assert_array_equal(load(damaged, row), pixels[row])
                outcomes.append("whole")
            except UserError as error:
                assert "is not what was written" in str(error)
                outcomes.append("named")
    assert outcomes.count("named") >= 20


def damage_cache(cache, name, change):
    """Changes the one file of the cache whose name has `name` in it."""
    file = next(cache.glob(f"image_folder/*/{name}"))
    data = change(file.read_bytes())
    file.unlink() if data is None else file.write_bytes(data)


def flipped(data, old, new):
    assert data.count(old) >= 1
    return data.replace(old, new, 1)


RECORD = "*/*/*array_record*"


@pytest.mark.parametrize(
    "name, change",
    [
        (RECORD, lambda data: data[:-10]),
        (RECORD, lambda data: flipped(data, b"PNG", b"PNF")),
        ("index.json", lambda data: None),
        ("index.json", lambda data: flipped(data, b"a/0.png", b"a/8.png")),
        ("index.json", lambda data: flipped(data, b"names", b"nameq")),
        ("skipped.json", lambda data: b"{}"),
        ("*/*/dataset_info.json", lambda data: flipped(data, b"{", b"[")),
        ("*/*/features.json", lambda data: flipped(data, b"image", b"imagf")),
        ("MANIFEST.json", lambda data: b"{"),
        ("MANIFEST.json", lambda data: flipped(data, b'"size"', b'"sizd"')),
        ("MANIFEST.json", lambda data: flipped(data, b'"sha256"', b'"sha257"')),
        ("MANIFEST.json", lambda data: flipped(data, b'"files"', b'"filer"')),
    ],
)
def test_a_damaged_cache_is_made_again(folder, cache, name, change, caplog):
    photos = prepare_folder(folder, cache)
    damage_cache(cache, name, change)
    again = prepare_folder(folder, cache)
    assert again.fingerprint == photos.fingerprint and caplog.text.count("prepared again") == 1
    assert again.names == photos.names and again.skipped == photos.skipped
    np.testing.assert_array_equal(again.photo(0), photos.photo(0))


def test_a_damaged_cache_whose_photographs_are_gone_is_refused_and_kept(folder, cache):
    prepare_folder(folder, cache)
    damage_cache(cache, "index.json", lambda data: flipped(data, b"a/0.png", b"a/8.png"))
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}
    shutil.rmtree(folder)
    with pytest.raises(UserError, match="photos"):
        prepare_folder(folder, cache)
    assert before.keys() <= {path for path in cache.rglob("*")}


def test_exchanged_records_are_named_where_the_cache_is_too_large_to_be_read_at_once(folder, cache, monkeypatch):
    monkeypatch.setattr(prepared, "AT_ONCE", 0)
    prepare_folder(folder, cache)
    ours = next(cache.glob("image_folder/[a-z]*"))
    other = prepare_folder(make_folder(folder.parent / "other", {"c": 2, "a": 2, "b": 3}), cache)
    theirs = next(path for path in cache.glob("image_folder/[a-z]*") if path != ours)
    (record,) = ours.glob(RECORD)
    (foreign,) = theirs.glob(RECORD)
    exchanged = foreign.read_bytes()
    assert len(other) == 7 and len(exchanged) == record.stat().st_size
    record.write_bytes(exchanged)
    with pytest.raises(UserError, match="record 2 is not what was written; delete this folder and run again"):
        load(prepare_folder(folder, cache), 2)


def test_what_a_cache_from_elsewhere_says_of_its_features_is_not_followed(folder, cache, monkeypatch):
    """tfds imports the module that `pythonClassName` names, and this cache is whole by its own manifest."""
    photos = prepare_folder(folder, cache)
    (folder.parent / "stranger.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(folder.parent))
    damage_cache(
        cache,
        "*/*/features.json",
        lambda data: re.sub(rb'"pythonClassName": "[^"]*"', b'"pythonClassName": "stranger.Feature"', data),
    )
    seal_folder(next(cache.glob("image_folder/[a-z]*")))
    again = prepare_folder(folder, cache)
    np.testing.assert_array_equal(again.photo(0), photos.photo(0))
    assert "stranger" not in sys.modules


def test_an_index_that_is_no_index_is_damage_though_its_manifest_agrees(folder, cache):
    prepare_folder(folder, cache)
    for change in (b'"names": [1, ', b'"names": {}, "old": ["', b'"nome": ["'):
        whole = next(cache.glob("image_folder/*/index.json")).read_bytes()
        damage_cache(cache, "index.json", lambda data, change=change: flipped(data, b'"names": ["', change))
        seal_folder(next(cache.glob("image_folder/[a-z]*")))
        with pytest.raises(DamagedError, match=r"index.json or skipped.json is not what was written"):
            prepare_folder(folder, cache)
        damage_cache(cache, "index.json", lambda data, whole=whole: whole)


def test_a_cache_whose_files_may_not_grow_is_named_and_left_as_it_was(folder, cache):
    prepare_folder(folder, cache)
    before = {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()}
    rng = np.random.default_rng(0)
    for number in range(8):
        noise = rng.integers(0, 255, (100, 100, 3)).astype(np.uint8)
        (folder / "a" / f"noise {number}.png").write_bytes(files.encode(files.Image.fromarray(noise), "PNG"))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limit[1]))
    try:
        with pytest.raises(UserError, match=r"image_folder: File too large; raise the limit of a file's size"):
            prepare_folder(folder, cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    after = {path: path.read_bytes() for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"}
    assert after == {path: data for path, data in before.items() if path.suffix != ".lock"}
    assert len(prepare_folder(folder, cache)) == 15  # once it may


def test_what_a_killed_process_had_begun_to_prepare_is_cleared(folder, cache):
    prepare_folder(folder, cache)
    left, busy = (cache / "image_folder" / f".{name}.building" for name in ("photos-gone", "photos-busy"))
    left.mkdir()
    busy.mkdir()
    with open(cache / "image_folder/.photos-busy.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        prepare_folder(folder, cache)
        assert not left.exists() and busy.exists()


def test_a_cache_that_cannot_be_written_to_is_used_as_it_is(folder, cache, monkeypatch):
    photos = prepare_folder(folder, cache)

    def read_only(path, mode="r", *rest, **options):
        if "w" in mode:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return open(path, mode, *rest, **options)

    monkeypatch.setattr(prepared, "open", read_only, raising=False)
    assert prepare_folder(folder, cache).fingerprint == photos.fingerprint
    write_photo(folder / "d" / "new.png", seed=1)
    with pytest.raises(UserError, match="cannot write the data cache .*Read-only file system; choose another"):
        prepare_folder(folder, cache)


PREPARE = """
import sys
from sret_jax.config import Config, DataConfig
from sret_jax.data.folders import folder_names, prepare_folder, prepare_folders
print("ready", flush=True)
sys.stdin.readline()
print(prepare_folder(sys.argv[1], sys.argv[2]).fingerprint)
"""


def test_processes_that_prepare_the_same_set_wait_for_each_other(folder, cache):
    command = [sys.executable, "-c", PREPARE, str(folder), str(cache)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    workers = [subprocess.Popen(command, **pipes) for _ in range(2)]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    prints = {worker.communicate(timeout=120)[0].strip() for worker in workers}
    assert prints == {prepare_folder(folder, cache).fingerprint} and not any(worker.returncode for worker in workers)
    assert len(list(cache.glob("image_folder/[!.]*"))) == 1


KILLED = """
import os, signal, sys
from sret_jax.data import folders
read, left = folders.read_entry, [4]
def dying(found):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return read(found)
folders.read_entry = dying
folders.prepare_folder(sys.argv[1], sys.argv[2])
"""


def test_a_kill_while_preparing_leaves_no_set_that_looks_complete(folder, cache):
    run = subprocess.run([sys.executable, "-c", KILLED, str(folder), str(cache)], capture_output=True, timeout=120)
    assert run.returncode == -signal.SIGKILL
    assert not list(cache.glob("image_folder/*/MANIFEST.json"))
    assert len(prepare_folder(folder, cache)) == 7
    assert not list(cache.glob("image_folder/.*building"))


def test_no_tensorflow(folder, cache):
    code = (
        "import sys; from sret_jax.data.folders import prepare_folder; from sret_jax.data import pipeline\n"
        "prepare_folder(sys.argv[1], sys.argv[2]).photo(0)\n"
        "assert not {'tensorflow', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(folder), str(cache)], check=True, timeout=120)


@pytest.mark.photos
def test_real_photographs(photos, cache, caplog):
    caplog.set_level(logging.WARNING)
    root = photos / "provence"
    train = prepare_folder(root / "images", cache, splits=root / "splits.json", split="train")
    test = prepare_folder(root / "images", cache, splits=root / "splits.json", split="test")
    assert (len(train.instances), len(test.instances), len(test)) == (15, 8, 345)
    assert len(train) + len(test) + len(train.skipped) == 1185
    assert not set(train.names) & set(test.names)
    for row in range(0, len(test), 50):
        assert test.photo(row).shape[:2] == tuple(test.sizes[row])
