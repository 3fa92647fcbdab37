"""The config of a run as a config file, `--config=run_config.py:WORKDIR`, with fields to change after it.

`command.py` puts it in where `--workdir=WORKDIR --config.field=value` is given without a file.
"""

import json
from pathlib import Path

from sret_jax import config as configs
from sret_jax.config import Config
from sret_jax.errors import UserError
from sret_jax.storage.workdir import RECORD, Workdir, is_checkpoint


def get_config(workdir: str) -> Config:
    """What the run in `workdir`, or the step in a folder of its checkpoints, was trained with.

    Raises:
      UserError: there is none, or it is not readable.
    """
    folder = Path(workdir)
    path = folder / RECORD if is_checkpoint(folder) else Workdir(folder).config
    if not path.exists():
        raise UserError(f"--workdir={workdir}: holds no run whose config could be changed; give --config=FILE")
    try:
        return configs.from_dict(json.loads(path.read_bytes())["config"])
    except (ValueError, KeyError, TypeError, AttributeError, UserError) as error:
        raise UserError(f"{path}: unreadable ({error}); give --config=FILE") from None
