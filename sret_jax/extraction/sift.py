"""SIFT keypoints of a photograph, by OpenCV, as RootSIFT."""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

SIFT_VERSION = f"RootSIFT 1, OpenCV {cv2.__version__}"  # counts up when other keypoints come of the same photograph


class Keypoints(NamedTuple):
    """The keypoints of one photograph, strongest first.

    features  RootSIFT: of unit length, so that their dot product is the Hellinger kernel of the histograms
    position  (x, y) from the upper left corner of the photograph, whose longest side is 1
    scale     diameter of the region that was described, in the same unit
    strength  contrast of the extremum
    """

    features: Float32[np.ndarray, "n 128"]
    position: Float32[np.ndarray, "n 2"]
    scale: Float32[np.ndarray, "n"]
    strength: Float32[np.ndarray, "n"]


def sift(photo: UInt8[np.ndarray, "h w 3"], most: int) -> Keypoints:
    """The `most` strongest keypoints; fewer, or none, where the photograph has no more.

    Equally strong ones come from top to bottom, from left to right, then by scale and orientation. One point with
    several orientations counts as several keypoints.

    References: Lowe, Distinctive image features from scale-invariant keypoints, IJCV 2004; Arandjelovic, Zisserman,
    Three things everyone should know to improve object retrieval, CVPR 2012.
    """
    detector = cv2.SIFT.create(nfeatures=most)  # keeps those equally strong to the last, too
    found, histograms = detector.detectAndCompute(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY), None)
    if not found:
        return Keypoints(*(np.zeros(shape, np.float32) for shape in ((0, 128), (0, 2), 0, 0)))
    x, y, size, angle, strength = np.array([(*k.pt, k.size, k.angle, k.response) for k in found], np.float32).T
    order = np.lexsort((angle, size, x, y, -strength))[:most]
    histograms = histograms[order]
    features = np.sqrt(histograms / np.maximum(histograms.sum(1, keepdims=True), 1))
    longest = max(photo.shape[:2])
    position = (np.stack([x, y], axis=1)[order] + 0.5) / longest  # OpenCV counts from the centre of the first pixel
    return Keypoints(features, position, size[order] / longest, strength[order])
