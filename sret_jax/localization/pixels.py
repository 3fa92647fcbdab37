"""From the heat of a map to the pixels of its photograph.

upsample  ->  [guided filter]  ->  Otsu's threshold  ->  the component with the most heat  ->  [GrabCut]
"""

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8

FLAT = 1e-5  # range of a heat that says nothing, its largest value = 1


def upsample(
    heat: Float[np.ndarray, "h w"], mask: Bool[np.ndarray, "h w"], size: tuple[int, int]
) -> Float32[np.ndarray, "H W"]:
    """The part of a map inside `mask`, a rectangle from the upper left corner, bilinear at `size` (height, width)."""
    rows, columns = int(mask.any(1).sum()), int(mask.any(0).sum())
    if not rows:
        return np.zeros(size, np.float32)
    content = np.ascontiguousarray(heat[:rows, :columns], np.float32)
    return cv2.resize(content, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


def shrunken(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """(height, width) with the longest side at most `longest`."""
    scale = min(1.0, longest / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def shrink(photo: UInt8[np.ndarray, "H W 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """The photograph at `size` (height, width), each pixel the mean of those it stands for."""
    return cv2.resize(photo, (size[1], size[0]), interpolation=cv2.INTER_AREA)


def enlarge(
    values: Float[np.ndarray, "h w"] | Bool[np.ndarray, "h w"], size: tuple[int, int]
) -> Float32[np.ndarray, "H W"]:
    """A value of each pixel, bilinear at `size` (height, width)."""
    return cv2.resize(values.astype(np.float32), (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


def guided_filter(
    heat: Float[np.ndarray, "H W"], photo: UInt8[np.ndarray, "H W 3"], *, radius: int, epsilon: float = 1e-3
) -> Float32[np.ndarray, "H W"]:
    """The heat with the edges of the photograph: in every window a linear function of its grey values.

        q = mean(a) I + mean(b),    a = cov(I, p) / (var(I) + epsilon),    b = mean(p) - a mean(I)

    I is the photograph's grey value, 0 to 1, p the heat; the means are over (2 radius + 1)^2 pixels, mirrored at the
    border. Large epsilon: the plain box filter, twice.

    Reference: He, Sun, Tang, Guided image filtering, TPAMI 2013.
    """
    grey, p = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255, heat.astype(np.float32)

    def mean(z: np.ndarray) -> np.ndarray:
        return cv2.blur(z, (2 * radius + 1, 2 * radius + 1))

    mean_grey, mean_p = mean(grey), mean(p)
    a = (mean(grey * p) - mean_grey * mean_p) / (mean(grey * grey) - mean_grey**2 + epsilon)
    b = mean_p - a * mean_grey
    return mean(a) * grey + mean(b)


def hottest_component(heat: Float[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """Of the pixels above Otsu's threshold the 4-connected component with the most heat; empty where all are equal.

    Equal up to `FLAT`, for a guided filter leaves rounding on a constant map.
    """
    low, high = float(heat.min()), float(heat.max())
    if not high - low > FLAT * max(abs(low), abs(high)):
        return np.zeros(heat.shape, bool)
    levels = ((heat - low) * (255 / (high - low))).astype(np.uint8)
    _, above = cv2.threshold(levels, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    count, labels = cv2.connectedComponents(above, connectivity=4)
    if count < 2:
        return np.zeros(heat.shape, bool)
    total = np.bincount(labels.ravel(), levels.ravel(), count)
    return labels == 1 + int(np.argmax(total[1:]))


def grab_cut(
    photo: UInt8[np.ndarray, "H W 3"], found: Bool[np.ndarray, "H W"], *, longest: int = 72, iterations: int = 1
) -> Bool[np.ndarray, "H W"]:
    """The mask cut out along the photograph's colours, at most `longest` pixels a side; sure of nothing but a rim.

    What is far inside the mask is taken to be the object and what is far outside background; a rim of a tenth of the
    mask's size in between is decided. Where nothing would be left, or nothing is in doubt, the mask stays.

    Reference: Rother, Kolmogorov, Blake, GrabCut, SIGGRAPH 2004, as OpenCV has it.
    """
    small = shrink(photo, shrunken(photo.shape[:2], longest))
    mask = cv2.resize(found.astype(np.uint8), small.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    reach = max(1, round(0.1 * np.sqrt(mask.sum())))
    kernel = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    inside, around = cv2.erode(mask, kernel, borderValue=1), cv2.dilate(mask, kernel)
    if not inside.any() or around.all():
        return found
    labels = np.where(mask, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[inside > 0], labels[around == 0] = cv2.GC_FGD, cv2.GC_BGD
    cv2.setRNGSeed(0)
    colours, unused, models = cv2.cvtColor(small, cv2.COLOR_RGB2BGR), (0, 0, 0, 0), np.zeros((2, 1, 65))
    cv2.grabCut(colours, labels, unused, models[0], models[1], iterations, cv2.GC_INIT_WITH_MASK)
    return enlarge(np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)), found.shape) > 0.5


def pixel_box(
    box: Int[np.ndarray, "4"], mask: Bool[np.ndarray, "h w"], size: tuple[int, int]
) -> Float[np.ndarray, "4"]:
    """A box in patches of the map that `mask` describes, in pixels of its photograph of (height, width) `size`."""
    scale = np.array([size[1] / mask.any(0).sum(), size[0] / mask.any(1).sum()])
    return np.tile(scale, 2) * box
