"""Where weights are: what a person writes for `config.model.weights` and `sret convert`, as a path and a part.

PATH                  a file, or a folder that transformers, timm or the hub saved
local-dir:PATH        the same, as timm writes it
hf-hub:ORG/NAME       of the Hugging Face hub; hf-hub:ORG/NAME@REVISION, hf-hub:ORG/NAME/FILE
...#PART              an entry of the file or a prefix of its names: `entries`
"""

from pathlib import Path
from typing import NamedTuple

from sret_jax.config.paths import HUB, LOCAL, split_part
from sret_jax.models.weights.hub import fetched


class Place(NamedTuple):
    """Where weights are on this machine."""

    path: Path
    part: str  # "": by the rule of `entries`
    label: str  # of what was asked for, without where it lies


def located(source: str | Path) -> Place:
    """Resolves what a person wrote; what the hub holds is fetched. Raises `UserError` where it cannot be."""
    text = str(source)
    prefix = next((known for known in HUB if text.startswith(known)), "")
    if prefix:
        name, _, part = text.removeprefix(prefix).partition("#")
        return Place(fetched(name), part, name)
    path, part = split_part(text.removeprefix(LOCAL))
    return Place(path, part, path.name)
