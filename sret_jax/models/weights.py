"""Foreign checkpoints -> Flax variables, strict both ways.

Every parameter of the network must be in the file with the right shape, and everything in the file must either be
used or be named as something to leave out.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sret_jax.errors import UserError
from sret_jax.models.torch_file import read_torch

__all__ = ["convert", "read_torch"]

Shapes = Mapping[str, Any]  # nested dicts of things that have a shape
_LEAVES = {  # parameter of a ConvNorm -> collection, which of (convolution, BatchNorm), torch's name
    "kernel": ("params", 0, "weight"),
    "scale": ("params", 1, "weight"),
    "bias": ("params", 1, "bias"),
    "mean": ("batch_stats", 1, "running_mean"),
    "var": ("batch_stats", 1, "running_var"),
}


def convert(
    state: Mapping[str, np.ndarray],
    units: Mapping[tuple[str, ...], tuple[str, str]],
    shapes: Shapes,
    *,
    left_out: Collection[str] = (),
    source: str | Path,
) -> dict[str, Any]:
    """`{"params", "batch_stats"}` in float32 with the shapes of `shapes`, from a torch state dict.

    `units`: Flax path of each ConvNorm -> torch names of its convolution and BatchNorm. Convolution weights turn from
    `[out in k k]` to `[k k in out]`. `left_out`: keys that may be in the file and are not used; BatchNorm's counters
    `num_batches_tracked` never are. Raises `UserError` that names `source`, the key and, when they differ, both shapes.
    """
    variables: dict[str, Any] = {}
    unused = {k for k in state if not k.endswith("num_batches_tracked")} - set(left_out)
    for path, names in units.items():
        for leaf, (collection, part, suffix) in _LEAVES.items():
            key = f"{names[part]}.{suffix}"
            if key not in state:
                raise UserError(f"{source}: no entry {key!r}; the file belongs to another architecture")
            unused.discard(key)
            value = np.asarray(state[key])
            expected = shapes[collection]
            node = variables.setdefault(collection, {})
            for name in path:
                expected, node = expected[name], node.setdefault(name, {})
            wanted = tuple(expected[leaf].shape)
            if leaf == "kernel":
                wanted = tuple(wanted[i] for i in (3, 2, 0, 1))
            if value.shape != wanted:
                raise UserError(f"{source}: {key!r} has the shape {list(value.shape)}, expected {list(wanted)}")
            if not np.isfinite(value.astype(np.float32)).all():
                raise UserError(f"{source}: {key!r} holds values that are not finite; the file is damaged")
            value = value.transpose(2, 3, 1, 0) if leaf == "kernel" else value
            node[leaf] = np.ascontiguousarray(value, np.float32)
    if unused:
        raise UserError(f"{source}: unexpected entry {sorted(unused)[0]!r}; the file belongs to another architecture")
    return variables
