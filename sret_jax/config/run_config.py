"""What a run says of itself in `<workdir>/config.json`, read with its seal; and its config as a config file,
`--config=run_config.py:WORKDIR`, with fields to change after it.

`command.py` puts it in where `--workdir=WORKDIR --config.field=value` is given without a file.
"""

import json
from pathlib import Path
from typing import Any

from sret_jax import config as configs
from sret_jax.config import Config
from sret_jax.errors import UserError
from sret_jax.storage.artifacts import DamagedError, read_sealed, verify_folder
from sret_jax.storage.workdir import RECORD, Workdir, is_checkpoint, steps_in

# What may change between two starts in one workdir: nothing here reaches the parameters.
FREE = (
    *("changed_parts", "data.threads", "eval.", "search.", "sources."),
    *("train.keep", "train.log_every", "train.parallel", "train.save_every"),
)


def read_run_file(workdir: Path) -> dict[str, Any]:
    """What `config.json` of a run says; "config" is of the form of a `Config`.

    Raises:
      FileNotFoundError: there is none.
      DamagedError: it is not what was written, or not what the newest sealed checkpoint knows of a field.
    """
    path = Workdir(workdir).config
    try:
        run = read_sealed(path)
        own = configs.to_dict(configs.from_dict(run["config"]))
        if type(run.get("data_fingerprint", "")) is not str:
            raise TypeError("data_fingerprint is no text")
        for start, length in run.get("lengths", ()):
            if type(start) is not int or type(length) is not int:
                raise TypeError("lengths are no numbers")
    except DamagedError as error:
        said = _said_of_fields(path, _of_checkpoint(workdir))
        raise DamagedError(f"{error}{said}; put it back, or choose another --workdir") from None
    except (ValueError, KeyError, TypeError, AttributeError, UserError) as error:
        raise DamagedError(f"{path}: unreadable ({error}); choose another --workdir, or delete this one") from None
    known = _of_checkpoint(workdir)
    for field, sealed, value in configs.differences(known, own) if known else ():
        if field != "train.steps" and not field.startswith(FREE):
            raise DamagedError(
                f"{path}: changed since it was written: config.{field}={value!r}, but the run was trained with "
                f"{sealed!r}; put that back, or choose another --workdir"
            )
    return run


def _said_of_fields(path: Path, known: dict[str, Any]) -> str:
    """In which fields a file differs from what a checkpoint knows, as far as it can be read."""
    try:
        own = configs.to_dict(configs.from_dict(json.loads(path.read_bytes())["config"]))
        fields = configs.differences(known, own) if known else []
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, UserError):
        return ""
    said = [f"config.{field}={value!r}, the newest checkpoint has {sealed!r}" for field, sealed, value in fields]
    return f": {said[0]}" if said else ""


def _of_checkpoint(workdir: Path) -> dict[str, Any]:
    """The config in the newest checkpoint whose record is intact; {} where there is none."""
    for step in reversed(steps_in(Workdir(workdir).checkpoints)):
        folder = Workdir(workdir).checkpoint(step)
        try:
            return configs.to_dict(_of_step(folder))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, UserError):
            continue
    return {}


def _of_step(folder: Path) -> Config:
    """The config in the sealed record of one step."""
    verify_folder(folder, only=(RECORD,))
    return configs.from_dict(json.loads((folder / RECORD).read_bytes())["config"])


def get_config(workdir: str) -> Config:
    """What the run in `workdir`, or the step in a folder of its checkpoints, was trained with.

    Raises:
      UserError: there is none.
      DamagedError: it is not what was written.
    """
    folder = Path(workdir)
    try:
        if is_checkpoint(folder):
            return _of_step(folder)
        return configs.from_dict(read_run_file(folder)["config"])
    except FileNotFoundError:
        raise UserError(
            f"--workdir={workdir}: holds no run whose config could be changed; give --config=FILE"
        ) from None
    except DamagedError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, UserError) as error:
        raise DamagedError(f"{folder / RECORD}: unreadable ({error}); give --config=FILE") from None
