"""Every primitive that has a rule computes in ONNX Runtime what JAX computes, at sizes that the trace did not know."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

from sret_jax.errors import UserError

pytestmark = pytest.mark.parity
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

RNG = np.random.default_rng(0)
W = RNG.normal(size=(4, 3)).astype(np.float32)
K = RNG.normal(size=(3, 3, 4, 6)).astype(np.float32)


def strongest(x, _):
    value, index = lax.top_k(x.reshape(x.shape[0], -1), 3)
    return value + index / 7


def scattered(x, _):
    index = jnp.argmax(x[..., 0].reshape(x.shape[0], -1), axis=1)[:, None]
    rows = jnp.arange(x.shape[0])[:, None]
    return x.reshape(x.shape[0], -1, 4).at[rows, index].add(jnp.max(x, (1, 2))[:, None]).reshape(x.shape)


FUNCTIONS = {
    "elementwise": lambda x, m: jnp.where(m[..., None], jnp.exp(-x) * jax.nn.sigmoid(x) + lax.rsqrt(x * x + 1), 0),
    "logarithms": lambda x, m: jnp.log1p(jnp.abs(x)) + jnp.expm1(x) + jax.nn.softplus(x) - jax.nn.gelu(x, False),
    "whole numbers": lambda x, m: (jnp.arange(x.shape[2]) % 3 + jnp.arange(x.shape[2]) // 2)[None].astype(jnp.float32),
    "sizes as values": lambda x, m: x / x.shape[1] + x.shape[2] * x.shape[0],
    "reductions": lambda x, m: (
        jnp.sum(x, (1, 2)) + jnp.max(x, (1, 2)) + m.any(2).sum(1)[:, None] + m.all((1, 2))[:, None]
    ),
    "logsumexp": lambda x, m: jax.nn.logsumexp(x, axis=(1, 2), where=(m | ~m.any((1, 2), keepdims=True))[..., None]),
    "bounds": lambda x, m: (
        jnp.maximum(x, 0)
        + jnp.maximum(0, -x)
        + jnp.minimum(jnp.maximum(x, 0), 0.5)
        + lax.clamp(0.0, x, 0.2)
        + lax.clamp(-0.3, x, 0.3)
        + jnp.minimum(x, 0.1)
        + jnp.minimum(jnp.maximum(x, x[..., :1]), 0.4)
        + jnp.maximum(jnp.int32(3 * x), 0)
    ),
    "zero outside a mask, of what is not finite": lambda x, m: (
        jnp.where(m[..., None], x, jnp.log(0 * x)).clip(-9, 9)
        + jnp.where(m[..., None], 0.0, x)
        + jnp.where((x > 0), jnp.log(jnp.maximum(x, 0)), 0)
    ),
    "convolution": lambda x, m: jnp.clip(
        lax.conv_general_dilated(x, K, (2, 2), ((0, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")) + 1, 0, 6
    ),
    "convolution and mask": lambda x, m: jnp.mean(
        jnp.where(
            m[..., None], lax.conv_general_dilated(x, K, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")), 0
        ),
        -1,
    ),
    "maximum of windows": lambda x, m: lax.reduce_window(
        x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0))
    ),
    "matrix product": lambda x, m: x @ W,
    "batched products": lambda x, m: (
        jnp.einsum("bhwc,bhvc->bwv", x, x) + jnp.einsum("bhwc,bhw->bc", x, x[..., 0]).sum()
    ),
    "strides": lambda x, m: lax.slice(x, (0, 0, 0, 0), x.shape, (1, 2, 1, 1)),
    "blocks": lambda x, m: x[..., 1:3] * x[:, :1, :, :1] + x[:, :, :1, 2:],
    "repeated": lambda x, m: jnp.tile(jnp.asarray(W.T[:1, None, None]), (x.shape[0], 1, 1, 1)) + x[:, :1, :1],
    "reversed": lambda x, m: jnp.flip(x, (1, 2)),
    "padded": lambda x, m: (
        jnp.pad(x, ((0, 0), (1, 2), (0, 3), (0, 0))) * jnp.pad(m, ((0, 0), (1, 2), (0, 3)))[..., None]
    ),
    "the strongest": strongest,
    "picked": lambda x, m: jnp.take_along_axis(x, jnp.argmax(x, axis=2)[:, :, None], axis=2),
    "scattered": scattered,
    "segments": lambda x, m: jax.ops.segment_sum(x.reshape(-1, 4), jnp.arange(x.size // 4) // 5, x.size // 4),
    "attention": lambda x, m: jax.nn.dot_product_attention(x, x, x),
    "joined": lambda x, m: jnp.concatenate([x, jnp.stack([x[..., 0], x[..., 1]], -1)], -1).transpose(0, 3, 1, 2),
    "one of each platform": lambda x, m: lax.platform_dependent(x, cpu=lambda x: x * 2, default=lambda x: x + x),
}


def converted(function):
    from sret_jax.export.onnx_graph import convert

    b, h, w = export.symbolic_shape("b, 2*h, w")
    shapes = jax.ShapeDtypeStruct((b, h, w, 4), jnp.float32), jax.ShapeDtypeStruct((b, h, w), bool)
    two = lambda x, m: function(x, m).reshape(-1, 1)  # noqa: E731
    return convert(two, list(zip(("x", "m"), shapes, strict=True)), "y", (b, h, w))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_onnx_runtime_computes_what_jax_does(name):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(converted(FUNCTIONS[name]), options, providers=["CPUExecutionProvider"])
    for shape in ((1, 4, 5), (3, 2, 7)):
        x = RNG.normal(size=(*shape, 4)).astype(np.float32)
        mask = RNG.random(shape) > 0.3
        expected = np.asarray(FUNCTIONS[name](jnp.asarray(x), jnp.asarray(mask))).reshape(-1, 1)
        np.testing.assert_allclose(session.run(None, {"x": x, "m": mask})[0], expected, atol=2e-5, rtol=2e-5)


def test_what_runtimes_compute_together_with_a_convolution_is_said_as_they_look_for_it():
    def block(x, m):
        strided, m = lax.slice(x / 2, (0, 0, 0, 0), x.shape, (1, 2, 2, 1)), lax.slice(m, (0, 0, 0), m.shape, (1, 2, 2))
        y = lax.conv_general_dilated(strided, K, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.where(m[..., None], jnp.clip(y, 0, 6), 0) + jnp.where(m[..., None], jnp.maximum(y, 0), 0)

    kinds = [node.op_type for node in onnx.load_from_string(converted(block)).graph.node]
    assert {"Clip", "Relu", "Mul"} <= set(kinds) and not {"Max", "Min", "Where"} & set(kinds)


def test_a_loop_is_refused_with_the_place_where_it_is():
    def looped(x, _):
        with jax.named_scope("pool"):
            return lax.fori_loop(0, 3, lambda i, y: y * 2, x)

    with pytest.raises(UserError, match=r"ONNX: pool holds a loop or a branch \((scan|while)\)"):
        converted(looped)


def test_a_primitive_without_a_rule_is_named():
    with pytest.raises(UserError, match="computes 'cumsum', for which there is no rule"):
        converted(lambda x, _: jnp.cumsum(x, axis=1))
