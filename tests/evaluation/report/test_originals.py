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
    queries, database = originals(replace(benchmark(photo_set()), folder=tmp_path, request=request))
    assert queries("b#?.jpg") == mine / "b#?.jpg" and queries("old") == mine / "jpg/old.jpg"
    assert database("root/tower/9.png") == root / "tower/9.png" and database("mine/a.jpg") == mine / "a.jpg"
    for name in ("none.jpg", "mine/../root/tower/9.png", f"mine/{root}/tower/9.png", "mine/" + 300 * "x"):
        assert database(name) is None


def test_nothing_is_looked_for_where_no_folder_is_known():
    assert [find("a.jpg") for find in originals(benchmark(photo_set()))] == [None, None]
