"""A benchmark of one's own: the first photograph of every <instance>/ looks for the others of it."""

import numpy as np

import sret_jax
from sret_jax.datasets.lookups import Lookup


@sret_jax.register("benchmark", "first")
def first(root, cache):
    """root is `--root`; `cache` may keep what is prepared."""
    photos = sret_jax.open_photos(root)
    of = [name.split("/")[0] for name in photos.names]
    queries = [of.index(instance) for instance in sorted(set(of)) if of.count(instance) > 1]
    searched = np.setdiff1d(np.arange(len(photos)), queries)
    right = [np.flatnonzero([of[row] == of[query] for row in searched]) for query in queries]
    return Lookup(
        photos=photos.select(searched),
        queries=photos.select(np.array(queries)),
        relevant=right,
        groups=[""] * len(queries),  # reported apart, where there are several
        depth=0,  # answers that count; 0: all
    )
