"""Descriptors with labels, for losses."""

import jax.numpy as jnp
import numpy as np


def batch(seed=0, instances=4, photos=3, dim=6, spread=0.6):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(instances, dim))
    x = np.repeat(centres, photos, 0) + spread * rng.normal(size=(instances * photos, dim))
    labels = np.repeat(np.arange(instances), photos)
    order = rng.permutation(len(x))
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return jnp.array(x[order], jnp.float32), jnp.array(labels[order], jnp.int32)
