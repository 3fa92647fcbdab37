"""Paths as people write them: `~` is their home, and some fields name several, separated by commas."""

import dataclasses
from pathlib import Path

from sret_jax.config.base import Config

FIELDS = ("data.cache_dir", "model.weights", "search.codebook", "eval.gnd")
LISTED = ("data.root", "data.splits", "eval.root")  # one path or several, in one string
SEVERAL = ("eval.distractors",)
HUB, LOCAL = ("hf-hub:", "hf_hub:"), "local-dir:"  # what weights that are elsewhere, or in a folder, begin with


def expanded(path: str | Path | None) -> str:
    """The path with `~` replaced by the home folder; "" for None and "", and an address as it is."""
    if "://" in str(path):
        return str(path)
    return str(Path(path).expanduser()) if path else ""


def listed_paths(paths: str | Path) -> list[str]:
    """The paths that a string names, separated by commas, each with `~` expanded; "" where nothing is between two.

    A path that exists as it is written is one, although its own name holds a comma.
    """
    whole, entries = expanded(paths), str(paths).split(",")
    return [whole] if len(entries) == 1 or Path(whole).exists() else [expanded(entry.strip()) for entry in entries]


def expanded_list(paths: str | Path | None) -> str:
    """The same string with `~` expanded in every path."""
    return ",".join(listed_paths(paths or ""))


def with_expanded_paths(config: Config) -> Config:
    """The config with `~` expanded in every field that names files or folders."""
    changes: dict[str, dict[str, object]] = {}
    for field in (*FIELDS, *LISTED, *SEVERAL):
        part, name = field.split(".")
        value = getattr(getattr(config, part), name)
        if field in SEVERAL:
            value = tuple(map(expanded, value))
        else:
            value = expanded_list(value) if field in LISTED else expanded(value)
        changes.setdefault(part, {})[name] = value
    parts = {part: dataclasses.replace(getattr(config, part), **fields) for part, fields in changes.items()}
    return dataclasses.replace(config, **parts)


def without_paths(config: Config) -> Config:
    """The config without where things lie on this machine; of the weights it started from their name is left."""
    parts: dict[str, dict[str, object]] = {}
    for field in (*FIELDS, *LISTED, *SEVERAL):
        part, name = field.split(".")
        value: object = () if field in SEVERAL else ""
        if field == "model.weights":
            value = _name_of_weights(config.model.weights)
        parts.setdefault(part, {})[name] = value
    changed = {part: dataclasses.replace(getattr(config, part), **fields) for part, fields in parts.items()}
    return dataclasses.replace(config, **changed)


def _name_of_weights(weights: str) -> str:
    """What says which weights they are, without where they lie: their name, and the part that is taken of them."""
    if weights.startswith(HUB):
        return weights
    path, part = split_part(weights.removeprefix(LOCAL))
    if "/" in part and not path.exists():  # a folder with "#" in its name that is gone, rather than a part
        path, part = Path(weights), ""
    return f"{path.name}#{part}" if part else path.name


def split_part(weights: str) -> tuple[Path, str]:
    """The path that a string names, and what follows "#"; "" where a file or folder has the whole name."""
    path = Path(weights).expanduser()
    before, found, part = weights.rpartition("#")
    return (Path(before).expanduser(), part) if found and not path.exists() else (path, "")
