"""Networks that were trained here, as a run or a saved retriever keeps them: with the config that they belong to."""

from pathlib import Path
from typing import Any, NamedTuple

import safetensors.numpy
from flax.traverse_util import unflatten_dict
from safetensors import SafetensorError

from sret_jax.config import Config, from_dict
from sret_jax.errors import UserError
from sret_jax.models.backbones.base import used_stage
from sret_jax.models.weights.file import Weights
from sret_jax.models.weights.folder import RETRIEVER, is_saved
from sret_jax.models.weights.source import located
from sret_jax.models.weights.torch_file import MAX_FILE
from sret_jax.models.whitening import LearnedWhitening
from sret_jax.storage.artifacts import MANIFEST, verify_folder
from sret_jax.storage.checkpoint import Step, newest_step, read_step, verify_step
from sret_jax.storage.files import named, open_file, read_file
from sret_jax.storage.foreign import a_text, an_object, check_safetensors, one_of, read_json
from sret_jax.storage.workdir import Workdir, is_checkpoint

Tree = dict[str, Any]
PARAMETERS = "model.safetensors"
TRAINED = "trained"  # the layout of `trained_weights`


class TrainedNetwork(NamedTuple):
    """A network as its run left it at one step."""

    config: Config
    variables: Tree  # {"params", "batch_stats"}
    whitening: LearnedWhitening | None
    step: int | None  # None where it is not known


def holds_trained(path: Path) -> bool:
    """Whether `path` is what `read_trained` reads: a workdir, the folder of one step, or a saved retriever."""
    return is_checkpoint(path) or Workdir(path).checkpoints.is_dir() or is_saved(path)


def trained_folder(weights: str | Path) -> Path | None:
    """The folder of a network that was trained here, where that is what `weights` names, as in `source`; else None.

    What the hub holds is fetched. Raises `UserError` where it cannot be.
    """
    place = located(weights)
    return place.path if holds_trained(place.path) and not place.part else None


def read_trained(path: Path) -> TrainedNetwork:
    """The network in a workdir that training wrote, in the folder of one step, or in one that `Retriever.save` wrote.

    Raises `UserError` naming the folder that holds none.
    """
    return read_saved(path) if is_saved(path) else read_run(path)


def trained_weights(path: Path) -> Weights:
    """The network that `read_trained` reads, as weights to start from."""
    trained = read_trained(path)
    model, variables = trained.config.model, dict(trained.variables)
    if trained.whitening is not None:
        variables["whitening"] = trained.whitening._asdict()
    whitens = "normalized" if model.l2_pooled else "pooled"
    stage = used_stage(model.pool, model.stage)
    return Weights(variables, model.backbone, stage, TRAINED, whitens, path.name, "")


def read_run(path: Path) -> TrainedNetwork:
    """The network of the newest intact checkpoint of a workdir, or of a step folder: the one that was chosen, if any.

    Raises `UserError` naming the folder that holds no checkpoint.
    """
    saved = read_step(step_folder(path))
    state = saved.arrays["state"]
    params, batch_stats = state["params"]["network"], state.get("batch_stats", {})
    if "chosen" in saved.arrays:
        chosen = saved.arrays["chosen"]["variables"]
        params, batch_stats = chosen["params"], chosen.get("batch_stats", {})
    variables = {"params": params, "batch_stats": batch_stats}
    try:
        config = from_dict(saved.record["config"])
    except UserError as error:
        raise UserError(f"{path}: {error}; it was trained by another version, or its record was changed") from None
    return TrainedNetwork(config, variables, learned_whitening(saved), used_step(saved.record))


def used_step(record: Tree) -> int:
    """The step whose network is used, by the record of a checkpoint: the one that validation chose, if any."""
    return int(record.get("validation", {}).get("step", record["step"]))


def step_folder(path: Path) -> Path:
    """The folder of the newest intact step of a workdir, or `path` itself where it is an intact one.

    Raises `UserError` where there is none.
    """
    if is_checkpoint(path):
        verify_step(path)
        return path
    step = newest_step(Workdir(path).checkpoints)
    if step is None:
        raise UserError(f"{path}: holds no checkpoint; train first, or name the folder that train.py wrote")
    return Workdir(path).checkpoint(step)


def learned_whitening(saved: Step) -> LearnedWhitening | None:
    """The whitening that was learned after training, of a step that has one."""
    learned = saved.arrays.get("whitening")
    return learned and LearnedWhitening(**learned)


def read_saved(folder: Path) -> TrainedNetwork:
    """Inverse of `Retriever.save`.

    Raises `UserError` naming the folder that this version did not save, or that is damaged.
    """
    for path in (folder / name for name in (MANIFEST, "config.json", PARAMETERS)):
        if path.exists():  # what is missing is said below
            with named(path, "save the retriever again"), open_file(path, MAX_FILE):
                pass  # no pipe and no device
    verify_folder(folder, only=("config.json", PARAMETERS))
    with named(folder / "config.json", "it is not of a retriever; save it again"):
        about = an_object(read_json(folder / "config.json"), "it")
        written = a_text(one_of(about, "format", "it"), "its format")
    if written != RETRIEVER:
        raise UserError(f"{folder}: written as {written!r}, this version reads {RETRIEVER!r}; save it again")
    try:
        data = read_file(folder / PARAMETERS, MAX_FILE)
        check_safetensors(data)
        arrays = safetensors.numpy.load(data)
        tree = unflatten_dict({tuple(name.split("/")): x for name, x in arrays.items()})
        learned = tree.get("learned")
        config = from_dict(about["config"])
        variables = {"batch_stats": {}} | tree["network"]
        return TrainedNetwork(config, variables, learned and LearnedWhitening(**learned), None)
    except (ValueError, KeyError, TypeError, AttributeError, SafetensorError, UserError) as error:
        raise UserError(f"{folder}: not a retriever that this version saved ({error}); save it again") from None
