"""The step folders of a run on disk; the only file that uses orbax.

A step is one folder, `<checkpoints>/<step>/`: `arrays/` (orbax) and `record.json`. It is built aside and sealed with a
manifest before it gets its name, so a listed step is a whole one.
"""

import gc
import json
import logging
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from sret_jax.storage import artifacts
from sret_jax.storage.workdir import RECORD, steps_in

log = logging.getLogger(__name__)
Tree = dict[str, Any]


class Step(NamedTuple):
    """What one step folder holds."""

    step: int
    arrays: Tree
    record: Tree


def write_step(folder: Path, arrays: Tree, record: Tree) -> None:
    """Writes a step folder whole or not at all. tensorstore reports a full disk as a ValueError."""
    with artifacts.commit_folder(folder) as built:
        _save(built.absolute() / "arrays", arrays)
        artifacts.write_json(built / RECORD, record)


def _save(folder: Path, arrays: Tree) -> None:
    """Saves; of an error only what is raised is seen, not what orbax's threads and loops print as they end with it."""
    failed, hook, told = "", sys.unraisablehook, logging.getLogger("absl")
    sys.unraisablehook = lambda _: None
    told.addFilter(_not_of_threads)
    try:
        try:
            with _orbax() as checkpointer:
                checkpointer.save(folder, args=ocp.args.PyTreeSave(arrays))
        except ValueError as error:
            failed = str(error)  # the error itself keeps the loops
        if failed:
            gc.collect()
            raise ValueError(failed)
    finally:
        sys.unraisablehook = hook
        told.removeFilter(_not_of_threads)


def _not_of_threads(record: logging.LogRecord) -> bool:
    return "_SignalingThread" not in record.getMessage()


def read_step(folder: Path) -> Step:
    """Inverse of `write_step`: numpy arrays in nested dicts. Damage is for `artifacts.verify_folder` to find."""
    record = json.loads((folder / RECORD).read_bytes())
    with _orbax() as checkpointer:
        shapes = checkpointer.metadata(folder.absolute() / "arrays").item_metadata.tree
        kind = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
        arrays = checkpointer.restore(folder.absolute() / "arrays", args=ocp.args.PyTreeRestore(restore_args=kind))
    return Step(record["step"], arrays, record)


def verify_step(folder: Path) -> None:
    """Raises `DamagedError` where a step folder is not what was written, or is another step's copy."""
    artifacts.verify_folder(folder)
    try:
        step = json.loads((folder / RECORD).read_bytes())["step"]
    except (OSError, ValueError, KeyError, TypeError):
        raise artifacts.DamagedError(f"{folder / RECORD}: unreadable; delete {folder} and run again") from None
    if folder.name.isdigit() and step != int(folder.name):
        raise artifacts.DamagedError(f"{folder}: holds step {step}; delete it or give it its name")


def newest_step(folder: Path) -> int | None:
    """The newest step that verifies. Warns of every newer one that does not."""
    for step in reversed(steps_in(folder)):
        try:
            verify_step(folder / str(step))
        except artifacts.DamagedError as error:
            log.warning("checkpoint of step %d is damaged, falling back to the one before: %s", step, error)
        else:
            return step
    return None


def _orbax() -> ocp.Checkpointer:
    """A checkpointer of numpy arrays that never waits for other processes."""
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process{me}"
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)
