"""The benchmarks by name: the database, the queries, and what scores the answers."""

import dataclasses
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Int

from sret_jax.config import Config
from sret_jax.config.paths import listed_paths
from sret_jax.config.validation import check_values
from sret_jax.data.folders import folders_and_splits, is_sorted, prepare_folder, prepare_folders
from sret_jax.data.lists import check_listed, dataset_folder
from sret_jax.data.names import RowsByName, on_disk
from sret_jax.data.photo_set import PhotoSet, with_distractors
from sret_jax.data.regions import Region, cut_out
from sret_jax.datasets.downloads import image_version
from sret_jax.datasets.lookups import LISTS, LOOKUPS, Lookup, million_list, prepare_million
from sret_jax.datasets.pixel_truth import PixelTruth, folder_truth, labelled_truth, masked_truth, paintings_truth
from sret_jax.datasets.revisited import list_revisited, prepare_revisited
from sret_jax.datasets.synthetic_views import prepare_synthetic
from sret_jax.errors import UserError
from sret_jax.evaluation.request import BENCHMARKS as BENCHMARKS
from sret_jax.evaluation.request import PIXEL, REVISITED, Request, plain_benchmark, resolved
from sret_jax.evaluation.scorers import InstanceScorer, LookupScorer, RevisitedScorer, Scorer, junk_first
from sret_jax.reranking.answers import Answers

log = logging.getLogger(__name__)

USER_CACHE = Path("~/.cache/sret_jax/data")
Filter = Callable[[Answers], list[Answers]]  # what is re-ranked and scored of what was found, subset by subset


def everything(answers: Answers) -> list[Answers]:
    """The filter of a benchmark that takes all answers as they are."""
    return [answers]


@dataclass(frozen=True, eq=False)
class Benchmark:
    """Everything that a network is measured on.

    name          as it was opened: "roxford5k", "rparis6k+1m"
    photos        searched, the benchmark's own
    distractors   searched as well
    database      both, in this order
    queries       None: the photos are each other's queries
    scorer        makes one, which is told the answers and knows how good they are
    searched, queries_from   what the database and the queries are, in words
    request       what was opened: folders, protocol
    folder        of its files, the one that holds all where there are several; None where nothing is read
    pixels        where the relevant photos show what is searched for; None where they are not marked
    regions       of queries, by row: what of them is searched for instead of all
    filter        what of the answers is re-ranked and scored: all of them, or with "compat:junk-first" a part
    seconds       that it took to read and check all of it
    """

    name: str
    photos: PhotoSet
    distractors: list[PhotoSet]
    database: PhotoSet
    queries: PhotoSet | None
    scorer: Callable[[], Scorer]
    searched: str
    request: Request
    queries_from: str = ""
    folder: Path | None = None
    pixels: PixelTruth | None = None
    regions: Mapping[int, Region] = field(default_factory=dict)
    filter: Filter = everything
    seconds: float = 0.0

    @property
    def query_photos(self) -> PhotoSet:
        """The queries, or the photos themselves where they are each other's."""
        return self.queries or self.photos

    @property
    def described_queries(self) -> PhotoSet | None:
        """The queries, cut to what is described of their regions."""
        return None if self.queries is None else cut_out(self.queries, self.regions)

    @property
    def sets(self) -> dict[str, PhotoSet]:
        """Photos and distractors by the names of what is stored of them."""
        own = plain_benchmark(self.name)
        return {own: self.photos} | {f"distractors-{part.name}": part for part in self.distractors}

    @property
    def query_set(self) -> str:
        """The name of what is stored of the queries."""
        deviation = "+uncropped" if self.request.protocol == "compat:uncropped" else ""
        return f"{plain_benchmark(self.name)}{deviation}-queries"

    @property
    def database_name(self) -> str:
        """The name of what is stored of photos and distractors together."""
        named = len(self.distractors) - (
            self.name != plain_benchmark(self.name)
        )  # the million is in the name, and last
        return "+".join([self.name, *(part.name for part in self.distractors[:named])])

    @property
    def ground_truth_masks(self) -> PixelTruth:
        """Where objects are in its photographs. Raises `UserError` where there are none."""
        if self.pixels is None:
            raise UserError(f"no ground-truth masks for {self.searched}; choose a benchmark that has masks")
        return self.pixels

    @property
    def photographs(self) -> str:
        """Which version of its own photographs these are, in words, and what identifies them."""
        version = image_version(self.folder) if self.folder else "drawn by code"
        return f"{version}; fingerprint {self.photos.fingerprint}"


def open_benchmarks(
    benchmarks: Sequence[str], config: Config, request: Request, cache_dir: str | Path
) -> dict[str, Benchmark]:
    """`open_requested` for each. All their lists are compared with the disk first, so that a gap is found at once."""
    for benchmark in benchmarks:
        _check_files(*resolved(benchmark, config, request))
    return {benchmark: open_requested(benchmark, config, request, cache_dir) for benchmark in benchmarks}


def _check_files(benchmark: str, request: Request) -> None:
    for folder in request.distractors:
        if _is_million(folder):
            check_listed("revisitop1m", million_list(Path(folder)))
    if benchmark in REVISITED:
        name = PIXEL.get(benchmark, benchmark)
        check_listed(name, list_revisited(name, photo_root(benchmark, request.root), request.gnd)[2])
    for name, found in LISTS[benchmark](dataset_folder(request.root, benchmark)).items() if benchmark in LISTS else ():
        check_listed(name, found)


def open_benchmark(
    name: str,
    root: str | Path = "",
    *,
    queries: str | Path = "",
    gnd: str | Path = "",
    distractors: Sequence[str | Path] = (),
    protocol: str = "",
    masks: str | Path = "",
    config: Config | None = None,
    cache: str | Path = USER_CACHE,
) -> Benchmark:
    """The photographs of a benchmark, read and checked, and what scores the answers to its queries.

    Args:
      name: one of `BENCHMARKS` or of your own, or that and "+1m": with the million of `root`/revisitop1m too.
      root: the benchmark's folder, or one of several benchmarks' folders; of "folder" that of <instance>/<photo>, or
        several, separated by commas.
      queries: "folder": a folder of queries, or one photograph, instead of leave-one-out; `<instance>/<photo>` is
        scored, photographs without a folder are only ranked.
      gnd: benchmarks like "roxford5k": the ground truth file.
      distractors: folders whose photographs are searched as well, as wrong answers.
      protocol: "compat:uncropped" and "compat:junk-first" deviate from the benchmark as some published numbers do.
      masks: "folder": a folder of <instance>/<photo>.png, white where the object is, that localization is scored by.
      config: its `eval`, and the synthetic objects of `data`, fill what is not given here.
      cache: where prepared photographs are kept.

    Raises:
      UserError: names what is missing or wrong.
    """
    others = tuple(map(str, distractors))
    request = Request(str(root), str(queries), str(gnd), others, protocol, str(masks))
    return open_requested(name, config or Config(), request, Path(cache).expanduser())


def open_requested(name: str, config: Config, request: Request, cache_dir: str | Path) -> Benchmark:
    """`open_benchmark` of a request as the command line makes it."""
    start = time.perf_counter()
    check_values(config, to_train=False)
    plain, request = resolved(name, config, request)
    distractors = [_distractors(folder, cache_dir) for folder in request.distractors]
    if len({part.name for part in distractors}) < len(distractors):
        raise UserError(f"--distractors={','.join(request.distractors)}: two folders of one name; rename one of them")
    found = OPENERS[plain](plain, config, request, distractors, Path(cache_dir))
    for folder, part in zip(request.distractors, distractors, strict=True):
        if not _is_million(folder):  # published sets are searched as they are
            _check_others(folder, part, found.photos)
    return dataclasses.replace(found, name=name, seconds=time.perf_counter() - start)


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


def _check_others(folder: str, distractors: PhotoSet, photos: PhotoSet) -> None:
    """Raises `UserError` for photographs of the benchmark's own among distractors, as wrong answers."""
    own = set(photos.digests)
    shared = [name for name, digest in zip(distractors.names, distractors.digests, strict=True) if digest in own]
    if shared:
        raise UserError(
            f"--distractors={folder}: {len(shared)} of its photographs are the benchmark's own, such as {shared[0]!r}, "
            "and would count as wrong answers; take them out, or give another folder"
        )


def _labelled(
    benchmark: str, config: Config, request: Request, distractors: list[PhotoSet], cache_dir: Path
) -> Benchmark:
    """Photographs with instances, which are each other's queries or have a folder of queries."""
    queries = _queries(request.queries, cache_dir) if request.queries and benchmark == "folder" else None
    scored = queries is None or bool(queries.instances)
    photos, searched, folder = _photos(config, benchmark, request.root, cache_dir, scored)
    if queries is None:
        pixels = masked_truth(photos) if benchmark == "synthetic" else None
        pixels = folder_truth(Path(request.masks), photos) if request.masks else pixels
        return benchmark_of_instances(benchmark, photos, request, distractors, searched, folder, pixels)
    database = with_distractors(photos, distractors)
    labels, own = _labels_in(queries, photos), rows_of_content(queries.digests, database.digests)
    scorer = partial(InstanceScorer, database.labels, photos.instances, labels, own=own)
    return Benchmark(
        benchmark, photos, distractors, database, queries, scorer, searched, request, request.queries, folder
    )


def benchmark_of_instances(
    benchmark: str,
    photos: PhotoSet,
    request: Request,
    distractors: list[PhotoSet],
    searched: str,
    folder: Path | None,
    pixels: PixelTruth | None = None,
) -> Benchmark:
    """Photographs that are each other's queries: right answers are those of the same instance."""
    database = with_distractors(photos, distractors)
    scorer = partial(InstanceScorer, database.labels, photos.instances)
    return Benchmark(
        benchmark, photos, distractors, database, None, scorer, searched, request, folder=folder, pixels=pixels
    )


def _revisited(
    benchmark: str, config: Config, request: Request, distractors: list[PhotoSet], cache_dir: Path
) -> Benchmark:
    name, root = PIXEL.get(benchmark, benchmark), photo_root(benchmark, request.root)
    found = prepare_revisited(name, root, cache_dir, request.gnd)
    pixels = None
    if benchmark in PIXEL:
        pixels = labelled_truth(_label_root(benchmark, request.root), name, found.truth, found.photos)
    queries, queries_from = found.queries, f"the {len(found.queries)} of {name}, cut to their boxes"
    if request.protocol == "compat:uncropped":
        queries = dataclasses.replace(queries, boxes=None)
        queries_from = f"the {len(found.queries)} of {name}, not cut"
    database, folder = with_distractors(found.photos, distractors), dataset_folder(root, name)
    return Benchmark(
        benchmark,
        found.photos,
        distractors,
        database,
        queries,
        partial(RevisitedScorer, found.truth, len(database), config.eval.ranked),
        " + ".join([str(folder), *request.distractors]),
        request,
        queries_from,
        folder,
        pixels,
        filter=partial(junk_first, found.truth) if request.protocol == "compat:junk-first" else everything,
    )


def _lookup(
    benchmark: str, config: Config, request: Request, distractors: list[PhotoSet], cache_dir: Path
) -> Benchmark:
    folder = dataset_folder(request.root, benchmark)
    found = LOOKUPS[benchmark](folder, cache_dir)
    pixels = paintings_truth(folder, found) if benchmark == "paintings" else None
    return benchmark_of_lookup(benchmark, found, request, distractors, folder, pixels)


def benchmark_of_lookup(
    benchmark: str,
    found: Lookup,
    request: Request,
    distractors: list[PhotoSet],
    folder: Path,
    pixels: PixelTruth | None = None,
) -> Benchmark:
    """Queries with a list of right answers each."""
    database, cut = with_distractors(found.photos, distractors), found.queries.boxes is not None
    return Benchmark(
        benchmark,
        found.photos,
        distractors,
        database,
        found.queries,
        partial(LookupScorer, found, database.names, submission=benchmark == "gldv2"),
        " + ".join([str(folder), *request.distractors]),
        request,
        f"the {len(found.queries)} of {benchmark}" + (", cut to their boxes" if cut else ""),
        folder,
        pixels,
    )


# (name, config, request, distractors, cache) -> the benchmark; `sret_jax.register` adds to them.
Opener = Callable[[str, Config, Request, list[PhotoSet], Path], Benchmark]
OPENERS: dict[str, Opener] = {
    **dict.fromkeys(("synthetic", "folder"), _labelled),
    **dict.fromkeys(REVISITED, _revisited),
    **dict.fromkeys(LOOKUPS, _lookup),
}


def _photos(
    config: Config, benchmark: str, root: str, cache_dir: str | Path, scored: bool
) -> tuple[PhotoSet, str, Path | None]:
    """The photographs of a benchmark, in words which they are, and their folder.

    Where nothing is scored, they may lie at any depth.
    """
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
    places = [Path(folder).resolve() for folder in listed_paths(root)]
    folder = Path(root) if len(places) == 1 else Path(os.path.commonpath(places))
    if splits := _own_splits(places, own, config):
        photos = prepare_folders(root, cache_dir, splits=splits, split=config.eval.split)
        return photos, f"{root}, split {config.eval.split!r} of {splits}", folder
    labelled = scored or all(is_sorted(place) for place in places)
    return prepare_folders(root, cache_dir, labelled=labelled), root, folder


def _own_splits(places: Sequence[Path], own: str, config: Config) -> str:
    """The split files of those of these folders that are the config's own; "" where none is: all is searched."""
    known = {Path(folder).resolve() for folder in listed_paths(own)} if own else set()
    if not config.data.splits or not known & set(places):
        return ""
    field = "eval.root" if config.eval.root else "data.root"
    pairs = folders_and_splits(own, config.data.splits, field)
    files = {Path(folder).resolve(): file for folder, file in pairs.items()}
    found = [files.get(place, "") for place in places]
    return ",".join(found) if any(found) else ""


def _queries(folder: str, cache_dir: str | Path) -> PhotoSet:
    path = on_disk(Path(), folder)
    labelled = path.is_dir() and any(child.is_dir() for child in path.iterdir())
    return prepare_folder(path, cache_dir, labelled=labelled)


def rows_of_content(digests: Sequence[str], searched: Sequence[str]) -> Int[np.ndarray, "q m"]:
    """Rows of what is searched that have each digest, in order; -1 where there are fewer than of the most frequent."""
    rows: dict[str, list[int]] = {}
    for row, digest in enumerate(searched):
        rows.setdefault(digest, []).append(row)
    found = [rows.get(digest, []) for digest in digests]
    out = np.full((len(found), max([1, *map(len, found)])), -1)
    for line, own in zip(out, found, strict=True):
        line[: len(own)] = own
    return out


def _labels_in(queries: PhotoSet, photos: PhotoSet) -> np.ndarray:
    """The queries' labels as indices into the instances of the photos searched; -1 where it has no such instance."""
    number = RowsByName(photos.instances)
    foreign = sorted(name for name in queries.instances if name not in number)
    if foreign:
        log.warning("%d query instances have no photo to find (%s, ...): not scored", len(foreign), foreign[0])
    return np.array([number.get(queries.instances[x], -1) if x >= 0 else -1 for x in queries.labels], np.int32)
