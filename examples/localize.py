"""Where in the photographs of a folder is the thing in a box of one photograph?

    python examples/localize.py PHOTOS QUERY.jpg LEFT TOP RIGHT BOTTOM [--retriever=runs/quickstart] [--out=found]

Describes the part of the query in the box, searches the folder, and draws the outline of what it finds in the best
answers. The box is in pixels of the upright photograph.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

import sret_jax
from sret_jax.evaluation.report.pictures import outline
from sret_jax.localization.localizer import Localizer
from sret_jax.localization.methods import locate

PINK = (236, 72, 153)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("query", type=Path)
    parser.add_argument("box", type=int, nargs=4, metavar=("LEFT", "TOP", "RIGHT", "BOTTOM"))
    parser.add_argument("--retriever", default="spatial-context-lite0", help="or a workdir that training wrote")
    parser.add_argument("--out", type=Path, default=Path("found"))
    parser.add_argument("--answers", type=int, default=3)
    given = parser.parse_args()

    retriever = sret_jax.load(given.retriever)
    photos, query = sret_jax.open_photos(given.photos), sret_jax.open_photos(given.query)
    boxed = replace(query, boxes=np.array([given.box]))
    index = sret_jax.Index.build(retriever.describe(photos), photos.names)
    rows = index.search(retriever.describe(boxed), k=min(given.answers, len(photos))).ids[0].tolist()

    localizer = Localizer(retriever, boxed, photos, folder=given.out / "maps")
    given.out.mkdir(parents=True, exist_ok=True)
    for rank, (row, found) in enumerate(zip(rows, locate(localizer, "discovery", 0, rows), strict=True), 1):
        picture = photos.photo(row).copy()
        picture[outline(found.mask)] = PINK
        file = given.out / f"{rank}.jpg"
        Image.fromarray(picture).save(file)
        print(f"{file}: {photos.names[row]}, {found.mask.mean():.0%} of it marked")


if __name__ == "__main__":
    main()
