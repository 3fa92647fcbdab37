"""A query and its answers in a page: what was searched for, what was found, and where in it the object is."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from sret_jax.data.photo_set import PhotoSet
from sret_jax.data.regions import Region
from sret_jax.evaluation.benchmark import Benchmark
from sret_jax.evaluation.report.album import Album, named
from sret_jax.evaluation.report.marked import MarkedAnswers, found_in, heat_row, mark_chip, marked_large
from sret_jax.evaluation.report.originals import originals
from sret_jax.evaluation.report.pictures import boxed, escaped, reduced, spotlit
from sret_jax.evaluation.scorers import RIGHT, UNJUDGED, WRONG, Scores
from sret_jax.localization.query_region import region_pixels

VERDICTS = {RIGHT: ("right", "✓"), WRONG: ("wrong", "✗"), UNJUDGED: ("", "")}
ANSWERS = 10  # of a query


class QueryCards:
    """Makes a card of each query of a benchmark."""

    def __init__(
        self,
        scores: Scores,
        benchmark: Benchmark,
        marked: Sequence[MarkedAnswers],
        regions: Mapping[int, Region],
        album: Album,
        out: Path,
    ):
        """
        Args:
          marked: what methods of localization mark in the first answers to some queries.
          regions: what of some queries is searched for, by row.
          album: of the page.
          out: folder of the page.
        """
        self._scores, self._regions, self._album = scores, regions, album
        self._queries, self._photos = benchmark.query_photos, benchmark.database
        self._own = bool(benchmark.request.queries)
        self._marked: dict[int, list[MarkedAnswers]] = {}
        for one in marked:
            self._marked.setdefault(one.query, []).append(one)
        self._query_link, self._photo_link = originals(benchmark, out)

    def card(self, q: int) -> str:
        """The query at position q of the scores, its answers best first, and below them what each method marks."""
        row = int(self._scores.queries[q])
        several = self._marked.get(row, [])
        answers = "".join(self._answers(q, several[0] if several else None))
        answers = answers or "<p>Nothing was found.</p>"
        below = "".join(self._method(one, first=i == 0) for i, one in enumerate(several))
        return (
            f'<section class="query">{self._asked(q, row)}<div><div class="row">{answers}</div>{below}</div></section>'
        )

    def _asked(self, q: int, row: int) -> str:
        name, ap = self._queries.names[row], self._scores.ap[q]
        image, what = asked(self._queries, row, self._regions)
        lines = [f'<span class="name">{named(name, self._query_link(name))}</span>']
        if what or self._own:
            lines.append(f"searched for: {what or 'the whole photograph'}")
        if not np.isnan(ap):
            lines.append(f"AP {100 * ap:.1f}, {first_right(q, self._scores)}")
        return self._album.figure(
            image, name, "".join(f"<div>{line}</div>" for line in lines), original=self._query_link(name), kind="asked"
        )

    def _answers(self, q: int, marked: MarkedAnswers | None) -> list[str]:
        places = {photo: place for place, photo in enumerate(marked.rows)} if marked else {}
        out = []
        answers = zip(*(part[q][:ANSWERS].tolist() for part in _answer_parts(self._scores)), strict=True)
        for rank, (i, score, verdict) in enumerate(answers, 1):
            if i < 0:
                break
            kind, sign = VERDICTS[verdict]
            name, chip = self._photos.names[i], ""
            if marked is not None and i in places:
                image, chip = marked_large(marked, places[i], self._photos), mark_chip(marked, places[i])
            else:
                image = reduced(self._photos.photo(i), self._photos.mask(i))
            caption = f"{rank} · <b>{sign} {score:.3f}</b> {chip}" if sign else f"{rank} · {score:.3f} {chip}"
            link = self._photo_link(name)
            caption += f'<span class="name">{named(name, link)}</span>'
            out.append(self._album.figure(image, name, caption, original=link, kind=kind))
        return out

    def _method(self, one: MarkedAnswers, first: bool) -> str:
        """What a method marks: of the first, whose outlines are in the answers already, the heat alone."""
        rows = []
        if not first:
            figures = []
            for place, photo in enumerate(one.rows):
                name = self._photos.names[photo]
                link = self._photo_link(name)
                caption = f'{mark_chip(one, place)}<span class="name">{named(name, link)}</span>'
                figures.append(self._album.figure(marked_large(one, place, self._photos), name, caption, original=link))
            rows.append(f'<div class="row">{"".join(figures)}</div>')
        if heat := heat_row(one, self._photos, self._album):
            rows.append(heat)
        title = f"{escaped(one.method)}: {found_in(one)}" + (", outlined above" if first else "")
        if not rows:
            return f"<p>{title}</p>"
        return f"<details><summary>{title}</summary>{''.join(rows)}</details>"


def asked(queries: PhotoSet, row: int, regions: Mapping[int, Region]) -> tuple[Image.Image, str]:
    """A query with what of it is searched for, and that in words; "" where it is all of the photograph."""
    height, width = queries.sizes[row].tolist()
    if (region := regions.get(row)) is not None:
        kind = "the outlined mask" if np.ndim(region) == 2 else {2: "what was clicked on", 4: "the box"}[len(region)]
        return spotlit(queries.whole(row), region_pixels(region, (height, width))), kind
    if queries.boxes is not None:
        return reduced(boxed(queries.whole(row), queries.boxes[row])), "the box"
    return reduced(queries.whole(row), queries.mask(row)), ""


def first_right(q: int, scores: Scores) -> str:
    """Where the first right answer is, in words."""
    right = np.flatnonzero(scores.verdicts[q] == RIGHT)
    if len(right):
        return f"first right photograph at rank {right[0] + 1}"
    return f"no right photograph among the first {len(scores.ids[q])}"


def _answer_parts(scores: Scores) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return scores.ids, scores.scores, scores.verdicts
