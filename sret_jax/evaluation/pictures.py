"""Pictures of answers and of what the network sees in a photograph."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont

RIGHT, WRONG, ASKED, OBJECT = (22, 163, 74), (220, 38, 38), (71, 85, 105), (250, 204, 21)  # RGB
NODE, EDGE = (250, 204, 21), (56, 189, 248)
FINE = 2  # drawings are made so many times larger and reduced, which smooths their lines


def thumbnail(
    photo: UInt8[np.ndarray, "h w 3"], height: int, mask: Bool[np.ndarray, "h w"] | None = None
) -> Image.Image:
    """The photo at a height in pixels, no wider than twice that; with a mask, the object is outlined."""
    h, w = photo.shape[:2]
    width = max(1, min(2 * height, round(w * height / h)))
    image = Image.fromarray(photo).resize((width, height), Image.Resampling.LANCZOS)
    if mask is None:
        return image
    inside = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize((width, height))) > 127
    pixels = np.asarray(image).copy()
    pixels[_outline(inside)] = OBJECT
    return Image.fromarray(pixels)


def _outline(inside: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The pixels of a region that touch what is outside of it, two pixels wide."""
    core = inside
    for _ in range(2):
        padded = np.pad(core, 1)
        core = core & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside & ~core


def jpeg_uri(image: Image.Image, quality: int = 82) -> str:
    """The picture as text that a page can hold."""
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode("ascii")


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
    colours = matplotlib.colormaps["inferno"](part)[..., :3]
    grey = np.asarray(base.convert("L"), np.float32)[..., None] / 255
    mixed = 0.35 * grey + 0.65 * colours * (0.55 + 0.45 * grey)
    return Image.fromarray((255 * np.clip(mixed, 0, 1)).astype(np.uint8)), low, high


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


def framed(image: Image.Image, colour: tuple[int, int, int], width: int = 4) -> Image.Image:
    out = Image.new("RGB", (image.width + 2 * width, image.height + 2 * width), colour)
    out.paste(image, (width, width))
    return out


def strip_picture(
    rows: Sequence[tuple[str, Image.Image, Sequence[tuple[Image.Image, bool, float]]]], width: int
) -> Image.Image:
    """Ranked answers of a few queries, one query per row, as one picture of a given width.

    Args:
      rows: `(caption, query, [(answer, right, score), ...])`; all thumbnails of equal height.
      width: pixels; answers that do not fit are left out.
    """
    gap, margin, text = 10, 20, 22
    height = rows[0][1].height + 8
    out = Image.new("RGB", (width, margin + len(rows) * (height + text + 2 * gap) + margin - gap), (255, 255, 255))
    draw, y = ImageDraw.Draw(out), margin
    for caption, query, answers in rows:
        draw.text((margin, y), caption, font=font(14, bold=True), fill=ASKED)
        x = margin
        out.paste(framed(query, ASKED), (x, y + text))
        x += query.width + 8 + 3 * gap
        draw.line(
            [(x - 2 * gap + 5, y + text), (x - 2 * gap + 5, y + text + height - 1)], fill=(203, 213, 225), width=2
        )
        for image, right, score in answers:
            tile = framed(image, RIGHT if right else WRONG)
            if x + tile.width > width - margin:
                break
            draw.text((x, y + 3), f"{score:.2f}", font=font(12), fill=RIGHT if right else WRONG)
            out.paste(tile, (x, y + text))
            x += tile.width + gap
        y += height + text + 2 * gap
    return out
