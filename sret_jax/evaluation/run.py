"""One network measured on one benchmark: extract, index, search, score, and what is left on disk about it."""

import csv
import io
import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sret_jax.config import Config, to_dict
from sret_jax.data.photo_set import PhotoSet
from sret_jax.evaluation.anchors import published
from sret_jax.evaluation.benchmark import Benchmark, open_benchmark
from sret_jax.evaluation.local_search import open_asmk
from sret_jax.evaluation.report.located import Shown
from sret_jax.evaluation.report.page import choose_photos, write_report
from sret_jax.evaluation.report.table import print_results
from sret_jax.evaluation.request import Request, plain_benchmark
from sret_jax.evaluation.scorers import Ranked
from sret_jax.evaluation.second_stage import calibration, check_methods, localize, masks_of, open_sides, show_located
from sret_jax.extraction.descriptors import Extracted, Extractor, Learned, extract
from sret_jax.localization.localizer import Localizer
from sret_jax.localization.region_file import read_regions
from sret_jax.models.descriptor import RetrievalNetwork, Variables
from sret_jax.reranking.chain import Chain, parse_stages
from sret_jax.reranking.search import TwoStageSearch
from sret_jax.retrieval.asmk_search import AsmkIndex
from sret_jax.retrieval.index import Index, content_fingerprint
from sret_jax.retrieval.recall import index_recall
from sret_jax.storage.artifacts import DamagedError, write_file, write_json
from sret_jax.storage.provenance import environment
from sret_jax.storage.row_store import joined

log = logging.getLogger(__name__)


@dataclass
class Stages:
    """Seconds of each stage, by name."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 4)


def evaluate(
    network: RetrievalNetwork,
    variables: Variables,
    config: Config,
    benchmark: str,
    out: Path,
    *,
    root: str = "",
    queries: str = "",
    gnd: str = "",
    distractors: Sequence[str] = (),
    protocol: str = "",
    masks: str = "",
    regions: str = "",
    anchors: bool = False,
    cache_dir: str | Path,
    whitening: Learned | None = None,
    workdir: Path | None = None,
    opened: Benchmark | None = None,
) -> dict[str, Any]:
    """Measures a network, and writes to `out`:

        results.json    what is returned
        rankings.csv    the first 100 answers of every query
        queries.csv     the average precision of every query, percent
        report.html     the same with pictures, in one file; strip.png is a picture of a few answers, and located.png
                        of where in them the object is
        skipped.json    the files that could not be used, each with the reason
        ranks.npy       benchmarks like "roxford5k": the whole rankings, as revisitop's evaluator reads them
        marks-NAME.npy  "proxford", "prparis": what each way of localization marks, as their evaluator reads it

    Args:
      network, variables: what to measure.
      config: its data, extract, search and eval fields say how.
      benchmark: one of `evaluation.request.BENCHMARKS`, or that and "+1m": with the million of `root`/revisitop1m too.
      out: folder of the results.
      root: the benchmark's folder, or one of several benchmarks' folders; default `config.eval.root`, for "folder" then
        `config.data.root`. The split of `config.data.splits` is taken only from the config's own folder, any other
        folder is searched whole.
      queries: "folder": a folder of queries that search `root` instead of leave-one-out; `<instance>/<photo>` is
        scored, photographs without a folder are only ranked.
      gnd: benchmarks like "roxford5k": the ground truth file.
      distractors: folders whose photographs are searched as well, as wrong answers.
      protocol: "compat:uncropped" deviates from the benchmark as some published numbers do.
      masks: "folder": a folder of <instance>/<photo>.png, white where the object is, that localization is judged by.
      regions: "folder" with `queries`: what of these is asked for, see `localization.region_file`. What is marked for
        queries from a folder is shown, not measured.
      anchors: published numbers beside these.
      cache_dir: where prepared photographs are kept.
      whitening: mean and projection learned after training.
      workdir: descriptors and index are kept in its folders `descriptors` and `index` (ASMK: `local` and `asmk`), and
        used again when they are of the same network and photographs. Default: W where `out` is W/eval/NAME, else `out`.
      opened: what `open_benchmark` made of the same; it is opened here without.

    Descriptors, n * d * 4 bytes (2 GB for a million of 512), are in memory twice while the index is made of them, as
    they were extracted and normalised, and once before and after; a set of one chunk is mapped from its store instead.
    ScaNN holds its own copy beside that.

    Returns:
      `{"benchmark", "metrics", "timings": {stage: seconds}, "images_per_second", "photos", "instances", "skipped",
      "index", "index_recall", "rerank", "dim", "config", "commit", "versions", ...}`. The metrics are in percent:
      `{"mAP", "R@1", "queries", "per_instance"}`, or of benchmarks like "roxford5k" `{"easy", "medium", "hard": {"mAP",
      "mP@1", "mP@5", "mP@10", "queries"}, "mAP" (medium), "queries", "per_query" (AP, medium)}`. "index_recall" says
      what an approximate index finds of the exact answers, {} of an exact one. "rerank" has the seconds of each stage
      of `config.rerank`, the metrics before all of them, and how well an uncertainty they found predicts the AP.
      "before_training" has mAP and R@1 where these photographs were measured at the start of the run too. "photographs"
      says which version of them it is, as far as anybody has noted; "compat" names a protocol that deviates.

    Raises:
      UserError: an unknown benchmark, a folder that is missing, incomplete or has nothing to measure.
    """
    request = Request(root, queries, gnd, distractors, protocol, masks)
    out = Path(out)
    workdir = workdir or (out.parents[1] if out.parent.name == "eval" else out)
    name = out.name if out.parent == workdir / "eval" else benchmark
    own = name.partition("+")[0]  # of the same photographs, whatever else is searched
    opened = opened or open_benchmark(benchmark, config, request, cache_dir)
    photos, asked = opened.everything, opened.queries
    check_methods(config.localize.methods)
    truth = masks_of(opened) if config.localize.methods and not queries else None
    wanted = read_regions(regions, asked) if regions and asked else {}
    stage = Stages({"prepare": round(opened.seconds, 4)})
    out.mkdir(parents=True, exist_ok=True)
    skipped = photos.skipped + (asked.skipped if asked else [])
    write_json(out / "skipped.json", [{"photo": photo, "reason": reason} for photo, reason in skipped])

    def described(part: PhotoSet, folder: str) -> Extracted:
        return extract(network, variables, part, config, workdir / "descriptors" / folder, whitening)

    with stage("extract"):
        parts = [described(opened.photos, own)]
        parts += [described(part, f"distractors-{part.name}") for part in opened.distractors]
    if asked:
        with stage("extract queries"):
            query_descriptors = described(asked, f"{name}-queries").descriptors
    with stage("index"):
        index = _index(parts, photos.names, config, workdir / "index" / name)
    asking = query_descriptors if asked else index.descriptors
    rows = np.arange(len(asking))
    remember = bool(config.localize.methods)
    searching: tuple[Index | AsmkIndex, np.ndarray] = index, asking
    if config.search.method == "asmk":
        with stage("local features"):
            both = asking, index.descriptors
            searching = open_asmk(network, variables, config, opened, name, both, workdir, cache_dir), rows
    search = first = TwoStageSearch(*searching, remember=remember)
    with stage("search"):
        ranked, files, about = opened.judge(search, rows)
    reranked: dict[str, Any] = {}
    if config.rerank.stages or config.localize.methods:
        sides = open_sides(network, variables, config, opened, name, (asking, index.descriptors), workdir)
    if config.rerank.stages:
        with stage("prepare re-ranking"):
            chain = Chain(parse_stages(config.rerank.stages), *sides, config, workdir / "rerank")
        before = ranked.metrics
        search = TwoStageSearch(*searching, chain, remember=remember)
        with stage("re-rank"):
            ranked, files, about = opened.judge(search, rows)
        reranked = {"stages": chain.seconds, "before": before, "uncertainty": calibration(chain, ranked)}

    located: dict[str, Any] = {}
    marked: list[Shown] = []
    if config.localize.methods:
        with stage("localize"):
            folder = workdir / "maps" / name / config.localize.source
            asks = opened.queries or opened.photos
            localizer = Localizer(network, variables, asks, opened.photos, sides, config, folder, wanted)
            if truth is not None:
                located, marks = localize(localizer, truth, search.rankings(len(asking)))
                files |= marks
            marked = show_located(localizer, opened, ranked)

    extracted = sum(part.photos for part in parts)
    distractors_searched = {part.name: len(part) for part in opened.distractors}
    protocol = request.completed(config).protocol
    beside = published(plain_benchmark(benchmark), sum(distractors_searched.values()), protocol)
    results = {
        "benchmark": benchmark,
        "metrics": ranked.metrics,
        "timings": stage.seconds,
        "images_per_second": round(_speed(parts), 2),
        "extracted": extracted,
        "photos": len(photos),
        "instances": len(photos.instances),
        "skipped": len(skipped),
        "searched": opened.searched,
        "queries_from": opened.asked,
        "index": searching[0].description,
        "index_recall": index_recall(index, asking, first.depth),
        "rerank": reranked,
        "localization": located,
        "dim": index.dim,
        "fingerprint": parts[0].fingerprint,
        "photo_fingerprint": photos.fingerprint,
        "photographs": opened.photographs,
        "distractors": distractors_searched,
        **about,
        "anchors": beside if anchors else [],
        "config": to_dict(config),
    } | environment()
    results["before_training"] = _before_training(out, results)
    with stage("report"):
        write_file(out / "rankings.csv", _rankings(ranked, asked or photos, photos))
        write_file(out / "queries.csv", _average_precisions(ranked, asked or photos))
        for file, data in files.items():
            write_file(out / file, data)
        shown = choose_photos(ranked, asked or photos)
        seen = Extractor(network, variables, asked or photos, config).intermediates(shown) if shown else {}
        write_report(out, results, ranked, asked or photos, photos, seen, marked)
    write_json(out / "results.json", results)
    return results


def _before_training(out: Path, results: dict[str, Any]) -> dict[str, float]:
    """mAP and R@1 that the run's network had at its start, from the folder NAME-untrained beside; {} without it."""
    path = out.with_name(f"{out.name}-untrained") / "results.json"
    if not path.exists():
        return {}
    before = json.loads(path.read_bytes())
    asked = ("benchmark", "photo_fingerprint", "queries_from")
    if any(before.get(name) != results[name] for name in asked) or not before["metrics"]:
        return {}
    return {name: before["metrics"][name] for name in ("mAP", "R@1") if name in before["metrics"]}


def _speed(parts: Sequence[Extracted]) -> float:
    """Photographs described per second, compilation left out; 0 when the stores had everything."""
    seconds = sum(part.seconds - part.compiling for part in parts if part.photos)
    return sum(part.photos for part in parts) / max(seconds, 1e-9)


def evaluate_and_print(
    network: RetrievalNetwork, variables: Variables, config: Config, benchmark: str, out: Path, **options: Any
) -> dict[str, Any]:
    """`evaluate`, and the results as a table in the terminal."""
    results = evaluate(network, variables, config, benchmark, out, **options)
    print_results(results, Path(out))
    return results


def _index(parts: Sequence[Extracted], names: list[str], config: Config, folder: Path) -> Index:
    """The index in `folder` if it is of these descriptors and sound, else one built and saved there."""
    descriptors = joined([chunk for part in parts for chunk in part.chunks])
    if folder.is_dir():
        try:
            index = Index.load(folder)
        except DamagedError as error:
            log.warning("%s; it is built anew", error)
        else:
            if index.fingerprint == content_fingerprint(descriptors, names, config.search):
                return index
            log.info("%s: of other descriptors, built anew", folder)
    index = Index.build(descriptors, names, config.search)
    index.save(folder)
    return index


def _rankings(ranked: Ranked, queries: PhotoSet, photos: PhotoSet) -> bytes:
    rows: list[list[Any]] = [["query", "rank", "photo", "score"]]
    for query, ids, scores in zip(ranked.queries, ranked.ids, ranked.scores, strict=True):
        for rank, (i, score) in enumerate(zip(ids, scores, strict=True), 1):
            if i >= 0:
                rows.append([queries.names[query], rank, photos.names[i], f"{score:.6f}"])
    return _csv(rows)


def _average_precisions(ranked: Ranked, queries: PhotoSet) -> bytes:
    """A query with nothing to find has an empty cell."""
    cells = ["" if np.isnan(ap) else f"{100 * ap:.4f}" for ap in ranked.ap]
    names = [queries.names[query] for query in ranked.queries]
    return _csv([["query", "AP"], *map(list, zip(names, cells, strict=True))])


def _csv(rows: list[list[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")
