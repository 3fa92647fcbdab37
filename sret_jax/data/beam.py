"""Benchmarks written by Apache Beam: the photographs are read, checked and written by many workers."""

import contextlib
import dataclasses
import errno
import hashlib
import importlib.util
import json
import logging
import os
import resource
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from sret_jax.data.folders import FolderEntry, read_entry
from sret_jax.data.lists import ListedPhotos
from sret_jax.data.prepared import SPLIT, RecordIndex
from sret_jax.data.records import PhotoRecords
from sret_jax.errors import UserError
from sret_jax.storage.refusals import REMEDIES, refusal_behind

FILES = 256  # that Beam may open at once, and the libraries that it loads
LIST, NOTES = "list.jsonl", "notes"  # beside the records while they are made: what to read, and what was found


class BeamPhotos(ListedPhotos):
    """Writes what `ListedPhotos` writes, by the workers of a pipeline with these options.

    The list goes to the workers as a file, and what they note about each photograph comes back in files: neither is
    part of the pipeline, whose size the runners limit.
    """

    def __init__(
        self,
        options: Sequence[str],
        benchmark: str,
        entries: Sequence[FolderEntry],
        complete: bool,
        index: RecordIndex,
        data_dir: Path,
    ) -> None:
        self.options = options
        super().__init__(benchmark, entries, complete, index, data_dir)

    def write(self) -> None:
        from apache_beam.options.pipeline_options import PipelineOptions

        with open(self.data_dir / LIST, "w", encoding="ascii") as file:
            for number, entry in enumerate(self.entries):
                file.write(json.dumps({"number": number} | dataclasses.asdict(entry)) + "\n")
        options = PipelineOptions(list(self.options))
        with _said_once():
            BeamRecords(self).write(download_config=tfds.download.DownloadConfig(beam_options=options))
        self._read_notes(self.data_dir)

    def _read_notes(self, folder: Path) -> None:
        """Fills the index in the order of the list."""
        files = sorted(folder.glob(f"{NOTES}-*"))
        notes = [json.loads(line) for file in files for line in file.read_text(encoding="ascii").splitlines()]
        notes.sort(key=lambda note: note["number"])
        if [note["number"] for note in notes] != list(range(len(self.entries))):
            raise UserError(
                f"{self.benchmark}: the workers noted {len(notes)} of {len(self.entries)} photographs; {AGAIN}"
            )
        for entry, note in zip(self.entries, notes, strict=True):
            if note["reason"]:
                self.index.skipped.append((entry.name, note["reason"]))
            else:
                self.index.names.append(entry.name)
                self.index.instances.append(entry.instance)
                self.index.sizes.append(tuple(note["size"]))
                self.index.digests.append(note["digest"])
        self.check_complete()
        for file in [folder / LIST, *files]:
            file.unlink()


class BeamRecords(PhotoRecords):
    """The records, written by the workers."""

    # tfds looks for the parameter, and makes a pipeline for the builders that have it.
    def _split_generators(self, dl_manager: Any, pipeline: Any) -> dict[str, Any]:  # type: ignore[override]
        import apache_beam as beam

        folder = self.photos.data_dir
        read = (
            pipeline
            | "List" >> beam.io.ReadFromText(str(folder / LIST))
            | "Spread" >> beam.Reshuffle()
            | "Read" >> beam.Map(_read)
        )
        _ = read | "Note" >> beam.Map(_note) | "Notes" >> beam.io.WriteToText(str(folder / NOTES))
        return {SPLIT: read | "Photographs" >> beam.FlatMap(_example)}


@contextlib.contextmanager
def _said_once() -> Iterator[None]:
    """Keeps Beam from saying, with a traceback, what the system refuses: the command ends with a line on that."""

    def is_other(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return error is None or refusal_behind(error) is None

    logger = logging.getLogger("apache_beam.runners.common")
    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)


AGAIN = "is the cache where every worker sees it? Run it again"
ReadPhoto = tuple[int, str, bytes | None, tuple[int, int], str]  # number, name, photograph, size, why there is none


def _read(line: str) -> ReadPhoto:
    entry = json.loads(line)
    number = entry.pop("number")
    outcome = read_entry(FolderEntry(**entry))
    if isinstance(outcome, str):
        return number, entry["name"], None, (0, 0), outcome
    return number, entry["name"], outcome[0], (int(outcome[1][0]), int(outcome[1][1])), ""


def _note(read: ReadPhoto) -> str:
    number, _, data, size, reason = read
    digest = hashlib.sha256(data or b"").hexdigest()
    return json.dumps({"number": number, "size": size, "digest": digest, "reason": reason})


def _example(read: ReadPhoto) -> Iterator[tuple[int, dict[str, Any]]]:
    number, name, data, _, _ = read
    if data is not None:
        yield number, {"image": data, "name": name}


def with_beam(options: Sequence[str]) -> Callable[..., BeamPhotos]:
    """The builder of `prepare_listed` that runs on Beam; without options, by processes of this machine, one per core.

    Raises `UserError` where Beam is not installed, or the process may open too few files for it.
    """
    if importlib.util.find_spec("apache_beam") is None:
        raise UserError(
            "Apache Beam is not installed: pip install 'sret_jax[beam]', or leave the preparation to eval.py"
        )
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if 0 <= most < FILES:  # with fewer its libraries abort the process
        raise UserError(f"Apache Beam: {os.strerror(errno.EMFILE)} for a limit of {most}; {REMEDIES[errno.EMFILE]}")
    local = ["--runner=DirectRunner", "--direct_running_mode=multi_processing"]
    return partial(BeamPhotos, list(options) or [*local, f"--direct_num_workers={os.cpu_count() or 1}"])
