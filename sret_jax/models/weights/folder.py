"""A folder in which transformers, timm or the hub saved a network: its files of weights, and what is known beside.

model.safetensors, or model.safetensors.index.json and the shards that it names
pytorch_model.bin, or pytorch_model.bin.index.json and its shards
config.json                of transformers: what the network is; of timm: `architecture` and `pretrained_cfg`
preprocessor_config.json   of transformers: mean and deviation of photographs, and the filter that resizes them
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sret_jax.errors import UserError
from sret_jax.storage import foreign
from sret_jax.storage.files import Unreadable, named
from sret_jax.storage.foreign import an_object, short

MODELS = (  # the first that is there
    *("model.safetensors", "model.safetensors.index.json", "open_clip_model.safetensors"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json", "open_clip_pytorch_model.bin"),
)
CONFIG, PREPROCESSOR = BESIDE = ("config.json", "preprocessor_config.json")
WEIGHTS = (".safetensors", ".bin", ".pth", ".pt", ".ckpt")
RETRIEVER = "sret_jax retriever 1"  # what `Retriever.save` writes, as "format" in config.json
_KINDS = {bool: "true or false", float: "a number", str: "a string", list: "a list", dict: "an object"}


class SavedFolder(NamedTuple):
    """Files of weights, and what the two JSON files beside them hold."""

    files: list[Path]
    weight_map: Mapping[str, str]  # of shards: the name of every tensor -> its file; else empty
    about: Mapping[str, Any]
    preprocessor: Mapping[str, Any]


def is_saved(folder: Path) -> bool:
    """Whether `Retriever.save` wrote the folder, in whichever version."""
    try:
        about = foreign.read_json(folder / CONFIG)
    except Unreadable:
        return False
    return isinstance(about, dict) and str(about.get("format")).startswith(RETRIEVER.rsplit(" ", 1)[0])


def open_folder(folder: Path) -> SavedFolder:
    """What `folder` holds. Raises `UserError` naming it, and its files where it is not clear which are meant."""
    model = next((folder / name for name in MODELS if (folder / name).is_file()), None)
    about, preprocessor = (read_json(folder / name) if (folder / name).is_file() else {} for name in BESIDE)
    if model is not None and model.suffix == ".json":
        return SavedFolder([folder / name for name in shard_names(model)], _weight_map(model), about, preprocessor)
    if model is None:
        found = sorted(path for path in folder.iterdir() if path.suffix in WEIGHTS and path.is_file())
        if len(found) != 1:
            names = ", ".join(path.name for path in found[:6]) or "no file that ends in " + ", ".join(WEIGHTS)
            raise UserError(f"{folder}: holds no {MODELS[0]} or {MODELS[3]}, but {names}; give the file that is meant")
        model = found[0]
    return SavedFolder([model], {}, about, preprocessor)


def beside(file: Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The two JSON files beside a file that is named as those of a saved folder; empty ones otherwise."""
    about, preprocessor = (
        read_json(file.parent / name) if file.name in MODELS and (file.parent / name).is_file() else {}
        for name in BESIDE
    )
    return about, preprocessor


def shard_names(index: Path) -> list[str]:
    """The files that an index names, in their order. Raises `UserError` for what is no index of this folder."""
    names = sorted(set(_weight_map(index).values()))
    for name in names:
        if Path(name).name != name or not name.endswith(WEIGHTS):
            raise UserError(f"{index}: names the shard {name[:80]!r}, which is no file of weights beside it")
    return names


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object. Raises `UserError` naming it."""
    with named(path, "save or fetch the folder again"):
        return an_object(foreign.read_json(path), "it")


def value_of(about: Mapping[str, Any], name: str, kind: type, default: Any, source: Any, file: str) -> Any:
    """An entry of a JSON object that a stranger wrote, or `default` where there is none, or null.

    kind: bool, str, list, dict, or float for a number of either kind, which is returned as one. Raises `UserError`,
    which names `source`, the entry and the `file` that it is in, for a value of another.
    """
    value = about.get(name)
    if value is None:
        return default
    if isinstance(value, kind):
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 53:
        return float(value)
    raise UserError(
        f"{source}: {name!r} in {file} is {short(value)}, not {_KINDS[kind]}; correct it, or fetch the file again"
    )


def _weight_map(index: Path) -> dict[str, str]:
    found = read_json(index).get("weight_map")
    if not isinstance(found, dict) or not found or not all(isinstance(file, str) for file in found.values()):
        raise UserError(f"{index}: has no weight_map from names to files; save or fetch the folder again")
    return found
