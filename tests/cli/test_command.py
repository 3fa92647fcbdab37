"""Configs by name and by file, fields of the config of a run, and what is said of names that do not exist."""

from pathlib import Path

import pytest

from sret_jax.cli.command import config_file, config_folder, with_config
from sret_jax.config import run_config
from sret_jax.errors import UserError

CONFIGS = config_folder()
GEM = CONFIGS / "gem.py"


@pytest.mark.parametrize("workdir", [["--workdir=runs/a:b"], ["--workdir", "runs/a:b"], ["-workdir=runs/a:b"]])
def test_fields_alone_change_the_config_of_the_run(workdir):
    words = ["sret eval", *workdir, "--config.seed=1", "--benchmark=folder"]
    first, added, *rest = with_config(words)
    assert [first, *rest] == words
    assert added == f"--config={run_config.__file__}:runs/a:b"


@pytest.mark.parametrize(
    "words",
    [
        ["--workdir=runs/a", "--benchmark=folder"],
        ["--benchmark=folder", "--workdir"],
    ],
)
def test_other_command_lines_stay_as_they_are(words):
    assert with_config(["sret eval", *words]) == ["sret eval", *words]


@pytest.mark.parametrize(
    "words",
    [
        ["--workdir=runs/a", "--config=configs/gem.py", "--config.seed=1"],
        ["--config", "configs/gem.py", "--config.seed=1", "-workdir", "runs/a"],
        ["--config=gem", "--config.seed=1", "--workdir=runs/a"],
    ],
)
def test_a_config_by_name_or_file_comes_first(words):
    first, config, *rest = with_config(["sret eval", *words])
    assert first == "sret eval" and rest == ["--workdir=runs/a", "--config.seed=1"]
    assert config.startswith("--config=") and Path(config.removeprefix("--config=")).samefile(GEM)


def test_a_config_takes_an_argument(monkeypatch, tmp_path):
    assert config_file("published:solar") == f"{CONFIGS / 'published.py'}:solar"
    (tmp_path / "own.py").write_text("")
    assert config_file(f"{tmp_path / 'own.py'}:x") == f"{tmp_path / 'own.py'}:x"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert config_file("~/own.py") == str(tmp_path / "own.py")
    monkeypatch.chdir(tmp_path)
    assert config_file("configs/gem.py") == str(GEM)  # from any folder


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("gemm", "no config 'gemm'; did you mean 'gem'"),
        ("nothing/gem.py", "--config=nothing/gem.py: no such file; give one, or a name: "),
        ("zzzz", "no config 'zzzz'; choose one of .*gem, .*, or give a file"),
    ],
)
def test_a_config_that_is_not_there_is_named(given, says):
    with pytest.raises(UserError, match=says):
        config_file(given)


def test_fields_of_no_config_are_an_error():
    with pytest.raises(UserError, match=r"--config.seed=1: .*--config=NAME, or --workdir=DIR"):
        with_config(["sret eval", "--config.seed=1"])


@pytest.mark.parametrize(
    ("field", "says"),
    [
        ("config.model.smoothign.enabled=True", "--config.model.smoothign.enabled: no field 'smoothign'; did you mean"),
        ("config.sead=1", "no field 'sead'; did you mean 'seed'"),
        ("config.seed.x=1", "no field 'x': it is below a value"),
    ],
)
def test_an_unknown_field_gets_the_nearest_names(field, says):
    with pytest.raises(UserError, match=says):
        with_config(["sret train", "--config=gem", f"--{field}"])
