"""Feature maps, nodes and the edges between them, for the layers that refine on a graph."""

import jax
import numpy as np


def feature_map(seed=0, shape=(2, 6, 7), channels=12):
    x = np.maximum(np.random.default_rng(seed).normal(size=(*shape, channels)), 0)
    mask = np.ones(shape, bool)
    mask[0, 4:] = mask[0, :, 5:] = False
    return (x * mask[..., None]).astype(np.float32), mask


def nodes(seed=0, b=2, n=9, channels=5, dead=3):
    rng = np.random.default_rng(seed)
    at = np.stack([rng.permutation(20)[:n] for _ in range(b)])
    at = np.stack([at // 5, at % 5], -1).astype(np.int32)
    valid = np.ones((b, n), bool)
    valid[0, n - dead :] = False
    features = rng.normal(size=(b, n, channels)).astype(np.float32)
    return features * valid[..., None], at, np.array([5, 4], np.float32)[:b], valid


def edges_in_loops(features, at, valid, neighbours, kinds="both"):
    """Set of (receiver, sender) for one photo, with plain sorting; a tie goes to the earlier node."""
    alive = np.flatnonzero(valid)
    unit = features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12)
    edges = {(i, i) for i in alive}
    for i in alive:
        others = [j for j in alive if j != i]
        near = sorted(others, key=lambda j: (np.sum((at[i] - at[j]) ** 2), j))[:neighbours]
        alike = sorted(others, key=lambda j: (-np.dot(unit[i], unit[j]), j))[:neighbours]
        edges |= {(i, j) for j in near * (kinds != "similarity") + alike * (kinds != "space")}
    return edges


def trained(layer, x, mask, seed=1):
    """Variables away from their start, so that nothing is zero."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name, value = path[-1].key, 0.2 * rng.normal(size=leaf.shape)
        if name == "kernel":
            value += rng.normal(size=leaf.shape) / np.sqrt(leaf.shape[0])
        return np.float32(value + (name == "scale"))

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(layer.init, jax.random.key(0), x, mask))
