import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

shown = json.load(open("config.json"))["preprocessing"]
assert shown["rounding"] == "nearest", "sides are rounded in another way: see `rounding` in config.json"
session = onnxruntime.InferenceSession("model.onnx")


def rounded(length: float, multiple: int) -> int:
    return max(1, int(length / multiple + 0.5)) * multiple


def prepared(path: str) -> np.ndarray:
    photo = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    longest = shown["image_size"] if shown["enlarge"] else min(shown["image_size"], max(photo.size))
    scale = rounded(longest, shown["size_multiple"]) / max(photo.size)
    width, height = (rounded(side * scale, shown["size_multiple"]) for side in photo.size)
    how = Image.Resampling[shown["filter"].upper()]
    return np.asarray(photo.resize((width, height), how, reducing_gap=shown["reducing_gap"]))


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
