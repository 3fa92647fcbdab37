"""Writes photographs to try things on: `python examples/sample_photos.py photos query.jpg`.

Views of four pictures that come with scikit-image, `photos/<object>/<view>.jpg`, and one more view of one of them.
"""

import sys
from pathlib import Path

from PIL import Image
from skimage import data

OBJECTS = {"astronaut": data.astronaut, "cat": data.chelsea, "coffee": data.coffee, "rocket": data.rocket}
VIEWS = ((0.0, 0.0, 1.0, 1.0, 0), (0.1, 0.0, 1.0, 0.9, 4), (0.0, 0.1, 0.85, 1.0, -6), (0.15, 0.1, 1.0, 1.0, 9))
QUERY = (0.05, 0.12, 0.9, 0.95, -3)  # left, top, right, bottom as shares of the picture; degrees


def view(picture: Image.Image, left: float, top: float, right: float, bottom: float, degrees: float) -> Image.Image:
    width, height = picture.size
    turned = picture.rotate(degrees, Image.Resampling.BICUBIC)
    return turned.crop((int(left * width), int(top * height), int(right * width), int(bottom * height)))


def main(folder: Path, query: Path) -> None:
    for name, load in OBJECTS.items():
        picture = Image.fromarray(load())
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number, place in enumerate(VIEWS):
            view(picture, *place).save(folder / name / f"{number}.jpg", quality=92)
    view(Image.fromarray(data.chelsea()), *QUERY).save(query, quality=92)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3] if len(sys.argv) == 3 else ("photos", "query.jpg")))
