"""Sums and extremes along axes, and order."""

from collections.abc import Sequence

from sret_jax.export.onnx_graph import FIRST, Graph, Params, Shapes, Tensor, Value, rule


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
