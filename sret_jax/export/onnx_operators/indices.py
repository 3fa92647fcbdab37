"""Numbers at indices, and sums at them.

Indices are always within bounds in our networks, so that what JAX does outside of them does not matter.
"""

from collections.abc import Sequence

from sret_jax.errors import UserError
from sret_jax.export.onnx_graph import Graph, Params, Shapes, Tensor, Value, rule


@rule("gather")
def gather(graph: Graph, given: Sequence[Value], params: Params, shapes: Shapes) -> Sequence[Value]:
    """x[..., i, ...] of leading axes, one element or all of each axis."""
    numbers, x = params["dimension_numbers"], graph.tensor(given[0])
    indices = graph.cast(graph.tensor(given[1]), "int64")
    axes, batched = numbers.start_index_map, numbers.operand_batching_dims
    rank, count = len(x.shape), len(batched)
    if len(indices.shape) == 1 and not batched:
        return _window(graph, x, indices, params, shapes)
    one = all(params["slice_sizes"][i] == 1 for i in (*axes, *batched))
    whole = all(str(params["slice_sizes"][i]) == str(x.shape[i]) for i in range(rank) if i not in (*axes, *batched))
    ordered = tuple(axes) == tuple(range(count, count + len(axes))) and tuple(batched) == tuple(range(count))
    gone = set(numbers.collapsed_slice_dims) == set(axes)
    offsets = tuple(numbers.offset_dims)
    last = offsets == tuple(range(len(indices.shape) - 1, len(indices.shape) - 1 + len(offsets)))
    matched = tuple(numbers.start_indices_batching_dims) == tuple(range(count))
    if not (one and whole and ordered and gone and last and matched):
        return _gather_of_one_axis(graph, x, indices, params, shapes)
    name = graph.node("GatherND", x.name, indices.name, batch_dims=count)
    return [Tensor(name, tuple(shapes[0].shape), x.dtype)]


def _window(graph: Graph, x: Tensor, start: Tensor, params: Params, shapes: Shapes) -> Sequence[Value]:
    """One block of an array, whose first corner is an index: what a slice is where other sizes are free."""
    numbers, axes = params["dimension_numbers"], params["dimension_numbers"].start_index_map
    end = graph.node("Add", start.name, graph.sizes([params["slice_sizes"][i] for i in axes]))
    name = graph.node("Slice", x.name, start.name, end, graph.integers(*map(int, axes)))
    if gone := numbers.collapsed_slice_dims:
        name = graph.node("Squeeze", name, graph.integers(*map(int, gone)))
    return [Tensor(name, tuple(shapes[0].shape), x.dtype)]


def _gather_of_one_axis(graph: Graph, x: Tensor, indices: Tensor, params: Params, shapes: Shapes) -> Sequence[Value]:
    numbers = params["dimension_numbers"]
    others = tuple(i for i in range(len(x.shape)) if i not in numbers.start_index_map)
    if others == tuple(numbers.operand_batching_dims) == tuple(numbers.start_indices_batching_dims):  # along an axis
        (axis,) = numbers.start_index_map
        flat = graph.node("Squeeze", indices.name, graph.integers(len(indices.shape) - 1))
        return [Tensor(graph.node("GatherElements", x.name, flat, axis=axis), tuple(shapes[0].shape), x.dtype)]
    if len(numbers.start_index_map) != 1 or numbers.operand_batching_dims or len(numbers.collapsed_slice_dims) != 1:
        raise UserError(f"ONNX: an index of the form {numbers} cannot be exported")
    (axis,) = numbers.start_index_map
    flat = graph.node("Squeeze", indices.name, graph.integers(len(indices.shape) - 1))
    kept = [i for i in range(len(x.shape)) if i != axis]
    out = len(shapes[0].shape)
    wanted = [i for i in range(out) if i not in numbers.offset_dims]  # where the axes of the indices belong
    if wanted != list(range(axis, axis + len(wanted))) or len(kept) + len(wanted) != out:
        raise UserError(f"ONNX: an index of the form {numbers} cannot be exported")
    return [Tensor(graph.node("Gather", x.name, flat, axis=axis), tuple(shapes[0].shape), x.dtype)]


@rule("scatter-add", "scatter_add")
def scatter_add(graph: Graph, given: Sequence[Value], params: Params, shapes: Shapes) -> Sequence[Value]:
    numbers, (x, indices, updates) = params["dimension_numbers"], map(graph.tensor, given)
    axes = tuple(numbers.scatter_dims_to_operand_dims)
    leading = axes == tuple(range(len(axes))) == tuple(numbers.inserted_window_dims)
    windows = tuple(range(len(indices.shape) - 1, len(updates.shape)))
    if not leading or tuple(numbers.update_window_dims) != windows or numbers.operand_batching_dims:
        raise UserError(f"ONNX: sums at indices of the form {numbers} cannot be exported")
    name = graph.node("ScatterND", x.name, graph.cast(indices, "int64").name, updates.name, reduction="add")
    return [Tensor(name, tuple(shapes[0].shape), x.dtype)]
