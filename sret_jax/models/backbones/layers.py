"""Convolution, BatchNorm and activation on padded maps, as all backbones use them.

A photograph smaller than its bucket is followed by padding. Before every convolution that looks at neighbours the
padding is set to zero, which is what the convolution of the photograph alone would see beyond its border.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Shaped

from sret_jax.models.platform import on_cpu
from sret_jax.models.shapes import Size, known

Padding = tuple[tuple[int, int], tuple[int, int]]
Mask = Bool[Array, "b h w"]


def relu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    return jnp.maximum(x, 0)


def same_padding(size: tuple[Size, Size], kernel: int, stride: int) -> Padding:
    """TensorFlow's "SAME": the output has ceil(n / stride) positions and the odd row goes to the bottom right."""
    top, left = (max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in size)
    return (top // 2, top - top // 2), (left // 2, left - left // 2)


def relu6(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    return jnp.clip(x, 0, 6)


def relup(x: Float[Array, "*shape"], floor: float) -> Float[Array, "*shape"]:
    """max(x, floor): a ReLU that leaves every local feature some of every channel.

    Reference: Shao, Chen, Karpur, Cui, Araujo, Cao, Global features are all you need for image retrieval and
    reranking, ICCV 2023, section 3.1 (ReLUP).
    """
    return jnp.maximum(x, floor)


def erase(x: Float[Array, "b h w c"], mask: Mask) -> Float[Array, "b h w c"]:
    """The map with zeros outside the mask."""
    return jnp.where(mask[..., None], x, jnp.zeros((), x.dtype))


def strided(x: Shaped[Array, "b h w *c"], stride: int) -> Shaped[Array, "b i j *c"]:
    """Every `stride`-th row and column: x[:, ::stride, ::stride], of sizes that may be symbols."""
    return lax.slice(x, (0,) * x.ndim, x.shape, (1, stride, stride, *(1,) * (x.ndim - 3)))


def max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b i j c"]:
    """3x3 maximum with stride 2 and padding (1, 1) of a map without negative values, so that padding is zero."""
    return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))


def pointwise(x: Float[Array, "b h w c"], kernel: Float[Array, "1 1 c d"]) -> Float[Array, "b h w d"]:
    """1x1 convolution. One matrix product over all positions: on a CPU 1.6 times as fast as XLA's convolution."""

    def product(x: Array, kernel: Array) -> Array:
        return (x.reshape(-1, x.shape[-1]) @ kernel[0, 0]).reshape(*x.shape[:-1], kernel.shape[-1])

    if known(*x.shape):
        return product(x, kernel)
    return _by_platform(product, partial(convolution, stride=1, padding=((0, 0), (0, 0))), x, kernel)


def depthwise(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "k k 1 c"],
    *,
    stride: int,
    padding: Padding,
    shifted: bool | None = None,
) -> Float[Array, "b i j c"]:
    """Depthwise convolution, each channel with its own k x k kernel.

    `shifted` sums k*k shifted views of the padded map; XLA's own depthwise convolution on a CPU is 25 times slower.
    None chooses by platform; in a program that is exported for several, the program does.
    """

    def whole(x: Array, kernel: Array) -> Array:
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=x.shape[-1],
        )

    def views(x: Array, kernel: Array) -> Array:
        return _sum_of_shifted_views(x, kernel, stride, padding)

    if shifted is None and not known(*x.shape):
        return _by_platform(views, whole, x, kernel)
    if shifted is None:
        shifted = on_cpu()
    return views(x, kernel) if shifted else whole(x, kernel)


def _by_platform(on_cpu: Callable[..., Array], elsewhere: Callable[..., Array], x: Array, kernel: Array) -> Array:
    return lax.platform_dependent(x, kernel, cpu=on_cpu, default=elsewhere)


@partial(jax.checkpoint, static_argnums=(2, 3))  # else the gradient keeps all k*k views of the map
def _sum_of_shifted_views(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
    k = kernel.shape[0]
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    height, width = ((n - k) // stride + 1 for n in x.shape[1:3])
    out = jnp.zeros((x.shape[0], height, width, x.shape[3]), x.dtype)
    for i in range(k):
        for j in range(k):
            end = (x.shape[0], i + stride * (height - 1) + 1, j + stride * (width - 1) + 1, x.shape[3])
            view = lax.slice(x, (0, i, j, 0), end, (1, stride, stride, 1))
            out += view * kernel[i : i + 1, j : j + 1]
    return out


def convolution(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k c d"], *, stride: int, padding: Padding
) -> Float[Array, "b i j d"]:
    return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def masked_statistics(
    x: Float[Array, "b h w c"], mask: Mask, *, axis_name: str | None = None
) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
    """Mean and (biased) variance per channel over the positions inside the mask, in float32.

    With `axis_name` over the whole global batch: sums and counts are added up across devices, so that devices with
    differing numbers of valid positions weigh as they should.
    """
    x = erase(x, mask).astype(jnp.float32)
    sums = (x.sum((0, 1, 2)), mask.sum(dtype=jnp.float32))
    total, count = lax.psum(sums, axis_name) if axis_name else sums
    count = jnp.maximum(count, 1.0)
    mean = total / count
    squares = (erase(x - mean[None, None, None], mask) ** 2).sum((0, 1, 2))
    return mean, (lax.psum(squares, axis_name) if axis_name else squares) / count


class ConvNorm(nn.Module):
    """Convolution without bias, BatchNorm, activation.

    `padding` None is TensorFlow's "SAME", an integer pads that many zeros on every side. With running statistics the
    normalisation is folded into kernel and bias. With `update_stats` the batch's own statistics are used and the
    running ones follow them; this needs to run under a pmap whose axis is called "batch". A `frozen` unit passes the
    gradient on to its input and takes none itself.
    """

    features: int
    kernel: int = 1
    stride: int = 1
    padding: int | None = None
    is_depthwise: bool = False
    activation: Callable[[Array], Array] | None = None
    epsilon: float = 1e-5
    momentum: float = 0.9
    update_stats: bool = False
    dtype: Any = jnp.float32
    frozen: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], mask: Mask) -> tuple[Float[Array, "b i j d"], Bool[Array, "b i j"]]:
        """The map and its mask, both 1/stride of the input's size, rounded up."""
        k, shape = self.kernel, (self.features,)
        inputs = 1 if self.is_depthwise else x.shape[-1]
        kernel = self.param("kernel", nn.initializers.he_normal(), (k, k, inputs, self.features))
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        if self.frozen:
            kernel, scale, bias = lax.stop_gradient((kernel, scale, bias))
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        variance = self.variable("batch_stats", "var", jnp.ones, shape)

        if self.update_stats:
            y, mask = self._convolve(x, kernel, mask)
            now = masked_statistics(y, mask, axis_name="batch")
            mean.value = self.momentum * mean.value + (1 - self.momentum) * now[0]
            variance.value = self.momentum * variance.value + (1 - self.momentum) * now[1]
            gain = scale * lax.rsqrt(now[1] + self.epsilon)
            y = (y * gain[None, None, None] + (bias - now[0] * gain)[None, None, None]).astype(self.dtype)
        else:
            gain = scale * lax.rsqrt(variance.value + self.epsilon)
            y, mask = self._convolve(x, kernel * gain[None, None, None], mask)
            y = y + (bias - mean.value * gain)[None, None, None].astype(self.dtype)
        return (self.activation(y) if self.activation else y), mask

    def _convolve(self, x: Array, kernel: Array, mask: Array) -> tuple[Array, Array]:
        x, kernel, k, s = x.astype(self.dtype), kernel.astype(self.dtype), self.kernel, self.stride
        if k > 1:
            x = erase(x, mask)
        mask = strided(mask, s)
        padding = same_padding((x.shape[1], x.shape[2]), k, s) if self.padding is None else ((self.padding,) * 2,) * 2
        if self.is_depthwise:
            return depthwise(x, kernel, stride=s, padding=padding), mask
        if k == 1:
            return pointwise(strided(x, s), kernel), mask
        return convolution(x, kernel, stride=s, padding=padding), mask
