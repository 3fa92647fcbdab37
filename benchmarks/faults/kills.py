"""Kills commands at chosen moments, gives them again, and compares the end with that of a run that nothing happened to.

    python benchmarks/faults/kills.py [--kills=N] [--peers=N] [--seed=S]

A small run is trained, measured, indexed and exported; 64 px, seconds. Half of the kills (SIGKILL) strike at a random
moment, the other half as a random open, write, fsync, rename or unlink in the command's folder begins: strace injects
them, and so finds the writers in C++ as well. Where there is no strace these are left out, which is said loudly. Some
of the restarts are killed, too. `--kills` are those of training; as many are shared by extraction and the updates of a
collection, and a fifth by the export. Every command is forked from this process, which has its imports and nothing of
JAX that runs, so a kill is one of a process of its own.

After the last start everything in the folder has to be what the run that nothing happened to has left, bit for bit, but
times; and nothing else may be there. Besides, with `--peers` rounds each:

    SIGTERM        training saves the current step and ends within 30 s, with all its processes
    SIGTERM, any   the same at any moment of a training: in preparing, compiling, a step, measuring
    two writers    of two commands on one folder one runs, and the other ends at once and names the first
    peer killed    of two processes that train together one is killed, the other ends within 35 s and names it
    peer stopped   the same by SIGSTOP

Prints a table with a row for each; exits with 1 where anything did not go on, differs, is left over or at fault.
"""

import argparse
import atexit
import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_collections.config_flags  # noqa: F401
import numpy as np

# Imports are most of a short command: each child has those of this process.
import sret_jax.data.records
import sret_jax.evaluation.external.scoring
import sret_jax.evaluation.training_run
import sret_jax.export.folder  # noqa: F401
from sret_jax.cli import main as command
from sret_jax.collection import store, update
from sret_jax.collection.collection import Collection
from sret_jax.config import Config
from sret_jax.storage.checkpoint import read_step, verify_step
from sret_jax.storage.metrics_file import read_metrics
from sret_jax.training.stopping import AGAIN

sys.path.append(str(Path(__file__).parents[2]))
from benchmarks.faults import damage

CALLS = {  # kind of system call: those of it
    "open": ("openat",),
    "write": ("write", "pwrite64", "writev", "pwritev"),
    "fsync": ("fsync", "fdatasync"),
    "rename": ("rename", "renameat", "renameat2"),
    "unlink": ("unlink", "unlinkat", "rmdir"),
}
TRIES = 20  # at a kill before which the command has ended
SLOWEST_STOP, SLOWEST_PEER, SLOWEST_REFUSAL = 30, 35, 10  # seconds
LONG = 300  # seconds after which a command hangs
COLUMNS = (
    "kills",
    "went on",
    "bits different",
    "lines doubled or missing",
    "left-over files",
    "other faults",
    "slowest end, s",
    "slowest restart, s",
)


# Commands, each in a process of its own.


class Ended(NamedTuple):
    """How a command ended: its status as `subprocess` gives it, what it said, and how long it took."""

    status: int
    said: str
    seconds: float


class Started:
    """`sret WORDS` in a folder, in a child of this process that leads a group of its own.

    With `gated` it waits for `go` before it does anything.
    """

    def __init__(self, folder: Path, words: tuple[str, ...], gated: bool = False, devices: int = 1):
        self.log = folder.parent / f"said-{time.monotonic_ns()}"
        reading, self._gate = os.pipe()
        self.began = time.perf_counter()
        self.pid = os.fork()
        if not self.pid:
            os.close(self._gate)
            _end(lambda: _command(folder, words, self.log, reading, devices))
        os.close(reading)
        if not gated:
            self.go()

    def go(self) -> None:
        self.began = time.perf_counter()
        os.write(self._gate, b"1")

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    def wait(self, seconds: float = LONG) -> Ended:
        """Waits until it has ended; one that takes longer is killed."""
        late = time.perf_counter() + seconds
        while not (found := os.waitpid(self.pid, os.WNOHANG))[0]:
            if time.perf_counter() > late:
                self.kill()
            time.sleep(0.005)
        os.close(self._gate)
        status, took = os.waitstatus_to_exitcode(found[1]), time.perf_counter() - self.began
        said = self.log.read_text(errors="replace") if self.log.exists() else ""
        self.log.unlink(missing_ok=True)
        return Ended(status, said, took)

    @property
    def left(self) -> bool:
        """Whether a process of its group is still there."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, 0)
            return True
        return False


def _end(act: Callable[[], int | str | None]) -> None:
    """Ends a child with the status of what it does."""
    status: int | str | None = 1
    try:
        status = act()
    except SystemExit as ending:
        status = ending.code
    except BaseException:
        traceback.print_exc()
    for last in (sys.stdout.flush, sys.stderr.flush, atexit._run_exitfuncs):
        with contextlib.suppress(BaseException):
            last()
    os._exit(status if isinstance(status, int) else int(status is not None))


def _command(folder: Path, words: tuple[str, ...], log: Path, gate: int, devices: int) -> None:
    os.setsid()
    for number in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
    os.read(gate, 1)
    os.chdir(folder)
    jax.config.update("jax_num_cpu_devices", devices)
    jax.config.update("jax_disable_most_optimizations", True)  # the programs are tiny: compiling is what takes time
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_traceback_in_locations_limit", 1)  # or an exported program names who called the command
    update.AT_ONCE = store.AT_ONCE = 4  # photographs between two commits, for several of these in an update
    store.COMPACT_ABOVE = 2
    sys.argv = ["sret", *words]
    command.main()


def in_child(act: Callable[[], Any]) -> Any:
    """What a function returns, as JSON, run in a child: nothing of JAX may run in this process."""
    with _temporary() as folder:
        file = folder / "returned"
        pid = os.fork()
        if not pid:
            _end(lambda: file.write_text(json.dumps(act())) and None)
        os.waitpid(pid, 0)
        if not file.exists():
            raise RuntimeError("a child of the command failed; see above")
        return json.loads(file.read_text())


@contextlib.contextmanager
def _temporary() -> Iterator[Path]:
    """A folder for a while. That of `tempfile` would be removed by any child, as it ends."""
    folder = Path(tempfile.mkdtemp()).resolve()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


# What is killed.


class Scene(NamedTuple):
    """A command, and the folder that it is given in."""

    kind: str
    base: Path  # copied to the folder first; it may be empty
    words: tuple[str, ...]
    contents: Callable[[Path], dict[str, str]]


class Whole(NamedTuple):
    """What a scene comes to where nothing happens to it."""

    contents: dict[str, str]
    seconds: float
    calls: dict[str, list[tuple[str, int]]]  # kind of system call: the call, and which of its thread's it was


def training_config(root: Path, steps: int = 6, save_every: int = 2, measured: bool = True) -> Config:
    settings = damage.config(root)
    settings.train.optimizer, settings.train.steps, settings.train.save_every = "adamw", steps, save_every
    settings.eval.untrained = measured
    settings.eval.benchmarks = settings.eval.benchmarks if measured else ()
    return settings


CONFIG = """
from pathlib import Path
from benchmarks.faults.kills import training_config

def get_config():
    return training_config(Path({root!r}), **{words!r})
"""


def scenes(root: Path) -> tuple[list[Scene], Scene, Scene]:
    """What is killed; a training of more steps, to be stopped within them; and one for two processes."""
    damage.write_photos(root, np.random.default_rng(0))
    lengths = {"short": {}} | {
        name: {"steps": steps, "save_every": every, "measured": False}
        for name, steps, every in (("long", 400, 150), ("pair", 80, 10))
    }
    for name, words in lengths.items():
        (root / f"{name}.py").write_text(CONFIG.format(root=str(root), words=words))
    empty, trained, described, changed = (
        root / f"base-{name}" for name in ("empty", "trained", "described", "changed")
    )
    empty.mkdir()
    training = "train", f"--config={root}/short.py", "--workdir=run"
    collection = "--workdir=collections"
    photos = root / "photos"
    at = root / "trial"

    _fresh(empty, at)
    _run(at, training)
    shutil.rmtree(at / "run" / "eval")
    for name in ("descriptors", "index"):
        shutil.rmtree(at / "run" / name)
    at.rename(trained)

    _fresh(empty, at)
    shutil.copytree(photos, at / "photos")
    shutil.copytree(trained / "run", at / "run")
    shutil.copytree(at, described)
    index = "index", "photos", "--name=c", "--retriever=run", "--local=sift", collection
    _run(at, index)
    _run(at, ("remove", "object 3/0.png", collection))
    for number in range(4):
        (at / f"photos/object 1/{number}.png").unlink()
        shutil.copy(photos / f"object 2/{number}.png", at / f"photos/object 2/copy-{number}.png")
        damage.Image.fromarray(np.full((40, 50, 3), 60 * number, np.uint8)).save(at / f"photos/object 0/{number}.png")
    (at / "photos/object 0/none.png").write_bytes(b"no photograph")
    at.rename(changed)

    gone = "object 2/0.png", "object 2/1.png", "object 0/0.png"
    measured = ("eval", "--workdir=run", "--benchmark=folder", f"--root={photos}", "--rerank=sv:4,aqe")
    killed = [
        Scene("training", empty, training, of_files),
        Scene("extraction", trained, measured, of_files),
        Scene("collection, new", described, index, of_collection),
        Scene("collection, changed", changed, ("index", collection), of_collection),
        Scene("collection, removal", changed, ("remove", *gone, collection), of_collection),
        Scene("export", trained, ("export", "run", "exported", "--stablehlo"), of_files),
    ]
    long, pair = (
        Scene(name, empty, ("train", f"--config={root}/{name}.py", "--workdir=run"), of_files)
        for name in ("long", "pair")
    )
    return killed, long, pair


def _run(folder: Path, words: tuple[str, ...]) -> Ended:
    """Runs a command to its end, which has to be a good one."""
    ended = Started(folder, words).wait()
    if ended.status:
        raise RuntimeError(f"{' '.join(words)}: {ended.status}\n{ended.said}")
    return ended


def _fresh(base: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(base, folder, symlinks=True)


# What is compared.

VOLATILE = {
    "timings",
    "images_per_second",
    "extracted",
    "stages",
    "updated",
    "digest",
}  # of JSON: times, and digests of them
UNREAD = re.compile(r"report\.html|curve\.png|said-.*")  # show times


def of_files(folder: Path) -> dict[str, str]:
    """`{path: digest}` of all files and folders below `folder`, of what is not a time.

    A checkpoint is its values; the events of TensorBoard, of which every start has a file, are one path.
    """
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if (step := re.match(r".*checkpoints/\d+(?=/)", name)) and "/." not in name:
            found[step[0]] = ""
        elif re.match(r".*/tensorboard/", name):
            found[re.sub(r"(?<=tensorboard/).*", "*", name)] = ""
        else:
            found[name + "/" * path.is_dir()] = "" if path.is_dir() else _digest(path)
    for name in found:
        if re.fullmatch(r".*checkpoints/\d+", name):
            found[name] = _step(folder / name)
    return found


def _digest(path: Path) -> str:
    if path.name == "metrics.jsonl":
        lines = [{k: v for k, v in values.items() if k != "images_per_second"} for _, values in read_metrics(path)]
        return json.dumps(lines)
    if path.name in ("results.json", "collection.json", "index.json"):
        return json.dumps(_timeless(json.loads(path.read_bytes())))
    if UNREAD.fullmatch(path.name) or path.name in (".lock", "MANIFEST.json"):  # who held it last; of files with times
        return ""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if key not in VOLATILE and "seconds" not in key}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


def _step(folder: Path) -> str:
    verify_step(folder)
    step, out = read_step(folder), hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(step.arrays):
        out.update(f"{path} {np.asarray(leaf).dtype}".encode() + np.asarray(leaf).tobytes())
    return out.hexdigest() + json.dumps(_timeless(step.record))


def of_collection(folder: Path) -> dict[str, str]:
    """Beside `of_files` what the collection answers; that every byte of it is read shows that it is sound."""
    found = of_files(folder)
    with contextlib.chdir(folder):
        opened = Collection(Path("collections/c"))
        kept = store.Store(Path("collections/c"))
        found["unsound rows"] = str(kept.unsound())
        found["generation"] = kept.generation.name
        status = opened.status()
        found["status"] = str((status.photos, status.skipped, status.excluded, status.left_behind, status.local))
        for name, row in kept.state.live.items():
            local = kept.local(row)
            parts = kept.descriptor(row), kept.map(row), np.empty(0) if local is None else local
            found[f"photograph {name}"] = hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()
        for name in opened.names[:3]:
            answers = opened.search(name, k=20, mark=False, verify=True).answers
            found[f"answers {name}"] = str([(answer.name, answer.score, answer.inliers) for answer in answers])
    return found


# How it is killed.


def whole(scene: Scene, folder: Path, traced: bool) -> Whole:
    """Runs a scene to its end, twice: in the first run programs are compiled, and system calls counted."""
    calls: dict[str, list[tuple[str, int]]] = {}
    _fresh(scene.base, folder)
    child = Started(folder, scene.words, gated=True)
    log = folder.parent / "calls"
    with _strace(child, log, ["-e", "trace=" + ",".join(sum(CALLS.values(), ()))]) if traced else _untraced(child):
        ended = child.wait()
    if ended.status:
        raise RuntimeError(f"{' '.join(scene.words)}: {ended.status}\n{ended.said}")
    if traced:
        calls = _calls(log.read_text(errors="replace"), folder)
        log.unlink()
    _fresh(scene.base, folder)
    seconds = _run(folder, scene.words).seconds
    return Whole(in_child(partial(scene.contents, folder)), seconds, calls)


@contextlib.contextmanager
def _strace(child: Started, log: Path, words: list[str]) -> Iterator[None]:
    """Lets a gated child run under strace."""
    command = ["strace", "-f", "-y", "-o", str(log), *words, "-p", str(child.pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
        assert tracer.stderr is not None
        if "attached" not in (said := tracer.stderr.readline()):
            child.kill()
            raise RuntimeError(f"strace: {said}")
        child.go()
        yield
        tracer.wait()


@contextlib.contextmanager
def _untraced(child: Started) -> Iterator[None]:
    child.go()
    yield


def _calls(log: str, folder: Path) -> dict[str, list[tuple[str, int]]]:
    """The calls that change something below a folder, by kind, each with its number among those of its thread."""
    found: dict[str, list[tuple[str, int]]] = {kind: [] for kind in CALLS}
    kinds = {call: kind for kind, calls in CALLS.items() for call in calls}
    count: Counter[tuple[str, str]] = Counter()
    for line in log.splitlines():
        match = re.match(r"(\d+) +(\w+)\((.*)", line)
        if not match or match[2] not in kinds:
            continue
        thread, call, rest = match.groups()
        count[thread, call] += 1
        path = re.search(r'"([^"]*)"', rest) if kinds[call] in ("open", "rename", "unlink") else None
        where = path[1] if path and path[1].startswith("/") else re.split(r"[<>]", rest)[1] if "<" in rest else "."
        inside = where.startswith(str(folder)) or (call in ("rename", "unlink", "rmdir") and not where.startswith("/"))
        if inside and (call != "openat" or re.search("O_WRONLY|O_RDWR|O_CREAT", rest)):
            found[kinds[call]].append((call, count[thread, call]))
    return {kind: calls for kind, calls in found.items() if calls}


@dataclass
class Row:
    """Of the table."""

    counts: Counter[str] = field(default_factory=Counter)
    end: float = 0.0
    restart: float = 0.0

    def cells(self) -> list[str]:
        return [
            *(str(self.counts[name]) for name in COLUMNS[:6]),
            f"{self.end:.1f}" if self.end else "–",
            f"{self.restart:.1f}",
        ]

    @property
    def is_clean(self) -> bool:
        faults = sum(self.counts[name] for name in COLUMNS[2:6])
        return self.counts["kills"] == self.counts["went on"] and not faults


Tell = Callable[[str], None]


def killed(scene: Scene, expected: Whole, folder: Path, kills: int, rng: random.Random, row: Row, tell: Tell) -> None:
    """One command, killed so often, and given again until it has ended."""
    _fresh(scene.base, folder)
    for number in range(kills):
        moment = _kill_once(scene, expected, folder, rng, number == 0)
        if moment is None:
            break
        row.counts["kills"] += 1
        row.counts["went on"] += number  # the start that was killed now
        tell(f"{scene.kind}: killed {moment}")
    ended = Started(folder, scene.words).wait()
    compare(scene, expected, folder, ended, row, tell)


def _kill_once(scene: Scene, expected: Whole, folder: Path, rng: random.Random, first: bool) -> str | None:
    """Starts a command and kills it; None where it is no longer there to be killed, after a kill before."""
    for _ in range(TRIES):
        if expected.calls and rng.random() < 0.5:
            call, at = rng.choice(expected.calls[rng.choice(list(expected.calls))])
            child, moment = Started(folder, scene.words, gated=True), f"at {call} {at}"
            inject = ["-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={at}"]
            with _strace(child, Path(os.devnull), inject):
                ended = child.wait()
        else:
            seconds = rng.uniform(0, expected.seconds)
            child, moment = Started(folder, scene.words), f"after {seconds:.2f} s"
            time.sleep(seconds)
            child.kill()
            ended = child.wait()
        if ended.status == -signal.SIGKILL:
            return moment
        if not first:
            return None
        _fresh(scene.base, folder)
    raise RuntimeError(f"{scene.kind}: has ended before each of {TRIES} kills")


def compare(scene: Scene, expected: Whole, folder: Path, ended: Ended, row: Row, tell: Tell) -> None:
    """Counts what is not as where nothing happened, after a last start."""
    row.restart = max(row.restart, ended.seconds)
    done = ended.status == 2 and "exported: holds something" in ended.said  # it was killed as it ended
    if ended.status and not done:
        tell(f"FAULT {scene.kind}: did not go on: {ended.status} {ended.said[-2000:]}")
        return
    row.counts["went on"] += 1
    try:
        found = in_child(partial(scene.contents, folder))
    except RuntimeError as error:
        row.counts["bits different"] += 1
        tell(f"FAULT {scene.kind}: {error}")
        return
    differing = [name for name, digest in expected.contents.items() if found.get(name) != digest]
    over = [name for name in found if name not in expected.contents]
    row.counts["bits different"] += len(differing)
    row.counts["left-over files"] += len(over)
    for name in differing:
        tell(
            f"FAULT {scene.kind}: {name} is {found.get(name, 'gone')[:1000]}\n    not {expected.contents[name][:1000]}"
        )
    for name in over:
        tell(f"FAULT {scene.kind}: {name} is left over")
    log = "run/metrics.jsonl"
    if log in expected.contents:
        before, now = (Counter(line["step"] for line in json.loads(one.get(log, "[]"))) for one in (expected[0], found))
        row.counts["lines doubled or missing"] += sum(((before - now) + (now - before)).values())


# What takes several processes, or another signal.


def fault(row: Row, tell: Tell, text: str) -> None:
    row.counts["other faults"] += 1
    tell(f"FAULT {text}")


def terminated(scene: Scene, expected: Whole, folder: Path, rng: random.Random, row: Row, tell: Tell) -> None:
    """SIGTERM in the steps of a training."""

    def in_a_step() -> bool:
        return (folder / "run/metrics.jsonl").exists() and (folder / "run/metrics.jsonl").stat().st_size > 0

    ended = _terminate(scene, folder, in_a_step, lambda: rng.uniform(0, 1), "SIGTERM", row, tell)
    step = re.search(r"stopped by SIGTERM after step (\d+), which is saved", ended.said)
    if ended.status != AGAIN or not step or not (folder / f"run/checkpoints/{step[1]}").is_dir():
        fault(row, tell, f"SIGTERM: {ended.status} {ended.said[-1000:]}")
    again = Started(folder, scene.words).wait()
    if step and f"going on after step {step[1]}" not in again.said:
        fault(row, tell, f"SIGTERM: does not go on after step {step[1]}: {again.said[-1000:]}")
    compare(scene, expected, folder, again, row, tell)


def terminated_anywhere(scene: Scene, expected: Whole, folder: Path, rng: random.Random, row: Row, tell: Tell) -> None:
    """SIGTERM at a random moment of a command that has begun."""
    name, begun = "SIGTERM anywhere", (folder / "run/.lock").exists
    ended = _terminate(scene, folder, begun, lambda: rng.uniform(0, expected.seconds), name, row, tell)
    lines = re.findall(
        r"(?m)^stopped by SIGTERM(?: after step \d+, which is saved in|; what was saved stays)", ended.said
    )
    if ended.status != AGAIN or len(lines) != 1 or "Traceback" in ended.said:
        fault(row, tell, f"{name}: {ended.status} {ended.said[-1000:]}")
    compare(scene, expected, folder, Started(folder, scene.words).wait(), row, tell)


def _terminate(
    scene: Scene,
    folder: Path,
    ready: Callable[[], bool],
    later: Callable[[], float],
    name: str,
    row: Row,
    tell: Tell,
) -> Ended:
    """How a command ends that gets SIGTERM some seconds after it is `ready`; again, where it has ended before that."""
    for _ in range(TRIES):
        _fresh(scene.base, folder)
        child = Started(folder, scene.words)
        _until(child, ready)
        time.sleep(later())
        with contextlib.suppress(ProcessLookupError):
            child.kill(signal.SIGTERM)
        began = time.perf_counter()
        ended = child.wait()
        if ended.status:
            break
    row.counts["kills"] += 1
    row.end = max(row.end, took := time.perf_counter() - began)
    tell(f"{name}: {ended.status} after {took:.1f} s: {ended.said.splitlines()[-1:]}")
    if took > SLOWEST_STOP:
        fault(row, tell, f"{name}: {took:.0f} s")
    if child.left:
        fault(row, tell, f"{name}: a process is left")
    return ended


def doubled(scene: Scene, expected: Whole, folder: Path, row: Row, tell: Tell) -> None:
    """Two commands at once on one folder."""
    _fresh(scene.base, folder)
    lock = folder / ("run/.lock" if scene.words[0] == "train" else "collections/c/.lock")
    before = lock.read_text() if lock.exists() else ""
    first = Started(folder, scene.words)
    _until(first, lambda: lock.exists() and lock.read_text() not in ("", before))
    second = Started(folder, scene.words).wait()
    row.counts["kills"] += 1
    row.end = max(row.end, second.seconds)
    if second.status != 2 or f"in use by process {first.pid} on {socket.gethostname()}" not in second.said:
        fault(row, tell, f"two writers: {second.status} {second.said[-1000:]}")
    if second.seconds > SLOWEST_REFUSAL:
        fault(row, tell, f"two writers: refused after {second.seconds:.0f} s")
    compare(scene, expected, folder, first.wait(), row, tell)


def together(scene: Scene, folder: Path) -> list[Started]:
    """The scene as two processes of one run."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    words = f"--coordinator=localhost:{port}", "--num_processes=2"
    return [Started(folder, (*scene.words, *words, f"--process_id={process}")) for process in range(2)]


def bereaved(
    scene: Scene, expected: Whole, folder: Path, number: int, victim: int, rng: random.Random, row: Row, tell: Tell
) -> None:
    """One of two processes is killed or stopped."""
    for _ in range(TRIES):
        _fresh(scene.base, folder)
        both = together(scene, folder)
        lost, other = both[victim], both[1 - victim]
        _until(lost, lambda: (folder / "run/config.json").exists())
        time.sleep(rng.uniform(0, 2))
        with contextlib.suppress(ProcessLookupError):
            lost.kill(number)
        began = time.perf_counter()
        ended = other.wait()
        took = time.perf_counter() - began
        with contextlib.suppress(ProcessLookupError):
            lost.kill()
        if lost.wait().status == -signal.SIGKILL:
            break
    name = f"{signal.Signals(number).name} of process {victim}"
    tell(f"{name}: the other ended after {took:.1f} s: {ended.said.splitlines()[-1:]}")
    row.counts["kills"] += 1
    row.end = max(row.end, took)
    lines = [line for line in ended.said.splitlines() if re.search("error|rror:|Check failure|Traceback|    @ ", line)]
    wanted = f"error: process {victim} (pid {lost.pid} on {socket.gethostname()}) is lost"
    if ended.status != AGAIN or len(lines) != 1 or not lines[0].startswith(wanted) or "start all 2" not in lines[0]:
        fault(row, tell, f"{name}: {ended.status} {ended.said[-3000:]}")
    if took > SLOWEST_PEER:
        fault(row, tell, f"{name}: {took:.0f} s")
    main, second = together(scene, folder)
    ends = main.wait(), second.wait()
    if ends[1].status:
        fault(row, tell, f"{name}: the second process did not go on: {ends[1].said[-1000:]}")
    compare(scene, expected, folder, ends[0], row, tell)


def whole_together(scene: Scene, folder: Path) -> Whole:
    _fresh(scene.base, folder)
    for ended in [child.wait() for child in together(scene, folder)]:
        if ended.status:
            raise RuntimeError(f"two processes: {ended.status}\n{ended.said}")
    return Whole(in_child(partial(scene.contents, folder)), 0, {})


def _until(child: Started, reached: Callable[[], Any]) -> None:
    """Waits for what a command does on the way; it may end before."""
    late = time.perf_counter() + LONG
    while not reached() and time.perf_counter() < late:
        if os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(0.01)


# The table.


def rows_of_kills(counts: dict[str, int], peers: int, seed: int, tell: Tell) -> dict[str, Row]:
    """The table: so many kills of each kind of `scenes`, and rounds of what takes several processes."""
    rng, table = random.Random(seed), {}
    traced = shutil.which("strace") is not None
    if not traced:
        tell("NO STRACE HERE: kills at the beginning of a system call are left out, all strike at random moments")
    with _temporary() as root:
        found, long, pair = scenes(root)
        trial, wholes = root / "trial", {}
        for scene in found:
            if counts.get(scene.kind):
                expected = wholes[scene.kind] = whole(scene, trial, traced)
                row = table[scene.kind] = Row()
                tell(f"{scene.kind}: {expected.seconds:.1f} s, " + str({k: len(v) for k, v in expected.calls.items()}))
                while left := counts[scene.kind] - row.counts["kills"]:
                    killed(scene, expected, trial, min(left, 1 + (rng.random() < 0.25)), rng, row, tell)
        if not peers:
            return table
        alone = whole(long, trial, traced=False)
        table |= {name: Row() for name in ("SIGTERM", "SIGTERM, any", "two writers", "peer killed", "peer stopped")}
        (new,) = (scene for scene in found if scene.kind == "collection, new")
        (short,) = (scene for scene in found if scene.kind == "training")
        brief = wholes.get(short.kind) or whole(short, trial, traced=False)
        writers = [(long, alone), (new, wholes.get(new.kind) or whole(new, trial, traced=False))]
        both = whole_together(pair, trial)
        for number in range(peers):
            terminated(long, alone, trial, rng, table["SIGTERM"], tell)
            terminated_anywhere(short, brief, trial, rng, table["SIGTERM, any"], tell)
            doubled(*writers[number % 2], trial, table["two writers"], tell)
            bereaved(pair, both, trial, signal.SIGKILL, number % 2, rng, table["peer killed"], tell)
            bereaved(pair, both, trial, signal.SIGSTOP, (number + 1) % 2, rng, table["peer stopped"], tell)
    return table


def shared(kills: int) -> dict[str, int]:
    """How many kills of each kind, for so many of training."""
    parts = {"extraction": 0.4, "collection, new": 0.2, "collection, changed": 0.25, "collection, removal": 0.15}
    shares = {"training": 1.0} | parts | {"export": 0.2}
    return {kind: max(1, round(kills * share)) for kind, share in shares.items()}


def as_text(table: dict[str, Row]) -> str:
    """Markdown."""
    lines = [["command", *COLUMNS], *([kind, *row.cells()] for kind, row in table.items())]
    text = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([text[0], "|---" * len(lines[0]) + "|", *text[1:]])


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--kills", type=int, default=100)
    arguments.add_argument("--peers", type=int, default=5)
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    started = time.perf_counter()
    counts = shared(given.kills) if given.kills else {}
    table = rows_of_kills(counts, given.peers, given.seed, lambda line: print(line, file=sys.stderr, flush=True))
    print(f"`python benchmarks/faults/kills.py --kills={given.kills} --peers={given.peers} --seed={given.seed}`\n")
    print(as_text(table))
    if not shutil.which("strace"):
        print("\nWithout strace: no kills at the beginning of a system call.")
    print(f"\n{time.perf_counter() - started:.0f} s")
    return int(not all(row.is_clean for row in table.values()))


if __name__ == "__main__":
    sys.exit(main())
