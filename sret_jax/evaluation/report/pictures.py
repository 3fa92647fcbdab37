"""Pictures of answers and of what the network sees in a photograph, and how a page holds them."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont, ImageOps

from sret_jax.data.photo_set import PhotoSet

RIGHT, WRONG, QUERY, OBJECT = (22, 163, 74), (220, 38, 38), (71, 85, 105), (250, 204, 21)  # RGB
FOUND, HOTTEST = (236, 72, 153), (56, 189, 248)
INK = (15, 23, 42)
NODE, EDGE = (250, 204, 21), (56, 189, 248)
LARGE = 560  # longest side of a photograph in a page, pixels
FINE = 2  # drawings are made so many times larger and reduced, which smooths their lines

TURNING = {code: f"[U+{code:04X}]" for code in (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))}


def thumbnail(
    photo: UInt8[np.ndarray, "h w 3"], height: int, mask: Bool[np.ndarray, "h w"] | None = None
) -> Image.Image:
    """The photo at a height in pixels, cut at its sides where it is wider than 1.6 times that.

    With a mask the object is outlined.
    """
    h, w = photo.shape[:2]
    size = (max(1, min(round(1.6 * height), round(w * height / h))), height)
    image = ImageOps.fit(Image.fromarray(photo), size, Image.Resampling.LANCZOS)
    if mask is None:
        return image
    inside = np.asarray(ImageOps.fit(Image.fromarray(mask.astype(np.uint8) * 255), size)) > 127
    pixels = np.asarray(image).copy()
    pixels[outline(inside)] = OBJECT
    return Image.fromarray(pixels)


def reduced(
    photo: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"] | None = None, side: int = LARGE
) -> Image.Image:
    """The whole photo, its longest side at most `side`. With a mask the object is outlined."""
    scale = min(1.0, side / max(photo.shape))
    image = Image.fromarray(photo)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    image = image.resize(size, Image.Resampling.LANCZOS)
    return image if mask is None else outlined(image, [(mask, OBJECT)])


def outlined(image: Image.Image, masks: Sequence[tuple[Bool[np.ndarray, "h w"], tuple[int, int, int]]]) -> Image.Image:
    """The outline of each mask in its colour, the later above the earlier; masks may be larger than the picture."""
    pixels = np.asarray(image).copy()
    for mask, colour in masks:
        inside = Image.fromarray(mask.astype(np.uint8) * 255).resize(image.size, Image.Resampling.BOX)
        pixels[outline(np.asarray(inside) > 127, max(2, round(max(image.size) / 90)))] = colour
    return Image.fromarray(pixels)


def spotlit(photo: UInt8[np.ndarray, "h w 3"], region: Bool[np.ndarray, "h w"]) -> Image.Image:
    """The photo with a region outlined, and what is outside of it paler."""
    pale = 0.55 * photo + 0.45 * 255
    return outlined(reduced(np.where(region[..., None], photo, pale).astype(np.uint8)), [(region, OBJECT)])


def boxed(photo: UInt8[np.ndarray, "h w 3"], box: Int[np.ndarray, "4"]) -> UInt8[np.ndarray, "h w 3"]:
    """The photo with a box (left, top, right, bottom) drawn on it, and what is outside of it paler."""
    left, top, right, bottom = (int(x) for x in box)
    pale = Image.blend(Image.fromarray(photo), Image.new("RGB", photo.shape[1::-1], "white"), 0.45)
    pale.paste(Image.fromarray(photo[top:bottom, left:right]), (left, top))
    width = max(2, round(max(photo.shape) / 100))
    ImageDraw.Draw(pale).rectangle([left, top, right - 1, bottom - 1], outline=OBJECT, width=width)
    return np.asarray(pale)


def outline(inside: Bool[np.ndarray, "h w"], width: int = 2) -> Bool[np.ndarray, "h w"]:
    """The pixels of a region that touch what is outside of it, `width` pixels wide."""
    core = inside
    for _ in range(width):
        padded = np.pad(core, 1)
        core = core & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside & ~core


def query_picture(queries: PhotoSet, row: int, height: int) -> Image.Image:
    """A query, with the box or the mask of the object that is asked for."""
    photo = queries.whole(row)
    if queries.boxes is not None:
        photo = boxed(photo, queries.boxes[row])
    return thumbnail(photo, height, queries.mask(row))


def escaped(value: Any) -> str:
    """Any name as harmless HTML text.

    Bytes of a file name that are not UTF-8 become question marks; characters that would turn the direction of writing,
    and so show another name than the file's, are told by their numbers.
    """
    text = str(value).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return html.escape(text.translate(TURNING))


def picture_uri(image: Image.Image, quality: int = 80) -> str:
    """The picture as text that a page can hold."""
    data = io.BytesIO()
    image.save(data, "WEBP", quality=quality)
    return "data:image/webp;base64," + base64.b64encode(data.getvalue()).decode("ascii")


def content(photo: UInt8[np.ndarray, "h w 3"], photo_mask: Bool[np.ndarray, "h2 w2"]) -> Image.Image:
    """The photo at the size at which the network saw it."""
    size = int(photo_mask.any(0).sum()), int(photo_mask.any(1).sum())
    return Image.fromarray(photo).resize(size, Image.Resampling.LANCZOS)


def heat_map(
    photo: UInt8[np.ndarray, "h w 3"], values: Float[np.ndarray, "m n"], photo_mask: Bool[np.ndarray, "h2 w2"]
) -> tuple[Image.Image, float, float]:
    """The photo in grey under the values of a map, dark = low, bright = high; and the least and greatest value.

    Args:
      photo: as it was taken.
      values: one per position of the network's map of the padded photo.
      photo_mask: True on the photo in the padded photo.
    """
    base = content(photo, photo_mask)
    stride = photo_mask.shape[0] // values.shape[0]
    inside = values[: -(-base.height // stride), : -(-base.width // stride)].astype(np.float32)
    low, high = float(inside.min()), float(inside.max())
    scaled = (values.astype(np.float32) - low) / max(high - low, 1e-12)
    whole = Image.fromarray(np.clip(scaled, 0, 1)).resize(photo_mask.shape[::-1], Image.Resampling.BICUBIC)
    part = np.clip(np.asarray(whole)[: base.height, : base.width], 0, 1)
    if high - low < 1e-6 * max(abs(high), 1e-6):
        part = np.full_like(part, 0.5)
    return coloured(base, part), low, high


def coloured(photo: Image.Image, values: Float[np.ndarray, "h w"]) -> Image.Image:
    """The photo in grey under a value of every pixel, 0 = dark, 1 = bright."""
    colours = matplotlib.colormaps["inferno"](values)[..., :3]
    grey = np.asarray(photo.convert("L"), np.float32)[..., None] / 255
    mixed = 0.35 * grey + 0.65 * colours * (0.55 + 0.45 * grey)
    return Image.fromarray((255 * np.clip(mixed, 0, 1)).astype(np.uint8))


def node_graph(
    photo: UInt8[np.ndarray, "h w 3"],
    graph: dict[str, Any],
    map_shape: tuple[int, int],
    photo_mask: Bool[np.ndarray, "h2 w2"],
) -> Image.Image:
    """The photo with the chosen local features as dots and the edges between them as lines.

    Args:
      photo: as it was taken.
      graph: of one photo: `nodes` [n 2] (row, column) in the map and `valid` [n]; `senders`, `receivers` and
        `edge_valid` [e].
      map_shape: of the network's map of the padded photo.
      photo_mask: True on the photo in the padded photo.
    """
    base = content(photo, photo_mask)
    stride = FINE * np.asarray(photo_mask.shape) / np.asarray(map_shape)
    canvas = Image.blend(base, Image.new("RGB", base.size), 0.35).resize((FINE * base.width, FINE * base.height))
    draw = ImageDraw.Draw(canvas, "RGBA")
    nodes = np.asarray(graph["nodes"])
    centres = [(float((c + 0.5) * stride[1]), float((r + 0.5) * stride[0])) for r, c in nodes]
    for sender, receiver, real in zip(graph["senders"], graph["receivers"], graph["edge_valid"], strict=True):
        if real and sender != receiver:
            draw.line([centres[sender], centres[receiver]], fill=(*EDGE, 130), width=FINE)
    radius = 2.2 * FINE
    for (x, y), real in zip(centres, graph["valid"], strict=True):
        if real:
            draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=NODE, outline=(0, 0, 0))
    return canvas.resize(base.size, Image.Resampling.LANCZOS)


def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf" / name), size)


def strip_picture(
    rows: Sequence[tuple[str, Image.Image, Sequence[tuple[Image.Image, bool | None, float]]]],
    tile: tuple[int, int] = (130, 104),
    answers: int = 7,
) -> Image.Image:
    """Ranked answers of a few queries as one picture: a query per row, right answers framed green, wrong ones red.

    Args:
      rows: `(caption, query, [(answer, right, score), ...])`; right is None where nobody can say.
      tile: width and height to which every photo is cut, pixels.
      answers: shown per query.
    """
    gap, margin, text, frame = 10, 24, 24, 4
    step = (tile[0] + 2 * frame + gap, tile[1] + 2 * frame + text + 2 * gap)
    width = 2 * margin + (1 + answers) * step[0] + 2 * gap
    out = Image.new("RGB", (width, 2 * margin + len(rows) * step[1] - 2 * gap), (255, 255, 255))
    draw = ImageDraw.Draw(out)

    def put(image: Image.Image, x: int, y: int, colour: tuple[int, int, int], label: str) -> None:
        box = [x, y, x + tile[0] + 2 * frame - 1, y + tile[1] + 2 * frame - 1]
        draw.rounded_rectangle(box, radius=frame, fill=colour)
        out.paste(image, (x + frame, y + frame))
        if label:
            plate = draw.textbbox((x + frame + 5, box[3] - frame - 17), label, font=font(12, bold=True))
            draw.rectangle([x + frame, plate[1] - 4, plate[2] + 5, box[3] - frame], fill=colour)
            draw.text((x + frame + 5, box[3] - frame - 17), label, font=font(12, bold=True), fill=(255, 255, 255))

    for i, (caption, query, found) in enumerate(rows):
        x, y = margin, margin + i * step[1]
        draw.text((x, y), caption, font=font(14, bold=True), fill=INK)
        whole = ImageOps.pad(query, tile, Image.Resampling.LANCZOS, color=QUERY)  # with all of its box
        put(whole, x, y + text, QUERY, "query")
        line = x + step[0] + gap // 2
        draw.line([(line, y + text), (line, y + text + tile[1] + 2 * frame - 1)], fill=(203, 213, 225), width=2)
        for rank, (image, right, score) in enumerate(found[:answers], 1):
            colour = QUERY if right is None else RIGHT if right else WRONG
            cut = ImageOps.fit(image, tile, Image.Resampling.LANCZOS)
            put(cut, x + rank * step[0] + 2 * gap, y + text, colour, f"{score:.2f}")
    return out
