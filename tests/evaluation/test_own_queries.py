"""Queries of one's own, with regions: what is found is shown, though nobody knows the truth."""

import json
from dataclasses import replace

import pytest
from PIL import Image

from sret_jax.config import LocalizeConfig
from sret_jax.errors import UserError
from sret_jax.evaluation import run
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
    assert {(tmp_path / "mine" / name).as_uri() for name in (*QUERIES, "d.png")} < set(page.links)
    photos = {path.as_uri() for path in (tmp_path / "photos").rglob("*") if path.is_file()}
    assert len(photos & set(page.links)) >= 10  # the answers of one query are all of different photographs


def test_an_invalid_region_is_refused_before_extraction(tmp_path, monkeypatch):
    monkeypatch.setattr(run.Retriever, "extract", lambda *_: pytest.fail("photographs were described first"))
    with pytest.raises(UserError, match=r"regions.json: 'a.png': query click \(64, 0\): outside the photograph"):
        search(tmp_path, {"a.png": [64, 0]})
