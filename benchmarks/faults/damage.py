"""Damages the files of a small run, one after the other, and lets the commands read what is left.

    python benchmarks/faults/damage.py [--damages=N] [--seed=S]

A run is trained, measured, and its database indexed as a collection; 64 px, seconds. Each damage is done to a copy of
all of it: a flipped bit, a cut, zeros, a deletion, a file put in the place of another of its kind, or an edited JSON
value. Then the command that reads the file runs in this process, and ends in one of these:

    traceback   an exception that is no line for a person: none is allowed
    silent      other results, and not a word of the file; or other results of what nothing may be left out of, whatever
                was said: none is allowed
    made again  the same results, and a line that says what was made anew
    left out    other results, and a line that says what is missing: lines of a log, what was measured before
    refused     one line that names the file, or its folder, and the remedy
    same        the damage changed nothing that is read

Prints a table with a row for each kind of file; exits with 1 where there is a traceback or a silent difference.
"""

import argparse
import contextlib
import io
import json
import logging
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from sret_jax.collection.collection import Collection
from sret_jax.config import Config, DataConfig, EvalConfig, ExtractConfig, LocalSearchConfig, ModelConfig, TrainConfig
from sret_jax.config.run_config import get_config
from sret_jax.errors import UserError
from sret_jax.evaluation.benchmark import open_benchmark
from sret_jax.evaluation.run import evaluate
from sret_jax.evaluation.training_run import train
from sret_jax.reranking.hypergraph_building import VerifiedPairs, build_hypergraph, read_hypergraph
from sret_jax.retriever import Retriever, load
from sret_jax.storage.artifacts import MANIFEST, SEAL
from sret_jax.storage.metrics_file import read_metrics
from sret_jax.storage.workdir import Workdir

OUTCOMES = ("traceback", "silent", "made again", "left out", "refused", "same")
KINDS = {  # kind of file: (patterns below the copied folder, the command that reads it)
    "config.json": (("run/config.json",), "resume"),
    "metrics.jsonl": (("run/metrics.jsonl",), "resume"),
    "checkpoint, newest": (("run/checkpoints/4/**/*",), "resume"),
    "checkpoint, older": (("run/checkpoints/2/**/*",), "older"),
    "data cache": (("cache/image_folder/*/**/*",), "measure"),
    "descriptors": (("run/descriptors/**/*",), "measure"),
    "index": (("run/index/**/*",), "measure"),
    "local features": (("run/local/**/*",), "measure"),
    "results at the start": (("run/eval/folder-untrained/results.json",), "measure"),
    "hypergraph": (("graph/**/*",), "graph"),
    "collection": (("collection/**/*",), "search"),
    "saved retriever": (("saved/*",), "saved"),
}
MAY_LACK = ("metrics.jsonl", "results at the start")  # of what cannot be had again, and is no more than told


def config(root: Path) -> Config:
    """The smallest run that leaves every kind of file. Paths are relative: copies are used from their own folder."""
    return Config(
        data=DataConfig(
            dataset="folder",
            root=str(root / "photos"),
            cache_dir="cache",
            image_size=64,
            bucket_ratios=(),
            threads=1,
            instances_per_batch=2,
            photos_per_instance=2,
        ),
        model=ModelConfig(weights="none", stage="c1", whitening_dim=8),
        train=TrainConfig(steps=4, save_every=2, keep=2, log_every=1, warmup_steps=0, optimizer="sgd"),
        eval=EvalConfig(benchmarks=("folder",), untrained=True),
        extract=ExtractConfig(batch_size=4, chunk_rows=4),
        local=LocalSearchConfig(source="sift"),
    )


def write_photos(root: Path, rng: np.random.Generator) -> None:
    for instance in range(4):
        base = rng.integers(0, 255, (48, 64, 3))
        for photo in range(4):
            path = root / "photos" / f"object {instance}" / f"{photo}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.clip(base + rng.normal(0, 20, base.shape), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(path)


def neighbours() -> np.ndarray:
    return (np.arange(12)[:, None] + np.arange(1, 4)) % 12


def verified(photo: int, others: np.ndarray) -> VerifiedPairs:
    place = np.tile(np.arange(4) / 8, (2, 1)).T[None].repeat(len(others), 0) * (photo + 1) / 12
    return VerifiedPairs(np.full(len(others), 4), place, place, np.ones((len(others), 4), bool))


def build_graph(folder: Path) -> None:
    build_hypergraph(folder, neighbours(), verified, verification="drawn", fewest=2, chunk_rows=4)


class Commands:
    """What is run on a copy, from its folder; each returns the results that may not change."""

    def __init__(self, settings: Config, photos: Path):
        self.settings, self.photos = settings, photos

    def resume(self) -> Any:
        train(self.settings, "run")
        get_config("run")
        run = json.loads(Path("run/config.json").read_bytes())
        lines = [values for _, values in read_metrics(Path("run/metrics.jsonl"))]
        kept = Path("run/checkpoints/4/record.json").is_file()
        return {"run": run["config"], "logged": [(line["step"], line.get("loss")) for line in lines], "kept": kept} | (
            _results(Path("run/eval/folder"))
        )

    def older(self) -> Any:
        return _network(load("run/checkpoints/2"))

    def measure(self) -> Any:
        opened = open_benchmark("folder", root=str(self.photos), config=self.settings, cache="cache")
        retriever = load("run")
        place = Workdir(Path("run"))
        evaluate(retriever, opened, place.evaluation("folder"), workdir=place)
        found = retriever.local_features(opened.photos, place.local_features("folder", "sift"))
        return _results(place.evaluation("folder")) | {"local": _plain(list(found(np.arange(3))))}

    def graph(self) -> Any:
        try:
            found = read_hypergraph(Path("graph"))
        except UserError as error:
            logging.getLogger("sret_jax").warning("%s", error)
            build_graph(Path("graph"))
            found = read_hypergraph(Path("graph"))
        return _plain(list(found))

    def search(self) -> Any:
        collection = Collection(Path("collection/c"))
        collection.update()
        name = sorted(collection.names)[0]
        return [(answer.name, round(answer.score, 5)) for answer in collection.search(name, k=8, mark=False).answers]

    def saved(self) -> Any:
        return _network(load("saved"))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return np.asarray(value).tolist() if hasattr(value, "shape") or hasattr(value, "__array__") else repr(value)


def _network(retriever: Retriever) -> Any:
    return [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(retriever.variables)], str(retriever.config)


def _results(folder: Path) -> dict[str, Any]:
    results = json.loads((folder / "results.json").read_bytes())
    same = ("metrics", "photos", "instances", "searched", "dim", "fingerprint", "photo_fingerprint", "before_training")
    kept: dict[str, Any] = {name: results.get(name) for name in (*same, "step", "config")}
    return kept | {"rankings": (folder / "rankings.csv").read_text()}


def make(root: Path) -> Commands:
    """The world that is damaged, in a folder; the current one is that folder."""
    write_photos(root, np.random.default_rng(0))
    settings = config(root)
    commands = Commands(settings, root / "photos")
    with inside(root):
        train(settings, "run").save("saved")
        build_graph(Path("graph"))
        Collection.open(str(root / "photos"), workdir="collection", name="c", retriever="saved").update()
        commands.measure()
    return commands


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    with contextlib.chdir(folder):
        yield


Damage = Callable[[bytes, np.random.Generator], bytes | None]


def flip(data: bytes, rng: np.random.Generator) -> bytes | None:
    at = int(rng.integers(len(data)))
    return data[:at] + bytes([data[at] ^ 1 << int(rng.integers(8))]) + data[at + 1 :]


def cut(data: bytes, rng: np.random.Generator) -> bytes | None:
    return data[: int(rng.integers(len(data)))]


def zero(data: bytes, rng: np.random.Generator) -> bytes | None:
    start = int(rng.integers(len(data)))
    length = min(len(data) - start, 1 + int(rng.integers(4096)))
    return data[:start] + bytes(length) + data[start + length :]


def delete(data: bytes, rng: np.random.Generator) -> bytes | None:
    return None


def edit(data: bytes, rng: np.random.Generator) -> bytes | None:
    """Another value at a place of a JSON file, with its form kept; of other files another byte."""
    try:
        value = json.loads(data)
    except ValueError:
        return flip(data, rng)
    places = list(_places(value))
    if not places:
        return b"[]"
    node, key = places[int(rng.integers(len(places)))]
    node[key] = _other(node[key])
    return json.dumps(value, indent=1).encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        if key != SEAL:
            yield value, key
            yield from _places(item)


def _other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return {str: "other", list: {}, dict: [], type(None): 1}.get(type(value))


DAMAGES: dict[str, Damage] = {"flip": flip, "cut": cut, "zero": zero, "delete": delete, "edit": edit}


def swap(path: Path, files: list[Path], rng: np.random.Generator) -> bool:
    """Puts another file with the same ending in its place; False where there is none with other bytes."""
    others = [one for one in files if one.suffix == path.suffix and one.read_bytes() != path.read_bytes()]
    if others:
        shutil.copyfile(others[int(rng.integers(len(others)))], path)
    return bool(others)


class Heard(logging.Handler):
    """The lines that a command says."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def outcome(command: Callable[[], Any], expected: Any, usual: set[str], file: Path, may_lack: bool) -> tuple[str, str]:
    """How a command ends, and what it said.

    Args:
      usual: lines that are said of sound files, too.
      file: that was damaged.
      may_lack: whether the results may be without it.
    """
    heard = Heard()
    logging.getLogger("sret_jax").addHandler(heard)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            found = command()
    except UserError as error:
        return "refused" if names(str(error), file) else "traceback", str(error)
    except Exception:
        return "traceback", traceback.format_exc()
    finally:
        logging.getLogger("sret_jax").removeHandler(heard)
    said = next((line for line in heard.lines if line not in usual and names(line, file)), "")
    if json.dumps(found) == json.dumps(expected):
        return "made again" if said else "same", said
    return "left out" if said and may_lack else "silent", said


def names(line: str, file: Path) -> bool:
    """Whether a line tells a person which file, or which folder that it lies in, is meant.

    Of a changed manifest the line names a file that it lists: which of the two was changed nobody can know.
    """
    pairs = [f"{folder}/{part}" for folder, part in zip(file.parts, file.parts[1:], strict=False)]
    listed = [f"{file.parent}/"] if file.name == MANIFEST else []
    return any(part in line for part in (*pairs, *listed, file.name))


def damaged_outcomes(count: int, seed: int, tell: Callable[[str], None]) -> dict[str, Counter[str]]:
    """How many of `count` damages, shared between the kinds of file, ended how."""
    rng = np.random.default_rng(seed)
    table: dict[str, Counter[str]] = defaultdict(Counter)
    with tempfile.TemporaryDirectory() as temporary:
        whole, copy = Path(temporary) / "whole", Path(temporary) / "copy"
        whole.mkdir()
        commands = make(whole)
        expected: dict[str, Any] = {}
        usual: set[str] = set()
        for _, name in KINDS.values():
            if name not in expected:
                fresh(whole, copy)
                heard = Heard()
                logging.getLogger("sret_jax").addHandler(heard)
                with inside(copy), contextlib.redirect_stdout(io.StringIO()):
                    expected[name] = getattr(commands, name)()
                logging.getLogger("sret_jax").removeHandler(heard)
                usual |= set(heard.lines)
        for number in range(count):
            kind = list(KINDS)[number % len(KINDS)]
            patterns, name = KINDS[kind]
            fresh(whole, copy)
            files = sorted(path for pattern in patterns for path in copy.glob(pattern) if path.is_file())
            files = [path for path in files if path.stat().st_size and path.name not in (".lock", "LOCK")]
            path = files[int(rng.integers(len(files)))]
            chosen = [*DAMAGES, "swap"][number // len(KINDS) % (len(DAMAGES) + 1)]
            if chosen == "swap" and not swap(path, files, rng):
                chosen = "flip"
            if chosen != "swap":
                data = DAMAGES[chosen](path.read_bytes(), rng)
                path.unlink() if data is None else path.write_bytes(data)
            with inside(copy):
                own = path.relative_to(copy)
                ended, said = outcome(getattr(commands, name), expected[name], usual, own, kind in MAY_LACK)
            table[kind][ended] += 1
            tell(f"{number} {chosen} {path.relative_to(copy)}: {ended} {said if ended == 'traceback' else said[:200]}")
    return table


def fresh(whole: Path, copy: Path) -> None:
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(whole, copy, symlinks=True, ignore=shutil.ignore_patterns("photos"))


def as_text(table: dict[str, Counter[str]]) -> str:
    """Markdown, with the sums."""
    rows = [["files", "damages", *OUTCOMES]]
    for kind in KINDS:
        counts = table[kind]
        rows.append([kind, str(sum(counts.values())), *(str(counts[ending]) for ending in OUTCOMES)])
    sums = sum(table.values(), Counter())
    rows.append(["all", str(sum(sums.values())), *(str(sums[ending]) for ending in OUTCOMES)])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--damages", type=int, default=240)
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    logging.disable(logging.INFO)
    started = time.perf_counter()
    table = damaged_outcomes(given.damages, given.seed, lambda line: print(line, file=sys.stderr, flush=True))
    print(f"`python benchmarks/faults/damage.py --damages={given.damages} --seed={given.seed}`\n")
    print(as_text(table))
    print(f"\n{time.perf_counter() - started:.0f} s")
    sums = sum(table.values(), Counter())
    return int(sums["traceback"] + sums["silent"] > 0)


if __name__ == "__main__":
    sys.exit(main())
