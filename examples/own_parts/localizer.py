"""A method of localization of one's own: the object is where the features are as strong as in the query's region."""

import numpy as np

import sret_jax
from sret_jax.localization.pixels import upsample


@sret_jax.register("localizer", "strong")
def strong(localizer, query, rows, share=0.5):
    """A mask [H W] for each photograph in `rows`, of the size of the photograph."""
    sought, _, weights = localizer.query_map(query)  # [h w c] and [h w]
    wanted = share * float((np.linalg.norm(sought, axis=-1) * weights).sum() / weights.sum())
    maps, masks = localizer.photo_maps(rows)
    found = []
    for row, x, mask in zip(rows, np.asarray(maps), np.asarray(masks), strict=True):
        strength = np.linalg.norm(x, axis=-1).astype(np.float32)
        found.append(upsample(strength, mask, localizer.size(row)) > wanted)
    return found
