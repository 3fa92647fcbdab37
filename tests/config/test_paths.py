"""Paths in a config: one or several in a string, with `~` in any of them."""

import pytest

from sret_jax.config import Config, DataConfig, EvalConfig
from sret_jax.config.paths import expanded_list, listed_paths, with_expanded_paths


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("", [""]),
        ("A", ["A"]),
        ("A,B", ["A", "B"]),
        ("A, B/", ["A", "B"]),
        ("A.json,", ["A.json", ""]),
        (",B.json", ["", "B.json"]),
        ("~/A,B,~/C", ["{home}/A", "B", "{home}/C"]),
    ],
)
def test_a_string_names_as_many_paths_as_it_has_entries(given, found, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert listed_paths(given) == [path.format(home=tmp_path) for path in found]


def test_a_path_that_exists_is_one_although_its_name_holds_a_comma(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "Aix, Provence").mkdir()
    assert listed_paths("~/Aix, Provence") == [f"{tmp_path}/Aix, Provence"]
    assert listed_paths("~/Aix, Arles") == [f"{tmp_path}/Aix", "Arles"]


def test_home_is_found_in_every_entry_of_a_config(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = Config(
        data=DataConfig(root="A,~/B", splits="~/A.json,", cache_dir="~/cache"),
        eval=EvalConfig(root="~/A, ~/B", distractors=("~/C",)),
    )
    found = with_expanded_paths(config)
    assert found.data.root == f"A,{tmp_path}/B" and found.data.splits == f"{tmp_path}/A.json,"
    assert found.data.cache_dir == f"{tmp_path}/cache" and found.eval.distractors == (f"{tmp_path}/C",)
    assert found.eval.root == expanded_list("~/A,~/B") == f"{tmp_path}/A,{tmp_path}/B"
    assert with_expanded_paths(found) == found and with_expanded_paths(Config()) == Config()
