"""A traced program as an ONNX graph: what is computed when it is written, what when it runs, and sizes that are free.

`convert` walks the jaxpr of a function once. What depends on parameters alone is computed here and becomes a constant;
everything else becomes nodes, by the rules of `onnx_operators`. Two things are put off, because most of the time they
need not be done at all: an array that was broadcast keeps its axes of length 1 until an operator asks for all of it
(`Tensor.narrow`), and what a convolution returns stays in ONNX's order of axes, channels first, while operators work
element by element (`Tensor.first`).
"""

import ast
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import jax
import numpy as np
import onnx
from jax.extend import core
from onnx import TensorProto, helper, numpy_helper

from sret_jax.errors import UserError

OPSET, IR = 20, 10
TYPES = {
    "float32": TensorProto.FLOAT,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "uint8": TensorProto.UINT8,
    "bool": TensorProto.BOOL,
}
FIRST, LAST = (0, 3, 1, 2), (0, 2, 3, 1)  # permutations to channels first and back
MOST_BYTES = 2**31 - 2**20  # of a protocol buffer, which an ONNX file is


@dataclass(frozen=True)
class Tensor:
    """An array of the graph.

    name    of the node's output, the input or the constant
    shape   as the traced program has it; entries may be expressions
    dtype   name of its type
    narrow  axes along which it is stored with length 1 and means as many equal entries
    first   its four axes are stored as (0, 3, 1, 2)
    """

    name: str
    shape: tuple[Any, ...]
    dtype: str
    narrow: frozenset[int] = frozenset()
    first: bool = False


Value: TypeAlias = Tensor | np.ndarray
Params: TypeAlias = dict[str, Any]  # of a primitive
Shapes: TypeAlias = Sequence[Any]  # of its outputs, `.shape` and `.dtype`
Rule: TypeAlias = Callable[["Graph", Sequence[Value], Params, Shapes], Sequence[Value]]
RULES: dict[str, Rule] = {}
FOLDED: dict[str, Callable[..., np.ndarray]] = {  # nodes that only change the shape: of a constant a constant
    "Unsqueeze": lambda x, axes: np.expand_dims(x, tuple(axes)),
    "Transpose": lambda x, perm: x.transpose(perm),
}
FINITE = {  # nodes that make finite numbers of finite numbers
    *("Conv", "MatMul", "MaxPool", "Add", "Sub", "Mul", "Relu", "Clip", "Max", "Min", "Neg", "Abs", "Tanh", "Sigmoid"),
    *("Cast", "Transpose", "Unsqueeze", "Squeeze", "Reshape", "Expand", "Slice", "Pad", "Concat", "ReduceSum"),
    *("Shape", "Mod", "Range", "Not", "And", "Or", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"),
}
KNOWN: dict[str, Callable[..., Any]] = {}  # how numpy computes a primitive of arrays that are known, and its parameters


def rule(*primitives: str) -> Callable[[Rule], Rule]:
    """Registers how primitives become nodes: (graph, inputs, parameters, shapes of the outputs) -> outputs."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(primitives, function))
        return function

    return register


class Graph:
    """Nodes and constants so far. A node that is there already is not made again."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.symbols: dict[str, str] = {}  # name of a free size -> int64 [1] that holds it
        self.finite: set[str] = set()  # what holds neither NaN nor infinity, whatever photographs come in
        self._made: dict[Any, tuple[str, ...]] = {}
        self._makers: dict[str, tuple[str, tuple[str, ...]]] = {}

    def node(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """The name of the (first) output; `several` gives all."""
        return self.several(kind, *inputs, outputs=outputs, **attributes)[0]

    def several(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> tuple[str, ...]:
        if kind in FOLDED and all(name in self.constants for name in inputs):
            return (self.constant(FOLDED[kind](*(self.constants[name] for name in inputs), **attributes)),)
        key = kind, inputs, outputs, repr(sorted(attributes.items()))
        if key not in self._made:
            names = tuple(f"{kind.lower()}_{len(self.nodes)}_{i}" for i in range(outputs))
            self.nodes.append(helper.make_node(kind, inputs, names, **attributes))
            self._made[key] = names
            self._makers[names[0]] = kind, inputs
            if self._stays_finite(kind, inputs):
                self.finite.update(names)
        return self._made[key]

    def _stays_finite(self, kind: str, inputs: tuple[str, ...]) -> bool:
        known = kind in FINITE or (
            kind == "Div" and inputs[1] in self.constants and bool(self.constants[inputs[1]].all())
        )
        return known and self.finite.issuperset(inputs)

    def maker(self, name: str) -> tuple[str, tuple[str, ...]]:
        """Kind and inputs of the node whose first output this is; empty for constants and the graph's own inputs."""
        return self._makers.get(name, ("", ()))

    def scalar(self, name: str) -> float | None:
        """The one number that a constant holds; None of all else."""
        array = self.constants.get(name)
        return None if array is None or array.size != 1 else float(array.item())

    def constant(self, array: Any) -> str:
        array = np.asarray(array, order="C")
        digest = hashlib.sha256(array.tobytes()).hexdigest()[:16]
        name = f"{array.dtype}_{'x'.join(map(str, array.shape))}_{digest}"
        self.constants[name] = array
        if np.isfinite(array).all():
            self.finite.add(name)
        return name

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def size(self, size: Any) -> str:
        """int64 [1] that holds a size, a number or an expression of the free ones."""
        if isinstance(size, int):
            return self.integers(size)
        return self._evaluated(ast.parse(str(size).replace("^", "**"), mode="eval").body)

    def _evaluated(self, node: ast.expr) -> str:
        match node:
            case ast.Constant(value=int(value)):
                return self.integers(value)
            case ast.Name(id=name):
                return self.symbols[name]
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return self.node("Neg", self._evaluated(operand))
            case ast.BinOp(left=left, op=ast.Pow(), right=ast.Constant(value=int(power))):
                base = out = self._evaluated(left)
                for _ in range(power - 1):
                    out = self.node("Mul", out, base)
                return out
            case ast.BinOp(left=left, op=op, right=right):
                kind = {ast.Add: "Add", ast.Sub: "Sub", ast.Mult: "Mul"}[type(op)]
                return self.node(kind, self._evaluated(left), self._evaluated(right))
            case ast.Call(func=ast.Name(id=name), args=[left, right]):
                a, b = self._evaluated(left), self._evaluated(right)
                if name == "floordiv":
                    return self.node("Div", self.node("Sub", a, self.node("Mod", a, b)), b)
                return self.node({"mod": "Mod", "max": "Max", "min": "Min"}[name], a, b)
        raise UserError(f"ONNX: a size that is {ast.unparse(node)!r} cannot be expressed")

    def sizes(self, shape: Sequence[Any]) -> str:
        """int64 [n] that holds a shape."""
        if all(isinstance(size, int) for size in shape):
            return self.integers(*shape)
        return self.node("Concat", *map(self.size, shape), axis=0)

    def tensor(self, value: Value) -> Tensor:
        """A value of which every axis has its own length, in the order that the traced program has."""
        value = self.last(value)
        if value.narrow:
            name = self.node("Expand", value.name, self.sizes(value.shape))
            value = replace(value, name=name, narrow=frozenset())
        return value

    def held(self, value: Value) -> Tensor:
        """A value as it is held, as a tensor."""
        if isinstance(value, Tensor):
            return value
        return Tensor(self.constant(value), value.shape, str(value.dtype))

    def last(self, value: Value) -> Tensor:
        """With channels last, as the traced program has it; axes may be narrow."""
        value = self.held(value)
        return replace(value, name=self.node("Transpose", value.name, perm=LAST), first=False) if value.first else value

    def first(self, value: Value) -> Tensor:
        """With channels first; axes may be narrow. Of four axes, or a scalar."""
        if isinstance(value, np.ndarray) and value.ndim == 4:
            return Tensor(self.constant(value.transpose(FIRST)), value.shape, str(value.dtype), first=True)
        value = self.held(value)
        if value.first or not value.shape:
            return value
        return replace(value, name=self.node("Transpose", value.name, perm=FIRST), first=True)

    def whole(self, value: Value) -> Tensor:
        """A value as it is held, but with every axis of its own length."""
        value = self.held(value)
        return self.tensor(value) if value.narrow else value

    def cast(self, tensor: Tensor, dtype: str) -> Tensor:
        if tensor.dtype == dtype:
            return tensor
        return replace(tensor, name=self.node("Cast", tensor.name, to=TYPES[dtype]), dtype=dtype)


def convert(
    function: Callable[..., Any], inputs: Sequence[tuple[str, Any]], output: str, sizes: Sequence[Any]
) -> bytes:
    """The ONNX model of a function of arrays with one result.

    Args:
      function: traced once.
      inputs: name and `jax.ShapeDtypeStruct` of each argument.
      output: name of the result.
      sizes: expressions such as `b` or `32*h` that the shapes of the first input hold, each with one free size.

    Raises:
      UserError: something of the program has no rule (the part of the network is named), or the file would be too
        large.
    """
    import sret_jax.export.onnx_operators  # noqa: F401  # fills RULES

    closed = jax.make_jaxpr(function)(*(shape for _, shape in inputs))
    graph = Graph()
    graph.finite.update(name for name, _ in inputs)
    arguments = [Tensor(name, tuple(given.shape), str(given.dtype)) for name, given in inputs]
    for axis, size in enumerate(arguments[0].shape):
        if any(size is wanted or str(size) == str(wanted) for wanted in sizes):
            factor, _, symbol = str(size).rpartition("*")
            length = graph.node("Shape", arguments[0].name, start=axis, end=axis + 1)
            graph.symbols[symbol] = graph.node("Div", length, graph.integers(int(factor))) if factor else length
    (result,) = _walk(graph, closed.jaxpr, [np.asarray(x) for x in closed.consts], arguments, "")
    final = graph.tensor(result)
    return _serialized(graph, arguments, replace(final, name=graph.node("Identity", final.name)), output)


def _walk(graph: Graph, jaxpr: Any, consts: Sequence[Value], inputs: Sequence[Value], where: str) -> list[Value]:
    values: dict[Any, Value] = dict(zip(jaxpr.constvars, consts, strict=True))
    values |= dict(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> Value:
        if isinstance(atom, core.Literal):
            kind: Any = atom.aval
            return np.asarray(atom.val, kind.dtype)
        return values[atom]

    for equation in jaxpr.eqns:
        given = [read(atom) for atom in equation.invars]
        part = f"{where}/{equation.source_info.name_stack}".strip("/")
        shapes = [variable.aval for variable in equation.outvars]
        outputs = _applied(graph, equation.primitive, given, equation.params, shapes, part)
        values |= dict(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _applied(
    graph: Graph, primitive: Any, given: list[Value], params: dict[str, Any], shapes: list[Any], part: str
) -> Sequence[Value]:
    name = primitive.name
    if name == "cond" and isinstance(given[0], np.ndarray):
        branch = params["branches"][int(given[0])]
        return _walk(graph, branch.jaxpr, [np.asarray(x) for x in branch.consts], given[1:], part)
    if name in ("scan", "while", "cond"):
        raise UserError(f"ONNX: {part or 'the network'} holds a loop or a branch ({name}), which cannot be exported")
    inner = next((params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in params), None)
    if inner is not None:
        closed = inner if hasattr(inner, "consts") else core.ClosedJaxpr(inner, ())
        return _walk(graph, closed.jaxpr, [np.asarray(x) for x in closed.consts], given, part)
    free = any(not isinstance(size, int) for shape in shapes for size in shape.shape)
    if not free and given and all(isinstance(value, np.ndarray) for value in given):
        if name in KNOWN:
            return [np.asarray(KNOWN[name](*given, **params)).astype(shapes[0].dtype, copy=False)]
        found = primitive.bind(*given, **params)
        return [np.asarray(x) for x in (found if primitive.multiple_results else [found])]
    if name not in RULES:
        raise UserError(f"ONNX: {part or 'the network'} computes {name!r}, for which there is no rule; leave that out")
    return RULES[name](graph, given, params, shapes)


def _serialized(graph: Graph, inputs: Sequence[Tensor], result: Tensor, output: str) -> bytes:
    graph.nodes.append(helper.make_node("Identity", [result.name], [output]))
    needed, nodes = {output}, []
    for node in reversed(graph.nodes):
        if needed & set(node.output):
            needed |= set(node.input)
            nodes.append(node)
    constants = {name: array for name, array in graph.constants.items() if name in needed}
    if sum(array.nbytes for array in constants.values()) > MOST_BYTES:
        raise UserError("ONNX: the parameters take more than 2 GB, which a file of one piece cannot hold")

    def described(name: str, tensor: Tensor, shape: Sequence[Any]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TYPES[tensor.dtype], shape)

    axes = ("batch", "height", "width")
    named = [
        described(x.name, x, [n if isinstance(n, int) else axes[i] for i, n in enumerate(x.shape)]) for x in inputs
    ]
    model = helper.make_model(
        helper.make_graph(
            nodes[::-1],
            "sret_jax",
            named,
            [described(output, result, ["batch", result.shape[1]])],
            [numpy_helper.from_array(array, name) for name, array in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR,
        producer_name="sret_jax",
    )
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data
