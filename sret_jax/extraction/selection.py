"""The strongest local features of photographs over a set of scales."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float32, Int32

from sret_jax.data.pipeline import PhotoBatch

HOW_SCALES = (2.0, 1.414, 1.0, 0.707, 0.5, 0.353, 0.25)


class SelectedFeatures(NamedTuple):
    """Local features of b photographs, or of one without the axis b, strongest first.

    The first `counts` of each photograph are real, the rest is zero.

    features  as the network gives them
    strength  1 for the strongest of the photograph
    position  (x, y), 0 to 1 from the upper left to the lower right corner of the photograph
    scale     of the photograph in which the feature was found
    """

    features: Float32[Array | np.ndarray, "*b n c"]
    strength: Float32[Array | np.ndarray, "*b n"]
    position: Float32[Array | np.ndarray, "*b n 2"]
    scale: Float32[Array | np.ndarray, "*b n"]
    counts: Int32[Array | np.ndarray, "*b"]


@partial(jax.jit, static_argnames=("scales", "most"))
def select_local(maps: Sequence[Mapping[str, Array]], scales: tuple[float, ...], most: int) -> SelectedFeatures:
    """The `most` local features with the greatest strength over all scales; equals in the order of scales and rows.

    Strengths are divided by the greatest of the photograph over all scales. Neither are the features normalised, nor
    neighbours suppressed.

    Args:
        maps: for each scale {"features" [b h w c], "strength" [b h w], "mask" [b h w]}, the strengths not negative.
        scales: of the maps.

    Reference: Tolias, Jenicek, Chum, Learning and aggregating deep local descriptors for instance-level recognition,
    ECCV 2020.
    """
    return _union([_strongest_of(one, scale, most) for one, scale in zip(maps, scales, strict=True)], most)


@partial(jax.jit, static_argnames=("scale", "most"))
def _strongest_of(maps: Mapping[str, Array], scale: float, most: int) -> SelectedFeatures:
    """The strongest of one scale, with strengths as they are."""
    strength, mask = maps["strength"], maps["mask"]
    b, h, w = mask.shape
    size = jnp.stack([mask.any(1).sum(1), mask.any(2).sum(1)], axis=1)[:, None, None]  # width, height
    centres = np.stack(np.meshgrid(np.arange(w) + 0.5, np.arange(h) + 0.5), axis=2, dtype=np.float32)
    position = jnp.asarray(centres)[None] / jnp.maximum(size, 1)
    every = SelectedFeatures(
        features=maps["features"].astype(jnp.float32).reshape(b, h * w, -1),
        strength=strength.astype(jnp.float32).reshape(b, -1),
        position=position.reshape(b, -1, 2),
        scale=jnp.full((b, h * w), scale, jnp.float32),
        counts=mask.sum((1, 2), dtype=jnp.int32),
    )
    return _strongest(every, mask.reshape(b, -1), most)


def _strongest(x: SelectedFeatures, real: Bool[Array, "b m"], most: int) -> SelectedFeatures:
    """The `most` strongest of the real ones, strongest first and zero behind the last."""
    most = min(most, real.shape[1])
    _, chosen = jax.lax.top_k(jnp.where(real, x.strength, -jnp.inf), most)
    count = jnp.minimum(x.counts, most)

    def pick(z: Array | np.ndarray) -> Array:
        index = chosen.reshape(*chosen.shape, *(1,) * (z.ndim - 2))
        z = jnp.take_along_axis(z, index, axis=1)
        kept = jnp.arange(most)[None] < count[:, None]
        return jnp.where(kept.reshape(index.shape), z, 0)

    return SelectedFeatures._make([*map(pick, x[:-1]), count])


@partial(jax.jit, static_argnames="most")
def _union(parts: Sequence[SelectedFeatures], most: int) -> SelectedFeatures:
    """The strongest of several selections of the same photographs, in `most` slots."""
    real = jnp.concatenate([jnp.arange(p.strength.shape[1])[None] < p.counts[:, None] for p in parts], axis=1)
    fields = (jnp.concatenate(z, axis=1) for z in zip(*(p[:-1] for p in parts), strict=True))
    best = _strongest(SelectedFeatures._make([*fields, real.sum(1, dtype=jnp.int32)]), real, most)
    greatest = best.strength[:, :1]
    best = best._replace(strength=best.strength / jnp.where(greatest > 0, greatest, 1))
    missing = most - best.strength.shape[1]
    padded = (jnp.pad(z, [(0, 0), (0, missing)] + [(0, 0)] * (z.ndim - 2)) for z in best[:-1])
    return SelectedFeatures._make([*padded, best.counts])


def extract_local(
    maps_of: Callable[[ArrayLike, ArrayLike, float], Mapping[str, Array]],
    batches: Iterable[PhotoBatch],
    *,
    scales: tuple[float, ...] = HOW_SCALES,
    most: int = 1000,
) -> Iterator[tuple[int, SelectedFeatures]]:
    """For each row in the batches that row and the selected local features of the photograph, as numpy arrays.

    Args:
        maps_of: photographs, mask and scale -> maps as `select_local` takes them.
        batches: of `evaluation_batches`; every photograph is decoded once, and resized on the device.
        scales: of the batches' photographs.
        most: features of a photograph.
    """
    for batch in batches:
        parts = [_strongest_of(maps_of(batch["image"], batch["mask"], scale), scale, most) for scale in scales]
        selected = jax.tree.map(np.asarray, _union(parts, most))
        for i in np.flatnonzero(batch["row"] >= 0):
            yield int(batch["row"][i]), jax.tree.map(lambda z, i=i: z[i], selected)
