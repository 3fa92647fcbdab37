"""Weights that come with this package, by name: heads, and the last stages of a backbone that its own package holds.

One safetensors file each, beside a card that says what it was trained on and what it is good for. What it lacks of the
network is taken from the installed package of the backbone; the config of the network is in its metadata. Of kernels
that the backbone has as well it holds the difference, in 8 bits of a step of their own for every channel: training
moves them little, so that this has half the error of 16 bits of the kernel itself, at half the size.
"""

import json
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from sret_jax.models.backbones.base import used_stage
from sret_jax.models.weights.file import Tree, Weights
from sret_jax.storage.artifacts import write_file

DEFAULT = "spatial-context-lite0"  # what a person gets who has trained nothing
FOLDER = files("sret_jax.models.weights") / "shipped"


def shipped_names() -> list[str]:
    """Names of the weights that come with this package."""
    if not FOLDER.is_dir():
        return []
    suffix = ".safetensors"
    return sorted(path.name.removesuffix(suffix) for path in FOLDER.iterdir() if path.name.endswith(suffix))


def read_shipped(name: str, backbone: Tree) -> Weights:
    """The weights of one of `shipped_names`, laid over those of its backbone, `{"params", "batch_stats"}`."""
    with as_file(FOLDER / f"{name}.safetensors") as path, safetensors.safe_open(path, "numpy") as file:
        about, held = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}
    merged = flatten_dict(backbone, sep=".")
    for key, value in held.items():
        kind, _, own = key.partition(":")
        if not own:
            merged[key] = value.astype(np.float32)
        elif kind == "difference":
            merged[own] = merged[own] + value * held[f"step:{own}"]
    return Weights(unflatten_dict(merged, sep="."), **{key: about[key] for key in Weights._fields if key in about})


def shipped_config(name: str) -> dict[str, Any]:
    """The config of the network, as `config.from_dict` reads it."""
    with as_file(FOLDER / f"{name}.safetensors") as path, safetensors.safe_open(path, "numpy") as file:
        config: dict[str, Any] = json.loads(file.metadata()["config"])
    return config


def write_shipped(path: Path, variables: Tree, backbone: Tree, config: dict[str, Any]) -> None:
    """Writes what of `variables` is not in `backbone`.

    Args:
      variables: `{"params", "batch_stats"}` of a network.
      backbone: the same of its backbone as installed, below module names.
      config: of the network, as `config.to_dict` writes it; its `model.weights` becomes the file's name.
    """
    known, kept = flatten_dict(backbone, sep="."), {}
    for name, value in flatten_dict(variables, sep=".").items():
        if name not in known or np.ndim(value) < 2:
            if not np.array_equal(known.get(name), value):
                kept[name] = np.asarray(value, np.float16)
        elif (difference := value - known[name]).any():
            step = np.abs(difference).max(tuple(range(difference.ndim - 1))) / 127
            kept[f"difference:{name}"] = np.rint(difference / np.maximum(step, 1e-30)).astype(np.int8)
            kept[f"step:{name}"] = step.astype(np.float32)
    model = config["model"] | {"weights": path.name.removesuffix(".safetensors"), "whitening_init": "weights"}
    about = {
        "backbone": model["backbone"],
        "stage": used_stage(model["pool"], model["stage"]),
        "layout": "sret_jax",
        "whitens": "normalized" if model["l2_pooled"] else "pooled",
        "source": path.name,
        "sha256": "",
        "config": json.dumps(config | {"model": model}),
    }
    write_file(path, safetensors.numpy.save(kept, about))
