"""The benchmarks by name: what is searched, what asks, and how the answers are judged."""

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from sret_jax.config import PROTOCOLS, Config
from sret_jax.data.folders import prepare_folder
from sret_jax.data.lists import check_listed, dataset_folder
from sret_jax.data.photo_set import PhotoSet, with_distractors
from sret_jax.datasets.downloads import image_version
from sret_jax.datasets.lookups import LISTS, LOOKUPS, million_list, prepare_million
from sret_jax.datasets.pixel_truth import PixelTruth, folder_truth, labelled_truth, masked_truth, paintings_truth
from sret_jax.datasets.revisited import list_revisited, prepare_revisited
from sret_jax.datasets.synthetic_views import prepare_synthetic
from sret_jax.errors import UserError
from sret_jax.evaluation.external.submissions import ranks_file, retrieval_csv
from sret_jax.evaluation.request import BENCHMARKS as BENCHMARKS
from sret_jax.evaluation.request import PIXEL, REVISITED, Request, resolved
from sret_jax.evaluation.scorers import (
    Ranked,
    Search,
    folder_protocol,
    lookup_protocol,
    query_protocol,
    revisited_protocol,
)

log = logging.getLogger(__name__)

KEPT = 100  # answers per query in rankings.csv

Files = dict[str, bytes]  # submissions, by file name
About = dict[str, str]  # for results.json, in words
Judge = Callable[
    [Search, np.ndarray], tuple[Ranked, Files, About]
]  # (search over all photos, what stands for each query)


@dataclass(frozen=True, eq=False)
class Benchmark:
    """Everything that a network is measured on.

    photos        searched, the benchmark's own
    distractors   searched as well
    everything    both, in this order: rows of the index
    queries       None: the photos ask for each other
    judge         scores a search
    searched, asked   in words
    folder        of its files; None where nothing is read
    pixels        where the relevant photos show what is asked for; None where nobody knows
    seconds       that it took to read and check all of it
    """

    photos: PhotoSet
    distractors: list[PhotoSet]
    everything: PhotoSet
    queries: PhotoSet | None
    judge: Judge
    searched: str
    asked: str = ""
    folder: Path | None = None
    pixels: PixelTruth | None = None
    seconds: float = 0.0

    @property
    def photographs(self) -> str:
        """Which version of its own photographs these are, in words, and what identifies them."""
        version = image_version(self.folder) if self.folder else "drawn by code"
        return f"{version}; fingerprint {self.photos.fingerprint}"


def open_benchmarks(
    benchmarks: Sequence[str], config: Config, request: Request, cache_dir: str | Path
) -> dict[str, Benchmark]:
    """`open_benchmark` for each. All their lists are compared with the disk first, so that a gap is found at once."""
    for benchmark in benchmarks:
        _check_files(*resolved(benchmark, config, request))
    return {benchmark: open_benchmark(benchmark, config, request, cache_dir) for benchmark in benchmarks}


def _check_files(benchmark: str, request: Request) -> None:
    for folder in request.distractors:
        if _is_million(folder):
            check_listed("revisitop1m", million_list(Path(folder)))
    if benchmark in REVISITED:
        name = PIXEL.get(benchmark, benchmark)
        check_listed(name, list_revisited(name, photo_root(benchmark, request.root), request.gnd)[2])
    for name, found in LISTS[benchmark](dataset_folder(request.root, benchmark)).items() if benchmark in LISTS else ():
        check_listed(name, found)


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
    start, asked_root = time.perf_counter(), request.root
    name, request = resolved(benchmark, config, request)
    distractors = [_distractors(folder, cache_dir) for folder in request.distractors]
    if len({part.name for part in distractors}) < len(distractors):
        raise UserError(f"--distractors={','.join(request.distractors)}: two folders of one name; rename one of them")
    if name in REVISITED:
        found = _revisited(name, config, request, distractors, cache_dir)
    elif name in LOOKUPS:
        found = _lookup(name, request, distractors, cache_dir)
    else:
        found = _labelled(name, config, request, asked_root, distractors, cache_dir)
    return dataclasses.replace(found, seconds=time.perf_counter() - start)


def photo_root(benchmark: str, root: str | Path) -> Path:
    """Below which `revisited` looks for the photographs: of PROxford they may be beside its labels."""
    root, own = Path(root), PIXEL.get(benchmark, benchmark)
    return root if (root / own).is_dir() else dataset_folder(root, benchmark)


def _label_root(benchmark: str, root: str | Path) -> Path:
    """The labels of PROxford have a folder of their own, are beside its photographs, or in `root` itself."""
    places = [dataset_folder(root, name) for name in (benchmark, PIXEL[benchmark])]
    there = (f for f in places if any(f.glob("*_pair2labelpath.npy")) or (f / "pixel_retrieval_benchmarks").is_dir())
    return next(there, Path(root))


def _is_million(folder: str) -> bool:
    return (Path(folder) / "revisitop1m.txt").is_file()


def _distractors(folder: str, cache_dir: str | Path) -> PhotoSet:
    if _is_million(folder):
        return prepare_million(Path(folder), cache_dir)
    return dataclasses.replace(prepare_folder(folder, cache_dir, labelled=False), name=Path(folder).resolve().name)


def _labelled(
    benchmark: str,
    config: Config,
    request: Request,
    asked_root: str,
    distractors: list[PhotoSet],
    cache_dir: str | Path,
) -> Benchmark:
    """Photographs with instances, which ask for each other or are asked for by a folder of queries."""
    photos, searched, folder = _photos(config, benchmark, asked_root, cache_dir)
    everything = with_distractors(photos, distractors)
    labels, instances = everything.labels, photos.instances
    if request.queries and benchmark == "folder":
        queries = _queries(request.queries, cache_dir)
        asked = partial(_query_judge, _labels_in(queries, photos), labels, instances)
        return Benchmark(photos, distractors, everything, queries, asked, searched, request.queries, folder)
    pixels = masked_truth(photos) if benchmark == "synthetic" else None
    pixels = folder_truth(Path(request.masks), photos) if request.masks else pixels
    judge = partial(_folder_judge, labels, instances)
    return Benchmark(photos, distractors, everything, None, judge, searched, folder=folder, pixels=pixels)


def _folder_judge(
    labels: np.ndarray, instances: list[str], search: Search, x: np.ndarray
) -> tuple[Ranked, Files, About]:
    ranked = folder_protocol(search, x, labels, instances, KEPT)
    return ranked, {}, {"ranked": _filled(ranked, f"all {len(labels)} photographs for every query")}


def _query_judge(
    query_labels: np.ndarray, labels: np.ndarray, instances: list[str], search: Search, x: np.ndarray
) -> tuple[Ranked, Files, About]:
    ranked = query_protocol(search, x, query_labels, labels, instances, KEPT)
    return ranked, {}, {"ranked": _filled(ranked, f"all {len(labels)} photographs for every query")}


def _filled(ranked: Ranked, words: str) -> str:
    """What was ranked, in words, and how much of it approximate search has not found."""
    if not ranked.empty:
        return words
    return (
        f"{words}, but approximate search left {ranked.empty} of {ranked.places} places empty: set search.method=exact"
    )


def _revisited(
    benchmark: str, config: Config, request: Request, distractors: list[PhotoSet], cache_dir: str | Path
) -> Benchmark:
    name, root = PIXEL.get(benchmark, benchmark), photo_root(benchmark, request.root)
    found = prepare_revisited(name, root, cache_dir, request.gnd)
    pixels = None
    if benchmark in PIXEL:
        pixels = labelled_truth(_label_root(benchmark, request.root), name, found.truth, found.photos)
    queries, asked = found.queries, f"the {len(found.queries)} of {name}, cut to their boxes"
    if request.protocol == "compat:uncropped":
        queries = dataclasses.replace(queries, boxes=None)
        asked = f"the {len(found.queries)} of {name}, not cut"
    everything = with_distractors(found.photos, distractors)
    depth = min(config.eval.ranked or len(everything), len(everything))

    def judge(search: Search, x: np.ndarray) -> tuple[Ranked, Files, About]:
        junk_first = request.protocol == "compat:junk-first"
        ranked, rankings = revisited_protocol(search, x, found.truth, depth, KEPT, junk_first)
        part = "all" if depth == len(everything) else f"the first {depth} of"
        about = {
            "protocol": PROTOCOLS[request.protocol],
            "compat": request.protocol if request.protocol.startswith("compat:") else "",
            "ground_truth": found.truth.version,
            "ranked": _filled(ranked, f"{part} {len(everything)} photographs for every query"),
        }
        return ranked, {"ranks.npy": ranks_file(rankings)}, about

    folder = dataset_folder(root, name)
    searched = " + ".join([str(folder), *request.distractors])
    return Benchmark(found.photos, distractors, everything, queries, judge, searched, asked, folder, pixels)


def _lookup(benchmark: str, request: Request, distractors: list[PhotoSet], cache_dir: str | Path) -> Benchmark:
    folder = dataset_folder(request.root, benchmark)
    found = LOOKUPS[benchmark](folder, cache_dir)
    everything = with_distractors(found.photos, distractors)

    def judge(search: Search, x: np.ndarray) -> tuple[Ranked, Files, About]:
        ranked = lookup_protocol(search, x, found, len(everything), KEPT)
        counted = min(found.depth or len(everything), len(everything))
        about = {"ranked": _filled(ranked, f"the first {counted} of {len(everything)} photographs count")}
        if benchmark != "gldv2":
            return ranked, {}, about
        answers = [[everything.names[i] for i in row[: found.depth] if i >= 0] for row in ranked.ids]
        return ranked, {"submission.csv": retrieval_csv(found.queries.names, answers)}, about

    searched = " + ".join([str(folder), *request.distractors])
    asked = f"the {len(found.queries)} of {benchmark}" + ("" if found.queries.boxes is None else ", cut to their boxes")
    pixels = paintings_truth(folder, found) if benchmark == "paintings" else None
    return Benchmark(found.photos, distractors, everything, found.queries, judge, searched, asked, folder, pixels)


def _photos(config: Config, benchmark: str, root: str, cache_dir: str | Path) -> tuple[PhotoSet, str, Path | None]:
    """The photographs of a benchmark, in words which they are, and their folder."""
    if benchmark == "synthetic":
        photos = prepare_synthetic(
            cache_dir,
            instances=config.eval.synthetic_instances,
            photos=config.eval.synthetic_photos,
            seed=config.data.synthetic_seed,
            split="test",
        )
        return photos, f"synthetic objects, seed {config.data.synthetic_seed}", None
    own = config.eval.root or config.data.root
    root = root or own
    if not root:
        raise UserError("benchmark 'folder' needs photographs: give --root=PATH, a folder of <instance>/<photo>")
    if config.data.splits and own and Path(root).resolve() == Path(own).resolve():
        photos = prepare_folder(root, cache_dir, splits=config.data.splits, split=config.eval.split)
        return photos, f"{root}, split {config.eval.split!r} of {config.data.splits}", Path(root)
    return prepare_folder(root, cache_dir), root, Path(root)


def _queries(folder: str, cache_dir: str | Path) -> PhotoSet:
    return prepare_folder(folder, cache_dir, labelled=any(child.is_dir() for child in Path(folder).iterdir()))


def _labels_in(queries: PhotoSet, photos: PhotoSet) -> np.ndarray:
    """The queries' labels as indices into the instances of the photos searched; -1 where it has no such instance."""
    number = {name: i for i, name in enumerate(photos.instances)}
    foreign = sorted(set(queries.instances) - set(number))
    if foreign:
        log.warning("%d query instances have no photo to find (%s, ...): not scored", len(foreign), foreign[0])
    return np.array([number.get(queries.instances[x], -1) if x >= 0 else -1 for x in queries.labels], np.int32)
