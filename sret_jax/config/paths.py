"""Paths as people write them: `~` is their home."""

import dataclasses
from pathlib import Path

from sret_jax.config.base import Config

FIELDS = ("data.root", "data.splits", "data.cache_dir", "model.weights", "search.codebook", "eval.root", "eval.gnd")
SEVERAL = ("eval.distractors",)


def expanded(path: str | Path | None) -> str:
    """The path with `~` replaced by the home folder; "" for None and ""."""
    return str(Path(path).expanduser()) if path else ""


def with_expanded_paths(config: Config) -> Config:
    """The config with `~` expanded in every field that names a file or a folder."""
    changes: dict[str, dict[str, object]] = {}
    for field in (*FIELDS, *SEVERAL):
        part, name = field.split(".")
        value = getattr(getattr(config, part), name)
        changes.setdefault(part, {})[name] = tuple(map(expanded, value)) if field in SEVERAL else expanded(value)
    parts = {part: dataclasses.replace(getattr(config, part), **fields) for part, fields in changes.items()}
    return dataclasses.replace(config, **parts)
