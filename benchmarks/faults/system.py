"""Takes the disk, the permissions and the file descriptors away from every command that writes.

    python benchmarks/faults/system.py [--commands="NAME;..."] [--limits="NAME;..."] [--moments=N]

A small run is made as for `damage.py`. Then each command runs as a person runs it, in a process of its own, on a copy
on a file system of its own, and meets one of these, each at several moments: a disk that fills up (a tmpfs of which so
much is left), a file that may not grow (RLIMIT_FSIZE), a file system that is mounted to read only, too few file
descriptors (RLIMIT_NOFILE), and a workdir that is renamed under its feet. It is asked

    clear       whether it ended with exit code 2 and one line of path, cause and remedy, without having said that it is
                done; or did all of it, where it never met the limit
    verifies    whether everything that is sealed, by manifest, digest or journal, is what was written
    goes on     whether the same command, once the limit is gone, ends well and with the results of an undisturbed one

Prints a table with a row for each command and kind; exits with 1 where anything is not so, or a limit was never met.
Disks that fill up and read-only ones are mounted, which takes root and the right to mount: they are skipped without,
and named on stderr. `prepare` is tried where Apache Beam is installed.
"""

import argparse
import contextlib
import importlib.util
import io
import json
import logging
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors.numpy

from sret_jax.collection.collection import Collection
from sret_jax.datasets.lookups import prepare_million
from sret_jax.errors import UserError
from sret_jax.models.weights.pretrained import installed_weights
from sret_jax.retriever import load
from sret_jax.storage.artifacts import MANIFEST, SEAL, read_sealed, verify_folder
from sret_jax.storage.metrics_file import read_metrics
from sret_jax.storage.refusals import REMEDIES
from sret_jax.storage.row_store import STORE, RowStore

sys.path.append(str(Path(__file__).parents[2]))
from benchmarks.faults.damage import _network, _results, fresh, inside, make
from tests.support.miniatures import million

KINDS = ("disk full", "file-size limit", "read-only", "too few descriptors", "workdir vanishes")
MOUNTED = ("disk full", "read-only")
ROOM = 64 << 20  # bytes of the file system that a command has without a limit
FEWEST, MORE = 5, 1.3  # file descriptors that are tried first, and times as many each time
TIMEOUT = 300  # seconds
LIMITED = """
import json, os, resource, sys
for kind, most in json.loads(sys.argv[1]):
    resource.setrlimit(kind, (most, resource.getrlimit(kind)[1]))
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


class Command(NamedTuple):
    """What is run on a copy, from its folder.

    words:    of the command line behind `sret`
    result:   what it leaves, which may not depend on what it met
    without:  what is taken out of the copy before, so that it is made
    sign:     what is there when it has begun to write and is not done yet: the moment at which the workdir vanishes
    """

    words: tuple[str, ...]
    result: Callable[[], Any]
    without: tuple[str, ...] = ()
    sign: str = ""


def commands(photos: Path, weights: str) -> dict[str, Command]:
    """Every command that writes, by the name that the table has."""
    described = ("eval", "--workdir=run", "--benchmark=folder", f"--root={photos}")
    return {
        "train": Command(("train", "--workdir=run", "--config.train.steps=12"), _run, sign="run/checkpoints/8"),
        "extract, index": Command(
            (*described, "--config.local.most=50", "--rerank=sv:5"),
            lambda: _results(Path("run/eval/folder+sv-5")) | {"stored": _digests(Path("run/descriptors/folder"))},
            without=("run/descriptors", "run/index", "run/local", "run/eval"),
            sign="run/descriptors/folder/00000.npy",
        ),
        "results": Command((*described, "--out=out"), lambda: _results(Path("out"))),
        "export": Command(("export", "run", "out", "--stablehlo"), lambda: _network(load("out"))),
        "index a collection": Command(
            ("index", str(photos), "--workdir=new", "--name=d", "--retriever=saved", "--local=sift"),
            lambda: _search(Path("new/d")),
            sign="new/d/CURRENT",
        ),
        "remove": Command(
            ("remove", *(f"object {i}/{j}.png" for i in range(4) for j in range(4) if i + j), "--workdir=collection"),
            lambda: sorted(Collection(Path("collection/c")).names),
        ),
        "export-descriptors": Command(
            ("export-descriptors", "run/descriptors/folder", "out"), lambda: np.load("out/descriptors.npy").tolist()
        ),
        "adapt": Command(
            ("adapt", f"--root={photos}", "--workdir=saved", "--out=out", "--epochs=2", "--dim=8", "--held_out=0.5"),
            lambda: _network(load("out/retriever")),
        ),
        "convert": Command(("convert", weights, "out.safetensors"), lambda: _tensors(Path("out.safetensors"))),
    } | ({"prepare": PREPARE} if importlib.util.find_spec("apache_beam") else {})


def _prepared(cache: Path) -> Any:
    photos = prepare_million(Path("million"), cache)
    return [(name, photos.source[i]["image"].hex()) for i, name in enumerate(photos.names)]


IN_ONE_PROCESS = "--beam_options=--runner=DirectRunner --direct_num_workers=1"
PREPARE = Command(("prepare", "revisitop1m", "million", "out", IN_ONE_PROCESS), lambda: _prepared(Path("out")))


def _run() -> Any:
    lines = [(values["step"], values.get("loss")) for _, values in read_metrics(Path("run/metrics.jsonl"))]
    return {"network": _network(load("run")), "logged": lines} | _results(Path("run/eval/folder"))


def _digests(folder: Path) -> Any:
    return {path.name: path.read_bytes().hex() for path in sorted(folder.glob("*.npy"))}


def _search(folder: Path) -> Any:
    collection = Collection(folder)
    name = sorted(collection.names)[0]
    found = collection.search(name, k=8, mark=False, verify=True).answers
    return [(answer.name, round(answer.score, 5), answer.inliers) for answer in found]


def _tensors(path: Path) -> Any:
    return {name: float(value.astype(np.float64).sum()) for name, value in safetensors.numpy.load_file(path).items()}


@contextlib.contextmanager
def disk(folder: Path, size: int) -> Iterator[bool]:
    """A file system of its own below `folder`, of so many bytes; False, and a plain folder, where none is mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = os.getuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
        shutil.rmtree(folder)


def remount(folder: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", str(folder)], check=True)


@dataclass
class Ended:
    """How a process ended."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The last line of what it said of errors."""
        return (self.err.strip().splitlines() or [""])[-1]


def run(words: Sequence[str], folder: Path, limits: Sequence[tuple[int, int]] = (), watch: Any = None) -> Ended:
    """`sret` with these words, from `folder`; `watch` is called with the process while it runs."""

    command = [sys.executable, "-c", LIMITED, json.dumps(limits), "-m", "sret_jax.cli.main", *words]
    # Pipes: a file that may not grow would be stderr, too.
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    here = os.environ | {"JAX_NUM_CPU_DEVICES": str(jax.device_count())}  # as many as have made the world
    process = subprocess.Popen(command, cwd=folder, text=True, env=here, **pipes)
    try:
        if watch:
            watch(process)
        out, err = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
    return Ended(process.returncode, out, err)


PATH = re.compile(r"(/|\w\.\w|\bout\b|\brun\b|\bnew\b)")  # one of the names that the commands here are given
CAUSES = [os.strerror(number) for number in REMEDIES]


def unclear(ended: Ended, kind: str, done: str) -> str:
    """What is wrong with how a command that met a limit ended; "" for nothing.

    Args:
      kind: of limit. What cannot be opened for want of descriptors is often no file, so no path is asked of it.
      done: the line that an undisturbed one ends with.
    """
    line = ended.line
    if "Traceback" in ended.err:
        return "traceback"
    if ended.code != 2:
        return f"exit code {ended.code}"
    if sum(one.startswith("error: ") for one in ended.err.splitlines()) != 1 or not line.startswith("error: "):
        return "not one line"
    if not any(cause in line for cause in CAUSES) and "is gone" not in line:
        return "no cause"
    if kind != "too few descriptors" and not PATH.search(
        re.split("|".join(map(re.escape, [*CAUSES, "is gone"])), line)[0]
    ):
        return "no path"
    if "; " not in line:
        return "no remedy"
    if done and done in ended.out:
        return "said that it is done"
    return ""


def unsound(folder: Path) -> str:
    """The first thing that is sealed below a folder and is not what was written; "" for none."""
    try:
        for manifest in sorted(folder.rglob(MANIFEST)):
            if not any(part.startswith(".") or part.endswith(".tmp") for part in manifest.relative_to(folder).parts):
                verify_folder(manifest.parent)
        for store in sorted(folder.rglob(STORE)):
            found = RowStore.load(store.parent)
            if damaged := found._damaged():
                return f"{store.parent / damaged[0]}: damaged"
        for file in sorted(folder.rglob("*.json")):
            with contextlib.suppress(ValueError):
                values = json.loads(file.read_bytes())
                if isinstance(values, dict) and SEAL in values:
                    read_sealed(file)
        for about in sorted(folder.rglob("collection.json")):
            if (about.parent / "CURRENT").is_file() and (rows := Collection(about.parent).verify()):
                return f"{about.parent}: {rows[0]}"
    except UserError as error:
        return str(error)
    return ""


@dataclass
class Row:
    """What came of one command and one limit: moments, those that met it, and those that were as asked."""

    moments: int = 0
    met: int = 0
    clear: int = 0
    verifies: int = 0
    goes_on: int = 0

    @property
    def is_good(self) -> bool:
        return self.met > 0 and self.clear == self.verifies == self.goes_on == self.moments


class Moment(NamedTuple):
    """How a command that met a limit ended, and what is wrong with that, with what is there, and with going on."""

    ended: Ended
    unclear: str
    unsound: str
    other: str


class World:
    """The small run, its copies, and what an undisturbed command does to one."""

    def __init__(self, root: Path, tell: Callable[[str], None]):
        self.whole, self.copies, self.tell = root / "whole", root / "copies", tell
        self.whole.mkdir()
        self.copies.mkdir()
        make(self.whole)
        million(self.whole / "million")
        self.commands = commands(self.whole / "photos", installed_weights("efficientnet_lite0"))
        with disk(self.copies / "probe", ROOM) as self.mounts:
            pass

    @contextlib.contextmanager
    def copy(self, command: Command) -> Iterator[tuple[Path, Path]]:
        """A file system, and the folder on it that holds a copy."""
        with disk(self.copies / "disk", ROOM):
            place, folder = self.copies / "disk", self.copies / "disk" / "w"
            fresh(self.whole, folder)
            for name in command.without:
                shutil.rmtree(folder / name)
            yield place, folder

    def undisturbed(self, command: Command) -> "Undisturbed":
        with self.copy(command) as (_, folder):
            files = _sizes(folder)
            ended = run(command.words, folder)
            if ended.code:
                raise RuntimeError(f"sret {' '.join(command.words)}: {ended.err}")
            written = sorted(size for name, size in _sizes(folder).items() if files.get(name) != size)
            with inside(folder):
                result = json.dumps(command.result())
            return Undisturbed(result, (ended.out.strip().splitlines() or [""])[-1], written)


class Undisturbed(NamedTuple):
    """result as JSON, the last line that is said, and bytes of every file that is new or of another size, rising."""

    result: str
    done: str
    written: list[int]


def _sizes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def moments_of(kind: str, own: Undisturbed, count: int) -> list[int]:
    """The moments of a kind that are tried: bytes that are left or may be, or file descriptors."""
    if kind == "disk full":
        return [sum(own.written) * i // count for i in range(count)]
    if kind == "file-size limit":
        between = [own.written[len(own.written) * i // count] for i in range(1, count - 1)]
        return [0, *between, own.written[-1] - 1][:count]
    if kind == "too few descriptors":
        return [int(FEWEST * MORE**i) for i in range(4 * count)]
    return [0]


@contextlib.contextmanager
def limited(kind: str, moment: int, place: Path, folder: Path, command: Command) -> Iterator[dict[str, Any]]:
    """The file system `place` under a limit, with the arguments of `run` that belong to it."""
    if kind == "disk full":
        free = os.statvfs(place)
        with open(place / "ballast", "wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, free.f_bfree * free.f_frsize - moment))
        yield {}
        (place / "ballast").unlink()
    elif kind == "read-only":
        remount(place, "ro")
        yield {}
        remount(place, "rw")
    elif kind == "file-size limit":
        yield {"limits": [(resource.RLIMIT_FSIZE, moment)]}
    elif kind == "too few descriptors":
        yield {"limits": [(resource.RLIMIT_NOFILE, moment)]}
    else:
        word = next(word for word in command.words if word.startswith("--workdir="))
        workdir, gone = folder / word.partition("=")[2], folder / "gone"
        yield {"watch": partial(_vanish, folder / command.sign, workdir, gone)}
        if gone.exists():
            shutil.rmtree(workdir, ignore_errors=True)
            gone.rename(workdir)


def try_one(world: World, command: Command, kind: str, own: Undisturbed, moment: int) -> Moment:
    with world.copy(command) as (place, folder):
        with limited(kind, moment, place, folder, command) as options:
            ended = run(command.words, folder, **options)
        wrong = unclear(ended, kind, own.done) if ended.code else ""
        damaged = unsound(folder)
        if ended.code and (again := run(command.words, folder)).code:
            return Moment(ended, wrong, damaged, again.line)
        with inside(folder):
            return Moment(ended, wrong, damaged, "" if json.dumps(command.result()) == own.result else "other results")


def _vanish(sign: Path, workdir: Path, gone: Path, process: subprocess.Popen[str]) -> None:
    started = time.monotonic()
    while process.poll() is None and not sign.exists() and time.monotonic() - started < TIMEOUT:
        time.sleep(0.0005)
    if process.poll() is None:
        workdir.rename(gone)


def outcomes(world: World, names: Sequence[str], kinds: Sequence[str], count: int) -> dict[tuple[str, str], Row]:
    """A row for each command and kind of limit that can be tried here."""
    table: dict[tuple[str, str], Row] = {}
    for name in names:
        command = world.commands[name]
        own = world.undisturbed(command)
        for kind in kinds:
            if kind == "workdir vanishes" and not command.sign:
                continue
            if kind in MOUNTED and not world.mounts:
                world.tell(f"SKIPPED {name}, {kind}: no file system can be mounted here")
                continue
            row = table[name, kind] = Row()
            for moment in moments_of(kind, own, count):
                found = try_one(world, command, kind, own, moment)
                row.moments, row.met = row.moments + 1, row.met + bool(found.ended.code)
                row.clear, row.verifies = row.clear + (not found.unclear), row.verifies + (not found.unsound)
                row.goes_on += not found.other
                wrong = "; ".join(filter(None, found[1:]))
                world.tell(f"{name}, {kind}, {moment}: {wrong or 'ok'}: {found.ended.line if found.ended.code else ''}")
                if found.unclear:
                    world.tell(found.ended.err[-3000:])
                if kind == "too few descriptors" and not found.ended.code:
                    break  # more are enough, too
    return table


def as_text(table: dict[tuple[str, str], Row]) -> str:
    """Markdown."""
    lines = ["| command | limit | moments | met it | clear | verifies | goes on |", "|---" * 7 + "|"]
    for (name, kind), row in table.items():
        lines.append(f"| {name} | {kind} | {row.moments} | {row.met} | {row.clear} | {row.verifies} | {row.goes_on} |")
    return "\n".join(lines)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--commands", default="", help="; between them")
    arguments.add_argument("--limits", default="", help="; between them")
    arguments.add_argument("--moments", type=int, default=3)
    given = arguments.parse_args()
    logging.disable(logging.INFO)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as root:
        with contextlib.redirect_stdout(io.StringIO()):
            world = World(Path(root), lambda line: print(line, file=sys.stderr, flush=True))
        names = given.commands.split(";") if given.commands else list(world.commands)
        kinds = given.limits.split(";") if given.limits else KINDS
        table = outcomes(world, names, kinds, given.moments)
    print(f"`python {' '.join(sys.argv)}`\n")
    print(as_text(table))
    good = sum(row.is_good for row in table.values())
    print(f"\n{good} of {len(table)} as asked; {time.perf_counter() - started:.0f} s")
    return int(good < len(table))


if __name__ == "__main__":
    sys.exit(main())
