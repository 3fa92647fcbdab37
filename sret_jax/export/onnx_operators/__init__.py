"""What each primitive of a traced network becomes in ONNX: one rule for each, registered in `onnx_graph.RULES`.

known        what depends on parameters alone, computed by numpy
elementwise  operators that work element by element
shapes       sizes, and what changes the shape of an array and none of its numbers
reductions   sums and extremes along axes, and order
products     products of matrices, convolutions, and the maximum of windows
indices      numbers at indices, and sums at them
"""

from sret_jax.export.onnx_operators import elementwise, indices, known, products, reductions, shapes

__all__ = ["elementwise", "indices", "known", "products", "reductions", "shapes"]
