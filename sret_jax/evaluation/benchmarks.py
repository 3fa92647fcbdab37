"""The benchmarks by name: what is searched, what asks, and how the answers are judged."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sret_jax.config import PROTOCOLS, Config
from sret_jax.data.ground_truth import read_ground_truth
from sret_jax.data.image_folder import prepare_folder
from sret_jax.data.lookups import LOOKUPS, gldv2_recognition_solution, gldv2_solution, prepare_million
from sret_jax.data.photo_set import PhotoSet, with_distractors
from sret_jax.data.pixel_truth import PixelTruth, folder_truth, labelled_truth, masked_truth, paintings_truth
from sret_jax.data.revisited import ground_truth_path, prepare_revisited
from sret_jax.data.synthetic_views import prepare_synthetic
from sret_jax.errors import UserError
from sret_jax.evaluation.metrics import gldv2_map_at_100, gldv2_micro_ap
from sret_jax.evaluation.protocols import (
    Ranked,
    Search,
    folder_protocol,
    lookup_protocol,
    query_protocol,
    revisited_metrics,
    revisited_protocol,
)
from sret_jax.evaluation.submissions import (
    is_recognition,
    ranks_file,
    read_ranks,
    read_recognition_csv,
    read_retrieval_csv,
    retrieval_csv,
)

log = logging.getLogger(__name__)

PIXEL = {"proxford": "roxford5k", "prparis": "rparis6k"}  # the same photographs, with the object's pixels
REVISITED = ("roxford5k", "rparis6k", "revisited", *PIXEL)  # "revisited": any folder with a ground truth like theirs
BENCHMARKS = ("synthetic", "folder", *REVISITED, *LOOKUPS)
RANKABLE = (*REVISITED, "gldv2")  # whose ground truth can be read without photographs
KEPT = 100  # answers per query in rankings.csv

Files = dict[str, bytes]  # submissions, by file name
About = dict[str, str]  # for results.json, in words
Judge = Callable[
    [Search, np.ndarray], tuple[Ranked, Files, About]
]  # (search over all photos, what stands for each query)


@dataclass(frozen=True)
class Request:
    """What is asked for beside the benchmark's name; "" and () leave it to the config."""

    root: str = ""
    queries: str = ""
    gnd: str = ""
    distractors: Sequence[str] = ()
    protocol: str = ""
    masks: str = ""

    def completed(self, config: Config) -> "Request":
        """With the config's own settings where nothing else is asked for."""
        own = config.eval
        return dataclasses.replace(
            self,
            root=self.root or own.root,
            gnd=self.gnd or own.gnd,
            distractors=tuple(self.distractors or own.distractors),
            protocol=self.protocol or own.protocol,
        )


@dataclass(frozen=True, eq=False)
class Benchmark:
    """Everything that a network is measured on.

    photos        searched, the benchmark's own
    distractors   searched as well
    everything    both, in this order: rows of the index
    queries       None: the photos ask for each other
    judge         scores a search
    searched, asked   in words
    pixels        where the relevant photos show what is asked for; None where nobody knows
    """

    photos: PhotoSet
    distractors: list[PhotoSet]
    everything: PhotoSet
    queries: PhotoSet | None
    judge: Judge
    searched: str
    asked: str = ""
    pixels: PixelTruth | None = None


def check_benchmark(benchmark: str, request: Request) -> None:
    """Raises `UserError` for what is wrong before any work: an unknown benchmark, a folder that is not there."""
    if benchmark not in BENCHMARKS:
        raise UserError(f"no benchmark {benchmark!r}; choose one of {', '.join(BENCHMARKS)}")
    if request.protocol and request.protocol not in PROTOCOLS:
        raise UserError(f"no protocol {request.protocol!r}; choose one of {', '.join(PROTOCOLS)}")
    if request.protocol.startswith("compat") and benchmark not in REVISITED:
        raise UserError(f"--protocol={request.protocol} goes with {', '.join(REVISITED)}")
    for flag, folder in (("root", request.root), ("queries", request.queries)):
        if benchmark != "synthetic" and folder and not Path(folder).is_dir():
            raise UserError(f"--{flag}={folder}: no such folder; give a folder of photographs")
    if request.masks and (benchmark != "folder" or request.queries):
        raise UserError("--masks says where objects are in the photos of --benchmark=folder that ask for each other")
    if request.masks and not Path(request.masks).is_dir():
        raise UserError(f"--masks={request.masks}: no such folder; give one of <instance>/<photo>.png")
    for folder in request.distractors:
        if not Path(folder).is_dir():
            raise UserError(f"--distractors={folder}: no such folder; give a folder of photographs, at any depth")


def open_benchmark(benchmark: str, config: Config, request: Request, cache_dir: str | Path) -> Benchmark:
    """The photographs of a benchmark, read and checked, and what judges a search of them.

    Args:
      benchmark: one of `BENCHMARKS`.
      config: `eval`, and the synthetic objects of `data`.
      request: what differs from the config.
      cache_dir: where prepared photographs are kept.

    Raises:
      UserError: names what is missing or wrong.
    """
    asked_root = request.root
    request = request.completed(config)
    check_benchmark(benchmark, request)
    if benchmark == "revisited" and not request.gnd:
        raise UserError("benchmark 'revisited' needs its ground truth: give --gnd=FILE, a gnd_*.pkl or that as JSON")
    distractors = [_distractors(Path(folder), cache_dir) for folder in request.distractors]
    if len({part.name for part in distractors}) < len(distractors):
        raise UserError(f"--distractors={','.join(request.distractors)}: two folders of one name; rename one of them")
    if benchmark in (*REVISITED, *LOOKUPS) and not request.root:
        raise UserError(f"benchmark {benchmark!r} needs photographs: give --root=DIR, the folder of its files")
    if benchmark in REVISITED:
        return _revisited(benchmark, config, request, distractors, cache_dir)
    if benchmark in LOOKUPS:
        return _lookup(benchmark, request, distractors, cache_dir)
    photos, searched = _photos(config, benchmark, asked_root, cache_dir)
    everything = with_distractors(photos, distractors)
    labels, instances = everything.labels, photos.instances
    if request.queries and benchmark == "folder":
        queries = _queries(request.queries, cache_dir)
        asked = partial(_query_judge, _labels_in(queries, photos), labels, instances)
        return Benchmark(photos, distractors, everything, queries, asked, searched, request.queries)
    pixels = masked_truth(photos) if benchmark == "synthetic" else None
    pixels = folder_truth(Path(request.masks), photos) if request.masks else pixels
    judge = partial(_folder_judge, labels, instances)
    return Benchmark(photos, distractors, everything, None, judge, searched, pixels=pixels)


def judge_rankings(benchmark: str, file: Path, request: Request) -> tuple[dict[str, Any], dict[str, str], int]:
    """`(metrics, more for results.json, distractors ranked)` of rankings in a file; photographs are not needed."""
    if benchmark not in RANKABLE:
        raise UserError(f"rankings in a file can be scored on {', '.join(RANKABLE)}, not on {benchmark!r}")
    if request.protocol not in ("", "standard"):
        raise UserError("--protocol says how a network is asked; rankings in a file were made already")
    if benchmark == "gldv2":
        return *_judge_gldv2(file, Path(request.root)), 0
    truth = read_ground_truth(request.gnd or ground_truth_path(Path(request.root), PIXEL.get(benchmark, benchmark)))
    rankings = read_ranks(file, len(truth.queries), len(truth.photos))
    metrics = revisited_metrics(dict.fromkeys(("easy", "medium", "hard"), rankings), truth)
    distractors = max(0, int(rankings.max()) + 1 - len(truth.photos))
    missing = int((~np.isin(np.arange(len(truth.photos)), rankings)).sum())
    depth = f"{rankings.shape[1]} photographs for every query, of {len(truth.photos)} and {distractors} distractors"
    if missing:
        depth += f"; {missing} of the benchmark's photographs are in no ranking and count as never found"
    return metrics, {"ground_truth": truth.version, "ranked": depth}, distractors


def _judge_gldv2(file: Path, root: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The columns of the file say which challenge it answers: retrieval `id,images` or recognition `id,landmarks`."""
    if is_recognition(file):
        solution, name, metric = gldv2_recognition_solution(root), "µAP", gldv2_micro_ap
        answers: Any = read_recognition_csv(file, solution)
    else:
        solution, name, metric = gldv2_solution(root), "mAP@100", gldv2_map_at_100
        answers = read_retrieval_csv(file, solution)
    metrics: dict[str, Any] = {}
    for group in ("", *sorted({usage for _, usage in solution.values()})):
        part = {query: right for query, (right, usage) in solution.items() if group in ("", usage)}
        found = {query: answers[query] for query in part if query in answers}
        metrics[f"{name} {group}".rstrip()] = 100 * metric(found, part)
    ranked = f"{len(answers)} of {len(solution)} queries are answered"
    ranked += "; the others count as zero" if len(answers) < len(solution) and name == "mAP@100" else ""
    return metrics | {"queries": len(solution)}, {"ranked": ranked}


def _distractors(folder: Path, cache_dir: str | Path) -> PhotoSet:
    if (folder / "revisitop1m.txt").is_file():
        return prepare_million(folder, cache_dir)
    return dataclasses.replace(prepare_folder(folder, cache_dir, labelled=False), name=folder.resolve().name)


def _folder_judge(
    labels: np.ndarray, instances: list[str], search: Search, x: np.ndarray
) -> tuple[Ranked, Files, About]:
    return folder_protocol(search, x, labels, instances, KEPT), {}, {}


def _query_judge(
    query_labels: np.ndarray, labels: np.ndarray, instances: list[str], search: Search, x: np.ndarray
) -> tuple[Ranked, Files, About]:
    return query_protocol(search, x, query_labels, labels, instances, KEPT), {}, {}


def _revisited(
    benchmark: str, config: Config, request: Request, distractors: list[PhotoSet], cache_dir: str | Path
) -> Benchmark:
    if not request.root:
        raise UserError(
            f"benchmark {benchmark!r} needs photographs: give --root=DIR, a folder of jpg/ and its gnd file"
        )
    labels = benchmark in PIXEL
    benchmark = PIXEL.get(benchmark, benchmark)
    found = prepare_revisited(benchmark, request.root, cache_dir, request.gnd)
    pixels = labelled_truth(Path(request.root), benchmark, found.truth, found.photos) if labels else None
    queries, asked = found.queries, f"the {len(found.queries)} of {benchmark}, cut to their boxes"
    if request.protocol == "compat:uncropped":
        queries = dataclasses.replace(queries, boxes=None)
        asked = f"the {len(found.queries)} of {benchmark}, not cut"
    everything = with_distractors(found.photos, distractors)
    depth = min(config.eval.ranked or len(everything), len(everything))

    def judge(search: Search, x: np.ndarray) -> tuple[Ranked, Files, About]:
        junk_first = request.protocol == "compat:junk-first"
        ranked, rankings = revisited_protocol(search, x, found.truth, depth, KEPT, junk_first)
        part = "all" if depth == len(everything) else f"the first {depth} of"
        words = f"{part} {len(everything)} photographs for every query"
        if not junk_first and (missing := int((rankings < 0).sum())):
            words += f", but approximate search left {missing} of {rankings.size} places empty: set search.method=exact"
        about = {"protocol": PROTOCOLS[request.protocol], "ground_truth": found.truth.version, "ranked": words}
        return ranked, {"ranks.npy": ranks_file(rankings)}, about

    searched = " + ".join([request.root, *request.distractors])
    return Benchmark(found.photos, distractors, everything, queries, judge, searched, asked, pixels)


def _lookup(benchmark: str, request: Request, distractors: list[PhotoSet], cache_dir: str | Path) -> Benchmark:
    found = LOOKUPS[benchmark](Path(request.root), cache_dir)
    everything = with_distractors(found.photos, distractors)

    def judge(search: Search, x: np.ndarray) -> tuple[Ranked, Files, About]:
        ranked = lookup_protocol(search, x, found, len(everything), KEPT)
        counted = min(found.depth or len(everything), len(everything))
        about = {"ranked": f"the first {counted} of {len(everything)} photographs count"}
        if benchmark != "gldv2":
            return ranked, {}, about
        answers = [[everything.names[i] for i in row[: found.depth] if i >= 0] for row in ranked.ids]
        return ranked, {"submission.csv": retrieval_csv(found.queries.names, answers)}, about

    searched = " + ".join([request.root, *request.distractors])
    asked = f"the {len(found.queries)} of {benchmark}" + ("" if found.queries.boxes is None else ", cut to their boxes")
    pixels = paintings_truth(Path(request.root), found) if benchmark == "paintings" else None
    return Benchmark(found.photos, distractors, everything, found.queries, judge, searched, asked, pixels)


def _photos(config: Config, benchmark: str, root: str, cache_dir: str | Path) -> tuple[PhotoSet, str]:
    """The photographs of a benchmark and, in words, which they are."""
    if benchmark == "synthetic":
        photos = prepare_synthetic(
            cache_dir,
            instances=config.eval.synthetic_instances,
            photos=config.eval.synthetic_photos,
            seed=config.data.synthetic_seed,
            split="test",
        )
        return photos, f"synthetic objects, seed {config.data.synthetic_seed}"
    own = config.eval.root or config.data.root
    root = root or own
    if not root:
        raise UserError("benchmark 'folder' needs photographs: give --root=PATH, a folder of <instance>/<photo>")
    if config.data.splits and own and Path(root).resolve() == Path(own).resolve():
        photos = prepare_folder(root, cache_dir, splits=config.data.splits, split=config.eval.split)
        return photos, f"{root}, split {config.eval.split!r} of {config.data.splits}"
    return prepare_folder(root, cache_dir), root


def _queries(folder: str, cache_dir: str | Path) -> PhotoSet:
    return prepare_folder(folder, cache_dir, labelled=any(child.is_dir() for child in Path(folder).iterdir()))


def _labels_in(queries: PhotoSet, photos: PhotoSet) -> np.ndarray:
    """The queries' labels as indices into the instances of the photos searched; -1 where it has no such instance."""
    number = {name: i for i, name in enumerate(photos.instances)}
    foreign = sorted(set(queries.instances) - set(number))
    if foreign:
        log.warning("%d query instances have no photo to find (%s, ...): not scored", len(foreign), foreign[0])
    return np.array([number.get(queries.instances[x], -1) if x >= 0 else -1 for x in queries.labels], np.int32)
