"""Photographs are found on disk by their names, and nothing outside of their folders is."""

from dataclasses import replace

from sret_jax.evaluation.report.originals import originals
from sret_jax.evaluation.request import Request
from tests.support.reports import benchmark, photo_set


def test_files_are_found_below_the_folder_of_their_prefix_alone(tmp_path):
    root, mine = tmp_path / "root", tmp_path / "mine"
    for path in (root / "tower/9.png", mine / "a.jpg", mine / "b#?.jpg", mine / "jpg/old.jpg"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    request = Request(f"{root},{mine}", str(mine), distractors=(str(mine),))
    queries, database = originals(
        replace(benchmark(photo_set()), folder=tmp_path, request=request), tmp_path / "run/eval"
    )
    assert queries("b#?.jpg") == "../../mine/b%23%3F.jpg" and queries("old") == "../../mine/jpg/old.jpg"
    assert database("root/tower/9.png") == "../../root/tower/9.png" and database("mine/a.jpg") == "../../mine/a.jpg"
    for name in ("none.jpg", "mine/../root/tower/9.png", f"mine/{root}/tower/9.png", "mine/" + 300 * "x"):
        assert database(name) == ""


def test_a_name_cannot_lead_a_link_elsewhere(tmp_path):
    name = "javascript:alert(1).jpg"
    (tmp_path / name).write_bytes(b"")
    _, database = originals(replace(benchmark(photo_set()), folder=tmp_path), tmp_path)
    assert database(name) == "javascript%3Aalert%281%29.jpg"


def test_nothing_is_looked_for_where_no_folder_is_known(tmp_path):
    assert [find("a.jpg") for find in originals(benchmark(photo_set()), tmp_path)] == ["", ""]
