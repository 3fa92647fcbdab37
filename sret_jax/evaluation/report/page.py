"""The report of a benchmark: one HTML file that holds its pictures, and one picture of a few answers."""

import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image

from sret_jax.config.paths import listed_paths
from sret_jax.data.photo_set import PhotoSet
from sret_jax.data.regions import Region
from sret_jax.evaluation.benchmark import Benchmark
from sret_jax.evaluation.report.album import Album, named
from sret_jax.evaluation.report.answers import QueryCards
from sret_jax.evaluation.report.curve import Validated, curve_section
from sret_jax.evaluation.report.maps import maps_section
from sret_jax.evaluation.report.marked import MarkedAnswers, legend, marked_picture
from sret_jax.evaluation.report.pictures import escaped, query_picture, strip_picture, thumbnail
from sret_jax.evaluation.report.style import HEAD, STYLE
from sret_jax.evaluation.report.table import headline, row_name
from sret_jax.evaluation.results import Results
from sret_jax.evaluation.scorers import RIGHT, WRONG, Scores
from sret_jax.storage.artifacts import write_file

SURE = {RIGHT: True, WRONG: False}
STRIPS, ANSWERS, LOOKS = 6, 7, 4  # queries of each kind, answers in the picture, photos whose maps are shown
OWN = 24  # queries without ground truth that are shown
HEIGHT = 96  # of a photograph in the picture, pixels
LISTED = 200  # skipped files in the page


def write_report(
    out: Path,
    results: Results,
    scores: Scores,
    benchmark: Benchmark,
    intermediates: Mapping[int, dict[str, Any]],
    marked: Sequence[MarkedAnswers] = (),
    curve: Sequence[Validated] = (),
    *,
    regions: Mapping[int, Region] = MappingProxyType({}),
    untrained: Collection[str] = (),
) -> None:
    """Writes `report.html` and `strip.png` to `out`, and `located.png` where objects were marked.

    Args:
      out: an existing folder.
      results: what is said above the pictures.
      scores: of the benchmark's queries and database.
      intermediates: of the network, for some queries, by row.
      marked: what methods of localization mark in the answers to some queries.
      curve: validations of the run that trained the network.
      regions: what of some queries is searched for, by row.
      untrained: parts of the network as `maps.untrained_parts` finds them.
    """
    queries, photos, album = benchmark.query_photos, benchmark.database, Album()
    best, worst = choose_queries(scores, queries)
    cards = QueryCards(scores, benchmark, marked, regions, album, out)
    body, colours = [_head(results, benchmark)], legend(marked)
    for title, chosen in _sections(scores, benchmark, {one.query for one in marked}):
        if chosen:
            body.append(f"<h2>{title}</h2>{colours}{''.join(cards.card(q) for q in chosen)}")
    body += [
        _skipped(benchmark),
        _tables(results),
        curve_section(curve),
        maps_section(queries, intermediates, untrained, album),
        _foot(results),
    ]
    title = f"sret_jax: {results.benchmark}" if results.metrics else "sret_jax: search results"
    page = (
        f'<!doctype html>\n<html lang="en"><head>{HEAD}<title>{escaped(title)}</title><style>{STYLE}</style></head>\n'
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )
    write_file(out / "report.html", page.encode("utf-8", "replace"))
    rows = [_strip_row(q, scores, queries, photos) for q in (worst[:1] + best[:2] if results.metrics else best[:3])]
    _write_png(out / "strip.png", strip_picture(rows))
    if marked:
        _write_png(out / "located.png", marked_picture(marked, queries, photos))


def _sections(scores: Scores, benchmark: Benchmark, marked: Collection[int]) -> list[tuple[str, list[int]]]:
    """Titles, and positions of the queries below them; all in which something was marked are among them.

    Without ground truth the first `OWN`; with it the worst and the best, and of people's own queries those too that
    have none.
    """
    best, worst = choose_queries(scores, benchmark.query_photos)
    located = [q for q, row in enumerate(scores.queries.tolist()) if row in marked]
    total = len(scores.queries)
    if not scores.metrics:
        chosen = sorted({*range(min(total, OWN)), *located})
        return [("Answers" if len(chosen) == total else f"Answers to {len(chosen)} of {total:,} queries", chosen)]
    shown = {*best, *worst}
    others = [q for q in located if q not in shown]
    if benchmark.request.queries:
        others += [q for q in range(total) if np.isnan(scores.ap[q]) and q not in located][:OWN]
    return [("Worst queries", worst), ("Best queries", best), ("Other queries", sorted(others))]


def _write_png(path: Path, image: Image.Image) -> None:
    picture = io.BytesIO()
    image.save(picture, "PNG", optimize=True)
    write_file(path, picture.getvalue())


def choose_queries(scores: Scores, queries: PhotoSet) -> tuple[list[int], list[int]]:
    """Positions of the best and the worst queries by AP, of as many different instances as there are; disjoint."""
    if not scores.metrics:
        return list(range(min(len(scores.queries), 2 * STRIPS))), []
    scored = [q for q in range(len(scores.queries)) if not np.isnan(scores.ap[q])]
    rising = sorted(scored, key=lambda q: (scores.ap[q], q))
    wanted = min(STRIPS, (len(scored) + 1) // 2)
    worst = _spread(rising, scores, queries, wanted)
    falling = sorted((q for q in scored if q not in worst), key=lambda q: (-scores.ap[q], q))
    return _spread(falling, scores, queries, wanted), worst


def choose_photos(scores: Scores, queries: PhotoSet) -> list[int]:
    """Rows of the queries whose maps are worth a look: some that were answered well, some badly."""
    best, worst = choose_queries(scores, queries)
    chosen = best[: LOOKS // 2] + worst[: LOOKS // 2]
    chosen += [q for q in best + worst if q not in chosen][: LOOKS - len(chosen)]
    return [int(scores.queries[q]) for q in chosen]


def _spread(order: Sequence[int], scores: Scores, queries: PhotoSet, wanted: int) -> list[int]:
    """The first of each instance in this order, then the rest of the order."""
    met: set[int] = set()
    first: list[int] = []
    rest: list[int] = []
    for q in order:
        label = int(queries.labels[scores.queries[q]])
        (rest if label in met else first).append(q)
        met.add(label)
    return sorted((first + rest)[:wanted], key=list(order).index)


def _instance(photos: PhotoSet, row: int) -> str:
    return photos.instances[photos.labels[row]] if photos.labels[row] >= 0 else ""


def _head(results: Results, benchmark: Benchmark) -> str:
    metrics, before = results.metrics, results.before_training
    was = {name: f", {value:.1f} before training" for name, value in before.items()}
    if first := results.rerank.get("before"):
        was |= {name: f", {value:.1f} before re-ranking" for name, value in headline(first)}
    cards = []
    if metrics:
        cards += [("main", f"{x:.1f}", f"{row_name(n, results)}, %{was.get(n, '')}") for n, x in headline(metrics)]
    for method, found in results.localization.items():
        if "mIoU" in found["strict"]:
            cards.append(("main", f"{found['strict']['mIoU']:.1f}", f"{escaped(method)}: mIoU, %"))
    queries = metrics["queries"] if metrics else len(benchmark.query_photos)
    cards.append(("", f"{queries:,}", "query" if queries == 1 else "queries"))
    cards.append(("", f"{results.photos:,}", "photographs searched"))
    if results.instances and metrics:
        cards.append(("", f"{results.instances:,}", "instances"))
    if results.images_per_second and metrics:
        cards.append(("", f"{results.images_per_second:.1f}", "images/s extracted"))
    if files := len(_skipped_files(benchmark)):
        cards.append(("", f"{files:,}", '<a href="#skipped">files not used</a>'))
    facts = {
        "Searched": results.searched,
        "Queries": results.queries_from or "leave-one-out",
        "Index": results.index,
        "Protocol": results.protocol,
        "Ground truth": results.ground_truth if metrics else "",
        "Photographs": results.photographs if metrics else "",
        "Ranked": results.ranked,
        "Training": f"step {results.step}" if results.step else "",
    }
    facts = {name: _without_folders(str(value or ""), benchmark, results) for name, value in facts.items()}
    lead = "".join(f"<dt>{name}</dt><dd>{escaped(value)}</dd>" for name, value in facts.items() if value)
    boxes = (f'<div class="card {kind}"><b>{value}</b><span>{name}</span></div>' for kind, value, name in cards)
    title = f"Retrieval, benchmark {escaped(row_name(results.benchmark, results))}" if metrics else "Search results"
    return f"<h1>{title}</h1><dl>{lead}</dl><div class=cards>{''.join(boxes)}</div>"


def _without_folders(text: str, benchmark: Benchmark, results: Results) -> str:
    """The text with the names of folders and files instead of where they lie: a report is passed on."""
    request, config = benchmark.request, results.config or {}
    given = [request.root, request.queries, request.gnd, request.masks, *request.distractors]
    given += [config.get(part, {}).get(name, "") for part, name in (("data", "root"), ("data", "splits"))]
    given += [config.get("eval", {}).get("root", ""), str(benchmark.folder or "")]
    paths = {path for one in given if one for path in listed_paths(one) if Path(path).is_absolute()}
    for path in sorted(paths, key=len, reverse=True):
        text = text.replace(path, Path(path).name)
    return text


def _tables(results: Results) -> str:
    metrics = results.metrics
    each = "query" if "per_query" in metrics else "instance"
    per_instance = sorted(metrics.get(f"per_{each}", {}).items(), key=lambda item: -item[1])
    stages = results.timings
    longest = max([*stages.values(), 1e-9])
    left = "".join(_bar_row(name, f"{value:.1f}", value / 100) for name, value in per_instance)
    right = "".join(_bar_row(name, f"{value:.2f}", value / longest) for name, value in stages.items())
    table = f"<table>{right}</table>"
    if not left:
        return f'<details class="box"><summary>Seconds per stage</summary>{table}</details>'
    title = "AP per query" if each == "query" else "mAP per instance"
    boxes = [(title, f"<table>{left}</table>"), ("Seconds per stage", table)]
    return f'<div class="two">{"".join(f"<div><h2>{t}</h2><div class=box>{x}</div></div>" for t, x in boxes)}</div>'


def _skipped_files(benchmark: Benchmark) -> list[tuple[str, str]]:
    return benchmark.database.skipped + (benchmark.queries.skipped if benchmark.queries else [])


def _skipped(benchmark: Benchmark) -> str:
    """The files that were found and not used, each with its reason."""
    files = _skipped_files(benchmark)
    if not files:
        return ""
    rows = "".join(f"<tr><td>{named(file)}</td><td>{escaped(reason)}</td></tr>" for file, reason in files[:LISTED])
    rest = f"<p>All {len(files):,} are in skipped.json.</p>" if len(files) > LISTED else ""
    count = "1 file was not used" if len(files) == 1 else f"{len(files):,} files were not used"
    return f'<details class="box" id="skipped"><summary>{count}</summary><table>{rows}</table>{rest}</details>'


def _bar_row(name: str, value: str, share: float) -> str:
    bar = f'<td class=bar><i style="width:{100 * min(max(share, 0), 1):.1f}%"></i></td>'
    return f"<tr><td>{escaped(name)}</td>{bar}<td class=n>{value}</td></tr>"


def _strip_row(q: int, scores: Scores, queries: PhotoSet, photos: PhotoSet) -> tuple[str, Any, list[Any]]:
    row = int(scores.queries[q])
    name = _instance(queries, row)
    answers = [
        (thumbnail(photos.photo(i), 2 * HEIGHT, photos.mask(i)), SURE.get(verdict), score)
        for i, score, verdict in zip(
            *(x[q][:ANSWERS].tolist() for x in (scores.ids, scores.scores, scores.verdicts)), strict=True
        )
        if i >= 0
    ]
    caption = (name or queries.names[row]).encode("utf-8", "replace").decode()
    caption += "" if np.isnan(scores.ap[q]) else f"   AP {100 * scores.ap[q]:.0f}"
    return caption, query_picture(queries, row, 2 * HEIGHT), answers


def _foot(results: Results) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    lines = [f"commit {results.commit or 'unknown'}", versions, results.device]
    return f"<footer>{'<br>'.join(escaped(line) for line in lines)}</footer>"
