"""What each primitive of a traced network becomes in ONNX: one rule for each, registered in `onnx_graph.RULES`."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sret_jax.errors import UserError
from sret_jax.export.onnx_graph import FIRST, KNOWN, Graph, Tensor, Value, rule

Shapes = Sequence[Any]  # of the outputs, `.shape` and `.dtype`
Params = dict[str, Any]

UNARY = {
    "neg": "Neg",
    "exp": "Exp",
    "log": "Log",
    "tanh": "Tanh",
    "logistic": "Sigmoid",
    "sqrt": "Sqrt",
    "abs": "Abs",
    "sign": "Sign",
    "erf": "Erf",
    "sin": "Sin",
    "cos": "Cos",
    "floor": "Floor",
    "ceil": "Ceil",
    "not": "Not",
}
BINARY = {
    "add": "Add",
    "add_any": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "max": "Max",
    "min": "Min",
    "pow": "Pow",
    "and": "And",
    "or": "Or",
    "xor": "Xor",
    "eq": "Equal",
    "lt": "Less",
    "le": "LessOrEqual",
    "gt": "Greater",
    "ge": "GreaterOrEqual",
}

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


def aligned(graph: Graph, given: Sequence[Value]) -> list[Tensor]:
    """Operands of one operator that works element by element, held in one order of axes."""
    if any(isinstance(value, Tensor) and value.first for value in given):
        return [graph.first(value) for value in given]
    return [graph.held(value) for value in given]


def elementwise(graph: Graph, kind: str, given: Sequence[Value], shapes: Shapes, **attributes: Any) -> Tensor:
    """A node of one output, as narrow as all of its operands are and in their order of axes."""
    operands = aligned(graph, given)
    return like(graph.node(kind, *(x.name for x in operands), **attributes), operands, shapes)


def like(name: str, operands: Sequence[Tensor], shapes: Shapes) -> Tensor:
    shape, dtype = tuple(shapes[0].shape), str(shapes[0].dtype)

    def narrow(x: Tensor) -> frozenset[int]:
        everywhere = frozenset(i for i, size in enumerate(shape) if size != 1)
        return x.narrow if x.shape else everywhere

    common = frozenset.intersection(*map(narrow, operands))
    return Tensor(name, shape, dtype, common, any(x.first for x in operands))


def _unary(name: str, kind: str) -> None:
    @rule(name)
    def apply(graph: Graph, given: Sequence[Value], params: Params, shapes: Shapes) -> Sequence[Value]:
        return [elementwise(graph, kind, given, shapes)]


def _binary(name: str, kind: str) -> None:
    @rule(name)
    def apply(graph: Graph, given: Sequence[Value], params: Params, shapes: Shapes) -> Sequence[Value]:
        bits = kind in ("And", "Or", "Xor") and str(shapes[0].dtype) != "bool"
        return [elementwise(graph, f"Bitwise{kind}" if bits else kind, given, shapes)]


for _name, _kind in UNARY.items():
    _unary(_name, _kind)
for _name, _kind in BINARY.items():
    _binary(_name, _kind)


@rule("ne")
def ne(graph: Graph, given: Sequence[Value], params: Params, shapes: Shapes) -> Sequence[Value]:
    equal = elementwise(graph, "Equal", given, shapes)
    return [replace(equal, name=graph.node("Not", equal.name))]


@rule("rem")
def rem(graph: Graph, given: Sequence[Value], params: Params, shapes: Shapes) -> Sequence[Value]:
    return [elementwise(graph, "Mod", given, shapes, fmod=1)]  # the sign is the dividend's, as in XLA


@rule("square")
def square(graph: Graph, given: Sequence[Value], params: Params, shapes: Shapes) -> Sequence[Value]:
    return [elementwise(graph, "Mul", [given[0], given[0]], shapes)]


@rule("integer_pow")
def integer_pow(graph: Graph, given: Sequence[Value], params: Params, shapes: Shapes) -> Sequence[Value]:
    power: int = params["y"]
    if power == 2:
        return square(graph, given, params, shapes)
    return [elementwise(graph, "Pow", [given[0], np.array(power, shapes[0].dtype)], shapes)]


@rule("rsqrt")
def rsqrt(graph: Graph, given: Sequence[Value], params: Params, shapes: Shapes) -> Sequence[Value]:
    return [elementwise(graph, "Reciprocal", [elementwise(graph, "Sqrt", given, shapes)], shapes)]


@rule("log1p")
def log1p(graph: Graph, given: Sequence[Value], params: Params, shapes: Shapes) -> Sequence[Value]:
    one = np.array(1, shapes[0].dtype)
    return [elementwise(graph, "Log", [elementwise(graph, "Add", [given[0], one], shapes)], shapes)]


@rule("expm1")
def expm1(graph: Graph, given: Sequence[Value], params: Params, shapes: Shapes) -> Sequence[Value]:
    one = np.array(1, shapes[0].dtype)
    return [elementwise(graph, "Sub", [elementwise(graph, "Exp", given, shapes), one], shapes)]


@rule("erfc")
def erfc(graph: Graph, given: Sequence[Value], params: Params, shapes: Shapes) -> Sequence[Value]:
    one = np.array(1, shapes[0].dtype)
    return [elementwise(graph, "Sub", [one, elementwise(graph, "Erf", given, shapes)], shapes)]


@rule("is_finite")
def is_finite(graph: Graph, given: Sequence[Value], params: Params, shapes: Shapes) -> Sequence[Value]:
    wrong = elementwise(graph, "IsNaN", given, shapes), elementwise(graph, "IsInf", given, shapes)
    return [elementwise(graph, "Not", [elementwise(graph, "Or", wrong, shapes)], shapes)]


@rule("copy", "copy_p", "stop_gradient", "optimization_barrier")
def unchanged(graph: Graph, given: Sequence[Value], params: Params, shapes: Shapes) -> Sequence[Value]:
    return list(given)


@rule("convert_element_type")
def convert_element_type(graph: Graph, given: Sequence[Value], params: Params, shapes: Shapes) -> Sequence[Value]:
    return [graph.cast(graph.held(given[0]), str(shapes[0].dtype))]


@rule("clamp")
def clamp(graph: Graph, given: Sequence[Value], params: Params, shapes: Shapes) -> Sequence[Value]:
    least, x, most = given
    return [elementwise(graph, "Min", [elementwise(graph, "Max", [x, least], shapes), most], shapes)]


@rule("select_n")
def select_n(graph: Graph, given: Sequence[Value], params: Params, shapes: Shapes) -> Sequence[Value]:
    which, no, yes = given
    return [elementwise(graph, "Where", [which, yes, no], shapes)]


# Sizes and indices


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


# Shapes


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


# Reductions and order


def _reduction(primitive: str, kind: str) -> None:
    @rule(primitive)
    def apply(graph: Graph, given: Sequence[Value], params: Params, shapes: Shapes) -> Sequence[Value]:
        x, axes = graph.held(given[0]), tuple(params["axes"])
        kept = [i for i in range(len(x.shape)) if i not in axes]
        if x.narrow & set(axes) or (x.first and kept not in ([0, 3], [0, 1, 2], [0], [3], [])):
            x = graph.tensor(x)
        if x.dtype == "bool":
            x = graph.cast(x, "int32")
        stored = [FIRST.index(i) if x.first else int(i) for i in axes]
        name = graph.node(kind, x.name, graph.integers(*stored), keepdims=0) if axes else x.name
        out = Tensor(name, tuple(shapes[0].shape), x.dtype, frozenset(kept.index(i) for i in x.narrow))
        return [graph.cast(out, str(shapes[0].dtype))]


for _name, _kind in {
    "reduce_sum": "ReduceSum",
    "reduce_max": "ReduceMax",
    "reduce_min": "ReduceMin",
    "reduce_prod": "ReduceProd",
    "reduce_or": "ReduceMax",
    "reduce_and": "ReduceMin",
}.items():
    _reduction(_name, _kind)


@rule("argmax")
def argmax(graph: Graph, given: Sequence[Value], params: Params, shapes: Shapes) -> Sequence[Value]:
    x, (axis,) = graph.tensor(given[0]), params["axes"]
    if x.dtype == "bool":
        x = graph.cast(x, "int32")
    name = graph.node("ArgMax", x.name, axis=axis, keepdims=0, select_last_index=0)
    return [graph.cast(Tensor(name, tuple(shapes[0].shape), "int64"), str(shapes[0].dtype))]


@rule("top_k")
def top_k(graph: Graph, given: Sequence[Value], params: Params, shapes: Shapes) -> Sequence[Value]:
    """Both take the earlier one of equal values."""
    x = graph.tensor(given[0])
    axis = params.get("axis", len(x.shape) - 1)
    names = graph.several("TopK", x.name, graph.size(params["k"]), outputs=2, axis=axis, largest=1, sorted=1)
    values, index = (Tensor(n, tuple(s.shape), t) for n, s, t in zip(names, shapes, (x.dtype, "int64"), strict=True))
    return [values, graph.cast(index, str(shapes[1].dtype))]


# Products and convolutions


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


# Indices are always within bounds in our networks, so that what JAX does outside of them does not matter.


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
