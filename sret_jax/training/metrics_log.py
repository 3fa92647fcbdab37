"""What a run says while it runs: a live line, `metrics.jsonl`, and TensorBoard events."""

import io
import logging
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from sret_jax.storage.artifacts import write_file, write_whole
from sret_jax.storage.metrics_file import metrics_line, read_metrics
from sret_jax.storage.workdir import Workdir

log = logging.getLogger(__name__)


class MetricsLog:
    """Writes one line per logged step and keeps the progress line alive. Close it, or leave its `with`.

    Opening it at step `start` drops the lines of later steps, which a killed run wrote and this one will write again;
    at step 0 all of them. Steps count from 1, and the network before the first is that of step 0. Where `active` is
    false (all processes but the main one) nothing is written or shown.
    """

    def __init__(self, workdir: Path, start: int, steps: int, log_every: int, photos_per_step: int, active: bool):
        self._every, self._photos, self._last = log_every, photos_per_step, (time.perf_counter(), start)
        self._steps = steps
        self._file: io.FileIO | None = None
        if not active:
            return
        path = Workdir(workdir).metrics
        _keep_until(path, start or -1)
        self._file = open(path, "ab", buffering=0)
        self._events = _event_file(Workdir(workdir).tensorboard)
        self._event(0, file_version="brain.Event:2")  # which TensorBoard looks for
        first = start + 1 if start else 0
        self._event(first, session_log=SessionLog(status=SessionLog.START))  # what is there from then on is not shown
        console = Console(stderr=True)
        self._live = console.is_terminal
        self._progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("loss {task.fields[loss]}  {task.fields[speed]} images/s  left"),
            TimeRemainingColumn(),
            console=console,
            disable=not self._live,
        )
        self._task = self._progress.add_task("train", total=steps, completed=start, loss="-", speed="-")
        self._progress.start()

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Takes the metrics of every step, in order, and logs every `log_every`-th and the last."""
        if self._file is None:
            return
        self._progress.update(self._task, completed=step, loss=f"{metrics['loss']:.4f}")
        if step % self._every and step != self._steps:
            return
        now = time.perf_counter()
        before, since = self._last
        self._last = (now, step)
        speed = self._photos * (step - since) / max(now - before, 1e-9)
        self._record(step, metrics | {"images_per_second": round(speed, 2)})
        self._progress.update(self._task, speed=f"{speed:.1f}")
        if not self._live:
            left = (self._steps - step) * self._photos / speed
            line = f"step {step}/{self._steps}  loss {metrics['loss']:.4f}  {speed:.1f} images/s  {left:.0f} s left"
            print(line, file=sys.stderr, flush=True)

    def write_validation(self, step: int, score: float, best: int) -> None:
        """Logs a validation, its "val_mAP" and the best step so far, "val_best_step", on a line of its own."""
        if self._file is None:
            return
        self._record(step, {"val_mAP": round(score, 4), "val_best_step": best})
        if self._live:
            self._progress.console.print(f"step {step}: mAP {score:.2f} on held-out instances")
        else:
            print(f"step {step}/{self._steps}  mAP {score:.2f} on held-out instances", file=sys.stderr, flush=True)

    def _record(self, step: int, values: dict[str, float]) -> None:
        assert self._file is not None
        write_whole(self._file, metrics_line(step, values).encode())
        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._event(step, summary=Summary(value=scalars))

    def _event(self, step: int, **what: Any) -> None:
        record = io.BytesIO()
        RecordWriter(record).write(Event(wall_time=time.time(), step=step, **what).SerializeToString())
        write_whole(self._events, record.getvalue())

    def sync(self) -> None:
        """Waits for the disk, so that no checkpoint that is saved after this is ahead of the log."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._file is not None:
            self._progress.stop()
            self._events.close()
            self._file.close()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def _event_file(folder: Path) -> io.FileIO:
    """A new file of TensorBoard events, whose own writer has a thread, which only prints what goes wrong in it."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
    return open(folder / name, "ab", buffering=0)


def check_log(workdir: Path, step: int, log_every: int) -> None:
    """Says in one line what the log of a run that has come to a step lacks: damaged lines, and those of its end."""
    path = Workdir(workdir).metrics
    last = max((values["step"] for _, values in read_metrics(path)), default=0)
    if last < step // log_every * log_every:
        log.warning("%s: has no line after step %d of %d", path, last, step)


def _keep_until(path: Path, step: int) -> None:
    """Keeps the sound lines up to `step`: a kill can leave later ones, and half a line at the end."""
    write_file(path, b"".join(line for line, values in read_metrics(path) if values["step"] <= step))
