"""The step folders of a run on disk; the only file that uses orbax.

A step is one folder, `<checkpoints>/<step>/`: `arrays/` (orbax) and `record.json`. It is built aside and sealed with a
manifest before it gets its name, so a listed step is a whole one.
"""

import gc
import json
import logging
import sys
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from sret_jax.storage import artifacts
from sret_jax.storage.refusals import of_process
from sret_jax.storage.workdir import RECORD, steps_in

log = logging.getLogger(__name__)
Tree = dict[str, Any]
T = TypeVar("T")


class Step(NamedTuple):
    """What one step folder holds."""

    step: int
    arrays: Tree
    record: Tree


def write_step(folder: Path, arrays: Tree, record: Tree) -> None:
    """Writes a step folder whole or not at all. tensorstore reports a full disk as a ValueError."""
    with artifacts.commit_folder(folder) as built:
        _with_orbax(partial(_save, built.absolute() / "arrays", arrays))
        artifacts.write_json(built / RECORD, record)


def _save(folder: Path, arrays: Tree) -> None:
    with _orbax() as checkpointer:
        checkpointer.save(folder, args=ocp.args.PyTreeSave(arrays))


def _restore(folder: Path) -> Tree:
    with _orbax() as checkpointer:
        shapes = checkpointer.metadata(folder).item_metadata.tree
        kind = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
        arrays: Tree = checkpointer.restore(folder, args=ocp.args.PyTreeRestore(restore_args=kind))
        return arrays


def _with_orbax(act: Callable[[], T]) -> T:
    """What `act` gives; of an error only what is raised is seen, not what orbax's threads and loops say as they end.

    They may end after it, so what is left out of that stays left out.
    """
    failed: Exception | None = None
    before, told = (sys.unraisablehook, sys.excepthook), [logging.getLogger(name) for name in ("absl", "asyncio")]
    sys.unraisablehook, sys.excepthook = _without_loops(sys.unraisablehook), _without_loops(sys.excepthook)
    for logger in told:
        logger.addFilter(_not_of_threads)
    try:
        found = act()
    except (OSError, ValueError) as error:
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        failed = _alone(error)  # the error itself keeps the loops
    if failed:
        gc.collect()
        raise failed
    sys.unraisablehook, sys.excepthook = before
    for logger in told:
        logger.removeFilter(_not_of_threads)
    return found


def _alone(error: Exception) -> Exception:
    """The same without its traceback."""
    if isinstance(error, OSError):
        return OSError(error.errno, error.strerror, error.filename)
    return ValueError(str(error))


def _without_loops(hook: Callable[..., Any]) -> Callable[..., None]:
    """The same hook for errors that nobody catches, but for those of event loops that are closed."""

    def own(raised: Any, *rest: Any) -> None:
        value, trace = rest or (raised.exc_value, raised.exc_traceback)
        frames = traceback.extract_tb(trace)
        of_loop = isinstance(value, RuntimeError | AttributeError) and frames and "asyncio" in frames[-1].filename
        if not of_loop:
            hook(raised, *rest)

    return own


def _not_of_threads(record: logging.LogRecord) -> bool:
    said = record.getMessage()
    return "_SignalingThread" not in said and "exception was never retrieved" not in said


def read_step(folder: Path) -> Step:
    """Inverse of `write_step`: numpy arrays in nested dicts. Damage is for `artifacts.verify_folder` to find."""
    record = json.loads((folder / RECORD).read_bytes())
    arrays = _with_orbax(partial(_restore, folder.absolute() / "arrays"))
    return Step(record["step"], arrays, record)


def verify_step(folder: Path) -> None:
    """Raises `DamagedError` where a step folder is not what was written, or is another step's copy."""
    artifacts.verify_folder(folder)
    try:
        step = json.loads((folder / RECORD).read_bytes())["step"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        if of_process(error):
            raise
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
