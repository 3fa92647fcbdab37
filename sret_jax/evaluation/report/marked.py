"""Pictures of predicted masks: the answers of a query with outlines, and the heat that these were made of."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw

from sret_jax.data.photo_set import PhotoSet
from sret_jax.evaluation.report.pictures import (
    FINE,
    OBJECT,
    coloured,
    escaped,
    jpeg_uri,
    outline,
    query_picture,
    strip_picture,
)
from sret_jax.localization.methods import PredictedMask
from sret_jax.metrics.pixels import mask_iou

FOUND, HOTTEST = (236, 72, 153), (56, 189, 248)  # RGB
SIDE = 200  # longest of a photograph in the report, pixels
TILE = (170, 128)  # width and height of a photograph in the picture
IN_PICTURE = 3, 5  # queries, and answers of each

MARKED_STYLE = f"""
.located {{ display: grid; grid-template-columns: repeat(7, 1fr); gap: 8px; align-items: end; margin-top: 6px; }}
.located.heat {{ align-items: start; }}
.located img {{ display: block; width: 100%; max-height: 190px; object-fit: contain; border-radius: 6px; }}
.legend {{ display: flex; flex-wrap: wrap; gap: 4px 20px; color: var(--soft); font-size: 13px; margin-bottom: 12px; }}
.legend i {{ display: inline-block; width: 14px; height: 14px; border-radius: 4px; margin-right: 6px;
  vertical-align: -2px; }}
.legend .found {{ background: rgb{FOUND}; }} .legend .truth {{ background: rgb{OBJECT}; }}
.legend .hottest {{ background: rgb{HOTTEST}; }}
@media (max-width: 900px) {{ .located {{ grid-template-columns: repeat(7, 120px); overflow-x: auto; }} }}
"""


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
    small = _small(photo, side)
    pixels = np.asarray(small).copy()
    for mask, colour in ((truth, OBJECT), (found, FOUND)):
        if mask is not None:
            inside = Image.fromarray(mask.astype(np.uint8) * 255).resize(small.size, Image.Resampling.BOX)
            pixels[outline(np.asarray(inside) > 127)] = colour
    return Image.fromarray(pixels)


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


def marked_section(shown: Sequence[MarkedAnswers], queries: PhotoSet, photos: PhotoSet) -> str:
    """The part of the report about localization, "" without any: a strip per query, in it rows of each method."""
    if not shown:
        return ""
    legend = {
        "found": "found by the method",
        "truth": "ground truth, and what is searched for",
        "hottest": "seed, or hottest point",
    }
    keys = "".join(f'<span><i class="{name}"></i>{words}</span>' for name, words in legend.items())
    strips = []
    for query in dict.fromkeys(one.query for one in shown):
        rows = "".join(_rows(one, queries, photos) for one in shown if one.query == query)
        strips.append(f"<div class=strip><header><b>{escaped(queries.names[query])}</b></header>{rows}</div>")
    return f"<h2>Where the object is</h2><div class=legend>{keys}</div>{''.join(strips)}"


def _rows(one: MarkedAnswers, queries: PhotoSet, photos: PhotoSet) -> str:
    """The query and the photographs with outlines, and below them their heat."""
    above = [_figure(_query(one, queries, SIDE), f"query: {queries.names[one.query]}", f"<b>{one.method}</b>")]
    below = ["<span></span>"]
    for row, found, truth in zip(one.rows, one.masks, one.truth or [None] * len(one.rows), strict=True):
        photo = photos.photo(row)
        words = _overlap(found, truth) if one.truth is not None else "found" if found.mask.any() else "not found"
        above.append(_figure(marked(photo, found.mask, truth, SIDE), photos.names[row], words))
        heat = None if found.heat is None else heated(photo, found.heat, SIDE, found.seed)
        below.append("<span></span>" if heat is None else _figure(heat, f"heat in {photos.names[row]}", ""))
    out = f'<div class="located">{"".join(above)}</div>'
    if any(found.heat is not None for found in one.masks):
        out += f'<div class="located heat">{"".join(below)}</div>'
    return out


def _query(one: MarkedAnswers, queries: PhotoSet, side: int) -> Image.Image:
    """The query, with what of it is searched for."""
    if one.region is None:
        return query_picture(queries, one.query, side)
    return marked(queries.whole(one.query), np.zeros_like(one.region), one.region, side)


def _overlap(found: PredictedMask, truth: Bool[np.ndarray, "H W"] | None) -> str:
    if truth is None:
        return "does not show it" if found.mask.any() else "nothing found"
    return f"IoU {mask_iou(found.mask, truth):.2f}" if found.mask.any() else "not found"


def _figure(image: Image.Image, title: str, caption: str) -> str:
    return (
        f'<figure title="{escaped(title)}"><img alt="" src="{jpeg_uri(image)}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


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
