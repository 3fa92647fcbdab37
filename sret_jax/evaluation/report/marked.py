"""Pictures of predicted masks: the answers of a query with outlines, and the heat that these were made of."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw

from sret_jax.data.photo_set import PhotoSet
from sret_jax.evaluation.report.album import Album, named
from sret_jax.evaluation.report.pictures import (
    FINE,
    FOUND,
    HOTTEST,
    LARGE,
    OBJECT,
    coloured,
    escaped,
    outlined,
    query_picture,
    spotlit,
    strip_picture,
)
from sret_jax.localization.methods import PredictedMask
from sret_jax.metrics.pixels import mask_iou

TILE = (170, 128)  # width and height of a photograph in the picture
IN_PICTURE = 3, 5  # queries, and answers of each


@dataclass(frozen=True, eq=False)
class MarkedAnswers:
    """What one method has marked for one query in its first answers.

    query   row of the queries
    rows    of the photographs, best answer first
    masks   predicted, in each of them
    truth   ground-truth mask of each; None where the photograph does not show the object, or it was not drawn. None
            instead of all: there are no ground-truth masks
    region  what of the query is searched for, where that is in neither its box nor its mask
    """

    method: str
    query: int
    rows: Sequence[int]
    masks: Sequence[PredictedMask]
    truth: Sequence[Bool[np.ndarray, "_ _"] | None] | None
    region: Bool[np.ndarray, "H W"] | None = None


def marked(
    photo: UInt8[np.ndarray, "H W 3"],
    found: Bool[np.ndarray, "H W"],
    truth: Bool[np.ndarray, "H W"] | None,
    side: int,
) -> Image.Image:
    """The photo, its longest side `side` pixels, with the outline of what was found above that of the truth."""
    masks = ((truth, OBJECT), (found, FOUND))
    return outlined(_small(photo, side), [(mask, colour) for mask, colour in masks if mask is not None])


def heated(
    photo: UInt8[np.ndarray, "H W 3"],
    heat: Float[np.ndarray, "H W"],
    side: int,
    seed: tuple[float, float] | None = None,
) -> Image.Image:
    """The photo in grey under the heat of its pixels, dark = least, bright = most, and a ring around the seed.

    `seed`: (x, y) in the photo; without one, the ring is around the hottest pixel.
    """
    small = _small(photo, side)
    own = np.asarray(Image.fromarray(heat.astype(np.float32)).resize(small.size, Image.Resampling.BOX))
    low, high = float(own.min()), float(own.max())
    image = coloured(small, (own - low) / (high - low) if high > low else np.zeros_like(own))
    y, x = (int(at) for at in np.unravel_index(np.argmax(own), own.shape))
    if seed is not None:
        x, y = (int(at * new / old) for at, new, old in zip(seed, small.size, photo.shape[1::-1], strict=True))
    large = image.resize((FINE * image.width, FINE * image.height))
    ring = [FINE * (int(v) + 0.5) + sign * 5 * FINE for sign in (-1, 1) for v in (x, y)]
    ImageDraw.Draw(large).ellipse(ring, outline=HOTTEST, width=2 * FINE)
    return large.resize(image.size, Image.Resampling.LANCZOS)


def marked_large(one: MarkedAnswers, place: int, photos: PhotoSet) -> Image.Image:
    """The photograph at a place among the answers, marked, as large as a page shows it."""
    photo = photos.photo(one.rows[place])
    return marked(photo, one.masks[place].mask, one.truth[place] if one.truth else None, _side(photo))


def mark_chip(one: MarkedAnswers, place: int) -> str:
    """What is said of the mask at a place among the answers, HTML: the overlap, or whether anything was found."""
    found = one.masks[place].mask.any()
    words = "found" if found else "not found"
    if one.truth is not None:
        words = _overlap(one.masks[place], one.truth[place])
    return f'<span class="chip {"found" if found else "none"}">{words}</span>'


def found_in(one: MarkedAnswers) -> str:
    """In how many of the answers that were looked at something was found, in words."""
    said = "found" if one.truth is None else "marked"  # rightly or not, as the truth of each says
    return f"{said} in {sum(bool(each.mask.any()) for each in one.masks)} of the first {len(one.rows)}"


def heat_row(one: MarkedAnswers, photos: PhotoSet, album: Album) -> str:
    """The heat that the masks were made of; "" of a method without."""
    figures = []
    for row, found in zip(one.rows, one.masks, strict=True):
        if found.heat is not None:
            photo, name = photos.photo(row), photos.names[row]
            figures.append(album.figure(heated(photo, found.heat, _side(photo), found.seed), name, named(name)))
    return f'<div class="row">{"".join(figures)}</div>' if figures else ""


def legend(marked: Sequence[MarkedAnswers]) -> str:
    """What the colours mean; "" where nothing was marked."""
    if not marked:
        return ""
    keys = {"found": f"found by {escaped(marked[0].method)}"}
    if any(one.truth is not None for one in marked):
        keys["object"] = "ground truth"
    if any(found.heat is not None for one in marked for found in one.masks):
        keys["hottest"] = "seed, or hottest point, in the heat"
    shown_as = "".join(f'<span><i class="{name}"></i>{words}</span>' for name, words in keys.items())
    return f'<div class="legend">{shown_as}</div>'


def _side(photo: UInt8[np.ndarray, "H W 3"]) -> int:
    return min(LARGE, max(photo.shape))


def _query(one: MarkedAnswers, queries: PhotoSet, side: int) -> Image.Image:
    """The query, with what of it is searched for."""
    if one.region is None:
        return query_picture(queries, one.query, side)
    return spotlit(queries.whole(one.query), one.region)


def _overlap(found: PredictedMask, truth: Bool[np.ndarray, "H W"] | None) -> str:
    if truth is None:
        return "does not show it" if found.mask.any() else "nothing found"
    return f"IoU {mask_iou(found.mask, truth):.2f}" if found.mask.any() else "not found"


def marked_picture(shown: Sequence[MarkedAnswers], queries: PhotoSet, photos: PhotoSet) -> Image.Image:
    """The first method's answers to a few queries as one picture: photographs with outlines, below them their heat.

    A plate names the overlap with the truth; photographs that do not show the object are framed red. Where nobody
    knows it names the share of the photograph that was marked.
    """
    method = shown[0].method
    rows = []
    for one in [each for each in shown if each.method == method][: IN_PICTURE[0]]:
        answers: list[tuple[Image.Image, bool | None, float]] = []
        truths = one.truth or [None] * len(one.rows)
        for row, found, truth in list(zip(one.rows, one.masks, truths, strict=True))[: IN_PICTURE[1]]:
            photo = photos.photo(row)
            side = int(max(photo.shape) * min(TILE[0] / photo.shape[1], TILE[1] / photo.shape[0]))  # not resized again
            tiles = [marked(photo, found.mask, truth, side)]
            tiles += [] if found.heat is None else [heated(photo, found.heat, side, found.seed)]
            if one.truth is None:
                answers.append((_stacked(tiles), None, float(found.mask.mean())))
            else:
                overlap = 0.0 if truth is None else mask_iou(found.mask, truth)
                answers.append((_stacked(tiles), truth is not None, overlap))
        query = _stacked([_query(one, queries, 2 * TILE[1])])
        rows.append((f"{method}: {queries.names[one.query]}".encode("utf-8", "replace").decode(), query, answers))
    return strip_picture(rows, tile=(TILE[0], 2 * TILE[1]), answers=IN_PICTURE[1])


def _stacked(images: Sequence[Image.Image]) -> Image.Image:
    """Two tiles one below the other, all of each picture on white."""
    out = Image.new("RGB", (TILE[0], 2 * TILE[1]), "white")
    for i, image in enumerate(images):
        inside = image.copy()
        inside.thumbnail(TILE, Image.Resampling.LANCZOS)  # only where it is larger
        out.paste(inside, ((TILE[0] - inside.width) // 2, i * TILE[1] + (TILE[1] - inside.height) // 2))
    return out


def _small(photo: UInt8[np.ndarray, "H W 3"], side: int) -> Image.Image:
    scale = side / max(photo.shape)
    size = tuple(max(1, round(n * scale)) for n in photo.shape[1::-1])
    return Image.fromarray(photo).resize(size, Image.Resampling.LANCZOS)
