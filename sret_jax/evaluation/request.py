"""What is to be measured: benchmarks by their names, and where their files are."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sret_jax.config import PROTOCOLS, Config
from sret_jax.config.names import BENCHMARKS as BENCHMARKS
from sret_jax.config.own_parts import own_names
from sret_jax.config.paths import listed_paths
from sret_jax.errors import UserError, choices

PIXEL = {"proxford": "roxford5k", "prparis": "rparis6k"}  # the same photographs, with the object's pixels
REVISITED = ("roxford5k", "rparis6k", "revisited", *PIXEL)  # "revisited": any folder with a ground truth like theirs
PUBLISHED = tuple(name for name in BENCHMARKS if name not in ("synthetic", "folder"))  # with files of their authors
MILLION = "1m"  # NAME+1m is NAME with the million of <root>/revisitop1m as distractors


@dataclass(frozen=True)
class Request:
    """What is given beside the benchmark's name; "" and () leave it to the config.

    `root` of "folder" may name several folders, separated by commas.
    """

    root: str = ""
    queries: str = ""
    gnd: str = ""
    distractors: Sequence[str] = ()
    protocol: str = ""
    masks: str = ""

    def completed(self, config: Config) -> "Request":
        """With the config's own settings where nothing else is given."""
        own = config.eval
        return dataclasses.replace(
            self,
            root=self.root or own.root,
            gnd=self.gnd or own.gnd,
            distractors=tuple(self.distractors or own.distractors),
            protocol=self.protocol or own.protocol,
        )


def known_benchmarks() -> tuple[str, ...]:
    """With those of one's own."""
    return *BENCHMARKS, *own_names("benchmark")


def plain_benchmark(benchmark: str) -> str:
    """NAME of NAME or NAME+1m. Raises `UserError`, with the choices, for anything else."""
    name, plus, suffix = benchmark.partition("+")
    if name not in known_benchmarks() or suffix != MILLION * bool(plus):
        raise UserError(f"no benchmark {choices(benchmark, known_benchmarks())}, or NAME+{MILLION} of one of them")
    return name


def check_benchmark(benchmark: str, request: Request) -> None:
    """Raises `UserError` for what is wrong before any work: an unknown benchmark, a folder that is not there."""
    name = plain_benchmark(benchmark)
    if request.protocol and request.protocol not in PROTOCOLS:
        raise UserError(f"no protocol {choices(request.protocol, PROTOCOLS)}")
    if request.protocol.startswith("compat") and name not in REVISITED:
        raise UserError(f"--protocol={request.protocol} goes with {', '.join(REVISITED)}")
    roots = listed_paths(request.root) if name == "folder" else [request.root]
    if name != "synthetic" and request.root and not all(Path(root).is_dir() for root in roots):
        missing = next(root for root in roots if not Path(root).is_dir())
        raise UserError(f"--root={missing}: no such folder; give a folder of photographs")
    if name != "synthetic" and request.queries and not Path(request.queries).exists():
        raise UserError(f"--queries={request.queries}: no such folder; give a folder of photographs, or a photograph")
    if request.masks and (name != "folder" or request.queries):
        raise UserError("--masks says where objects are in the photos of --benchmark=folder that ask for each other")
    if request.masks and not Path(request.masks).is_dir():
        raise UserError(f"--masks={request.masks}: no such folder; give one of <instance>/<photo>.png")
    for folder in request.distractors:
        if not Path(folder).exists():
            raise UserError(f"--distractors={folder}: no such folder; give a folder of photographs, at any depth")
        if name == "folder" and (root := next((root for root in filter(None, roots) if _holds(folder, root)), None)):
            raise UserError(
                f"--distractors={folder}: holds --root={root}, whose photographs would count as wrong answers; give a "
                "folder of others"
            )


def _holds(folder: str, root: str) -> bool:
    """Whether a folder is another one, or one above it."""
    place, inside = Path(folder).resolve(), Path(root).resolve()
    return inside == place or place in inside.parents


def resolved(benchmark: str, config: Config, request: Request) -> tuple[str, Request]:
    """`(NAME, request)` of NAME or NAME+1m: completed by the config, with the folder of the million.

    Raises `UserError` as `check_benchmark`, and where it is not said where files are.
    """
    request = request.completed(config)
    check_benchmark(benchmark, request)
    name = plain_benchmark(benchmark)
    if name == "revisited" and not request.gnd:
        raise UserError("benchmark 'revisited' needs its ground truth: give --gnd=FILE, a gnd_*.pkl or that as JSON")
    if (name in PUBLISHED or name != benchmark) and not request.root:
        raise UserError(f"benchmark {benchmark!r} needs photographs: give --root=DIR, the folder of its files")
    if name != benchmark:
        million = Path(request.root) / "revisitop1m"
        if not (million / "revisitop1m.txt").is_file():
            raise UserError(
                f"benchmark {benchmark!r}: no revisitop1m.txt in {million}; fetch it there with "
                f"`python -m sret_jax.datasets.downloads revisitop1m {million}`"
            )
        request = dataclasses.replace(request, distractors=(*request.distractors, str(million)))
    return name, request


def variant(benchmark: str, config: Config, request: Request) -> str:
    """The name of the folder of its results: whatever deviates from the benchmark has one of its own."""
    request = request.completed(config)
    parts = [request.protocol.removeprefix("compat:")] if request.protocol.startswith("compat:") else []
    parts += [stage.replace(":", "-") for stage in config.rerank.stages]
    parts += [Path(folder).resolve().name for folder in request.distractors]
    return "+".join([benchmark, *parts])
