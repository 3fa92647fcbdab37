"""What a run that starts from a trained network takes of it beside the network: the weights of its instances."""

import hashlib
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sret_jax.config import Config, differences, from_dict, to_dict
from sret_jax.errors import UserError
from sret_jax.models.backbones.base import used_stage
from sret_jax.models.weights.folder import is_saved
from sret_jax.models.weights.shipped import shipped_names
from sret_jax.models.weights.trained import step_folder, trained_folder
from sret_jax.storage.artifacts import fingerprint
from sret_jax.storage.checkpoint import read_step

log = logging.getLogger(__name__)
Tree = dict[str, Any]
START = ("weights", "whitening_init", "whitening_ridge")  # fields of the model that say where it starts


def start_folder(config: Config) -> Path | None:
    """Where the network is that was trained here and that `config.model.weights` names; None if it names others."""
    weights = config.model.weights
    return None if weights in ("auto", "none", *shipped_names()) else trained_folder(weights)


def instances_key(instances: list[str]) -> str:
    """Identifies the instances that a run trains on, in the order of their weights."""
    return fingerprint(*instances)


def class_weights(config: Config, instances: list[str], fresh: Tree) -> Tree:
    """The loss's own parameters before the first step: `fresh`, or those of the run that training starts from.

    Weight vectors of instances mean something for the same instances, loss and descriptors alone. They are made anew,
    and that is said, where the run had others, where its last state is not the network that is started from, or where
    the whitening layer, which ends in the space that they lie in, is made anew.
    """
    source = start_folder(config) if fresh else None
    if source is None:
        return fresh
    why = "a saved retriever holds none"
    if not is_saved(source):
        saved = read_step(step_folder(source))
        found = saved.arrays["state"]["params"].get("loss", {})
        shapes = [{name: np.shape(x) for name, x in jax.tree_util.tree_leaves_with_path(t)} for t in (fresh, found)]
        if saved.record.get("instances_key") != instances_key(instances):
            why = "it was trained on other instances"
        elif shapes[0] != shapes[1]:
            why = "its loss has others"
        elif (own := _meaning(from_dict(saved.record["config"]))) != _meaning(config):
            field = differences(own, _meaning(config))[0][0]
            why = f"config.{field} was another"
        elif "chosen" in saved.arrays:
            why = "its network is not that of its last step"
        elif config.model.whitening and config.model.whitening_init != "weights":
            why = "the whitening layer is made anew, too"
        else:
            log.warning("%s: the weights of its %d instances are taken", source, len(instances))
            return dict(found)
    log.warning("%s: the weights of %d instances are made anew: %s", source, len(instances), why)
    return fresh


def _meaning(config: Config) -> Tree:
    """What gives weights of instances their meaning: the loss, and the network but for what it starts from.

    A pooling of the backbone's own reads a map of its own, whatever stage is named beside it.
    """
    model = {name: value for name, value in to_dict(config.model).items() if name not in START}
    if not config.model.local.enabled:  # else the local features are those of that stage
        model["stage"] = used_stage(config.model.pool, config.model.stage)
    return {"train": {"loss": config.train.loss}, "model": model}


def digest_of(variables: Tree) -> str:
    """Identifies the values of a tree of arrays."""
    out = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        out.update(repr(path).encode() + np.asarray(leaf).tobytes())
    return out.hexdigest()[:16]


def check_same_start(workdir: Path, record: Tree, start: str, config: Config) -> None:
    """Raises `UserError` where a run goes on whose start has changed since: `start` is that of now."""
    if record.get("start", start) != start:
        raise UserError(
            f"{workdir} was begun with other weights in config.model.weights={config.model.weights!r}, which has been "
            "trained since; choose another --workdir, or start from a copy that stays as it is"
        )
