"""Queries of one's own, with regions: what is searched for, and what is shown though nobody knows the truth."""

import csv
import json
import shutil
from dataclasses import replace
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image
from skimage import data

import sret_jax
from sret_jax.config import LocalizeConfig
from sret_jax.errors import UserError
from sret_jax.evaluation import run
from sret_jax.localization import methods
from tests.support.networks import NETWORK, VARIABLES
from tests.support.photos import write_photos
from tests.support.reports import Elements
from tests.support.runs import config, measure

QUERIES = {"a.png": [10, 10], "b.png": [5, 5, 30, 20], "c.png": "c mask.png"}


def search(tmp_path, regions):
    """Four photographs are searched for in a folder of twelve."""
    write_photos(tmp_path / "photos")
    (tmp_path / "mine").mkdir()
    for i, name in enumerate((*QUERIES, "d.png")):
        Image.new("RGB", (64, 48), (50 * i, 200, 5)).save(tmp_path / "mine" / name)
    mask = Image.new("L", (64, 48))
    mask.paste(255, (20, 20, 60, 40))
    mask.save(tmp_path / "c mask.png")
    (tmp_path / "regions.json").write_text(json.dumps(regions))
    settings = replace(config(), localize=LocalizeConfig(("discovery", "lost"), image_size=64, query_size=64))
    return measure(
        NETWORK,
        VARIABLES,
        settings,
        "folder",
        tmp_path / "run/eval/folder",
        root=str(tmp_path / "photos"),
        queries=str(tmp_path / "mine"),
        regions=str(tmp_path / "regions.json") if regions else "",
        cache_dir=tmp_path / "cache",
    )


@pytest.mark.parametrize("regions", [QUERIES, {}])
def test_what_is_found_of_a_click_a_box_or_a_mask_is_shown(tmp_path, regions):
    found, out = search(tmp_path, regions), tmp_path / "run/eval/folder"
    assert found["localization"] == {} and found["metrics"] == {} and (out / "located.png").stat().st_size
    page = Elements((out / "report.html").read_text("utf-8"))
    told = [text for text in page.texts if text.startswith("searched for: ")]
    kinds = ["what was clicked on", "the box", "the outlined mask", "the whole photograph"]
    assert told == [f"searched for: {kind}" for kind in (kinds if regions else kinds[3:] * 4)]
    for method in ("discovery", "lost"):
        assert sum(text.startswith(f"{method}: found in ") for text in page.texts) == (3 if regions else 4)
    assert not [text for text in page.texts if "IoU" in text or "show it" in text or "AP" in text]
    linked = {(out / unquote(link)).resolve() for link in page.links}
    assert {tmp_path / "mine" / name for name in (*QUERIES, "d.png")} < linked
    photos = {path for path in (tmp_path / "photos").rglob("*") if path.is_file()}
    assert len(photos & linked) >= 10  # the answers of one query are all of different photographs


def answers(out, query):
    with open(out / "rankings.csv", newline="") as f:
        return [row["photo"] for row in csv.DictReader(f) if row["query"] == query]


@pytest.fixture
def scene(tmp_path):
    """Towers of three colours to search, and a query of a large part in one colour and a small one in another."""
    write_photos(tmp_path / "photos")
    (tmp_path / "mine").mkdir()
    large, small = (np.asarray(Image.open(tmp_path / f"photos/tower {i}/0.jpg")) for i in (0, 1))
    query = np.tile(large, (2, 2, 1))
    query[50:90, 70:110] = small[:40, :40]
    Image.fromarray(query).save(tmp_path / "mine/scene.png")

    def search(regions, *localize):
        (tmp_path / "regions.json").write_text(json.dumps(regions))
        where = {"root": str(tmp_path / "photos"), "queries": str(tmp_path / "mine"), "cache_dir": tmp_path / "cache"}
        where["regions"] = str(tmp_path / "regions.json") if regions else ""
        settings = replace(config(), localize=LocalizeConfig(localize, image_size=64, query_size=64))
        out = tmp_path / "run/eval/folder"
        measure(NETWORK, VARIABLES, settings, "folder", out, **where)
        return out

    return search


def test_the_object_in_the_box_is_what_is_searched_for(scene):
    """In the same workdir, so that what is stored of the whole photograph must not be taken for that of its part."""
    assert {name[:7] for name in answers(scene({}), "scene.png")[:4]} == {"tower 0"}
    for region in ([70, 50, 110, 90], [90, 70]):
        assert {name[:7] for name in answers(scene({"scene.png": region}), "scene.png")[:4]} == {"tower 1"}


def test_a_query_that_is_in_the_database_is_not_among_its_answers(scene, tmp_path):
    shutil.copy(tmp_path / "photos/tower 0/1.jpg", tmp_path / "mine/copy.jpg")
    found = scene({"copy.jpg": [0, 0, 30, 30]})
    assert set(answers(found, "copy.jpg")) == set(answers(found, "scene.png")) - {"tower 0/1.jpg"}
    assert len(answers(found, "scene.png")) == 12


@pytest.mark.parametrize("threshold, word", [(-1.0, "found"), (1.1, "not found")])
def test_nothing_is_marked_where_the_object_is_not_found(scene, monkeypatch, threshold, word):
    monkeypatch.setattr(methods, "FOUND", threshold)
    out = scene({"scene.png": [70, 50, 110, 90]}, "everything")
    texts = Elements((out / "report.html").read_text("utf-8")).texts
    told = [text for text in texts if text in ("found", "not found")]
    assert len(told) >= 6 and set(told) == {word}


@pytest.mark.slow
def test_a_small_object_beside_a_large_one_is_found_by_its_box(tmp_path):
    """A cat pasted on the portrait of an astronaut, by the weights that come with the package."""
    images = {name: Image.fromarray(getattr(data, name)()) for name in ("astronaut", "chelsea", "rocket", "coffee")}
    photos = {}
    for name, image in images.items():
        for cut in (0, 20, 40):
            photos[f"{name}/{cut}"] = image.crop((cut, cut, image.width - cut, image.height - cut))
    scene = images["astronaut"].resize((640, 640))
    scene.paste(images["chelsea"].resize((200, 133)), (430, 500))
    retriever, database = sret_jax.load(), sret_jax.open_photos(list(photos.values()), names=list(photos))
    index = sret_jax.Index.build(retriever.describe(database), database.names)
    queries = sret_jax.open_photos([scene])
    for regions, expected in (
        (None, "astronaut"),
        ({0: (430, 500, 630, 633)}, "chelsea"),
        ({0: (530, 566)}, "chelsea"),
    ):
        found = index.search(retriever.describe(queries, regions=regions), k=3).names(0)
        assert {name.partition("/")[0] for name in found} == {expected}


def test_an_invalid_region_is_refused_before_extraction(tmp_path, monkeypatch):
    monkeypatch.setattr(run.Retriever, "extract", lambda *_: pytest.fail("photographs were described first"))
    with pytest.raises(UserError, match=r"regions.json: 'a.png': query click \(64, 0\): outside the photograph"):
        search(tmp_path, {"a.png": [64, 0]})


@pytest.mark.parametrize("place", ["{}", "2024/summer/{}"])
def test_photographs_may_lie_in_any_folders_where_nothing_is_scored(scene, tmp_path, place):
    for path in sorted((tmp_path / "photos").rglob("*.jpg")):
        flat = tmp_path / "photos" / place.format(f"{path.parent.name} {path.name}")
        flat.parent.mkdir(parents=True, exist_ok=True)
        path.rename(flat)
    found = answers(scene({}), "scene.png")
    assert len(found) == 12 and found[0].startswith(place.format("tower 0"))
