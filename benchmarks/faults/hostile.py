"""Files of strangers, made to hurt, given to every loader: what is executed, crashes, hangs or takes gigabytes.

    python benchmarks/faults/hostile.py              all of them, a few minutes on two cores
    python benchmarks/faults/hostile.py --half       the shorter half, which is a test too
    python benchmarks/faults/hostile.py --only=marks.json --show

Each loader gets what no such file may be (a pipe, a device, a socket, a folder, holes), what is hostile to its format
(nesting, sizes that are only claimed, lists that share themselves, calls), wrong values in place of every value of a
sound file, and mutations of its bytes with a fixed seed. The loaders run in child processes, many files each; memory
is the peak of the resident set over what it was before the file. Seconds are the processor's, so that other programs do
not count, and those of one as fast as `PACE` says, so that neither a slow one does, nor one whose caches others use; a
file that is waited for is a hang. One that leaves a mark has been executed. The sound file has to be read: a reader
that takes nothing would be hurt by nothing, either. Needs Linux.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from hostile_files import MARK, SEED, hostile, mutations, not_files
from strangers import Loader, json_of, loaders

SECONDS, MEGABYTES = 5.0, 256
PACE = 30e6  # turns of an empty loop of Python in a second, of the processor whose seconds are meant
PATIENCE = 120  # seconds by the clock after which a child that says nothing is killed
ADDRESSES = 8 << 30  # bytes of address space that a child may map beside what it has


def write_cases(folder: Path, half: bool, only: str = "") -> list[dict[str, str]]:
    """Writes every file into a folder of its own; `[{loader, case, path}, ...]`."""
    found = []
    sys.setrecursionlimit(100_000)  # for what is nested; the processes that read it keep Python's own
    for n, (name, loader) in enumerate(loaders().items()):
        if only and only != name:
            continue
        cases = [*not_files(), *hostile(loader)]
        if half:
            cases = cases[n % 2 :: 2]
        cases += mutations(loader.sound, 3 if half else 10, SEED + n)
        for i, (case, content) in enumerate([("sound", loader.sound), *cases]):
            place = folder / f"{n}-{i}"
            place.mkdir()
            for other, data in loader.beside.items():
                (place / other).write_bytes(data)
            path = place / loader.file
            path.unlink(missing_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                content(path)
            if loader.seal:
                seal(place)
            found.append({"loader": name, "case": case, "path": str(path)})
    return found


def seal(folder: Path) -> None:
    """A manifest that fits, as who means harm writes one."""
    from sret_jax.storage.artifacts import file_digest

    files = {
        path.name: {"size": path.stat().st_size, "sha256": file_digest(path) if path.stat().st_size < 1 << 28 else ""}
        for path in folder.iterdir()
        if path.is_file()
    }
    (folder / "MANIFEST.json").write_bytes(json_of({"files": files}))


def memory(field: str) -> int:
    """Of this process, bytes: VmRSS now, VmHWM at most since the last reset, VmSize of its addresses."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(f"{field}:"))


def serve_child() -> None:
    """Reads cases as lines of JSON, and answers each with what became of it."""
    from sret_jax.errors import UserError

    known = loaders()
    ready: set[str] = set()
    os.chdir(os.environ["HOSTILE_PLACE"])  # the mark is left where the process stands
    most = memory("VmSize") + ADDRESSES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    for line in sys.stdin:
        case = json.loads(line)
        loader = known[case["loader"]]
        if case["loader"] not in ready and case["case"] != "sound":  # what it imports is not the file's
            ready.add(case["loader"])
            with tempfile.TemporaryDirectory() as place:
                warm(loader, Path(place))
        Path("/proc/self/clear_refs").write_text("5")
        before, start = memory("VmRSS"), time.process_time()
        try:
            loader.call(Path(case["path"]))
            outcome, text = "read", ""
        except UserError as error:
            text = str(error)
            outcome = "refused" if "\n" not in text and len(text) < 5000 else "not one line"
        except Exception as error:
            if type(error).__name__ == "Refused":  # by the server, with a status
                outcome, text = "refused", str(error)
            else:
                outcome, text = "traceback", traceback.format_exc()[-1500:]
        seconds = (time.process_time() - start) * min(1.0, pace() / PACE)
        answer = {"outcome": outcome, "text": text[:1500], "seconds": seconds}
        answer["bytes"] = max(0, memory("VmHWM") - before)
        print(json.dumps(answer), flush=True)


def pace() -> float:
    """Turns in a second of this processor, as it is now: others that share its caches slow it down."""
    start, turns = time.process_time(), 100_000
    total = 0
    for turn in range(turns):
        total += turn
    return turns / (time.process_time() - start)


def warm(loader: Loader, place: Path) -> None:
    """Reads the sound file, so that what is imported for it is not counted; whatever it raises ends the process."""
    for name, data in {**loader.beside, loader.file: loader.sound}.items():
        (place / name).write_bytes(data)
    if loader.seal:
        seal(place)
    loader.call(place / loader.file)


class Child:
    """A process that loads files, one after the other."""

    def __init__(self, place: Path):
        self.errors = open(place / "stderr.txt", "ab")  # noqa: SIM115 - as long as the process
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=os.environ | {"HOSTILE_PLACE": str(place), "JAX_PLATFORMS": "cpu"},
        )

    def load(self, case: dict[str, str]) -> dict[str, Any]:
        import select

        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json_of(case) + b"\n")
        self.process.stdin.flush()
        if not select.select([self.process.stdout], [], [], PATIENCE)[0]:
            self.end()
            return {"outcome": "hang", "text": "", "seconds": float(PATIENCE), "bytes": 0}
        line = self.process.stdout.readline()
        if not line:
            self.end()
            return {"outcome": "crash", "text": f"exit {self.process.returncode}", "seconds": 0.0, "bytes": 0}
        return dict(json.loads(line))

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.errors.close()


def measure(folder: Path, half: bool, only: str = "", show: bool = False) -> list[dict[str, Any]]:
    """Every case with its outcome, seconds and bytes; those that fell short are printed, or all."""
    cases = write_cases(folder, half, only)
    place = folder / "place"
    place.mkdir()
    results, child = [], None
    for case in cases:
        if child is None:
            child = Child(place)
            child.load(cases[0])  # the start of the process is not the file's time
        result = case | child.load(case)
        if child.process.poll() is not None:
            child = None
        result["executed"] = (place / MARK).exists()
        (place / MARK).unlink(missing_ok=True)
        results.append(result)
        if show or fell_short(result):
            size = f"{result['seconds']:.2f} s, {result['bytes'] / 2**20:.0f} MB"
            print(f"{case['loader']}: {case['case']}: {result['outcome']} ({size}) {result['text']}", flush=True)
    if child:
        child.end()
    return results


def table(results: list[dict[str, Any]]) -> tuple[str, int]:
    """In Markdown, and how many files fell short."""
    heads = [
        "loader",
        "files",
        "read",
        "sound ones refused",
        "executed",
        "tracebacks",
        f"over {SECONDS:g} s",
        f"over {MEGABYTES} MB",
    ]
    heads += ["slowest, s", "most, MB"]
    names = list(dict.fromkeys(one["loader"] for one in results))
    rows, short = [], 0
    for name in [*names, "all"]:
        own = [one for one in results if name in ("all", one["loader"])]
        counts = [
            sum(refused_sound(one) for one in own),
            sum(one["executed"] for one in own),
            sum(one["outcome"] not in ("read", "refused", "hang") for one in own),
            sum(one["seconds"] > SECONDS for one in own),
            sum(one["bytes"] > MEGABYTES << 20 for one in own),
        ]
        short = sum(counts)
        read = sum(one["outcome"] == "read" for one in own)
        most = [f"{max(one['seconds'] for one in own):.1f}", f"{max(one['bytes'] for one in own) / 2**20:.0f}"]
        rows.append([name, len(own), read, *counts, *most])
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in [heads, ["---"] * len(heads), *rows]]
    return "\n".join(lines), short


def refused_sound(one: dict[str, Any]) -> bool:
    """A reader that takes nothing is not hurt by anything, either."""
    return bool(one["case"] == "sound" and one["outcome"] != "read")


def fell_short(one: dict[str, Any]) -> bool:
    bad = one["executed"] or one["outcome"] not in ("read", "refused") or refused_sound(one)
    return bool(bad or one["seconds"] > SECONDS or one["bytes"] > MEGABYTES << 20)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--half", action="store_true", help="every second hostile file, and fewer mutations")
    parser.add_argument("--only", default="", help="one loader")
    parser.add_argument("--show", action="store_true", help="what became of every file")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        serve_child()
        return 0
    folder = Path(tempfile.mkdtemp(prefix="hostile-"))
    try:
        results = measure(folder, given.half, given.only, given.show)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    text, short = table(results)
    print(text)
    return int(short > 0)


if __name__ == "__main__":
    sys.exit(main())
