"""Pictures of what smoothing and refinement see: the maps a and c, the strengths, the graph.

    python benchmarks/context_maps.py PHOTO ... [--retriever=RUN] --out=docs/pictures/context.jpg

A row for each photograph: itself, how strong its local features are, a (large: a neighbour that is unlike counts
less), c (small: the position gives way to its neighbours), and the nodes of the graph with their edges. Without
photographs, those of scikit-image are shown. `--retriever` is what `sret_jax.load` takes.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from skimage import data

from sret_jax.data.opening import open_photos
from sret_jax.evaluation.report.pictures import content, font, heat_map, node_graph
from sret_jax.models.weights.shipped import DEFAULT
from sret_jax.retriever import load

CELL = 300  # width of a picture, pixels
TITLES = ("photograph", "strength", "a", "c", "graph")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="*", type=Path)
    parser.add_argument("--retriever", default=DEFAULT)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    photos = open_photos(given.photos or [data.astronaut(), data.coffee(), data.rocket(), data.chelsea()])
    retriever = load(given.retriever)
    rows = []
    for row, values in retriever.intermediates(photos, range(len(photos))).items():
        photo, mask = photos.photo(row), values["photo_mask"]
        smoothing, graph = values["smoothing"], values["refinement"]
        strength = np.linalg.norm(values["map"].astype(np.float32), axis=-1)
        maps = [heat_map(photo, value, mask) for value in (strength, smoothing["a"], smoothing["c"])]
        pictures = [content(photo, mask), *(image for image, _, _ in maps)]
        pictures.append(node_graph(photo, graph, values["map"].shape[:2], mask))
        said = [f"{title}: {low:.2f} to {high:.2f}" for title, (_, low, high) in zip(TITLES[1:4], maps, strict=True)]
        rows.append((pictures, [TITLES[0], *said, f"{int(graph['valid'].sum())} nodes and their edges"]))
    sheet(rows).save(given.out, quality=88)
    print(given.out)


def sheet(rows: list[tuple[list[Image.Image], list[str]]]) -> Image.Image:
    """The pictures side by side, each with its words below."""
    scaled = [[one.resize((CELL, round(one.height * CELL / one.width))) for one in pictures] for pictures, _ in rows]
    heights = [max(one.height for one in pictures) + 28 for pictures in scaled]
    out = Image.new("RGB", (len(TITLES) * (CELL + 8), sum(heights)), "white")
    draw, top = ImageDraw.Draw(out), 0
    for pictures, (_, words), height in zip(scaled, rows, heights, strict=True):
        for i, (one, said) in enumerate(zip(pictures, words, strict=True)):
            out.paste(one, (i * (CELL + 8), top))
            draw.text((i * (CELL + 8), top + one.height + 3), said, "black", font(15))
        top += height
    return out


if __name__ == "__main__":
    main()
