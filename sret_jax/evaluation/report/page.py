"""The report of a benchmark: one HTML file that holds its pictures, and one picture of a few answers."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sret_jax.data.photo_set import PhotoSet
from sret_jax.evaluation.benchmark import Benchmark
from sret_jax.evaluation.report.curve import Validated, curve_section
from sret_jax.evaluation.report.marked import MARKED_STYLE, MarkedAnswers, marked_picture, marked_section
from sret_jax.evaluation.report.pictures import (
    content,
    escaped,
    heat_map,
    jpeg_uri,
    node_graph,
    query_picture,
    strip_picture,
    thumbnail,
)
from sret_jax.evaluation.report.table import headline, row_name
from sret_jax.evaluation.results import Results
from sret_jax.evaluation.scorers import RIGHT, UNJUDGED, WRONG, Scores
from sret_jax.storage.artifacts import write_file

VERDICTS = {RIGHT: ("right", "✓"), WRONG: ("wrong", "✗"), UNJUDGED: ("", "")}
SURE = {RIGHT: True, WRONG: False}
STRIPS, ANSWERS, LOOKS = 6, 10, 4  # strips of each kind, answers in a strip, photos whose maps are shown
HEIGHT = 96  # of a thumbnail, pixels

STYLE = """
:root { --ink: #0f172a; --soft: #64748b; --line: #e2e8f0; --card: #fff; --page: #f8fafc; --accent: #2563eb;
  --right: #16a34a; --wrong: #dc2626; }
@media (prefers-color-scheme: dark) { :root { --ink: #e2e8f0; --soft: #94a3b8; --line: #334155; --card: #1e293b;
  --page: #0f172a; --accent: #60a5fa; --right: #4ade80; --wrong: #f87171; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 36px 24px 64px; }
h1 { font-size: 28px; margin: 0; letter-spacing: -.02em; }
h2 { font-size: 18px; margin: 40px 0 12px; letter-spacing: -.01em; }
p { margin: 4px 0 0; color: var(--soft); max-width: 78ch; overflow-wrap: anywhere; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin-top: 24px; }
.card, .box { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 14px 18px; }
.card b { display: block; font-size: 30px; line-height: 1.2; letter-spacing: -.02em; }
.card span { color: var(--soft); font-size: 13px; }
.card.main b { color: var(--accent); }
.two { display: grid; grid-template-columns: 3fr 2fr; gap: 20px; align-items: start; }
@media (max-width: 900px) { .two { grid-template-columns: 1fr; } }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
td, th { padding: 5px 8px; text-align: left; border-bottom: 1px solid var(--line); font-weight: 400;
  overflow-wrap: anywhere; }
th { color: var(--soft); font-size: 13px; }
tr:last-child td { border-bottom: 0; }
td.n, th.n { text-align: right; white-space: nowrap; width: 1%; }
td.bar { width: 45%; }
.bar i { display: block; height: 10px; border-radius: 5px; background: var(--accent); min-width: 2px; }
.strip { background: var(--card); border: 1px solid var(--line); border-radius: 12px; margin-bottom: 12px;
  padding: 10px 14px 12px; }
.strip header { display: flex; gap: 12px; align-items: baseline; margin-bottom: 8px; }
.strip header b { overflow-wrap: anywhere; }
.strip header span { color: var(--soft); font-size: 13px; white-space: nowrap; }
.row { display: grid; grid-template-columns: 1.15fr repeat(10, 1fr); gap: 8px; overflow-x: auto; }
@media (max-width: 1000px) { .row { grid-template-columns: repeat(11, 110px); } }
figure { margin: 0; min-width: 0; }
.row img { display: block; width: 100%; aspect-ratio: 1.1; object-fit: cover; border: 4px solid var(--soft);
  border-radius: 8px; }
.right img { border-color: var(--right); }
.wrong img { border-color: var(--wrong); }
figcaption { font-size: 12px; color: var(--soft); line-height: 1.35; margin-top: 3px; }
.row figcaption { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.right figcaption b { color: var(--right); }
.wrong figcaption b { color: var(--wrong); }
.query img { object-fit: contain; }
.query { padding-right: 12px; border-right: 2px solid var(--line); }
.maps { display: grid; grid-template-columns: repeat(5, 1fr); gap: 12px; margin-bottom: 16px; }
@media (max-width: 900px) { .maps { grid-template-columns: repeat(2, 1fr); } }
.maps img { max-width: 100%; max-height: 230px; display: block; border-radius: 8px; }
footer { margin-top: 40px; color: var(--soft); font-size: 13px; overflow-wrap: anywhere; }
"""


def write_report(
    out: Path,
    results: Results,
    scores: Scores,
    benchmark: Benchmark,
    intermediates: Mapping[int, dict[str, Any]],
    marked: Sequence[MarkedAnswers] = (),
    curve: Sequence[Validated] = (),
) -> None:
    """Writes `report.html` and `strip.png` to `out`, and `located.png` where objects were marked.

    Args:
      out: an existing folder.
      results: what is said above the pictures.
      scores: of the benchmark's queries and database.
      intermediates: of the network, for some queries, by row.
      marked: what methods of localization mark in the answers to some queries.
      curve: validations of the run that trained the network.
    """
    queries, photos = benchmark.query_photos, benchmark.database
    best, worst = choose_queries(scores, queries)
    labelled = bool(scores.metrics)
    body = [_head(results, queries, labelled), marked_section(marked, queries, photos)]
    if labelled:
        body.append("<h2>Worst queries</h2>" + "".join(_strip(q, scores, queries, photos) for q in worst))
        body.append("<h2>Best queries</h2>" + "".join(_strip(q, scores, queries, photos) for q in best))
    else:
        body.append("<h2>Queries</h2>" + "".join(_strip(q, scores, queries, photos) for q in best + worst))
    body += [_tables(results), curve_section(curve), _maps(queries, intermediates), _foot(results)]
    title = f"sret_jax: {results.benchmark}"
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escaped(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}{MARKED_STYLE}</style></head>\n"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )
    write_file(out / "report.html", page.encode("utf-8", "replace"))
    rows = [_strip_row(q, scores, queries, photos) for q in (worst[:1] + best[:2] if labelled else best[:3])]
    _write_png(out / "strip.png", strip_picture(rows))
    if marked:
        _write_png(out / "located.png", marked_picture(marked, queries, photos))


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


def _head(results: Results, queries: PhotoSet, labelled: bool) -> str:
    metrics, before = results.metrics, results.before_training
    was = {name: f", {value:.1f} before training" for name, value in before.items()}
    if first := results.rerank.get("before"):
        was |= {name: f", {value:.1f} before re-ranking" for name, value in headline(first)}
    cards = (
        [("main", f"{x:.1f}", f"{row_name(name, results)}, %{was.get(name, '')}") for name, x in headline(metrics)]
        + [("", f"{metrics['queries']:,}", "queries")]
        if labelled
        else [("", f"{len(queries):,}", "queries")]
    )
    for method, found in results.localization.items():
        if "mIoU" in found["strict"]:
            cards.append(("main", f"{found['strict']['mIoU']:.1f}", f"{escaped(method)}: mIoU, %"))
    cards.append(("", f"{results.photos:,}", "photographs"))
    if results.instances:
        cards.append(("", f"{results.instances:,}", "instances"))
    if results.images_per_second:
        cards.append(("", f"{results.images_per_second:.1f}", "images/s extracted"))
    ways = f"queries from {results.queries_from}" if results.queries_from else "leave-one-out"
    about = [results.searched, ways, results.index]
    about += [x for x in (results.protocol, results.ground_truth, results.photographs, results.ranked) if x]
    lead = " &middot; ".join(escaped(part) for part in about)
    boxes = (f'<div class="card {kind}"><b>{value}</b><span>{name}</span></div>' for kind, value, name in cards)
    title = f"Retrieval, benchmark {escaped(row_name(results.benchmark, results))}"
    return f"<h1>{title}</h1><p>{lead}</p><div class=cards>{''.join(boxes)}</div>"


def _tables(results: Results) -> str:
    metrics = results.metrics
    each = "query" if "per_query" in metrics else "instance"
    per_instance = sorted(metrics.get(f"per_{each}", {}).items(), key=lambda item: -item[1])
    stages = results.timings
    longest = max([*stages.values(), 1e-9])
    left = "".join(_bar_row(name, f"{value:.1f}", value / 100) for name, value in per_instance)
    right = "".join(_bar_row(name, f"{value:.2f}", value / longest) for name, value in stages.items())
    boxes = []
    if left:
        title = "AP per query" if each == "query" else "mAP per instance"
        boxes.append(f"<div><h2>{title}</h2><div class=box><table>{left}</table></div></div>")
    skipped = f"<p>Files that could not be used: {results.skipped}, see skipped.json.</p>" if results.skipped else ""
    boxes.append(f"<div><h2>Seconds per stage</h2><div class=box><table>{right}</table></div>{skipped}</div>")
    return f'<div class="{"two" if left else ""}">{"".join(boxes)}</div>'


def _bar_row(name: str, value: str, share: float) -> str:
    bar = f'<td class=bar><i style="width:{100 * min(max(share, 0), 1):.1f}%"></i></td>'
    return f"<tr><td>{escaped(name)}</td>{bar}<td class=n>{value}</td></tr>"


def _strip(q: int, scores: Scores, queries: PhotoSet, photos: PhotoSet) -> str:
    row = int(scores.queries[q])
    title = _instance(queries, row) or queries.names[row]
    about = f"AP {100 * scores.ap[q]:.1f}, {_first_right(q, scores)}" if not np.isnan(scores.ap[q]) else "not scored"
    parts = [_figure(query_picture(queries, row, HEIGHT), "query", f"query: {queries.names[row]}", "query")]
    answers = zip(scores.ids[q].tolist(), scores.scores[q], scores.verdicts[q].tolist(), strict=True)
    for rank, (i, score, verdict) in enumerate(list(answers)[:ANSWERS], 1):
        if i < 0:
            break
        kind, sign = VERDICTS[verdict]
        name = _instance(photos, i) or photos.names[i]
        picture = thumbnail(photos.photo(i), HEIGHT, photos.mask(i))
        parts.append(
            _figure(picture, kind, f"{rank}. {photos.names[i]}", f"<b>{sign} {score:.3f}</b><br>{escaped(name)}")
        )
    return (
        f"<div class=strip><header><b>{escaped(title)}</b><span>{about}</span></header>"
        f"<div class=row>{''.join(parts)}</div></div>"
    )


def _first_right(q: int, scores: Scores) -> str:
    right = np.flatnonzero(scores.verdicts[q] == RIGHT)
    if len(right):
        return f"first right photograph at rank {right[0] + 1}"
    return f"no right photograph among the first {len(scores.ids[q])}"


def _figure(image: Image.Image, kind: str, title: str, caption: str) -> str:
    return (
        f'<figure class="{kind}" title="{escaped(title)}"><img alt="" src="{jpeg_uri(image)}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


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


def _maps(queries: PhotoSet, intermediates: Mapping[int, dict[str, Any]]) -> str:
    """What the network looked at: strength of the local features, `a`, `c`, and the graph, as far as it has them."""
    rows = []
    for row, values in intermediates.items():
        photo, mask = queries.photo(row), values["photo_mask"]
        maps = [("strength of the features", np.linalg.norm(values["map"].astype(np.float32), axis=-1))]
        if "smoothing" in values:
            maps.append(("a: bright keeps to itself", values["smoothing"]["a"]))
            maps.append(("c: dark gives way to its neighbours", values["smoothing"]["c"]))
        figures = [(content(photo, mask), _instance(queries, row) or queries.names[row])]
        for name, value in maps:
            image, low, high = heat_map(photo, value, mask)
            span = f"{low:.3g} to {high:.3g}" if f"{low:.3g}" != f"{high:.3g}" else f"{low:.3g} everywhere"
            figures.append((image, f"{name} ({span})"))
        if "refinement" in values:
            graph = values["refinement"]
            nodes = int(np.sum(graph["valid"]))
            figures.append((node_graph(photo, graph, values["map"].shape[:2], mask), f"{nodes} nodes and their edges"))
        rows.append(f"<div class=maps>{''.join(_map(image, caption) for image, caption in figures)}</div>")
    return f"<h2>What the network sees</h2>{''.join(rows)}" if rows else ""


def _map(image: Image.Image, caption: str) -> str:
    return f'<figure><img alt="" src="{jpeg_uri(image)}"><figcaption>{escaped(caption)}</figcaption></figure>'


def _foot(results: Results) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    lines = [f"commit {results.commit or 'unknown'}", versions, results.device]
    return f"<footer>{'<br>'.join(escaped(line) for line in lines)}</footer>"
