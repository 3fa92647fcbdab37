"""A collection follows its folder, searches for what a person points at, and loses nothing."""

import dataclasses
import hashlib
import json
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

import sret_jax
from sret_jax.cli.updating import summary
from sret_jax.collection import collection as module
from sret_jax.collection import place, store_index
from sret_jax.collection import update as updating
from sret_jax.collection.collection import Collection
from sret_jax.collection.place import read_about, write_about
from sret_jax.config import Config, DataConfig, ExtractConfig, LocalizeConfig, ModelConfig
from sret_jax.data import apart
from sret_jax.errors import UserError
from sret_jax.localization.presence import FOUND_WITH_COSINE
from sret_jax.retriever import Retriever, load
from sret_jax.storage.artifacts import DamagedError
from tests.support import odd_decoder
from tests.support.photos import write_long_ago

CONFIG = Config(
    data=DataConfig(image_size=96, threads=1),
    model=ModelConfig(weights="none", stage="c4", whitening=False),
    extract=ExtractConfig(batch_size=4),
    localize=LocalizeConfig(refine="guided"),
)
SCENES = {"cat": data.chelsea(), "cup": data.coffee(), "rocket": data.rocket(), "woman": data.astronaut()}


@pytest.fixture(scope="module")
def retriever() -> Retriever:
    return load(CONFIG)


@pytest.fixture(scope="module")
def described(tmp_path_factory, retriever) -> Path:
    """Photographs, and their collection: each test gets a copy of both."""
    folder = tmp_path_factory.mktemp("described")
    for name, pixels in SCENES.items():
        for i, cut in enumerate((0, 16, 32)):
            write_long_ago(folder / "photos" / f"{name}/{i}.jpg", pixels[cut : len(pixels) - cut, cut:])
    write_long_ago(folder / "photos" / "flat.jpg", SCENES["cat"][:200])
    write_long_ago(folder / "photos" / "a/b/c/deep.png", SCENES["cup"][:200])
    opened = Collection.open(folder / "photos", workdir=folder / "kept", retriever=retriever)
    opened._retriever = retriever  # compiled already
    opened.update()
    return folder


@pytest.fixture
def root(described, tmp_path) -> Path:
    return shutil.copytree(described / "photos", tmp_path / "photos")


@pytest.fixture
def collection(described, root, tmp_path, retriever) -> Collection:
    shutil.copytree(described / "kept", tmp_path / "kept")
    about = tmp_path / "kept/photos/collection.json"
    write_about(about.parent, read_about(about.parent) | {"root": str(root)})
    opened = Collection(about.parent)
    opened._retriever = retriever
    return opened


def reopened(collection: Collection) -> Collection:
    again = Collection(collection.folder)
    again._retriever = collection._retriever
    return again


def found(collection: Collection, *query, **how) -> list[str]:
    return [answer.name for answer in collection.search(*query, **{"mark": False} | how).answers]


def test_a_folder_of_any_depth_is_searched(collection, root):
    assert collection.names == sorted(path.relative_to(root).as_posix() for path in root.rglob("*.*"))
    assert {name.split("/")[0] for name in found(collection, "cat/1.jpg", k=2)} <= {"cat", "flat.jpg"}
    assert found(reopened(collection), "cat/1.jpg", k=9) == found(collection, "cat/1.jpg", k=9)


def test_the_search_is_that_of_its_descriptors(collection, retriever, root):
    """The library's own five lines over the same photographs."""
    photos = sret_jax.open_photos(root)
    x = retriever.extractor.describe(photos, range(len(photos)))
    query = photos.names.index("cup/0.jpg")
    order = [i for i in np.argsort(-(x @ x[query]), kind="stable") if i != query]
    assert found(collection, "cup/0.jpg", k=6) == [photos.names[i] for i in order[:6]]
    assert found(collection, root / "cup/0.jpg", k=6) == [photos.names[i] for i in order[:6]]


def test_nothing_is_done_again(collection, monkeypatch):
    monkeypatch.setattr(updating, "read_photo", None)
    assert not reopened(collection).update().anything


def test_an_update_finds_what_is_new_changed_moved_and_gone(collection, root):
    write_long_ago(root / "new.jpg", SCENES["woman"][:300])
    write_long_ago(root / "cat/0.jpg", SCENES["rocket"][:300])
    (root / "cup/0.jpg").rename(root / "moved.jpg")
    (root / "woman/2.jpg").unlink()
    (root / "broken.jpg").write_bytes((root / "cat/1.jpg").read_bytes()[:500])
    before = collection.search("moved.jpg") if "moved.jpg" in collection.names else collection.search("cup/0.jpg")
    done = collection.update()
    assert (set(done.added), done.changed, set(done.removed)) == (
        {"new.jpg", "moved.jpg"},
        ["cat/0.jpg"],
        {"cup/0.jpg", "woman/2.jpg"},
    )
    assert [name for name, _ in done.skipped] == ["broken.jpg"] and done.reused == 1
    assert "rocket" in found(collection, "cat/0.jpg", k=1)[0]
    kept = {answer.name: answer.score for answer in before.answers if answer.name not in ("cat/0.jpg", "woman/2.jpg")}
    after = {answer.name: answer.score for answer in collection.search("moved.jpg", k=50).answers}
    # The product with another number of descriptors may be rounded in another way.
    np.testing.assert_allclose([after[name] for name in kept], list(kept.values()), atol=1e-6)
    assert not collection.update().anything
    assert collection.status().skipped[0][0] == "broken.jpg"


def test_the_answers_are_those_of_a_fresh_collection_after_many_changes(collection, root, tmp_path, retriever):
    rng = np.random.default_rng(0)
    for i in range(6):
        write_long_ago(root / f"more/{i}.jpg", rng.integers(0, 255, (120, 160, 3), np.uint8))
        if i > 1:
            (root / f"more/{i - 2}.jpg").unlink()
        collection.update()
    fresh = Collection.open(root, workdir=tmp_path / "fresh", retriever=retriever)
    fresh._retriever = retriever
    fresh.update()
    assert fresh.names == collection.names
    for name in ("cat/1.jpg", "more/5.jpg"):
        one, other = (c.search(name, k=30, mark=False).answers for c in (collection, fresh))
        assert [a.name for a in one] == [a.name for a in other]
        np.testing.assert_allclose([a.score for a in one], [a.score for a in other], atol=1e-6)


def test_a_file_that_was_touched_is_read_but_not_described_again(collection, root, monkeypatch):
    os.utime(root / "cat/0.jpg", (1.6e9, 1.6e9))
    monkeypatch.setattr(type(collection.retriever.extractor), "describe_with_maps", None)
    assert not collection.update().anything
    monkeypatch.setattr(updating, "read_photo", None)
    assert not collection.update().anything


def test_a_file_of_an_uncertain_time_is_read_again(collection, root, monkeypatch):
    write_long_ago(root / "now.jpg", SCENES["cup"][:300])
    now = time.time()
    os.utime(root / "now.jpg", (now, now))
    assert collection.update().added == ["now.jpg"]
    read = []
    own = updating.read_photo
    monkeypatch.setattr(updating, "read_photo", lambda file, **rest: (read.append(file.name), own(file, **rest))[1])
    collection.update()
    assert read == ["now.jpg"]


def test_a_photograph_that_hurts_its_decoder_is_skipped_and_tried_again(collection, root, monkeypatch):
    processes = apart._Processes()
    monkeypatch.setattr(apart, "_processes", processes)
    write_long_ago(root / "hurts.jpg", SCENES["cup"][:300])
    write_long_ago(root / "new.jpg", SCENES["woman"][:300])
    with open(root / "hurts.jpg", "ab") as file:
        file.write(odd_decoder.CRASHES)
    os.utime(root / "hurts.jpg", (1.6e9, 1.6e9))
    with monkeypatch.context() as only_now:
        only_now.setattr(apart, "PROGRAM", ["-P", "-m", "tests.support.odd_decoder"])
        done = collection.update()
        processes.end()
    assert done.added == ["new.jpg"] and done.skipped == [("hurts.jpg", "its decoder ended with signal 11")]
    assert collection.update().added == ["hurts.jpg"]  # by a decoder that it does not hurt
    processes.end()


def test_what_is_removed_stays_out_until_it_is_restored(collection, root):
    collection.remove(["cat/0.jpg", "cat/1.jpg"])
    assert "cat/0.jpg" not in collection.names and (root / "cat/0.jpg").exists()
    assert not {"cat/0.jpg", "cat/1.jpg"} & set(found(collection, "cat/2.jpg", k=50))
    collection.update()
    assert "cat/0.jpg" not in reopened(collection).names and collection.status().excluded == ["cat/0.jpg", "cat/1.jpg"]
    collection.restore(["cat/0.jpg"])
    collection.restore(["cat/0.jpg"])  # of a call that was killed
    assert collection.update().added == ["cat/0.jpg"]
    collection.restore(["cat/0.jpg"])
    assert collection.status().excluded == ["cat/1.jpg"] and not collection.update().anything
    for change in (collection.remove, collection.restore):
        with pytest.raises(UserError, match="no photograph 'cat/9.jpg'"):
            change(["cat/9.jpg"])


def test_a_removal_that_was_killed_may_be_made_again(collection):
    collection.remove(["cat/0.jpg"])
    before = collection.names
    collection.remove(["cat/0.jpg"])
    assert collection.names == before and collection.status().excluded == ["cat/0.jpg"]
    collection.remove(["cat/0.jpg", "cat/1.jpg"])
    assert collection.status().excluded == ["cat/0.jpg", "cat/1.jpg"]


def test_the_query_takes_no_place_among_its_answers(collection, root):
    shutil.copy(root / "cat/0.jpg", root / "copy.jpg")
    collection.update()
    for query in ("cat/0.jpg", root / "cat/0.jpg", (root / "cat/0.jpg").read_bytes()):
        assert not {"cat/0.jpg", "copy.jpg"} & set(found(collection, query, k=50))


def test_pages_of_a_search_are_parts_of_it(collection):
    whole = found(collection, "cat/1.jpg", k=13)
    assert len(whole) == len(collection.names) - 1
    assert found(collection, "cat/1.jpg", k=5, start=4) == whole[4:9]
    assert found(collection, "cat/1.jpg", k=5, start=50) == []
    with pytest.raises(UserError, match="at least one answer"):
        collection.search("cat/1.jpg", k=0)


def test_the_region_is_what_is_described(collection, tmp_path):
    scene = np.array(Image.fromarray(SCENES["woman"]).resize((160, 160)))
    small = np.array(Image.fromarray(SCENES["rocket"]).resize((60, 44)))
    scene[100:144, 90:150] = small
    whole = collection.search(scene, mark=False)
    part = collection.search(scene, region=(90, 100, 150, 144), mark=False)
    assert whole.searched == (0, 0, 160, 160) and whole.size == (160, 160)
    left, top, right, bottom = part.searched
    assert left <= 90 < 150 <= right and top <= 100 < 144 <= bottom
    alone = collection.search(scene[top:bottom, left:right], mark=False)
    assert [(a.name, a.score) for a in part.answers] == [(a.name, a.score) for a in alone.answers]
    assert [a.name for a in part.answers] != [a.name for a in whole.answers]
    mask = np.zeros((160, 160), bool)
    mask[100:144, 90:150] = True
    assert collection.search(scene, region=mask, mark=False) == part


@pytest.mark.parametrize("region", [(0, 0, 0, 5), (500, 500, 600, 600), (1, 2, 3), (float("nan"), 1)])
def test_a_region_that_is_none_is_said(collection, region):
    with pytest.raises(UserError, match="query"):
        collection.search("cat/0.jpg", region=region)


def test_answers_are_marked_where_the_object_is(collection, monkeypatch):
    answers = collection.search("cat/1.jpg", k=4).answers
    assert all(isinstance(answer.found, bool) for answer in answers)
    monkeypatch.setattr("sret_jax.collection.marking.FOUND_WITH_COSINE", -2.0)
    for answer in collection.search("cat/1.jpg", k=4).answers:
        height, width = answer.size
        left, top, right, bottom = answer.box
        assert answer.found and 0 <= left < right <= width and 0 <= top < bottom <= height
        points = np.concatenate(answer.outlines)
        assert (points.min(0) >= 0).all() and (points.max(0) <= [width, height]).all()
    monkeypatch.setattr("sret_jax.collection.marking.FOUND_WITH_COSINE", 3.0)
    assert {(a.found, a.box, a.outlines) for a in collection.search("cat/1.jpg").answers} == {(False, None, ())}
    assert 0 < FOUND_WITH_COSINE < 1
    assert all(answer.found is None for answer in collection.search("cat/1.jpg", mark=False).answers)


def test_an_answer_whose_file_is_gone_is_answered_without_a_mark(collection, root, monkeypatch):
    monkeypatch.setattr("sret_jax.collection.marking.FOUND_WITH_COSINE", -2.0)
    gone = collection.search("cat/1.jpg", k=1).answers[0].name
    (root / gone).unlink()
    answer = collection.search("cat/1.jpg", k=1).answers[0]
    assert (answer.name, answer.found, answer.outlines) == (gone, None, ())
    with pytest.raises(UserError, match="index again"):
        collection.read(gone)


def test_an_object_is_suggested_where_nobody_points(collection, root):
    for query in ("cat/0.jpg", root / "cat/0.jpg"):
        left, top, right, bottom = box = collection.object_in(query)
        assert 0 <= left < right <= 160 and 0 <= top < bottom <= 120
        assert collection.search(query, box, mark=False).answers
    with pytest.raises(UserError, match="no photograph"):
        collection.object_in("nothing")


def test_an_answer_whose_file_has_changed_is_not_marked(collection, root, monkeypatch):
    """What would be outlined is another picture than the one whose features were compared."""
    monkeypatch.setattr("sret_jax.collection.marking.FOUND_WITH_COSINE", -2.0)
    name = collection.search("cat/1.jpg", k=1).answers[0].name
    assert collection.search("cat/1.jpg", k=1).answers[0].outlines
    write_long_ago(root / name, SCENES["rocket"])
    answer = collection.search("cat/1.jpg", k=1).answers[0]
    assert (answer.name, answer.found, answer.outlines) == (name, None, ())


def test_heat_is_of_one_photograph(collection):
    heat = collection.heat("cat/0.jpg", "cat/1.jpg", (10, 10, 100, 100))
    assert heat.shape == (120, 160) and np.isfinite(heat).all() and heat.std() > 0
    with pytest.raises(UserError, match="no photograph"):
        collection.heat("../secret.jpg", "cat/1.jpg")


@pytest.mark.parametrize("name", ["../photos/cat/0.jpg", "/etc/passwd", "cat/0.jpg\0", "", "cat\\0.jpg", "nothing"])
def test_a_name_leads_nowhere_but_to_a_photograph_of_the_collection(collection, name):
    for act in (collection.read, collection.search, collection.query_size):
        with pytest.raises(UserError, match="no photograph"):
            act(name)


def test_query_that_is_no_photograph_is_said(collection, tmp_path):
    for query in (b"no photograph", b"", np.zeros((4, 4), np.uint8)):
        with pytest.raises(UserError):
            collection.search(query)


def test_collection_without_photographs_says_so(root, tmp_path, retriever):
    empty = Collection.open(root, workdir=tmp_path / "kept", retriever=retriever)
    assert empty.names == [] and empty.status().photos == 0 and empty.verify() == []
    for act in (lambda: empty.search(b"x"), lambda: empty.remove(["x"]), empty.compact):
        with pytest.raises(UserError, match=r"index .* first"):
            act()


def test_a_workdir_beside_or_around_the_photographs_is_none_of_them(root, tmp_path, retriever):
    beside = Collection.open(root, workdir=tmp_path, retriever=retriever)
    assert beside.name == "photos-2" and not list(root.glob("collection.json"))
    beside._retriever = retriever
    assert len(beside.update().added) == 14


def test_opening_what_is_there_needs_no_right_to_write(collection, root, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "locked", None)
    assert Collection.open(root, workdir=tmp_path / "kept").names == collection.names


def test_two_collections_in_one_workdir_do_not_meet(collection, root, tmp_path, retriever):
    write_long_ago(tmp_path / "other/photos/only.jpg", SCENES["cat"])
    other = Collection.open(tmp_path / "other/photos", workdir=tmp_path / "kept", retriever=retriever)
    other._retriever = retriever
    other.update()
    assert other.name == "photos-2" and other.names == ["only.jpg"]
    assert Collection.open(root, workdir=tmp_path / "kept").name == "photos" and len(collection.names) == 14
    with pytest.raises(UserError, match="choose another"):
        Collection.open(root, workdir=tmp_path / "kept", name="photos-2")


def test_a_collection_inside_its_own_folder_is_not_searched(root, retriever):
    inside = Collection.open(root, workdir=root / "runs", retriever=retriever)
    inside._retriever = retriever
    shutil.copy(root / "flat.jpg", inside.folder / "not_mine.jpg")
    inside.update()
    assert len(inside.names) == 14 and not inside.update().anything


def test_a_folder_that_moved_as_a_whole_goes_on(collection, root, tmp_path, monkeypatch):
    root.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="mounted"):
        collection.update()
    monkeypatch.setattr(updating, "read_photo", None)
    moved = Collection.open(tmp_path / "elsewhere", workdir=tmp_path / "kept", name="photos")
    moved._retriever = collection._retriever
    assert not moved.update().anything and len(moved.names) == 14


def test_a_folder_that_lost_everything_is_not_believed(collection, root):
    shutil.rmtree(root)
    root.mkdir()
    for new in (None, SCENES["cat"][:250]):
        if new is not None:
            write_long_ago(root / "stray.jpg", new)
        with pytest.raises(UserError, match="mounted"):
            collection.update()
        assert len(collection.names) == 14
    assert len(collection.update(forget=True).removed) == 14 and collection.names == ["stray.jpg"]


def test_photographs_that_were_all_emptied_are_not_forgotten(collection, root):
    for path in root.rglob("*.*"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="empty"):
        collection.update()
    assert len(collection.names) == 14
    assert len(collection.update(forget=True).removed) == 14


def test_a_folder_without_its_photographs_does_not_become_that_of_a_collection(collection, root, tmp_path, retriever):
    workdir, strange = collection.folder.parent, tmp_path / "strange"
    write_long_ago(strange / "cat/0.jpg", SCENES["woman"][:300])  # of a name that is known
    root.rename(tmp_path / "away")
    before = (collection.folder / "collection.json").read_bytes()
    with pytest.raises(UserError, match="none of the 14 photographs of the collection photos is there"):
        Collection.open(strange, workdir=workdir, name="photos").update()
    with pytest.raises(UserError, match="first bring the collection photos up to date"):
        Collection.open(strange, workdir=workdir, name="photos", retriever=retriever)
    assert (collection.folder / "collection.json").read_bytes() == before and len(reopened(collection).names) == 14
    moved = Collection.open(tmp_path / "away", workdir=workdir, name="photos")
    moved._retriever = retriever
    assert not moved.update().anything and Collection(collection.folder).root == tmp_path / "away"


def test_a_name_that_is_taken_while_a_retriever_is_loaded_is_left_to_who_has_it(root, tmp_path, retriever, monkeypatch):
    other, workdir = tmp_path / "other/photos", tmp_path / "kept"
    write_long_ago(other / "a.jpg", SCENES["cat"])

    def slow(_):
        monkeypatch.setattr(place, "load", lambda _: retriever)
        assert Collection.open(root, workdir=workdir).folder.name == "photos"
        return retriever

    for name, says in (("", None), ("photos", "choose another")):
        shutil.rmtree(workdir, ignore_errors=True)
        monkeypatch.setattr(place, "load", slow)
        if says:
            with pytest.raises(UserError, match=says):
                Collection.open(other, workdir=workdir, name=name, retriever="x")
        else:
            assert Collection.open(other, workdir=workdir, name=name, retriever="x").folder.name == "photos-2"
        assert Collection(workdir / "photos").root == root


def test_a_folder_all_of_whose_photographs_were_renamed_is_believed(collection, root):
    for path in sorted(root.rglob("*.*")):
        path.rename(root / f"renamed {path.parent.name} {path.name}")
    done = collection.update()
    assert done.reused == len(done.added) == 14 and len(collection.names) == 14


def test_what_is_removed_stays_out_by_another_name(collection, root):
    collection.remove(["cat/0.jpg"])
    (root / "cat/0.jpg").rename(root / "cat/moved.jpg")
    assert not collection.update().added and not {"cat/0.jpg", "cat/moved.jpg"} & set(collection.names)
    collection.restore(["cat/0.jpg", "cat/moved.jpg"])
    assert collection.update().added == ["cat/moved.jpg"]


def test_of_twins_that_were_taken_out_one_comes_back(collection, root):
    shutil.copy2(root / "cat/0.jpg", root / "twin.jpg")
    collection.update()
    collection.remove(["cat/0.jpg", "twin.jpg"])
    collection.restore(["twin.jpg"])
    assert collection.update().added == ["twin.jpg"] and collection.status().excluded == ["cat/0.jpg"]
    assert not collection.update().anything


def test_what_is_removed_stays_out_when_it_takes_the_place_of_another(collection, root):
    shutil.copy2(root / "cat/0.jpg", root / "twin.jpg")
    collection.update()
    collection.remove(["cat/0.jpg"])
    os.utime(root / "twin.jpg", (1.6e9, 1.6e9))
    assert not collection.update().anything and "twin.jpg" in collection.names  # that was there beside it
    shutil.copy2(root / "cat/0.jpg", root / "cup/0.jpg")
    assert collection.update().removed == ["cup/0.jpg"]
    assert "cup/0.jpg" not in collection.names and collection.status().excluded == ["cat/0.jpg", "cup/0.jpg"]


def test_an_update_that_changes_nothing_writes_nothing_into_the_journal(collection, root):
    os.utime(root / "cat/0.jpg", (4e9, 4e9))
    os.mkfifo(root / "pipe.jpg")
    (journal,) = collection.folder.glob("photos-*/journal")
    sizes = []
    for _ in range(3):
        done = collection.update()
        sizes.append(journal.stat().st_size)
    assert sizes[1] == sizes[2] and not done.anything and not done.skipped
    assert [name for name, _ in collection.status().skipped] == ["pipe.jpg"]


def test_a_photograph_that_vanishes_while_it_is_read_is_no_file_that_cannot_be_used(collection, root, monkeypatch):
    write_long_ago(root / "new.jpg", SCENES["woman"][:300])
    os.utime(root / "cat/0.jpg", (1.6e9, 1.6e9))
    real = updating.read_photo

    def late(file, **how):
        (root / file.name).unlink()
        return real(file, **how)

    with monkeypatch.context() as context:
        context.setattr(updating, "read_photo", late)
        assert not collection.update().skipped
    done = collection.update()
    assert (done.added, done.removed, done.skipped) == ([], ["cat/0.jpg"], []) and not collection.status().skipped


def test_what_was_renamed_is_told_from_what_is_new(collection, root):
    (root / "cat/0.jpg").rename(root / "cat/renamed.jpg")
    (root / "cat/1.jpg").unlink()
    write_long_ago(root / "new.jpg", SCENES["woman"][:300])
    done = collection.update()
    assert done.renamed == [("cat/0.jpg", "cat/renamed.jpg")]
    assert sorted(done.added) == ["cat/renamed.jpg", "new.jpg"] and sorted(done.removed) == ["cat/0.jpg", "cat/1.jpg"]
    assert "(1 added, 1 renamed, 1 removed)" in summary(collection, done)


@pytest.mark.parametrize("key", ["root", "updated", "digest"])
def test_a_changed_byte_of_what_is_written_of_a_collection_is_damage(collection, key):
    collection.update()
    path = collection.folder / "collection.json"
    text = path.read_bytes()
    at = text.index(b'"', text.index(f'"{key}": "'.encode()) + len(key) + 4) + 3
    path.write_bytes(text[:at] + bytes([text[at] ^ 1]) + text[at + 1 :])
    with pytest.raises(DamagedError, match=r"collection\.json: changed since it was written"):
        Collection(collection.folder)
    about = json.loads(text)
    del about["digest"]
    path.write_text(json.dumps(about))  # as written before there was a digest
    assert len(reopened(collection).names) == 14


def test_a_passing_error_advises_deleting_nothing(collection, monkeypatch):
    def refuse(path):
        raise OSError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    for act in (lambda: Collection(collection.folder), lambda: reopened(collection)):
        with pytest.raises(UserError, match=r"collection\.json: Permission denied") as said:
            act()
        assert "delete" not in str(said.value)


def test_a_photograph_or_query_that_cannot_be_read_is_named(collection, root, tmp_path):
    write_long_ago(root / "cat/0.jpg", SCENES["woman"])
    with pytest.raises(UserError, match=r"^cat/0.jpg: changed since it was indexed"):
        collection.heat("cat/0.jpg", "cat/1.jpg")
    (tmp_path / "text.jpg").write_text("no photograph")
    with pytest.raises(UserError, match=r"the query .*text.jpg is no photograph: not a JPEG"):
        collection.search(tmp_path / "text.jpg")


def test_what_a_killed_writer_left_is_cleared_away(collection):
    left = [collection.folder / name for name in (".collection.json.123.tmp", ".CURRENT.99.tmp")]
    for path in left:
        path.write_text("half")
    collection.update()
    assert not any(path.exists() for path in left)


def test_damage_of_a_photograph_that_is_gone_stops_nothing(collection, root, tmp_path):
    shutil.copy2(root / "cat/0.jpg", tmp_path / "away.jpg")
    (root / "cat/0.jpg").unlink()
    collection.update()
    path = next(collection.folder.glob("photos-*/descriptors"))
    width, content = collection.retriever.descriptor_length * 4, bytearray(path.read_bytes())
    digest = hashlib.sha256((tmp_path / "away.jpg").read_bytes()).hexdigest()
    (row,) = collection._view.store.state.contents[digest]
    content[row * width + 3] ^= 1
    path.write_bytes(content)
    assert reopened(collection).verify() == ["cat/0.jpg"]
    shutil.copy2(tmp_path / "away.jpg", root / "cat/0.jpg")
    done = collection.update()
    assert (done.added, done.reused) == (["cat/0.jpg"], 0) and len(collection.names) == 14
    assert collection.verify(mend=True) == ["cat/0.jpg"]
    collection.update()
    assert collection.verify() == [] and len(collection.names) == 14


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list everything")
def test_photographs_below_a_folder_that_cannot_be_listed_are_kept(collection, root):
    (root / "cat").chmod(0)
    collection.update()
    (root / "cat").chmod(0o700)
    assert len(collection.names) == 14


def test_a_killed_update_goes_on_where_it_was(root, tmp_path, retriever, monkeypatch):
    monkeypatch.setattr(updating, "AT_ONCE", 4)
    opened = Collection.open(root, workdir=tmp_path / "kept", retriever=retriever)
    opened._retriever = retriever

    def interrupt(done: int, total: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opened.update(interrupt)
    assert len(reopened(opened).names) == 8
    assert len(opened.update().added) == 6 and len(opened.names) == 14


def test_one_updates_at_a_time_and_others_search(collection, root):
    write_long_ago(root / "new.jpg", SCENES["cat"][:250])
    inside, done = threading.Event(), threading.Event()

    def wait(*_):
        inside.set()
        done.wait(20)

    thread = threading.Thread(target=lambda: collection.update(wait))
    thread.start()
    assert inside.wait(20)
    try:
        assert collection.status().indexing and found(collection, "cat/0.jpg", k=2)
        with pytest.raises(UserError, match="being updated"):
            collection.update()
        with pytest.raises(UserError, match="in use by"):
            reopened(collection).update()
    finally:
        done.set()
        thread.join()
    assert "new.jpg" in collection.names and not collection.status().indexing


def test_what_is_there_is_told_while_every_byte_is_read(collection, monkeypatch):
    inside, done = threading.Event(), threading.Event()

    def wait(_):
        inside.set()
        assert done.wait(60)
        return []

    names = collection.names
    monkeypatch.setattr(module.Store, "unsound", wait)
    reading = threading.Thread(target=collection.verify)
    reading.start()
    try:
        assert inside.wait(60)
        began = time.monotonic()
        assert collection.names == names and collection.status().photos == len(names)
        assert time.monotonic() - began < 2
    finally:
        done.set()
        reading.join()


def test_a_collection_that_was_deleted_says_so(collection):
    assert collection.names
    shutil.rmtree(collection.folder)
    for ask in (collection.status, lambda: collection.search("cat/0.jpg"), lambda: collection.read("cat/0.jpg")):
        with pytest.raises(UserError, match="no collection|no photographs yet|no photograph"):
            ask()
    assert collection.names == []


def test_what_is_there_is_told_while_a_query_is_described(collection, root, monkeypatch):
    """As for the first one on a machine, for which programs are compiled."""
    inside, done = threading.Event(), threading.Event()

    def wait(*_, **__):
        inside.set()
        assert done.wait(60)
        raise UserError("described")

    names, size = collection.names, collection.query_size("cat/0.jpg")
    monkeypatch.setattr(module.Query, "of", wait)

    def search_for(name):
        with pytest.raises(UserError, match="described"):
            collection.search(name, (5, 5, 50, 50))

    searches = [threading.Thread(target=search_for, args=(name,)) for name in ("cat/0.jpg", "cat/1.jpg")]
    for search in searches:
        search.start()
    try:
        assert inside.wait(60)
        began = time.monotonic()
        assert collection.names == names and collection.status().photos == len(names)
        assert collection.query_size("cat/0.jpg") == size
        assert collection.read("cat/0.jpg") == (root / "cat/0.jpg").read_bytes()
        for ask in (collection.search, collection.object_in, lambda name: collection.heat(name, "cat/0.jpg")):
            with pytest.raises(UserError, match="no photograph 'cat/9.jpg'"):
                ask("cat/9.jpg")
        reopened(collection).remove(["cat/2.jpg"])
        assert "cat/2.jpg" not in collection.names
        assert time.monotonic() - began < 2
    finally:
        done.set()
        for search in searches:
            search.join()
    monkeypatch.undo()
    assert "cat/2.jpg" not in found(collection, "cat/0.jpg", k=20)


def test_a_search_goes_on_with_what_it_began_with(collection, monkeypatch):
    """While the collection is compacted and its rows get other numbers."""
    expected = collection.search("cat/0.jpg", (5, 5, 50, 50), k=20).answers
    described = module.Query.of

    def change(*arguments, **options):
        monkeypatch.setattr(module.Query, "of", described)
        other = reopened(collection)
        other.remove(["cup/0.jpg", "rocket/0.jpg"])
        other.compact()
        assert "cup/0.jpg" not in collection.names
        return described(*arguments, **options)

    monkeypatch.setattr(module.Query, "of", change)
    assert collection.search("cat/0.jpg", (5, 5, 50, 50), k=20).answers == expected
    after = collection.search("cat/0.jpg", (5, 5, 50, 50), k=20).answers
    assert [a.name for a in after] == [a.name for a in expected if a.name not in ("cup/0.jpg", "rocket/0.jpg")]


def test_a_reader_sees_what_another_process_wrote(collection, root):
    reader = reopened(collection)
    assert len(found(reader, "cat/0.jpg", k=50)) == 13
    write_long_ago(root / "new.jpg", SCENES["cat"][:250])
    (root / "cup/0.jpg").unlink()
    collection.update()
    assert "new.jpg" in found(reader, "cat/0.jpg", k=50) and "cup/0.jpg" not in found(reader, "cat/0.jpg", k=50)
    collection.compact()
    assert found(reader, "cat/0.jpg", k=50) == found(collection, "cat/0.jpg", k=50)


def test_another_retriever_describes_everything_again(collection, root, tmp_path):
    collection.remove(["flat.jpg"])
    other = load(dataclasses.replace(CONFIG, seed=1))
    opened = Collection.open(root, workdir=tmp_path / "kept", retriever=other)
    opened._retriever = other
    with pytest.raises(UserError, match="index it again"):
        opened.search("cat/0.jpg")
    assert len(opened.update().added) == 13 and "flat.jpg" not in opened.names
    again = Collection(opened.folder)  # finds the retriever that was saved with it
    assert found(again, "cat/0.jpg") == found(opened, "cat/0.jpg")


def test_damage_is_named_and_mended(collection, root):
    path = next(collection.folder.glob("photos-*/maps"))
    content = bytearray(path.read_bytes())
    content[5] ^= 4
    path.write_bytes(content)
    (name,) = reopened(collection).verify()
    assert collection.verify(mend=True) == [name] and name not in collection.names
    assert collection.update().added == [name]
    assert reopened(collection).verify() == [] and len(collection.names) == 14


def test_rows_left_behind_are_compacted(collection, root, monkeypatch):
    monkeypatch.setattr("sret_jax.collection.store.COMPACT_ABOVE", 3)
    for name in collection.names[:8]:
        (root / name).unlink()
    before = collection.status().photos
    collection.update()
    assert collection.status().photos == before - 8 and collection.status().left_behind == 0


def test_an_approximate_index_is_kept_and_follows(collection, root, retriever, monkeypatch):
    config = dataclasses.replace(CONFIG, search=dataclasses.replace(CONFIG.search, method="ah", recall=1.0))
    rng = np.random.default_rng(0)
    for i in range(20):
        write_long_ago(root / f"more/{i}.jpg", rng.integers(0, 255, (120, 160, 3), np.uint8))
    collection.update()
    exact = found(collection, "cat/0.jpg", k=33)
    approximate = reopened(collection)
    approximate._retriever = dataclasses.replace(retriever, config=config)
    approximate._retriever.__dict__["extractor"] = retriever.extractor
    assert found(approximate, "cat/0.jpg", k=33) == exact and approximate.status().search == "ah"
    assert not list(collection.folder.glob("photos-*/index"))  # who searches writes nothing
    approximate.update()
    kept = reopened(collection).status()  # without a network, of what lies beside the rows
    assert (kept.search, kept.recall) == ("ah", 1.0) and approximate.status().recall == 1.0
    (root / "cup/0.jpg").unlink()
    collection.update()
    loaded = type("Loaded", (store_index.ChangingIndex,), {"__init__": None})
    monkeypatch.setattr(store_index, "ChangingIndex", loaded)
    again = reopened(collection)
    again._retriever = approximate._retriever
    assert found(again, "cat/0.jpg", k=33) == [name for name in exact if name != "cup/0.jpg"]


@pytest.mark.parametrize("store", ["float16", "int8"])
def test_a_collection_remembers_its_store_and_answers_as_by_float32(collection, root, store):
    def opened(by: str | None = None) -> Collection:
        own = Collection.open(root, workdir=collection.folder.parent, store=by)
        own._retriever = collection._retriever
        return own

    def answers(of: Collection) -> list:
        return [of.search(query, k=20, mark=False).answers for query in ("cat/0.jpg", root / "cup/1.jpg")]

    assert collection.status().store == ""
    right = answers(collection)
    assert answers(opened(store)) == right
    assert opened().status().store == store  # before anything is loaded
    (root / "cup/0.jpg").unlink()
    write_long_ago(root / "new.jpg", SCENES["woman"][:150])
    opened().update()
    changed = answers(opened())
    assert changed != right and answers(opened("float32")) == changed
    with pytest.raises(UserError, match="--store: no store 'int4'; did you mean 'int8'"):
        opened("int4")
    with pytest.raises(UserError, match="--store: a shard is not searched"):
        Collection.open(root, workdir=collection.folder.parent, shard="0/2", store=store)


def test_a_retriever_that_searches_by_brute_force_has_a_store_too(collection, root, retriever):
    right = found(collection, "cat/0.jpg")
    config = dataclasses.replace(CONFIG, search=dataclasses.replace(CONFIG.search, method="brute_force"))
    held = Collection.open(root, workdir=collection.folder.parent, store="int8")
    held._retriever = dataclasses.replace(retriever, config=config)
    held._retriever.__dict__["extractor"] = retriever.extractor
    assert found(held, "cat/0.jpg") == right


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        100_000 * "[",
        '{"format": "sret_jax collection 1", "root": "", "retriever": ""}',
        '{"format": "other", "root": "/", "retriever": ""}',
    ],
)
def test_a_folder_that_is_no_collection_is_said(tmp_path, text):
    with pytest.raises(UserError, match="sret index"):
        Collection(tmp_path)
    (tmp_path / "collection.json").write_text(text)
    with pytest.raises(UserError, match=r"collection.json: not of a collection"):
        Collection(tmp_path)


def test_open_names_what_is_wrong(root, tmp_path):
    with pytest.raises(UserError, match="no folder"):
        Collection.open(tmp_path / "nothing", workdir=tmp_path)
    with pytest.raises(UserError, match="letters, digits"):
        Collection.open(root, workdir=tmp_path / "kept", name="../x")
    with pytest.raises(UserError, match="did you mean 'spatial-context-lite0'"):
        Collection.open(root, workdir=tmp_path / "kept", retriever="spatial-contex-lite0")
