"""Checkpoints that survive a kill, a full disk and a flipped bit.

A step is one folder, `<workdir>/checkpoints/<step>/`: `arrays/` (orbax) holds parameters, statistics, the optimiser's
memory, the random key, a learned whitening, and the network that validation chose; `record.json` holds the config, the
position in the data, and the devices. It is built aside and sealed with a manifest before it gets its name, so a listed
step is a whole one.
The folder is written by a thread: training goes on as soon as the values are copied to the host.
"""

import dataclasses
import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from sret_jax import config as configs
from sret_jax.config import Config
from sret_jax.config.own_parts import check_sources
from sret_jax.errors import UserError
from sret_jax.models.descriptor import build_network
from sret_jax.models.weights.trained import TrainedNetwork as TrainedNetwork
from sret_jax.models.weights.trained import learned_whitening, read_run
from sret_jax.models.whitening import LearnedWhitening
from sret_jax.storage import artifacts
from sret_jax.storage.checkpoint import Step, newest_step, read_step, write_step
from sret_jax.storage.refusals import refusal_behind
from sret_jax.storage.workdir import steps_in
from sret_jax.training import parallel

Tree = dict[str, Any]


class Checkpoint(Step):
    """What one step folder holds. `arrays` has the keys "state" and, once there, "whitening" and "chosen"."""

    @property
    def whitening(self) -> LearnedWhitening | None:
        return learned_whitening(self)


class Checkpoints:
    """The step folders of one run, for the process that trains. Close it, or leave its `with`, to finish the last save.

    Only the main process writes; the others may call everything.
    """

    def __init__(self, folder: Path, keep: int):
        self.folder, self.keep = folder, keep
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._saving: Future[None] | None = None
        if parallel.is_main():
            folder.mkdir(parents=True, exist_ok=True)
            _clean(folder)

    def save(
        self,
        step: int,
        state: Any,
        record: Tree,
        whitening: LearnedWhitening | None = None,
        chosen: Tree | None = None,
    ) -> None:
        """Copies the values and returns; the folder appears later.

        `chosen` has the "variables" of the network that is used, where that is not the state's own, and whatever else
        the choice rests on.

        An error of the save before is raised here, or by `close`. So is a `UserError` when a value is not finite.
        """
        self.wait()
        if not parallel.is_main():
            return
        arrays = {"state": _to_dict(parallel.fetch(state))} | ({"whitening": whitening._asdict()} if whitening else {})
        arrays |= {"chosen": _to_dict(chosen)} if chosen else {}
        for name, value in _flatten(arrays).items():
            # Of bfloat16 numpy does not know that it is a kind of floating point.
            if jnp.issubdtype(value.dtype, jnp.inexact) and not np.isfinite(value).all():
                raise UserError(f"step {step}: {name} is not finite, so it was not saved; lower the learning rate")
        self._saving = self._thread.submit(self._write, step, arrays, record | {"step": step})

    def _write(self, step: int, arrays: Tree, record: Tree) -> None:
        if not self.folder.is_dir():  # else it would be made again, without the rest of the run
            raise UserError(f"{self.folder}: is gone; put it back and run the same command again")
        try:
            write_step(self.folder / str(step), arrays, record)
        except (OSError, ValueError) as error:  # tensorstore reports a full disk as a ValueError
            where = self.folder / str(step)
            if refused := refusal_behind(error, self.folder):
                raise UserError(f"{where} could not be saved: {refused}") from error
            raise UserError(f"{where} could not be saved ({error}); free space or check the permissions") from error
        for old in steps_in(self.folder)[: -self.keep]:
            doomed = self.folder / f".{old}.deleting"
            os.rename(self.folder / str(old), doomed)  # one rename: no half-deleted step is ever listed
            shutil.rmtree(doomed)

    def wait(self) -> None:
        """Returns when nothing is being written; raises what went wrong."""
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    def close(self) -> None:
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def latest(self) -> Checkpoint | None:
        """The newest step that is intact, the same in every process. Damaged newer ones are set aside by name."""
        found = -1
        if parallel.is_main():
            newest = newest_step(self.folder)
            found = -1 if newest is None else newest
            for step in steps_in(self.folder):
                if step > found:
                    aside = self.folder / f"{step}.damaged"
                    shutil.rmtree(aside, ignore_errors=True)
                    os.rename(self.folder / str(step), aside)
        found = int(parallel.from_main(np.array(found)))
        return None if found < 0 else Checkpoint(*read_step(self.folder / str(found)))


def restore(template: Any, saved: Tree, source: str) -> Any:
    """`saved["state"]` in the structure of `template`; `source` names it in errors."""
    expected = flax.traverse_util.flatten_dict(flax.serialization.to_state_dict(template), True, sep="/")
    values = _flatten(saved["state"])
    _check_same({name: x for name, x in expected.items() if hasattr(x, "shape")}, values, source)
    filled = {name: values.get(name, x) for name, x in expected.items()}
    tree = flax.traverse_util.unflatten_dict(filled, sep="/")
    return flax.serialization.from_state_dict(template, tree)


def load_network(path: str | Path, *, changed_parts: bool = False) -> TrainedNetwork:
    """The newest intact checkpoint of a workdir, or the one in a step folder.

    `changed_parts`: accepts parts that do not come with the package though their source is another one now.

    Raises `UserError` naming the folder that holds no checkpoint, or the parameter or shape in which the checkpoint
    differs from its own config.
    """
    trained = read_run(Path(path))
    check_sources(trained.config, str(path), changed=changed_parts)
    network = build_network(trained.config.model)
    side = 4 * (network.size_multiple if network.size_multiple > 1 else 32)
    image = jax.ShapeDtypeStruct((1, side, side, 3), np.uint8), jax.ShapeDtypeStruct((1, side, side), bool)
    like = _flatten(jax.eval_shape(network.init, jax.random.key(0), *image))
    like = {name: x for name, x in like.items() if not name.endswith("/backbone/positions")}  # its grid is the file's
    _check_same(like, _flatten(trained.variables), str(path), allow_extra="/backbone/")
    return trained


def check_same_model(trained: Config, config: Config | None, source: Path) -> None:
    """Raises `UserError` that names the first field of `model` in which `config` is not what was trained.

    `dtype` may be another: parameters are float32 whatever is computed with them.
    """
    model = dataclasses.replace(config.model if config else trained.model, dtype=trained.model.dtype)
    for field, stored, value in configs.differences(configs.to_dict(trained.model), configs.to_dict(model)):
        raise UserError(f"{source}: trained with config.model.{field}={stored!r}, not {value!r}")


def _clean(folder: Path) -> None:
    """Ends what a kill interrupted: puts back a folder that was about to be replaced, removes half-made ones."""
    for path in folder.glob(".*.replaced"):
        artifacts.recover_folder(folder / path.name[1 : -len(".replaced")])
    for pattern in (".*.building", ".*.deleting", ".*.replaced"):
        for path in folder.glob(pattern):
            shutil.rmtree(path)


def _to_dict(state: Any) -> Tree:
    """Nested dicts of arrays, without the empty nodes that optax leaves."""
    flat = flax.traverse_util.flatten_dict(flax.serialization.to_state_dict(state))
    return flax.traverse_util.unflatten_dict(flat)


def _flatten(tree: Tree) -> dict[str, Any]:
    return flax.traverse_util.flatten_dict(tree, sep="/")


def _check_same(expected: dict[str, Any], found: dict[str, Any], source: str, allow_extra: str = "\0") -> None:
    for name in sorted(set(expected) | {name for name in found if allow_extra not in name}):
        if name not in found:
            raise UserError(f"{source}: has no {name}; it belongs to another architecture or optimiser")
        if name not in expected:
            raise UserError(f"{source}: has {name}, which this architecture or optimiser lacks")
        if tuple(expected[name].shape) != tuple(found[name].shape):
            shapes = f"{tuple(found[name].shape)}, expected {tuple(expected[name].shape)}"
            raise UserError(f"{source}: {name} has shape {shapes}")
