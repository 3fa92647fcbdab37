"""`<workdir>/config.json`: what a run is, so that it only ever goes on as the same run."""

import json
from pathlib import Path
from typing import Any

import jax

from sret_jax import config as configs
from sret_jax.config import Config
from sret_jax.errors import UserError
from sret_jax.storage.artifacts import write_json
from sret_jax.storage.provenance import environment
from sret_jax.storage.workdir import Workdir

# What may change between two starts in one workdir: nothing here reaches the parameters.
FREE = ("data.threads", "eval.", "search.", "train.keep", "train.log_every", "train.save_every")


def describe_run(config: Config, data_fingerprint: str) -> dict[str, Any]:
    """Config, environment, devices and the fingerprint of the photographs, as JSON values."""
    return {
        "config": configs.to_dict(config),
        "data_fingerprint": data_fingerprint,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "platform": jax.default_backend(),
    } | environment()


def check_same_run(workdir: Path, run: dict[str, Any]) -> None:
    """Raises `UserError` when `workdir` belongs to a run with another config or other photographs."""
    path = Workdir(workdir).config
    if not path.exists():
        return
    try:
        before = json.loads(path.read_bytes())
        known = configs.to_dict(configs.from_dict(before["config"]))  # fields that are new since have their default
        fields = configs.differences(known, run["config"])
        photos_changed = before["data_fingerprint"] != run["data_fingerprint"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: unreadable ({error}); choose another --workdir, or delete this one") from None
    for field, old, new in fields:
        if not field.startswith(FREE):
            raise UserError(
                f"{workdir} was begun with config.{field}={old!r}, now it is {new!r}; "
                "choose another --workdir, or put the field back to go on"
            )
    if photos_changed:
        raise UserError(f"{workdir} was begun with other photographs; choose another --workdir, or put them back")


def check_same_devices(workdir: Path, record: dict[str, Any], run: dict[str, Any]) -> None:
    """Raises `UserError` when a checkpoint comes from other devices, with which a step rounds differently."""
    for name in ("platform", "devices", "processes"):
        if record[name] != run[name]:
            raise UserError(
                f"{workdir} was trained with {name}={record[name]}, here it is {run[name]}: it would not go on "
                "exactly; start it as before, or choose another --workdir"
            )


def write_run(workdir: Path, run: dict[str, Any]) -> None:
    write_json(Workdir(workdir).config, run)
