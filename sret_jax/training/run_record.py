"""`<workdir>/config.json`: what a run is, so that it only ever goes on as the same run, or as a longer one."""

from pathlib import Path
from typing import Any

import jax

from sret_jax import config as configs
from sret_jax.config import Config
from sret_jax.config.own_parts import OF_TRAINING, check_sources, with_sources
from sret_jax.config.run_config import FREE, read_run_file
from sret_jax.errors import UserError
from sret_jax.storage.artifacts import write_sealed
from sret_jax.storage.provenance import environment
from sret_jax.storage.workdir import Workdir
from sret_jax.training.optimizer import Lengths


def describe_run(config: Config, data_fingerprint: str) -> dict[str, Any]:
    """Config, environment, devices and the fingerprint of the photographs, as JSON values."""
    return {
        "config": configs.to_dict(with_sources(config)),
        "data_fingerprint": data_fingerprint,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "platform": jax.default_backend(),
    } | environment()


def check_same_run(workdir: Path, run: dict[str, Any]) -> Lengths:
    """The lengths that the run in `workdir` had so far; none where there is no run.

    Raises `UserError` when it is a run with another config, more steps, or other photographs.
    """
    try:
        before = read_run_file(workdir)
    except FileNotFoundError:
        return ()
    begun = configs.from_dict(before["config"])
    known = configs.to_dict(begun)  # fields that are new since have their default
    fields = configs.differences(known, run["config"])
    photos_changed = before.get("data_fingerprint") != run["data_fingerprint"]
    steps = int(known["train"]["steps"])
    lengths = tuple((start, length) for start, length in before.get("lengths", [(0, steps)]))
    for field, old, new in fields:
        if field == "train.steps" and new < old:
            raise UserError(
                f"{workdir} was begun with config.train.steps={old}, now it is {new}: a run can only grow; choose "
                "another --workdir, or put the field back to go on"
            )
        if field != "train.steps" and not field.startswith(FREE):
            raise UserError(
                f"{workdir} was begun with config.{field}={old!r}, now it is {new!r}; "
                "choose another --workdir, or put the field back to go on"
            )
    check_sources(begun, str(workdir), changed=run["config"]["changed_parts"], kinds=OF_TRAINING)
    if photos_changed:
        raise UserError(f"{workdir} was begun with other photographs; choose another --workdir, or put them back")
    return lengths


def grown(lengths: Lengths, done: int, steps: int) -> Lengths:
    """The lengths of a run that goes on after step `done` to step `steps`.

    What was planned from a later step on, which damage has taken, begins at `done` with the new length.
    """
    if not lengths or not done:
        return ((0, steps),)
    if lengths[-1][1] == steps:
        return lengths
    return (*(entry for entry in lengths if entry[0] < done), (done, steps))


def check_same_devices(workdir: Path, record: dict[str, Any], run: dict[str, Any]) -> None:
    """Raises `UserError` when a checkpoint comes from other devices, with which a step rounds differently."""
    for name in ("platform", "devices", "processes"):
        if record[name] != run[name]:
            raise UserError(
                f"{workdir} was trained with {name}={record[name]}, here it is {run[name]}: it would not go on "
                "exactly; start it as before, or choose another --workdir"
            )


def write_run(workdir: Path, run: dict[str, Any]) -> None:
    write_sealed(Workdir(workdir).config, run)
