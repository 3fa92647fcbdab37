"""The config that a run keeps beside its checkpoints, read as the config of another command."""

import dataclasses
import json

import pytest

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


def test_a_folder_without_a_run_or_with_a_damaged_one_is_an_error(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        run_config.get_config(str(tmp_path))
    values = to_dict(Config())
    values["data"]["image_size"] = 1
    (tmp_path / "config.json").write_text(json.dumps({"config": values}))
    with pytest.raises(UserError, match="config.json: .*config.data.image_size=1: must be a whole number from 16"):
        run_config.get_config(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="unreadable"):
        run_config.get_config(str(tmp_path))
