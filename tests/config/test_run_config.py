"""The config that a run keeps beside its checkpoints, read as the config of another command."""

import dataclasses
import json

import pytest

from sret_jax.config import Config, LocalSearchConfig, run_config, to_dict
from sret_jax.errors import UserError
from sret_jax.storage.artifacts import DamagedError, read_sealed, seal_folder, write_json, write_sealed

CONFIG = dataclasses.replace(Config(), seed=5, local=LocalSearchConfig(source="map"))


def write_step(folder, config=CONFIG, step=3):
    """The folder of a step as far as a config is read from it."""
    folder.mkdir(parents=True)
    write_json(folder / "record.json", {"config": to_dict(config), "step": step})
    seal_folder(folder)
    return folder


@pytest.fixture
def run(tmp_path):
    """A workdir with config.json, as it was written at the start, and one checkpoint."""
    write_step(tmp_path / "run" / "checkpoints" / "3")
    write_sealed(tmp_path / "run" / "config.json", {"config": to_dict(CONFIG), "data_fingerprint": "f"})
    return tmp_path / "run"


def edit(run, change, sealed=False):
    """What a person, or an earlier version, which sealed nothing, makes of config.json."""
    values = read_sealed(run / "config.json")
    digest = json.loads((run / "config.json").read_text())["digest"]
    change(values)
    (run / "config.json").write_text(json.dumps(values | ({"digest": digest} if sealed else {})))


def test_the_config_of_a_run_is_what_it_was_trained_with(run):
    assert run_config.get_config(str(run)) == CONFIG
    assert run_config.get_config(str(run / "checkpoints" / "3")) == CONFIG


def test_a_folder_without_a_run_or_with_a_damaged_one_is_an_error(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        run_config.get_config(str(tmp_path))
    values = to_dict(Config())
    values["data"]["image_size"] = 1
    (tmp_path / "config.json").write_text(json.dumps({"config": values}))
    with pytest.raises(UserError, match="config.json: .*config.data.image_size=1: must be a whole number from 16"):
        run_config.get_config(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(DamagedError, match="unreadable"):
        run_config.get_config(str(tmp_path))


@pytest.mark.parametrize("sealed", [True, False])
def test_an_edited_field_is_named_with_what_the_checkpoint_knows(run, sealed):
    edit(run, lambda run: run["config"]["data"].update(image_size=512), sealed)
    trained = CONFIG.data.image_size
    with pytest.raises(DamagedError, match=rf"config.data.image_size=512.*{trained}.*put (it|that) back"):
        run_config.get_config(str(run))


def test_a_field_that_may_change_is_damage_only_where_the_seal_says_so(run):
    edit(run, lambda run: run["config"]["search"].update(method="exact"))
    assert run_config.get_config(str(run)).search.method == "exact"
    write_sealed(run / "config.json", {"config": to_dict(CONFIG)})
    edit(run, lambda run: run["config"]["search"].update(method="exact"), sealed=True)
    with pytest.raises(DamagedError, match="changed since it was written"):
        run_config.get_config(str(run))


@pytest.mark.parametrize(
    "change",
    [
        lambda run: run.update(lengths=[[0, "x"]]),
        lambda run: run.update(lengths=3),
        lambda run: run.update(data_fingerprint=3),
        lambda run: run.pop("config"),
        lambda run: run.update(config=[]),
        lambda run: run["config"].update(data=3),
    ],
)
def test_a_file_of_another_form_is_damage(run, change):
    edit(run, change)
    with pytest.raises(DamagedError):
        run_config.read_run_file(run)


def test_the_record_of_a_damaged_step_is_not_believed(run):
    record = run / "checkpoints" / "3" / "record.json"
    record.write_text(record.read_text().replace('"seed": 5', '"seed": 7'))
    with pytest.raises(DamagedError, match=r"record\.json: changed since it was written"):
        run_config.get_config(str(run / "checkpoints" / "3"))
    assert run_config.get_config(str(run)) == CONFIG  # by its own seal


def test_a_run_that_grew_beyond_its_checkpoint_is_no_damage(run):
    longer = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, steps=10**6))
    write_sealed(run / "config.json", {"config": to_dict(longer)})
    assert run_config.get_config(str(run)) == longer
