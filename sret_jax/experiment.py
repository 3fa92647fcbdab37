"""One network measured on one benchmark: extract, index, search, score, and what is left on disk about it."""

import csv
import io
import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sret_jax.artifacts import DamagedError, write_file, write_json
from sret_jax.config import Config, to_dict
from sret_jax.data.image_folder import prepare_folder
from sret_jax.data.photo_set import PhotoSet
from sret_jax.data.synthetic_views import prepare_synthetic
from sret_jax.environment import environment
from sret_jax.errors import UserError
from sret_jax.evaluation.protocols import Ranked, folder_protocol, query_protocol
from sret_jax.evaluation.report import choose_photos, write_report
from sret_jax.evaluation.table import print_results
from sret_jax.models.descriptor import RetrievalNetwork, Variables
from sret_jax.retrieval.extract import Extractor, Learned, extract
from sret_jax.retrieval.search import Index, content_fingerprint

log = logging.getLogger(__name__)

BENCHMARKS = ("synthetic", "folder")
KEPT = 100  # answers per query in rankings.csv


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
    cache_dir: str | Path,
    whitening: Learned | None = None,
    workdir: Path | None = None,
) -> dict[str, Any]:
    """Measures a network, and writes to `out`:

        results.json    what is returned
        rankings.csv    the first 100 answers of every query
        report.html     the same with pictures, in one file; strip.png is a picture of a few answers
        skipped.json    the files that could not be used, each with the reason

    Args:
      network, variables: what to measure.
      config: its data, extract, search and eval fields say how.
      benchmark: "synthetic" or "folder".
      out: folder of the results.
      root: "folder": the photographs; default `config.eval.root`, then `config.data.root`. The split of
        `config.data.splits` is taken only from the config's own folder, any other folder is searched whole.
      queries: "folder": a folder of queries that search `root` instead of leave-one-out; `<instance>/<photo>` is
        scored, photographs without a folder are only ranked.
      cache_dir: where prepared photographs are kept.
      whitening: mean and projection learned after training.
      workdir: descriptors and index are kept in its folders `descriptors` and `index`, and used again when they are of
        the same network and photographs. Default: W where `out` is W/eval/NAME, else `out`.

    Returns:
      `{"benchmark", "metrics": {"mAP", "R@1", "queries", "per_instance"} (percent), "timings": {stage: seconds},
      "images_per_second", "photos", "instances", "skipped", "index", "dim", "config", "commit", "versions", ...}`,
      and "before_training": {"mAP", "R@1"} where these photographs were measured at the start of the run too.

    Raises:
      UserError: an unknown benchmark, a folder that is missing or has nothing to measure.
    """
    check_benchmark(benchmark, root, queries)
    out = Path(out)
    workdir = workdir or (out.parents[1] if out.parent.name == "eval" else out)
    name = out.name if out.parent == workdir / "eval" else benchmark
    stage = Stages()
    with stage("prepare"):
        photos, searched = _photos(config, benchmark, root, cache_dir)
        asked = _queries(queries, cache_dir) if queries and benchmark == "folder" else None
    out.mkdir(parents=True, exist_ok=True)
    skipped = photos.skipped + (asked.skipped if asked else [])
    write_json(out / "skipped.json", [{"photo": photo, "reason": reason} for photo, reason in skipped])

    with stage("extract"):
        described = extract(network, variables, photos, config, workdir / "descriptors" / name, whitening)
    if asked:
        with stage("extract queries"):
            folder = workdir / "descriptors" / f"{name}-queries"
            described_queries = extract(network, variables, asked, config, folder, whitening)
    with stage("index"):
        index = _index(described.descriptors, photos.names, config, workdir / "index" / name)
    with stage("search"):

        def search(x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
            result = index.search(x, k)
            return result.ids, result.scores

        if asked:
            labels = _labels_in(asked, photos)
            x = described_queries.descriptors
            ranked = query_protocol(search, x, labels, photos.labels, photos.instances, KEPT)
        else:
            ranked = folder_protocol(search, described.descriptors, photos.labels, photos.instances, KEPT)

    results = {
        "benchmark": benchmark,
        "metrics": ranked.metrics,
        "timings": stage.seconds,
        "images_per_second": round(described.images_per_second, 2),
        "extracted": described.photos,
        "photos": len(photos),
        "instances": len(photos.instances),
        "skipped": len(skipped),
        "searched": searched,
        "queries_from": queries if asked else "",
        "index": index.description,
        "dim": described.descriptors.shape[1],
        "fingerprint": described.fingerprint,
        "photo_fingerprint": photos.fingerprint,
        "config": to_dict(config),
    } | environment()
    results["before_training"] = _before_training(out, results)
    with stage("report"):
        write_file(out / "rankings.csv", _rankings(ranked, asked or photos, photos))
        shown = choose_photos(ranked, asked or photos)
        seen = Extractor(network, variables, asked or photos, config).intermediates(shown) if shown else {}
        write_report(out, results, ranked, asked or photos, photos, seen)
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
    return {name: before["metrics"][name] for name in ("mAP", "R@1")}


def evaluate_and_print(
    network: RetrievalNetwork, variables: Variables, config: Config, benchmark: str, out: Path, **options: Any
) -> dict[str, Any]:
    """`evaluate`, and the results as a table in the terminal."""
    results = evaluate(network, variables, config, benchmark, out, **options)
    print_results(results, Path(out))
    return results


def check_benchmark(benchmark: str, root: str = "", queries: str = "") -> None:
    """Raises `UserError` for what is wrong before any work: an unknown benchmark, a folder that is not there."""
    if benchmark not in BENCHMARKS:
        raise UserError(f"no benchmark {benchmark!r}; choose one of {', '.join(BENCHMARKS)}")
    for flag, folder in (("root", root), ("queries", queries)):
        if benchmark == "folder" and folder and not Path(folder).is_dir():
            raise UserError(f"--{flag}={folder}: no such folder; give a folder of <instance>/<photo>")


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


def _index(descriptors: np.ndarray, names: list[str], config: Config, folder: Path) -> Index:
    """The index in `folder` if it is of these descriptors and sound, else one built and saved there."""
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
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(["query", "rank", "photo", "score"])
    for query, ids, scores in zip(ranked.queries, ranked.ids, ranked.scores, strict=True):
        for rank, (i, score) in enumerate(zip(ids, scores, strict=True), 1):
            if i >= 0:
                table.writerow([queries.names[query], rank, photos.names[i], f"{score:.6f}"])
    return text.getvalue().encode("utf-8", "surrogateescape")
