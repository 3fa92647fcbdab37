"""Operators that work element by element."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sret_jax.export.onnx_graph import Graph, Params, Shapes, Tensor, Value, rule

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


def _bounded(graph: Graph, given: Sequence[Value], shapes: Shapes) -> tuple[list[Tensor], int | None]:
    """The two operands of a maximum or minimum, and which of them is one known number, of floats."""
    operands = aligned(graph, given)
    known = [i for i, x in enumerate(operands) if graph.scalar(x.name) is not None]
    return operands, known[0] if len(known) == 1 and str(shapes[0].dtype) == "float32" else None


@rule("max")
def maximum(graph: Graph, given: Sequence[Value], params: Params, shapes: Shapes) -> Sequence[Value]:
    """Of an array and zero `Relu`, which runtimes compute together with the convolution before it."""
    operands, known = _bounded(graph, given, shapes)
    if known is not None and graph.scalar(operands[known].name) == 0:
        return [like(graph.node("Relu", operands[1 - known].name), operands, shapes)]
    return [like(graph.node("Max", *(x.name for x in operands)), operands, shapes)]


@rule("min")
def minimum(graph: Graph, given: Sequence[Value], params: Params, shapes: Shapes) -> Sequence[Value]:
    """Of what `Relu` returns and a number `Clip`, for the same reason."""
    operands, known = _bounded(graph, given, shapes)
    if known is not None:
        kind, inputs = graph.maker(operands[1 - known].name)
        if kind == "Relu":
            ends = (graph.constant(np.float32(end)) for end in (0, graph.scalar(operands[known].name)))
            return [like(graph.node("Clip", inputs[0], *ends), operands, shapes)]
    return [like(graph.node("Min", *(x.name for x in operands)), operands, shapes)]


@rule("clamp")
def clamp(graph: Graph, given: Sequence[Value], params: Params, shapes: Shapes) -> Sequence[Value]:
    least, x, most = given
    return minimum(graph, [*maximum(graph, [x, least], params, shapes), most], params, shapes)


@rule("select_n")
def select_n(graph: Graph, given: Sequence[Value], params: Params, shapes: Shapes) -> Sequence[Value]:
    """Where a mask makes zeros of finite numbers, they are multiplied by it: runtimes do that eight times as fast."""
    which, no, yes = given
    zero = graph.scalar(graph.held(no).name) == 0
    if zero and isinstance(yes, Tensor) and yes.dtype == "float32" and yes.name in graph.finite:
        return [elementwise(graph, "Mul", [graph.cast(graph.held(which), "float32"), yes], shapes)]
    return [elementwise(graph, "Where", [which, yes, no], shapes)]
