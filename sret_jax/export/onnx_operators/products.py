"""Products of matrices, convolutions, and the maximum of windows."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sret_jax.errors import UserError
from sret_jax.export.onnx_graph import Graph, Params, Shapes, Tensor, Value, rule


@rule("dot_general")
def dot_general(graph: Graph, given: Sequence[Value], params: Params, shapes: Shapes) -> Sequence[Value]:
    """One MatMul of [batch ..., free, contracted] and [batch ..., contracted, free]; several axes become one."""
    (contracted, batched), shape = params["dimension_numbers"], tuple(shapes[0].shape)
    operands = [graph.tensor(x) for x in given]
    free = [
        [i for i in range(len(x.shape)) if i not in (*c, *b)]
        for x, c, b in zip(operands, contracted, batched, strict=True)
    ]
    plain = not batched[0] and tuple(contracted[0]) == (len(operands[0].shape) - 1,) and tuple(contracted[1]) == (0,)
    if plain and len(operands[1].shape) == 2:  # free axes may stay as they are
        return [Tensor(graph.node("MatMul", *(x.name for x in operands)), shape, str(shapes[0].dtype))]

    def arranged(x: Tensor, groups: Sequence[Sequence[int]]) -> str:
        order = [i for group in groups for i in group]
        name = x.name if order == sorted(order) else graph.node("Transpose", x.name, perm=order)
        if all(len(group) == 1 for group in groups[-2:]):
            return name
        sizes = [x.shape[i] for i in groups[0]] + [_product(x.shape, group) for group in groups[1:]]
        return graph.node("Reshape", name, graph.sizes(sizes))

    left = arranged(operands[0], (batched[0], free[0], contracted[0]))
    right = arranged(operands[1], (batched[1], contracted[1], free[1]))
    name = graph.node("MatMul", left, right)
    if len(free[0]) != 1 or len(free[1]) != 1:
        name = graph.node("Reshape", name, graph.sizes(shape))
    return [Tensor(name, shape, str(shapes[0].dtype))]


def _product(shape: Sequence[Any], axes: Sequence[int]) -> Any:
    total: Any = 1
    for axis in axes:
        total = total * shape[axis]
    return total


@rule("conv_general_dilated")
def conv(graph: Graph, given: Sequence[Value], params: Params, shapes: Shapes) -> Sequence[Value]:
    numbers, kernel = params["dimension_numbers"], given[1]
    known = isinstance(kernel, np.ndarray) and numbers.lhs_spec == numbers.out_spec == (0, 3, 1, 2)
    if not known or set(params["lhs_dilation"]) != {1} or params["batch_group_count"] != 1:
        raise UserError("ONNX: only plain convolutions with known kernels can be exported")
    x = graph.first(graph.whole(given[0]))
    weights = graph.constant(np.asarray(kernel).transpose(numbers.rhs_spec))
    (top, bottom), (left, right) = params["padding"]
    name = graph.node(
        "Conv",
        x.name,
        weights,
        strides=list(params["window_strides"]),
        dilations=list(params["rhs_dilation"]),
        pads=[int(n) for n in (top, left, bottom, right)],
        group=params["feature_group_count"],
    )
    return [Tensor(name, tuple(shapes[0].shape), str(shapes[0].dtype), first=True)]


@rule("reduce_window_max", "reduce_window")
def max_pool(graph: Graph, given: Sequence[Value], params: Params, shapes: Shapes) -> Sequence[Value]:
    if "jaxpr" in params and [e.primitive.name for e in params["jaxpr"].eqns] != ["max"]:
        raise UserError("ONNX: only the maximum of windows can be exported")
    x = graph.first(graph.whole(given[0]))
    (top, bottom), (left, right) = params["padding"][1:3]
    name = graph.node(
        "MaxPool",
        x.name,
        kernel_shape=list(params["window_dimensions"][1:3]),
        strides=list(params["window_strides"][1:3]),
        pads=[top, left, bottom, right],
    )
    return [Tensor(name, tuple(shapes[0].shape), x.dtype, first=True)]
