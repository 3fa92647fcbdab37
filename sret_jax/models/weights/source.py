"""Where weights are: what a person writes for `config.model.weights` and `sret convert`, as a path and a part.

PATH                  a file, or a folder that transformers, timm or the hub saved
local-dir:PATH        the same, as timm writes it
hf-hub:ORG/NAME       of the Hugging Face hub; hf-hub:ORG/NAME@REVISION, hf-hub:ORG/NAME/FILE
...#PART              an entry of the file or a prefix of its names: `entries`
"""

from pathlib import Path
from typing import NamedTuple

from sret_jax.models.weights.hub import fetched

HUB = ("hf-hub:", "hf_hub:")
LOCAL = "local-dir:"


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
    text = text.removeprefix(LOCAL)
    path, part = Path(text).expanduser(), ""
    if "#" in text and not path.exists():
        before, _, part = text.rpartition("#")
        path = Path(before).expanduser()
    return Place(path, part, path.name)
