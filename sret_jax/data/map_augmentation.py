"""One random training view of a stored feature map: what `augmentation` does to photographs, as far as a map allows.

A map that was made once stands for its photograph while only what follows it trains. A mirrored or cropped map is
nearly, but not exactly, the map of the mirrored or cropped photograph; colours and compression cannot be changed.
"""

import numpy as np
from jaxtyping import Bool, Float

from sret_jax.config import DataConfig

LEAST = 3  # rows and columns that a crop keeps, where the map has them


def augment_map(
    x: Float[np.ndarray, "h w c"], size: tuple[int, int], rng: np.random.Generator, config: DataConfig
) -> tuple[Float[np.ndarray, "h w c"], Bool[np.ndarray, "h w"]]:
    """A crop of the map, resampled and mirrored by chance, at the top left of its array, and the mask of what is left.

    Args:
      x: zero outside the photograph, which fills the first rows and columns.
      size: how many rows and columns those are.
      rng: of this view.
      config: `crop_area` and `flip` act as on photographs, to a position; with a `map_scale` other than (1, 1) the
        crop begins and ends between positions and is resampled to a size in that range, of its own; `map_drop` is the
        share of positions that are hidden.
    """
    side = np.sqrt(rng.uniform(*config.crop_area))
    least, most = config.map_scale
    if least == most == 1:
        kept = [min(n, max(LEAST, round(n * side))) for n in size]
        top, left = (int(rng.integers(n - k + 1)) for n, k in zip(size, kept, strict=True))
        view = x[top : top + kept[0], left : left + kept[1]]
    else:
        view = _resampled(x[: size[0], : size[1]], rng, side, (least, most), (x.shape[0], x.shape[1]))
    if rng.random() < config.flip:
        view = view[:, ::-1]
    rows, columns = view.shape[:2]
    shown = np.ones((rows, columns), bool)
    if config.map_drop > 0:
        shown &= rng.random((rows, columns)) >= config.map_drop
        shown[rng.integers(rows), rng.integers(columns)] = True  # never all of them
    out, mask = np.zeros_like(x), np.zeros(x.shape[:2], bool)
    out[:rows, :columns] = view * shown[..., None]
    mask[:rows, :columns] = shown
    return out, mask


def _resampled(
    x: Float[np.ndarray, "h w c"],
    rng: np.random.Generator,
    side: float,
    scales: tuple[float, float],
    most: tuple[int, int],
) -> Float[np.ndarray, "h2 w2 c"]:
    """A window of `side` times the map's sides, anywhere, sampled linearly at a size of its own, at most `most`."""
    scale = rng.uniform(*scales)
    along = []
    for n, limit in zip(x.shape[:2], most, strict=True):
        length = max(min(n, LEAST), n * side)
        start = rng.uniform(0, n - length)
        count = int(np.clip(round(length * scale), min(n, LEAST), limit))
        at = np.clip(start + (np.arange(count) + 0.5) * length / count - 0.5, 0, n - 1)
        along.append(np.maximum(0, 1 - np.abs(at[:, None] - np.arange(n)[None])).astype(np.float32))
    down, across = along
    return np.einsum("im,mnc,jn->ijc", down, x.astype(np.float32), across, optimize=True).astype(x.dtype)
