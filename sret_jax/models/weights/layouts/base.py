"""What a layout is: where each tensor of a foreign checkpoint goes, and how it becomes what it is there."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from sret_jax.errors import UserError

State = Mapping[str, np.ndarray]
Shape = tuple[int, ...]


class Leaf(NamedTuple):
    """One parameter or statistic: where it belongs, its shape there, and how the file's tensor becomes it.

    With `total` the tensor is one of the pieces of the leaf's last axis, of that length: the one that begins at
    `start`, of this shape. What no piece fills is zero.
    """

    collection: str
    path: tuple[str, ...]
    shape: Shape
    form: str = "vector"
    start: int = 0
    total: int = 0


class Form(NamedTuple):
    """`wanted`: the shape that the file's tensor must have, from the leaf's; `turned`: the leaf from that tensor."""

    wanted: Callable[[Shape], Shape]
    turned: Callable[[np.ndarray, Shape], np.ndarray]


def _without_key_bias(x: np.ndarray, shape: Shape) -> np.ndarray:
    q, k, v = np.split(x, 3)
    return np.concatenate([q, np.zeros_like(k), v])


FORMS = {
    "vector": Form(lambda s: s, lambda x, s: x),
    "row": Form(lambda s: s[1:], lambda x, s: x[None]),
    "kernel": Form(lambda s: (s[3], s[2], s[0], s[1]), lambda x, s: x.transpose(2, 3, 1, 0)),
    "matrix": Form(lambda s: s[::-1], lambda x, s: x.T),
    "pointwise": Form(lambda s: (s[1], s[0], 1, 1), lambda x, s: x[:, :, 0, 0].T),
    "exponent": Form(lambda s: s or (1,), lambda x, s: x.reshape(s)),
    "tokens": Form(lambda s: (1, *s), lambda x, s: x[0]),
    "grid": Form(lambda s: (1, s[0] - 1, s[1]), lambda x, s: np.concatenate([np.zeros_like(x[0, :1]), x[0]])),
    "masked": Form(lambda s: s, _without_key_bias),  # of queries, keys and values: DINOv3 masks that of the keys
}


@dataclass(frozen=True)
class Layout:
    """`leaves`: of every key that must be in the file; `left_out`: keys that may be there and are not used."""

    name: str
    backbone: str
    stage: str  # the last one that the file has
    leaves: dict[str, Leaf]
    left_out: frozenset[str] = frozenset()
    biases: dict[str, str] = field(default_factory=dict)  # of a convolution before a BatchNorm -> the mean it moves
    whitens: str = "normalized"  # what the fully connected layer takes: the "normalized" pooled vector, or "pooled"
    # What else belongs to the weights: of the backbone, by name.
    statistics: dict[str, np.ndarray] = field(default_factory=dict)
    zeros: dict[tuple[str, ...], Shape] = field(default_factory=dict)  # parameters that the file does without


def length(state: State, key: str, axis: int, axes: int, source: Any, layout: str) -> int:
    """Of an axis of an entry that tells how large the network is.

    Raises `UserError` where the entry is missing, or has not as many `axes` as in the layout.
    """
    if key not in state:
        raise UserError(f"{source}: no entry {key!r}, which the layout {layout} has")
    shape = np.shape(state[key])
    if len(shape) != axes:
        raise UserError(
            f"{source}: {key!r} of the layout {layout} has the shape {list(shape)}, not one of {axes} axes; the file "
            "is damaged or of another network"
        )
    return shape[axis]
