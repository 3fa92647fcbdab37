"""Local features of a collection: found once, kept like everything else, and what puts verified answers in order."""

import dataclasses
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from skimage import data

import sret_jax
from sret_jax.collection import update as updating
from sret_jax.collection.collection import Collection
from sret_jax.collection.local import LocalFinder
from sret_jax.collection.place import read_about, write_about
from sret_jax.collection.store import Store
from sret_jax.collection.view import View
from sret_jax.config import Config, DataConfig, ExtractConfig, LocalConfig, LocalSearchConfig, ModelConfig, RerankConfig
from sret_jax.errors import UserError
from sret_jax.extraction.local_features import Sift, as_records
from sret_jax.reranking.answers import Answers, Context, PhotoFeatures
from sret_jax.reranking.chain import Chain, parse_rerankers
from sret_jax.retriever import Retriever, load
from tests.support.photos import write_long_ago

CONFIG = Config(
    data=DataConfig(image_size=64, bucket_ratios=(), threads=1),
    model=ModelConfig(weights="none", stage="c4", whitening=False, local=LocalConfig(enabled=True, dim=8)),
    extract=ExtractConfig(batch_size=4),
    local=LocalSearchConfig(most=150, scales=(1.0,)),
    rerank=RerankConfig(trials=200),
)
SCENES = {"cat": data.chelsea(), "cup": data.coffee(), "woman": data.astronaut()}
NAMES = sorted(f"{scene}/{i}.jpg" for scene in SCENES for i in range(3))


@pytest.fixture(scope="module")
def retriever() -> Retriever:
    made = load(CONFIG)
    rng = np.random.default_rng(0)  # instead of what training learns
    local = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), made.variables["params"]["local"])
    variables = made.variables | {"params": made.variables["params"] | {"local": local}}
    return dataclasses.replace(made, variables=variables)


@pytest.fixture(scope="module")
def described(tmp_path_factory, retriever) -> Path:
    """Photographs, and their collection without local features: each test gets a copy of both."""
    folder = tmp_path_factory.mktemp("described")
    for name, pixels in SCENES.items():
        for i, cut in enumerate((0, 16, 32)):
            write_long_ago(folder / f"photos/{name}/{i}.jpg", pixels[cut : len(pixels) - cut, cut:])
    opened(folder, retriever).update()
    return folder


def opened(folder: Path, own: Retriever, local: str | None = None, given: Retriever | None = None) -> Collection:
    place = folder / "kept/photos"
    given = given if place.exists() else own
    if local is not None or given:
        Collection.open(folder / "photos", workdir=folder / "kept", name="photos", retriever=given, local=local)
    found = Collection(place)
    found._retriever = own  # compiled already
    return found


@pytest.fixture
def folder(described, tmp_path) -> Path:
    shutil.copytree(described, tmp_path, dirs_exist_ok=True)
    about = tmp_path / "kept/photos/collection.json"
    write_about(about.parent, read_about(about.parent) | {"root": str(tmp_path / "photos")})
    return tmp_path


@pytest.fixture
def collection(folder, retriever) -> Collection:
    """With SIFT found."""
    found = opened(folder, retriever, local="sift")
    found.update()
    return found


def stored(collection: Collection) -> dict[str, bytes | None]:
    store = Collection(collection.folder)
    _ = store.names
    kept = {name: store._view.store.local(row) for name, row in store._view.store.state.live.items()}
    return {name: None if own is None else own.tobytes() for name, own in kept.items()}


def test_they_are_found_of_what_is_there_without_describing_it_again(folder, retriever, monkeypatch):
    monkeypatch.setattr(type(retriever.extractor), "describe_with_maps", None)
    collection = opened(folder, retriever, local="sift")
    done = collection.update()
    assert sorted(done.completed) == NAMES and not done.anything
    assert collection.status().local == "sift" and all(stored(collection).values())
    monkeypatch.setattr(updating, "read_photo", None)
    assert not collection.update().completed
    assert not opened(folder, retriever).update().completed  # nobody says it again


def test_they_are_those_of_the_library(collection, retriever, folder):
    photos = sret_jax.open_photos(folder / "photos")
    alone = retriever.local_features(photos, folder / "alone")(np.arange(len(photos)))
    assert (alone.counts > 20).all() and alone.counts.min() < 150
    store = collection._view.store
    for i, name in enumerate(photos.names):
        own = store.local(store.state.live[name])
        assert len(own) == alone.counts[i]
        np.testing.assert_array_equal(as_records([own], 150)[0]["position"], alone.position[i].astype(np.float16))


def test_new_photographs_are_described_with_them_and_moved_ones_keep_them(collection, folder, monkeypatch):
    before = stored(collection)
    write_long_ago(folder / "photos/new.jpg", SCENES["woman"][:300])
    (folder / "photos/cup/0.jpg").rename(folder / "photos/moved.jpg")
    looked = []
    own = Sift.of_photo
    monkeypatch.setattr(Sift, "of_photo", lambda self, photo: (looked.append(1), own(self, photo))[1])
    done = collection.update()
    assert (sorted(done.added), done.reused, done.completed, len(looked)) == (["moved.jpg", "new.jpg"], 1, [], 1)
    after = stored(collection)
    assert after["new.jpg"] and after["moved.jpg"] == before["cup/0.jpg"]


def test_a_photograph_that_had_none_when_it_went_gets_them_when_it_returns(folder, retriever):
    (folder / "photos/cat/0.jpg").rename(folder / "away.jpg")
    opened(folder, retriever).update()
    opened(folder, retriever, local="sift").update()
    (folder / "away.jpg").rename(folder / "photos/back.jpg")
    collection = opened(folder, retriever)
    done = collection.update()
    assert (done.added, done.reused, done.completed) == (["back.jpg"], 1, ["back.jpg"])
    assert stored(collection)["back.jpg"]


def test_verified_answers_are_in_the_order_of_the_re_ranker(collection, retriever, folder):
    """`sret eval --rerank=sv:50` over the same photographs."""
    photos = sret_jax.open_photos(folder / "photos")
    x = np.asarray(retriever.describe(photos))
    local = retriever.local_features(photos, folder / "alone")
    features = PhotoFeatures(lambda: x, photos.sizes, lambda: local)
    chain = Chain(parse_rerankers(["sv:50"]), Context(features, features, retriever.config, folder))
    for query in (1, 4):
        cosines = x @ x[query]
        order = np.argsort(-cosines, kind="stable")[None]
        expected = chain(Answers(np.array([query]), order, cosines[order])).ids[0, 1:]
        answers = collection.search(photos.names[query], k=20, mark=False, verify=True).answers
        assert [answer.name for answer in answers] == [photos.names[i] for i in expected]
        assert answers[0].inliers >= 10 and all(answer.inliers is not None for answer in answers)
        plain = collection.search(photos.names[query], k=20, mark=False).answers
        assert {a.name: a.score for a in plain} == {a.name: a.score for a in answers}
        assert all(answer.inliers is None for answer in plain)
        sent = collection.search(folder / "photos" / photos.names[query], k=20, mark=False, verify=True).answers
        assert [(a.name, a.inliers) for a in sent] == [(a.name, a.inliers) for a in answers]


def test_pages_of_a_verified_search_are_parts_of_it(collection, monkeypatch):
    monkeypatch.setattr("sret_jax.collection.collection.VERIFIED", 4)
    monkeypatch.setattr("sret_jax.collection.verification.VERIFIED", 4)
    whole = collection.search("cat/1.jpg", mark=False, verify=True).answers
    assert [answer.inliers is None for answer in whole] == [False] * 4 + [True] * 4
    parts = [collection.search("cat/1.jpg", k=3, start=i, mark=False, verify=True).answers for i in (0, 3, 6, 9)]
    assert [answer for part in parts for answer in part] == whole


def test_only_the_region_of_the_query_is_verified(collection, retriever, folder):
    scene = np.full((160, 200, 3), 90, np.uint8)
    scene[20:140, :100] = np.array(Image.fromarray(SCENES["cup"]).resize((160, 120)))[:, :100]
    scene[40:120, 110:190] = np.array(Image.fromarray(SCENES["woman"]).resize((160, 120)))[20:100, 40:120]

    def inliers(region) -> dict[str, int]:
        return {a.name: a.inliers for a in collection.search(scene, region, mark=False, verify=True).answers}

    whole, part = inliers(None), inliers((110, 40, 190, 120))
    assert whole["cup/0.jpg"] >= 10 > part["cup/0.jpg"] and part["woman/0.jpg"] >= 10
    finder = LocalFinder(retriever, "sift")
    mask = np.zeros(scene.shape[:2], bool)
    mask[50:90, 120:150] = True
    found = finder.of_region(scene, mask)["position"].astype(np.float32) * [200, 160]
    assert 3 < len(found) < len(finder.of_region(scene, None))
    assert (found >= [119.8, 49.8]).all() and (found <= [150.2, 90.2]).all()


def test_marks_are_as_without_verification(collection):
    plain = {answer.name: answer for answer in collection.search("cat/1.jpg").answers}
    for answer in collection.search("cat/1.jpg", verify=True).answers:
        assert dataclasses.replace(answer, inliers=None) == plain[answer.name]


def test_a_killed_update_goes_on_where_it_was(folder, retriever, monkeypatch):
    monkeypatch.setattr(updating, "AT_ONCE", 4)
    collection = opened(folder, retriever, local="sift")

    def interrupt(done: int, total: int) -> None:
        assert total == 9
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collection.update(interrupt)
    inliers = [answer.inliers for answer in collection.search("cat/1.jpg", mark=False, verify=True).answers]
    assert 3 <= sum(x is not None for x in inliers) <= 4 and len(inliers) == 8
    assert len(collection.update().completed) == 5 and all(stored(collection).values())


def test_a_photograph_that_changes_meanwhile_is_left_to_the_next_update(folder, retriever):
    collection = opened(folder, retriever, local="sift")

    def change(done: int, total: int) -> None:
        if done == 0:
            write_long_ago(folder / "photos/cat/0.jpg", SCENES["cup"])
            (folder / "photos/cup/1.jpg").unlink(missing_ok=True)

    assert sorted({*NAMES} - {*collection.update(change).completed}) == ["cat/0.jpg", "cup/1.jpg"]
    done = collection.update()
    assert (done.changed, done.removed) == (["cat/0.jpg"], ["cup/1.jpg"]) and all(stored(collection).values())


def test_they_are_left_out_again(collection, folder, retriever, monkeypatch):
    assert collection.search("cat/1.jpg", k=1, mark=False, verify=True).answers
    off = opened(folder, retriever, local="none")
    monkeypatch.setattr(updating, "read_photo", None)
    off.update()
    for one in (off, collection):
        assert one.status().local == ""
        with pytest.raises(UserError, match=r"no local features .* `sret index .* --local=sift`"):
            one.search("cat/1.jpg", verify=True)
    off.compact()
    assert not list(off.folder.glob("photos-*/local")) and set(stored(off).values()) == {None}
    assert off.search("cat/1.jpg", k=1).answers[0].inliers is None


def test_others_are_found_where_the_setting_is_another(collection, folder, retriever):
    fewer = dataclasses.replace(CONFIG, local=dataclasses.replace(CONFIG.local, most=40))
    other = dataclasses.replace(retriever, config=fewer)
    changed = opened(folder, other)
    with pytest.raises(UserError, match="index it again"):
        changed.search("cat/1.jpg", verify=True)
    assert len(changed.update().completed) == 9
    assert changed.search("cat/1.jpg", k=1, mark=False, verify=True).answers[0].inliers > 0
    assert max(own.count for own in changed._view.store.state.local.values()) == 40


def test_those_of_the_network_are_kept_too(folder, retriever):
    collection = opened(folder, retriever, local="head")
    assert len(collection.update().completed) == 9 and collection.status().local == "head"
    photos = sret_jax.open_photos(folder / "photos")
    config = dataclasses.replace(CONFIG, local=dataclasses.replace(CONFIG.local, source="head"))
    own = dataclasses.replace(retriever, config=config).local_features(photos, folder / "alone")
    counts = own(np.arange(9)).counts
    _ = collection.names
    assert [
        collection._view.store.state.local[collection._view.store.state.live[n]].count for n in photos.names
    ] == counts.tolist()
    answers = collection.search("cat/1.jpg", mark=False, verify=True).answers
    assert answers == sorted(answers, key=lambda a: -(a.inliers if a.inliers >= 10 else 0))


def test_the_retriever_is_not_read_to_see_what_was_seen_before(folder, retriever):
    opened(folder, retriever, local="head")
    (folder / "kept/photos/retriever/model.safetensors").unlink()
    again = Collection.open(folder / "photos", workdir=folder / "kept", name="photos", local="head")
    assert read_about(again.folder)["local"] == "head"


def test_another_retriever_finds_everything_again(collection, folder, retriever):
    other = dataclasses.replace(retriever, variables=jax.tree.map(lambda x: 1.5 * x, retriever.variables))
    assert len(opened(folder, other).update().added) == 9
    again = opened(folder, other)
    assert again.status().local == "sift" and all(stored(again).values())


def test_damage_is_named_and_mended(collection, folder):
    before = stored(collection)
    path = next(collection.folder.glob("photos-*/local"))
    content = bytearray(path.read_bytes())
    content[5] ^= 4
    path.write_bytes(content)
    (name,) = collection.verify()
    with pytest.raises(UserError, match=f"local features of '{name}' changed .* `sret verify --mend`"):
        collection.search(name, verify=True)
    assert collection.verify(mend=True) == [name] and name not in collection.names
    assert collection.update().added == [name] and collection.verify() == []
    assert stored(collection) == before


def test_compaction_keeps_them(collection, folder, monkeypatch):
    monkeypatch.setattr("sret_jax.collection.store.COMPACT_ABOVE", 2)
    before = stored(collection)
    gone = NAMES[:5]
    for name in gone:
        (folder / "photos" / name).unlink()
    collection.update()
    assert collection.status().left_behind == 0
    assert stored(collection) == {name: own for name, own in before.items() if name not in gone}
    assert [a.inliers is None for a in collection.search(NAMES[5], mark=False, verify=True).answers] == [False] * 3


def test_what_cannot_be_kept_is_said(folder, retriever):
    for source in ("shift", "map", ""):
        with pytest.raises(UserError, match="no local features"):
            opened(folder, retriever, local=source)
    without = dataclasses.replace(retriever, network=retriever.network.clone(local=None))
    with pytest.raises(UserError, match="no local features of its own"):
        opened(folder, without, local="head", given=without)
    with pytest.raises(UserError, match=r"no local features .* --local=sift"):
        opened(folder, retriever).search("cat/1.jpg", verify=True)
    about = folder / "kept/photos/collection.json"
    write_about(about.parent, read_about(about.parent) | {"local": ["sift"]})
    with pytest.raises(UserError, match="not of a collection"):
        Collection(about.parent)


def test_a_search_that_is_overtaken_by_other_local_features_says_so(collection, folder, retriever, monkeypatch):
    """Another process keeps others from now on, which a thread that only looks has read on."""
    own = View.searchable

    def overtaken(view, *given):
        found = own(view, *given)
        Store(collection.folder).keep_local({})
        view.look()
        return found

    monkeypatch.setattr(View, "searchable", overtaken)
    with pytest.raises(UserError, match="keeps no local features|of another version or setting"):
        collection.search("cat/0.jpg", verify=True)


def test_it_is_ready_to_search_where_only_local_features_are_old(collection, folder, retriever):
    config = dataclasses.replace(retriever.config, local=dataclasses.replace(retriever.config.local, most=40))
    changed = Collection(collection.folder)
    changed._retriever = dataclasses.replace(retriever, config=config)
    with pytest.raises(UserError, match="of another version or setting"):
        changed.prepare()
    assert changed.status().search  # what needs none of them was made ready all the same
