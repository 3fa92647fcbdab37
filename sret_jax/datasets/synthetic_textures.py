"""Textures drawn by code. Two seeds of one family differ in the arrangement, which is what must be told apart."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from scipy.spatial import cKDTree

Rng = np.random.Generator
Colours = UInt8[np.ndarray, "n 3"]

PALETTES = [
    np.array(colours, np.uint8)
    for colours in (
        [(38, 50, 72), (92, 125, 138), (214, 203, 180), (190, 92, 58), (245, 240, 228)],
        [(52, 38, 30), (120, 82, 52), (186, 150, 104), (232, 214, 178), (84, 104, 76)],
        [(24, 26, 30), (78, 82, 88), (142, 146, 150), (206, 208, 210), (176, 40, 44)],
        [(30, 62, 110), (64, 132, 188), (240, 196, 72), (236, 236, 226), (200, 74, 60)],
        [(44, 74, 52), (110, 146, 82), (196, 206, 142), (238, 228, 204), (148, 84, 120)],
    )
]


def gradient(field: Float[np.ndarray, "h w"], colours: Colours) -> UInt8[np.ndarray, "h w 3"]:
    """A field mapped from its own range onto the colours, from the first to the last."""
    low, high = float(field.min()), float(field.max())
    position = (field - low) / (high - low + 1e-9) * (len(colours) - 1)
    knots = np.arange(len(colours))
    return np.stack([np.interp(position, knots, colours[:, c]) for c in range(3)], -1).astype(np.uint8)


def value_noise(rng: Rng, shape: tuple[int, int], cells: int, octaves: int) -> Float[np.ndarray, "h w"]:
    """Smooth random field: random grids of 1, 2, 4 ... times `cells` cells, each half as strong as the one before."""
    field = np.zeros(shape)
    for octave in range(octaves):
        grid = rng.standard_normal((cells * 2**octave + 1,) * 2).astype(np.float32)
        layer = Image.fromarray(grid).resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
        field += np.asarray(layer, np.float64) / 2**octave
    return field


def clouds(rng: Rng, shape: tuple[int, int], colours: Colours) -> UInt8[np.ndarray, "h w 3"]:
    return gradient(value_noise(rng, shape, 3, 5), colours)


def mosaic(rng: Rng, shape: tuple[int, int], colours: Colours) -> UInt8[np.ndarray, "h w 3"]:
    """Voronoi cells with dark joints."""
    seeds = rng.uniform(0, 1, (60, 2)) * shape
    pixels = np.moveaxis(np.mgrid[: shape[0], : shape[1]], 0, -1).reshape(-1, 2)
    distance, cell = cKDTree(seeds).query(pixels, k=2)
    image = colours[rng.integers(len(colours), size=60)][cell[:, 0]]
    image[distance[:, 1] - distance[:, 0] < 2.0] = colours[0] // 2
    return image.reshape(*shape, 3)


def weave(rng: Rng, shape: tuple[int, int], colours: Colours) -> UInt8[np.ndarray, "h w 3"]:
    """A sum of gratings."""
    y, x = np.mgrid[: shape[0], : shape[1]] / max(shape)
    field = np.zeros(shape)
    for _ in range(4):
        angle, waves, phase = rng.uniform(0, np.pi), rng.uniform(4, 18), rng.uniform(0, 2 * np.pi)
        field += np.sin(2 * np.pi * waves * (x * np.cos(angle) + y * np.sin(angle)) + phase)
    return gradient(field, colours)


def leaves(rng: Rng, shape: tuple[int, int], colours: Colours) -> UInt8[np.ndarray, "h w 3"]:
    """Discs that hide one another."""
    image = Image.new("RGB", (shape[1], shape[0]), tuple(int(v) for v in colours[0]))
    draw = ImageDraw.Draw(image)
    for radius in np.sort(rng.uniform(0.03, 0.2, 70) * max(shape))[::-1]:
        x, y = rng.uniform(0, shape[1]), rng.uniform(0, shape[0])
        squash = rng.uniform(0.6, 1.0)
        colour = tuple(int(v) for v in colours[rng.integers(len(colours))])
        draw.ellipse((x - radius, y - radius * squash, x + radius, y + radius * squash), fill=colour)
    return np.asarray(image)


def script(rng: Rng, shape: tuple[int, int], colours: Colours) -> UInt8[np.ndarray, "h w 3"]:
    """Rows of signs made of strokes and arcs, from an alphabet of the texture's own."""
    light, dark = colours[int(rng.integers(2, len(colours)))], colours[int(rng.integers(2))]
    image = Image.new("RGB", (shape[1], shape[0]), tuple(int(v) for v in light))
    draw = ImageDraw.Draw(image)
    cell = int(rng.integers(26, 44))
    alphabet = rng.uniform(0.1, 0.9, (7, 3, 4))
    for top in range(4, shape[0] - cell, cell + 5):
        for left in range(4, shape[1] - cell, cell):
            sign = rng.integers(9)
            for stroke, ends in enumerate(alphabet[sign] if sign < 7 else ()):
                x0, y0, x1, y1 = ends * cell + (left, top, left, top)
                if stroke == 2:
                    box = (min(x0, x1), min(y0, y1), max(x0, x1) + 4, max(y0, y1) + 4)
                    draw.arc(box, 0, 250, fill=tuple(int(v) for v in dark), width=3)
                else:
                    draw.line((x0, y0, x1, y1), fill=tuple(int(v) for v in dark), width=3)
    return np.asarray(image)


def facade(rng: Rng, shape: tuple[int, int], colours: Colours) -> UInt8[np.ndarray, "h w 3"]:
    """A wall of repeated windows in which only some differ: many equal local features, as on real buildings."""
    grain = value_noise(rng, shape, 12, 3)[..., None] * 6
    wall = np.clip(colours[int(rng.integers(1, len(colours)))] * 0.9 + grain, 0, 255).astype(np.uint8)
    image = Image.fromarray(wall)
    draw = ImageDraw.Draw(image)
    rows, columns = int(rng.integers(4, 8)), int(rng.integers(4, 8))
    step_y, step_x = shape[0] / rows, shape[1] / columns
    glass, frame = (tuple(int(v) for v in colours[k]) for k in rng.permutation(len(colours))[:2])
    arched = rng.random() < 0.5
    for row in range(rows):
        for column in range(columns):
            kind = rng.random()
            x, y = (column + 0.22) * step_x, (row + 0.18) * step_y
            box = (x, y, x + 0.56 * step_x, y + 0.66 * step_y)
            if kind < 0.12:
                continue  # walled up
            draw.rectangle(
                box, fill=glass if kind < 0.8 else tuple(int(v) for v in colours[-1]), outline=frame, width=3
            )
            if arched:
                draw.pieslice((x, y - 0.14 * step_y, box[2], y + 0.2 * step_y), 180, 360, fill=glass, outline=frame)
            if kind > 0.6:
                draw.line(((x + box[2]) / 2, y, (x + box[2]) / 2, box[3]), fill=frame, width=2)
            if kind > 0.7:
                draw.line((x, (y + box[3]) / 2, box[2], (y + box[3]) / 2), fill=frame, width=2)
    return np.asarray(image)


FAMILIES: dict[str, Callable[[Rng, tuple[int, int], Colours], UInt8[np.ndarray, "h w 3"]]] = {
    "facade": facade,
    "mosaic": mosaic,
    "script": script,
    "leaves": leaves,
    "weave": weave,
    "clouds": clouds,
}
