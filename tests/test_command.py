"""Command lines that change fields of a run's own config, and what becomes of them."""

import dataclasses
import json

import pytest

from sret_jax.cli.command import with_config
from sret_jax.config import Config, LocalSearchConfig, run_config, to_dict
from sret_jax.errors import UserError


def write(folder, name, config):
    folder.mkdir(parents=True)
    (folder / name).write_text(json.dumps({"config": to_dict(config), "step": 3}))
    return str(folder)


@pytest.mark.parametrize("name", ["config.json", "record.json"])
def test_the_config_of_a_run_is_what_it_was_trained_with(name, tmp_path):
    config = dataclasses.replace(Config(), seed=5, local=LocalSearchConfig(source="map"))
    assert run_config.get_config(write(tmp_path / "run", name, config)) == config


@pytest.mark.parametrize("workdir", [["--workdir=runs/a:b"], ["--workdir", "runs/a:b"], ["-workdir=runs/a:b"]])
def test_fields_alone_change_the_config_of_the_run(workdir):
    words = ["eval.py", *workdir, "--config.seed=1", "--benchmark=folder"]
    first, added, *rest = with_config(words)
    assert [first, *rest] == words
    assert added == f"--config={run_config.__file__}:runs/a:b"


@pytest.mark.parametrize(
    "words",
    [
        ["--workdir=runs/a", "--benchmark=folder"],
        ["--workdir=runs/a", "--config=configs/gem.py", "--config.seed=1"],
        ["--config", "configs/gem.py", "--config.seed=1"],
        ["--benchmark=folder", "--workdir"],
    ],
)
def test_other_command_lines_stay_as_they_are(words):
    assert with_config(["eval.py", *words]) == ["eval.py", *words]


def test_fields_of_no_config_are_an_error():
    with pytest.raises(UserError, match=r"--config.seed=1: .*--config=FILE, or --workdir=DIR"):
        with_config(["eval.py", "--config.seed=1"])


def test_a_folder_without_a_run_or_with_a_damaged_one_is_an_error(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        run_config.get_config(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="unreadable"):
        run_config.get_config(str(tmp_path))
