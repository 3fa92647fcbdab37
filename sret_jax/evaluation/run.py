"""One retriever measured on one benchmark, in the order in which things happen: describe, index, search, re-rank,
localize, score, and what is left on disk about it."""

import csv
import dataclasses
import io
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from sret_jax.config import PROTOCOLS, Config, to_dict
from sret_jax.data.folders import prepare_folder
from sret_jax.data.photo_set import PhotoSet
from sret_jax.evaluation.anchors import published
from sret_jax.evaluation.benchmark import Benchmark
from sret_jax.evaluation.calibration import calibration
from sret_jax.evaluation.localization import LocalizationScorer, marked_answers
from sret_jax.evaluation.report.page import choose_photos, write_report
from sret_jax.evaluation.request import REVISITED, plain_benchmark
from sret_jax.evaluation.results import Results, read_results
from sret_jax.evaluation.scorers import Scores
from sret_jax.extraction.descriptors import Extraction
from sret_jax.extraction.local_features import FeatureSource, StoredLocal, open_source, store_local
from sret_jax.localization.localizer import Localizer
from sret_jax.localization.methods import check_methods
from sret_jax.localization.region_file import read_regions
from sret_jax.reranking.answers import Answers, Context, PhotoFeatures
from sret_jax.reranking.chain import Chain, parse_rerankers, uses_descriptors
from sret_jax.retrieval.asmk_search import AsmkIndex, open_codebook, open_inverted_file
from sret_jax.retrieval.exact import normalized
from sret_jax.retrieval.index import Index, content_fingerprint
from sret_jax.retrieval.recall import index_recall
from sret_jax.retriever import Retriever
from sret_jax.storage.artifacts import open_or_build, write_file, write_json
from sret_jax.storage.row_store import joined
from sret_jax.storage.workdir import UNTRAINED, Workdir

log = logging.getLogger(__name__)

QUERIES_AT_ONCE = 256  # a full ranking of so many queries is held at once
Search = Callable[[Int[np.ndarray, "q"], int], Answers]  # (rows of queries, answers of each)


class Timings:
    """Seconds by name of what was done. What is done several times adds up, and what is timed inside something else is
    taken off it: every second counts once."""

    def __init__(self, **known: float):
        self._seconds, self._inner = dict(known), [0.0]

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        self._inner.append(0.0)
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            own = seconds - self._inner.pop()
            self._inner[-1] += seconds
            self._seconds[name] = self._seconds.get(name, 0.0) + own

    @property
    def seconds(self) -> dict[str, float]:
        return {name: round(value, 4) for name, value in self._seconds.items()}


def evaluate(
    retriever: Retriever,
    benchmark: Benchmark,
    out: str | Path,
    *,
    workdir: Workdir | str | Path | None = None,
    regions: str | Path = "",
    anchors: bool = False,
) -> Results:
    """Measures a retriever, and writes to `out`:

        results.json    what is returned
        rankings.csv    the first 100 answers of every query
        queries.csv     the average precision of every query, percent
        report.html     the same with pictures, in one file; strip.png is a picture of a few answers, and located.png
                        of where in them the object is
        skipped.json    the files that could not be used, each with the reason
        ranks.npy       benchmarks like "roxford5k": the whole rankings, as revisitop's evaluator reads them
        marks-NAME.npy  "proxford", "prparis": what each method of localization marks, as their evaluator reads it

    Args:
      retriever: its config's `search`, `rerank`, `localize` and `eval` say how; `dataclasses.replace` changes them.
      benchmark: what `open_benchmark` returned.
      out: folder of the results.
      workdir: descriptors, index, local features and maps are kept there, and used again when they are of the same
        network and photographs. By default `out` itself.
      regions: "folder" with queries: what of them is searched for, see `localization.region_file`. What is marked for
        queries from a folder is shown, not measured.
      anchors: published numbers beside these.

    Descriptors, n * d * 4 bytes (2 GB for a million of 512), are in memory twice while the index is made of them, as
    they were extracted and normalised, and once before and after; a set of one chunk is mapped from its store instead.
    ScaNN holds its own copy beside that. ASMK without a re-ranker that needs them describes nothing globally.

    Raises:
      UserError: a method that does not exist, a benchmark without masks to localize in, regions that are none, or
        nothing to measure.
    """
    out, config = Path(out), retriever.config
    place = workdir if isinstance(workdir, Workdir) else Workdir(Path(workdir or out))
    scorer, first, reranked = benchmark.scorer(), benchmark.scorer(), benchmark.scorer()
    check_methods(config.localize.methods)
    rerankers = parse_rerankers(config.rerank.stages)
    truth = benchmark.ground_truth_masks if config.localize.methods and not benchmark.request.queries else None
    query_regions = read_regions(regions, benchmark.queries) if regions and benchmark.queries else {}
    timings = Timings(prepare=benchmark.seconds)
    skipped = benchmark.database.skipped + (benchmark.queries.skipped if benchmark.queries else [])
    write_json(_made(out) / "skipped.json", [{"photo": photo, "reason": reason} for photo, reason in skipped])

    features = Features(retriever, benchmark, place, timings)
    index, search = (_asmk if config.search.method == "asmk" else _vector_index)(features)
    chain = localizer = None
    if rerankers:
        if uses_descriptors(rerankers):
            features.describe()
        with timings("prepare re-ranking"):
            chain = Chain(rerankers, Context(features.queries, features.database, config, place.reranking))
    localization = None
    if config.localize.methods:
        sides = features.queries, features.database
        maps = place.maps(plain_benchmark(benchmark.name), config.localize.source)
        localizer = Localizer(retriever, benchmark.query_photos, benchmark.photos, sides, maps, query_regions)
        localization = LocalizationScorer(localizer, truth, scorer.depth) if truth else None

    places = empty = 0
    for queries in _batches(scorer.queries):
        with timings("search"):
            found = search(queries, scorer.depth)
        places, empty = places + found.ids.size, empty + int((found.ids < 0).sum())
        for answers in benchmark.filter(found):
            with timings("score"):
                first.add(answers)
            if chain:
                with timings("re-rank"):
                    answers = chain(answers)
                with timings("score"):
                    reranked.add(answers)
            if localization:
                localization.add(answers)

    with timings("score"):
        before = first.result()
        scores = reranked.result() if chain else before
    files = dict(scores.files)
    located: dict[str, Any] = {}
    if localization:
        with timings("localize"):
            located, marks = localization.result()
        files |= marks
    marked = []
    if localizer:
        with timings("localize"):
            marked = marked_answers(localizer, benchmark.pixels, scores)

    recall: dict[str, float] = {}
    if isinstance(index, Index):
        recall = index_recall(index, features.queries.descriptors, scorer.depth)
    about: dict[str, Any] = _about_protocol(benchmark) | scores.about
    about["ranked"] += _about_gaps(places, empty)
    distractors = {part.name: len(part) for part in benchmark.distractors}
    protocol, plain = benchmark.request.protocol, plain_benchmark(benchmark.name)
    results = Results(
        benchmark=benchmark.name,
        metrics=scores.metrics,
        timings=timings.seconds,
        images_per_second=round(_speed(features.extractions), 2),
        extracted=sum(part.photos for part in features.extractions),
        photos=len(benchmark.database),
        instances=len(benchmark.database.instances),
        skipped=len(skipped),
        searched=benchmark.searched,
        queries_from=benchmark.queries_from,
        index=index.description,
        index_recall=recall,
        rerank=_about_reranking(chain, before, scores) if chain else {},
        localization=located,
        dim=index.dim,
        fingerprint=features.extractions[0].fingerprint if features.extractions else index.fingerprint,
        photo_fingerprint=benchmark.database.fingerprint,
        photographs=benchmark.photographs,
        distractors=distractors,
        **about,
        anchors=published(plain, sum(distractors.values()), protocol) if anchors else [],
        config=to_dict(config),
    )
    results.before_training = _before_training(out, results)
    with timings("report"):
        write_file(out / "rankings.csv", _rankings(scores, benchmark))
        write_file(out / "queries.csv", _average_precisions(scores, benchmark))
        for file, data in files.items():
            write_file(out / file, data)
        shown = choose_photos(scores, benchmark.query_photos)
        intermediates = retriever.intermediates(benchmark.query_photos, shown) if shown else {}
        write_report(out, results, scores, benchmark, intermediates, marked)
    results.timings = timings.seconds
    results.write(out)
    return results


class Features:
    """What is extracted of a benchmark's queries and database, kept in a workdir, and the time that it takes.

    Attributes:
      queries, database: for re-ranking and localization; one object where the photographs are each other's queries.
      extractions: of the sets of the database that were described.
    """

    def __init__(self, retriever: Retriever, benchmark: Benchmark, place: Workdir, timings: Timings):
        self.retriever, self.benchmark, self.place, self.timings = retriever, benchmark, place, timings
        self.extractions: list[Extraction] = []
        self._sources: dict[str, FeatureSource] = {}
        source = retriever.config.local.source
        self.database = PhotoFeatures(
            lambda: self.unit_descriptors, benchmark.database.regions, partial(self.local, benchmark.sets, source)
        )
        self.queries = self.database
        if benchmark.queries is not None:
            own = partial(self.local, self.query_sets, source)
            self.queries = PhotoFeatures(lambda: self.query_descriptors, benchmark.queries.regions, own)

    @property
    def query_sets(self) -> dict[str, PhotoSet]:
        """The queries by the name of what is stored of them, or the photographs that are each other's."""
        benchmark = self.benchmark
        return benchmark.sets if benchmark.queries is None else {benchmark.query_set: benchmark.queries}

    def describe(self) -> None:
        """Describes the database and the queries, where that has not been done."""
        _ = self.unit_descriptors, self.query_descriptors

    def extract(self) -> Float[np.ndarray, "n d"]:
        """Descriptors of the database as they were extracted; not kept, for those of unit length are."""
        with self.timings("extract"):
            for name, photos in self.benchmark.sets.items():
                self.extractions.append(self.retriever.extract(photos, self.place.descriptors(name)))
        return joined([chunk for part in self.extractions for chunk in part.chunks])

    @cached_property
    def unit_descriptors(self) -> Float[np.ndarray, "n d"]:
        return normalized(self.extract(), self.benchmark.database.names)

    @cached_property
    def query_descriptors(self) -> Float[np.ndarray, "q d"]:
        if self.benchmark.queries is None:
            return self.unit_descriptors
        with self.timings("extract queries"):
            folder = self.place.descriptors(self.benchmark.query_set)
            return self.retriever.extract(self.benchmark.queries, folder).descriptors

    def local(self, sets: Mapping[str, PhotoSet], kind: str) -> StoredLocal:
        """Local features of photo sets, of a kind that `config.local.source` names."""
        config = self.retriever.config
        config = dataclasses.replace(config, local=dataclasses.replace(config.local, source=kind))
        with self.timings("local features"):
            if kind not in self._sources:
                self._sources[kind] = open_source(self.retriever.extractor, self.benchmark.photos, config)
            folders = {name: self.place.local_features(name, kind) for name in sets}
            source = self._sources[kind]
            return StoredLocal([store_local(source, part, config, folders[name]) for name, part in sets.items()])


def _vector_index(features: Features) -> tuple[Index, Search]:
    """An index over the descriptors of the database, and the search by those of the queries."""
    names, config = features.benchmark.database.names, features.retriever.config.search
    descriptors = features.extract()
    _ = features.benchmark.queries and features.query_descriptors
    folder = features.place.index(features.benchmark.database_name)

    def build() -> Index:
        index = Index.build(descriptors, names, config)
        index.save(folder)
        return index

    with features.timings("index"):
        index = open_or_build(folder, content_fingerprint(descriptors, names, config), Index.load, build)
    features.unit_descriptors = index.descriptors  # what searches and what re-ranks is held once

    def search(rows: Int[np.ndarray, "q"], k: int) -> Answers:
        found = index.search(features.query_descriptors[rows], k)
        return Answers(rows, found.ids, found.scores)

    return index, search


def _asmk(features: Features) -> tuple[AsmkIndex, Search]:
    """An inverted file of the database's local features, and the search by those of the queries.

    Words are those of every benchmark that is measured in the workdir with the same photographs to learn them on.
    """
    config, benchmark, place = features.retriever.config, features.benchmark, features.place
    with features.timings("visual words"):
        codebook = open_codebook(features.retriever, codebook_photos(config, benchmark, place), place.codebook)
    local = features.local(benchmark.sets, "head")
    query_local = local if benchmark.queries is None else features.local(features.query_sets, "head")
    with features.timings("index"):
        folder = place.inverted_file(benchmark.database_name)
        file = open_inverted_file(codebook, local, benchmark.database.names, config.search.binary, folder)
    index = AsmkIndex(file, query_local, config.search.assignments, codebook.photos)

    def search(rows: Int[np.ndarray, "q"], k: int) -> Answers:
        found = index.search(rows, k)
        return Answers(rows, found.ids, found.scores)

    return index, search


def codebook_photos(config: Config, benchmark: Benchmark, place: Workdir) -> PhotoSet:
    """The photographs of `config.search.codebook`; of the folder that was trained on, the split that was."""
    trained_on = config.data.root if config.data.dataset == "folder" else ""
    folder, cache_dir = config.search.codebook or trained_on, config.data.cache_dir or place.data
    if not folder:
        return benchmark.photos
    if config.data.splits and trained_on and Path(folder).resolve() == Path(trained_on).resolve():
        return prepare_folder(folder, cache_dir, splits=config.data.splits, split=config.data.split)
    return prepare_folder(folder, cache_dir, labelled=False)


def _batches(queries: Int[np.ndarray, "q"]) -> Iterator[Int[np.ndarray, "_"]]:
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        yield queries[start : start + QUERIES_AT_ONCE]


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _about_protocol(benchmark: Benchmark) -> dict[str, str]:
    """Of benchmarks that have protocols, which one it was."""
    protocol = benchmark.request.protocol
    if plain_benchmark(benchmark.name) not in REVISITED:
        return {}
    return {"protocol": PROTOCOLS[protocol], "compat": protocol if protocol.startswith("compat:") else ""}


def _about_gaps(places: int, empty: int) -> str:
    """What approximate search has not found, in words."""
    if not empty:
        return ""
    return f", but approximate search left {empty} of {places} places empty: set search.method=exact"


def _about_reranking(chain: Chain, before: Scores, scores: Scores) -> dict[str, Any]:
    uncertainty = calibration(chain.uncertainty, scores.queries, scores.ap)
    return {"stages": chain.seconds, "before": before.metrics, "uncertainty": uncertainty}


def _before_training(out: Path, results: Results) -> dict[str, float]:
    """mAP and R@1 that the run's network had at its start, from the folder NAME-untrained beside; {} without it."""
    before = read_results(out.with_name(out.name + UNTRAINED))
    if before is None or not before.metrics:
        return {}
    same = ("benchmark", "photo_fingerprint", "queries_from")
    if any(getattr(before, name) != getattr(results, name) for name in same):
        return {}
    return {name: before.metrics[name] for name in ("mAP", "R@1") if name in before.metrics}


def _speed(parts: Sequence[Extraction]) -> float:
    """Photographs described per second, compilation left out; 0 when the stores had everything."""
    seconds = sum(part.seconds - part.compiling for part in parts if part.photos)
    return sum(part.photos for part in parts) / max(seconds, 1e-9)


def _rankings(scores: Scores, benchmark: Benchmark) -> bytes:
    queries, names = benchmark.query_photos.names, benchmark.database.names
    rows: list[list[Any]] = [["query", "rank", "photo", "score"]]
    for query, ids, values in zip(scores.queries, scores.ids, scores.scores, strict=True):
        for rank, (i, score) in enumerate(zip(ids, values, strict=True), 1):
            if i >= 0:
                rows.append([queries[query], rank, names[i], f"{score:.6f}"])
    return _csv(rows)


def _average_precisions(scores: Scores, benchmark: Benchmark) -> bytes:
    """A query with nothing to find has an empty cell."""
    cells = ["" if np.isnan(ap) else f"{100 * ap:.4f}" for ap in scores.ap]
    names = [benchmark.query_photos.names[query] for query in scores.queries]
    return _csv([["query", "AP"], *map(list, zip(names, cells, strict=True))])


def _csv(rows: list[list[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")
