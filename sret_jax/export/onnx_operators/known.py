"""Primitives of arrays that are known when the graph is written: how numpy computes them."""

from collections.abc import Callable
from typing import Any

import numpy as np

from sret_jax.export.onnx_graph import KNOWN

# How numpy computes what depends on parameters alone; whatever is not here JAX computes, one compilation each.
PLAIN: dict[str, Callable[..., Any]] = {
    "neg": np.negative,
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "square": np.square,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "copy": np.asarray,
    "stop_gradient": np.asarray,
    "convert_element_type": np.asarray,
    "select_n": lambda which, no, yes: np.where(which, yes, no),
}


def _without_parameters(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arrays, **_: function(*arrays)


def _sliced(x: np.ndarray, *, start_indices: Any, limit_indices: Any, strides: Any) -> np.ndarray:
    return x[tuple(map(slice, start_indices, limit_indices, strides or (1,) * x.ndim))]


def _broadcast(x: np.ndarray, *, shape: Any, broadcast_dimensions: Any, **_: Any) -> np.ndarray:
    sizes = dict(zip(broadcast_dimensions, x.shape, strict=True))
    return np.broadcast_to(x.reshape([sizes.get(i, 1) for i in range(len(shape))]), shape)


KNOWN |= {name: _without_parameters(function) for name, function in PLAIN.items()} | {
    "reshape": lambda x, *, new_sizes, **_: x.reshape(new_sizes),
    "squeeze": lambda x, *, dimensions, **_: np.squeeze(x, dimensions),
    "transpose": lambda x, *, permutation: x.transpose(permutation),
    "slice": _sliced,
    "broadcast_in_dim": _broadcast,
}
