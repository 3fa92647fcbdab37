"""Sizes, and what changes the shape of an array and none of its numbers."""

from collections.abc import Sequence

import numpy as np

from sret_jax.errors import UserError
from sret_jax.export.onnx_graph import FIRST, Graph, Params, Shapes, Tensor, Value, rule


@rule("dim_as_value")
def dim_as_value(graph: Graph, given: Sequence[Value], params: Params, shapes: Shapes) -> Sequence[Value]:
    size = Tensor(graph.node("Squeeze", graph.size(params["dim"]), graph.integers(0)), (), "int64")
    return [graph.cast(size, "int32")]


@rule("platform_index")
def platform_index(graph: Graph, given: Sequence[Value], params: Params, shapes: Shapes) -> Sequence[Value]:
    """The branch of `lax.platform_dependent` that is for all platforms."""
    return [np.array(params["platforms"].index(None), np.int32)]


@rule("iota")
def iota(graph: Graph, given: Sequence[Value], params: Params, shapes: Shapes) -> Sequence[Value]:
    shape, axis = tuple(shapes[0].shape), params["dimension"]
    stop = graph.node("Squeeze", graph.size(shape[axis]), graph.integers(0))
    name = graph.node("Range", graph.constant(np.int64(0)), stop, graph.constant(np.int64(1)))
    if others := [i for i in range(len(shape)) if i != axis]:
        name = graph.node("Unsqueeze", name, graph.integers(*others))
    narrow = frozenset(i for i in others if shape[i] != 1)
    return [graph.cast(Tensor(name, shape, "int64", narrow), str(shapes[0].dtype))]


@rule("broadcast_in_dim")
def broadcast_in_dim(graph: Graph, given: Sequence[Value], params: Params, shapes: Shapes) -> Sequence[Value]:
    """Nothing is copied: new axes, and those of length 1 that become longer, are narrow."""
    shape, mapped = tuple(shapes[0].shape), params["broadcast_dimensions"]
    x = graph.held(given[0])
    if x.first and len(shape) == 4 and mapped == (0, 1, 2, 3):
        name, first = x.name, True
    else:
        x, first = graph.last(x), False
        new = [i for i in range(len(shape)) if i not in mapped]
        name = graph.node("Unsqueeze", x.name, graph.integers(*new)) if new else x.name
    longer = {i for i, own in zip(mapped, x.shape, strict=True) if own == 1 and shape[i] != 1}
    narrow = (
        {mapped[i] for i in x.narrow} | longer | {i for i in range(len(shape)) if i not in mapped and shape[i] != 1}
    )
    return [Tensor(name, shape, x.dtype, frozenset(map(int, narrow)), first)]


@rule("reshape")
def reshape(graph: Graph, given: Sequence[Value], params: Params, shapes: Shapes) -> Sequence[Value]:
    shape = tuple(shapes[0].shape)
    x = graph.tensor(given[0])
    free = [i for i, size in enumerate(shape) if not isinstance(size, int)]
    sizes = [-1 if [i] == free else size for i, size in enumerate(shape)]
    return [Tensor(graph.node("Reshape", x.name, graph.sizes(sizes)), shape, x.dtype)]


@rule("squeeze")
def squeeze(graph: Graph, given: Sequence[Value], params: Params, shapes: Shapes) -> Sequence[Value]:
    x, gone = graph.last(given[0]), sorted(params["dimensions"])
    kept = [i for i in range(len(x.shape)) if i not in gone]
    narrow = frozenset(kept.index(i) for i in x.narrow)
    name = graph.node("Squeeze", x.name, graph.integers(*gone)) if gone else x.name
    return [Tensor(name, tuple(shapes[0].shape), x.dtype, narrow)]


@rule("expand_dims")
def expand_dims(graph: Graph, given: Sequence[Value], params: Params, shapes: Shapes) -> Sequence[Value]:
    x, new = graph.tensor(given[0]), params["dimensions"]
    return [Tensor(graph.node("Unsqueeze", x.name, graph.integers(*new)), tuple(shapes[0].shape), x.dtype)]


@rule("transpose")
def transpose(graph: Graph, given: Sequence[Value], params: Params, shapes: Shapes) -> Sequence[Value]:
    x, order = graph.last(given[0]), params["permutation"]
    narrow = frozenset(i for i, axis in enumerate(order) if axis in x.narrow)
    return [Tensor(graph.node("Transpose", x.name, perm=list(order)), tuple(shapes[0].shape), x.dtype, narrow)]


@rule("concatenate")
def concatenate(graph: Graph, given: Sequence[Value], params: Params, shapes: Shapes) -> Sequence[Value]:
    name = graph.node("Concat", *(graph.tensor(x).name for x in given), axis=params["dimension"])
    return [Tensor(name, tuple(shapes[0].shape), str(shapes[0].dtype))]


@rule("stack")
def stack(graph: Graph, given: Sequence[Value], params: Params, shapes: Shapes) -> Sequence[Value]:
    axis = graph.integers(params["axis"])
    parts = [graph.node("Unsqueeze", graph.tensor(x).name, axis) for x in given]
    name = graph.node("Concat", *parts, axis=params["axis"])
    return [Tensor(name, tuple(shapes[0].shape), str(shapes[0].dtype))]


@rule("tile")
def tile(graph: Graph, given: Sequence[Value], params: Params, shapes: Shapes) -> Sequence[Value]:
    x = graph.tensor(given[0])
    return [Tensor(graph.node("Tile", x.name, graph.sizes(params["reps"])), tuple(shapes[0].shape), x.dtype)]


@rule("split")
def split(graph: Graph, given: Sequence[Value], params: Params, shapes: Shapes) -> Sequence[Value]:
    x = graph.tensor(given[0])
    sizes = graph.sizes(params["sizes"])
    names = graph.several("Split", x.name, sizes, outputs=len(shapes), axis=params["axis"])
    return [Tensor(name, tuple(own.shape), x.dtype) for name, own in zip(names, shapes, strict=True)]


@rule("pad")
def pad(graph: Graph, given: Sequence[Value], params: Params, shapes: Shapes) -> Sequence[Value]:
    x, edges = graph.held(given[0]), params["padding_config"]
    if any(inside for _, _, inside in edges) or any(isinstance(n, int) and n < 0 for edge in edges for n in edge):
        raise UserError("ONNX: padding between elements, or less than none, cannot be exported")
    padded = frozenset(i for i, edge in enumerate(edges) if edge != (0, 0, 0))
    if padded & x.narrow:
        x = graph.tensor(x)
    order = FIRST if x.first else tuple(range(len(x.shape)))
    widths = graph.sizes([edges[axis][side] for side in (0, 1) for axis in order])
    value, dtype = graph.tensor(given[1]), x.dtype
    if dtype == "bool":  # for which runtimes have no kernel
        x, value = graph.cast(x, "uint8"), graph.cast(value, "uint8")
    out = Tensor(graph.node("Pad", x.name, widths, value.name), tuple(shapes[0].shape), x.dtype, x.narrow, x.first)
    return [graph.cast(out, dtype)]


@rule("slice")
def slice_(graph: Graph, given: Sequence[Value], params: Params, shapes: Shapes) -> Sequence[Value]:
    x = graph.held(given[0])
    starts, ends = params["start_indices"], params["limit_indices"]
    steps = params["strides"] or (1,) * len(starts)
    cut = [
        i
        for i, size in enumerate(x.shape)
        if (starts[i], steps[i]) != (0, 1) or (ends[i] is not size and str(ends[i]) != str(size))
    ]
    if set(cut) & x.narrow:
        x = graph.tensor(x)
    if not cut:
        return [x]
    bounds = [graph.sizes([of[i] for i in cut]) for of in (starts, ends)]
    axes = graph.integers(*(FIRST.index(i) if x.first else i for i in cut))
    name = graph.node("Slice", x.name, *bounds, axes, graph.integers(*(steps[i] for i in cut)))
    return [Tensor(name, tuple(shapes[0].shape), x.dtype, x.narrow, x.first)]


@rule("rev")
def rev(graph: Graph, given: Sequence[Value], params: Params, shapes: Shapes) -> Sequence[Value]:
    x, axes = graph.tensor(given[0]), params["dimensions"]
    ends = [-(2**31) + 1] * len(axes)
    bounds = [graph.integers(*n) for n in ([-1] * len(axes), ends, axes, [-1] * len(axes))]
    return [Tensor(graph.node("Slice", x.name, *bounds), tuple(shapes[0].shape), x.dtype)]
