import json
import math
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

shown = json.load(open("config.json"))["preprocessing"]
session = onnxruntime.InferenceSession("model.onnx")


def opened(path: str) -> Image.Image:
    photo = ImageOps.exif_transpose(Image.open(path))
    if photo.mode.startswith("I"):  # grey of 16 bits, which `convert` would saturate
        photo = Image.fromarray((np.asarray(photo).astype(int).clip(0, 65535) >> 8).astype(np.uint8))
    if photo.has_transparency_data:
        photo = photo.convert("RGBA")
        photo = Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo)
    return photo.convert("RGB")


def nearest(length: float, multiple: int) -> int:
    return max(1, int(length / multiple + 0.5)) * multiple


def shorter_side(width: int, height: int, longest: int) -> int:
    aspect, multiple = width / height, shown["size_multiple"]
    if shown["rounding"] == "nearest":
        return nearest(min(width, height) * (longest / max(width, height)), multiple)
    if shown["rounding"] == "aspect":
        exact = longest / aspect if width > height else longest * aspect
        sides = max(1, math.floor(exact)), math.ceil(exact)
        side = min(sides, key=lambda side: abs(aspect - (longest / side if width > height else side / longest)))
    elif width > height:
        side = int(height * longest / width)
    elif width > longest:  # first the width is made `longest`, and then the height
        side = int(longest * longest / int(height * longest / width))
    else:
        side = int(width * longest / height)
    return max(1, side // multiple) * multiple


def prepared(path: str) -> np.ndarray:
    photo = opened(path)
    longest = shown["image_size"] if shown["enlarge"] else min(shown["image_size"], max(photo.size))
    longest = nearest(longest, shown["size_multiple"])
    shorter = shorter_side(*photo.size, longest)
    size = (longest, shorter) if photo.width > photo.height else (shorter, longest)
    how = Image.Resampling[shown["filter"].upper()]
    return np.asarray(photo.resize(size, how, reducing_gap=shown["reducing_gap"]))


def describe(paths: list[str]) -> np.ndarray:
    photos, multiple = [prepared(path) for path in paths], shown["canvas_multiple"]
    height, width = (-(-max(photo.shape[i] for photo in photos) // multiple) * multiple for i in (0, 1))
    images = np.zeros((len(photos), height, width, 3), np.uint8)
    mask = np.zeros((len(photos), height, width), bool)
    for i, photo in enumerate(photos):
        images[i, : photo.shape[0], : photo.shape[1]] = photo
        mask[i, : photo.shape[0], : photo.shape[1]] = True
    return session.run(None, {"images": images, "mask": mask})[0]


if __name__ == "__main__":
    np.save("descriptors.npy", describe(sys.argv[1:]))
