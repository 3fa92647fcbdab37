"""One retriever measured on one benchmark, in the order in which things happen: describe, index, search, re-rank,
localize, score, and what is left on disk about it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from sret_jax.config import PROTOCOLS, to_dict
from sret_jax.config.own_parts import with_sources
from sret_jax.evaluation.anchors import published
from sret_jax.evaluation.benchmark import Benchmark
from sret_jax.evaluation.calibration import calibration
from sret_jax.evaluation.features import Features
from sret_jax.evaluation.localization import LocalizationScorer, marked_answers
from sret_jax.evaluation.report.curve import read_curve
from sret_jax.evaluation.report.maps import untrained_parts
from sret_jax.evaluation.report.page import choose_photos, write_report
from sret_jax.evaluation.report.tables import queries_csv, rankings_csv
from sret_jax.evaluation.request import REVISITED, plain_benchmark
from sret_jax.evaluation.results import Results, read_results
from sret_jax.evaluation.scorers import Scores
from sret_jax.evaluation.search import open_search
from sret_jax.evaluation.timings import Timings
from sret_jax.extraction.descriptors import Extraction
from sret_jax.localization.localizer import Localizer
from sret_jax.localization.methods import check_methods
from sret_jax.localization.region_file import read_regions
from sret_jax.reranking.answers import Context
from sret_jax.reranking.chain import Chain, parse_rerankers, uses_descriptors
from sret_jax.retrieval.asmk_search import AsmkIndex
from sret_jax.retrieval.recall import index_recall
from sret_jax.retriever import Retriever
from sret_jax.storage.artifacts import clear_temporaries, write_file, write_json
from sret_jax.storage.refusals import plainly
from sret_jax.storage.row_store import Part
from sret_jax.storage.workdir import UNTRAINED, Workdir

QUERIES_AT_ONCE = 256  # a full ranking of so many queries is held at once


@plainly()
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
      regions: "folder" with queries: what of them is searched for, and marked, see `localization.region_file`. What is
        marked for queries from a folder is shown, not measured, and only where the object is found.
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
    first, reranked = benchmark.scorer(), benchmark.scorer()  # of the search, and of what re-ranking makes of it
    check_methods(config.localize.methods)
    rerankers = parse_rerankers(config.rerank.stages)
    truth = benchmark.ground_truth_masks if config.localize.methods and not benchmark.request.queries else None
    if regions and benchmark.queries:
        benchmark = replace(benchmark, regions=read_regions(regions, benchmark.queries))
    timings = Timings(prepare=benchmark.seconds)
    skipped = benchmark.database.skipped + (benchmark.queries.skipped if benchmark.queries else [])
    clear_temporaries(_made(out))
    write_json(out / "skipped.json", [{"photo": photo, "reason": reason} for photo, reason in skipped])

    features = Features(retriever, benchmark, place, timings)
    index, search = open_search(features)
    chain = localizer = None
    if rerankers:
        if uses_descriptors(rerankers):
            features.describe()
        with timings("prepare re-ranking"):
            chain = Chain(rerankers, Context(features.queries, features.database, config, place.reranking))
    localization = None
    if config.localize.methods:
        both = features.queries, features.database
        maps = place.maps(plain_benchmark(benchmark.name), config.localize.source)
        localizer = Localizer(
            retriever, benchmark.query_photos, benchmark.photos, both, maps, benchmark.regions, place.in_shared(maps)
        )
        localization = LocalizationScorer(localizer, truth, first.depth) if truth else None

    places = empty = 0
    for queries in _batches(first.queries):
        with timings("search"):
            found = search(queries, first.depth)
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
    if not isinstance(index, AsmkIndex):
        recall = index_recall(index, features.queries.descriptors, first.depth)
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
        retriever=retriever.fingerprint,
        step=retriever.step,
        photographs=benchmark.photographs,
        distractors=distractors,
        **about,
        anchors=published(plain, sum(distractors.values()), protocol) if anchors else [],
        config=to_dict(with_sources(config)),
    )
    results.before_training = _before_training(out, results)
    with timings("report"):
        write_file(out / "rankings.csv", rankings_csv(scores, benchmark))
        write_file(out / "queries.csv", queries_csv(scores, benchmark))
        for file, data in files.items():
            write_file(out / file, data)
        shown = choose_photos(scores, benchmark.query_photos)
        intermediates = retriever.intermediates(benchmark.query_photos, shown) if shown else {}
        untrained = untrained_parts(retriever.variables["params"])
        curve = read_curve(place)
        write_report(
            out,
            results,
            scores,
            benchmark,
            intermediates,
            marked,
            curve,
            regions=benchmark.regions,
            untrained=untrained,
        )
    results.timings = timings.seconds
    results.write(out)
    return results


@plainly()
def describe_part(retriever: Retriever, benchmark: Benchmark, workdir: Workdir, part: Part) -> int:
    """Describes one part of a benchmark's photographs, by which `evaluate` in the same workdir goes on.

    Descriptors, and the local features that search and re-ranking read, are stored as chunks; a part is every `of`-th
    of them. What `evaluate` takes over is checked, and named where it is damaged or not there.

    Returns:
      How many photographs fall to the part.

    Raises:
      UserError: a re-ranker that does not exist, another process that describes this part, a full disk.
    """
    config = retriever.config
    rerankers = parse_rerankers(config.rerank.stages)
    by_local_features = config.search.method == "asmk"
    kinds = ["head"] if by_local_features else []
    features = Features(retriever, benchmark, workdir, Timings())
    if features.reads_local and config.local.source not in kinds:
        kinds.append(config.local.source)
    return features.describe_part(part, kinds, not by_local_features or uses_descriptors(rerankers))


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
