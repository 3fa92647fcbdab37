"""METHOD 1, learnable smoothing: every local feature becomes a learned, edge-aware average of its window."""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32

_BLOCK = 256  # map positions in one block of `_products`


def smooth(
    x: Float[Array, "b h w c"],
    f: Float[Array, "b h w d"],
    a: Float[Array, "b h w"],
    c: Float[Array, "b h w"],
    *,
    window: int,
    dilation: int = 1,
    mask: Bool[Array, "b h w"] | None = None,
) -> Float[Array, "b h w c"]:
    """Average of each window, weighted by the likeness of kernel features.

        w[xy,uv] = c[xy]                                  if (u,v) = (x,y)
                 = exp(-a[xy] |f[xy] - f[uv]|^2)          otherwise, for (u,v) in N(xy)
        x'[xy]   = sum_uv w[xy,uv] x[uv] / (1e-10 + sum_uv w[xy,uv])

    N(xy) is the window of `window` x `window` positions, `dilation` apart, around (x,y), without those outside the map
    or the mask. Large a: the position keeps to itself; a = 0: it averages; c = 0: it is replaced by its neighbours.

    Args:
        x: the map; finite outside the mask too.
        f: kernel features.
        a: bandwidths, >= 0.
        c: self-confidences, >= 0.
        window: K, odd.
        dilation: positions between neighbours.
        mask: True where the map shows the photo, None for everywhere. The result is 0 elsewhere.

    Neither the result nor its gradient ever holds the K^2 shifted copies of x.

    Reference: the kernel of Isik et al., Interactive Monte Carlo denoising using affinity of neural features, ACM TOG
    2021, eq. 4 and 6, applied to the local features of a retrieval network.
    """
    if window < 1 or window % 2 == 0:
        raise ValueError(f"window={window}: must be odd, it has a centre")
    mask = jnp.ones(x.shape[:3], bool) if mask is None else mask
    f, a, c = (z.astype(jnp.float32) for z in (f, a, c))
    neighbour = _views(f, window, dilation)
    inside = _views(mask, window, dilation)
    w = [jnp.exp(-a * jnp.sum((f - f_uv) ** 2, axis=-1)) for f_uv in neighbour]
    w[len(w) // 2] = c
    w = jnp.stack([jnp.where(mask & m_uv, w_uv, 0) for w_uv, m_uv in zip(w, inside, strict=True)], axis=-1)
    w = w / (1e-10 + w.sum(-1, keepdims=True))
    return _weighted_sum(x, w, window, dilation)


def _views(x: Array, window: int, dilation: int) -> list[Array]:
    """The map as each neighbour of the window sees it, row by row; 0 (False) outside the map."""
    h, w = x.shape[1:3]
    reach = window // 2 * dilation
    padded = jnp.pad(x, [(0, 0), (reach, reach), (reach, reach)] + [(0, 0)] * (x.ndim - 3))
    steps = range(0, 2 * reach + 1, dilation)
    return [padded[:, i : i + h, j : j + w] for i in steps for j in steps]


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _weighted_sum(
    x: Float[Array, "b h w c"], w: Float32[Array, "b h w k"], window: int, dilation: int
) -> Float[Array, "b h w c"]:
    """sum_k w[..., k] * (view k of x). XLA fuses the views: nothing but the padded map is stored.

    Its derivative by autodiff would store all of them for the gradient of w. By hand:
    - of x: the same sum with the weights with which a position enters its neighbours' averages;
    - of w: products of g and x over the channels, wanted for K^2 neighbours, taken for a whole block at once.
    """
    return sum(w[..., k, None] * view for k, view in enumerate(_views(x, window, dilation))).astype(x.dtype)


def _weighted_sum_fwd(x, w, window, dilation):
    return _weighted_sum(x, w, window, dilation), (x, w)


def _weighted_sum_bwd(window, dilation, saved, g):
    x, w = saved
    transposed = [view[..., -1 - k] for k, view in enumerate(_views(w, window, dilation))]
    return _weighted_sum(g, jnp.stack(transposed, -1), window, dilation), _products(g, x, window, dilation)


_weighted_sum.defvjp(_weighted_sum_fwd, _weighted_sum_bwd)


def _products(
    g: Float[Array, "b h w c"], x: Float[Array, "b h w c"], window: int, dilation: int
) -> Float32[Array, "b h w k"]:
    """g[xy] . x[uv] for every (u,v) of the window of (x,y); 0 where it lies outside the map.

    A block of rows of g times the rows of x it can reach: mostly products that nobody asked for, and still several
    times faster than K^2 reductions, because it is a matrix product. At most 16 blocks.
    """
    b, h, w, _ = x.shape
    offsets = (np.arange(window) - window // 2) * dilation
    v = np.arange(h)[:, None, None, None] + offsets[:, None]  # [h 1 K 1]
    u = np.arange(w)[:, None, None] + offsets  # [w 1 K]
    inside = ((v >= 0) & (v < h) & (u >= 0) & (u < w)).reshape(h, w, -1)
    position = (np.clip(v, 0, h - 1) * w + np.clip(u, 0, w - 1)).reshape(h * w, -1)

    rows = max(math.ceil(_BLOCK / w), math.ceil(h / 16))
    reach = offsets[-1]
    blocks = []
    for top in range(0, h, rows):
        bottom = min(top + rows, h)
        first, last = max(top - reach, 0), min(bottom + reach, h)
        block = jnp.einsum(
            "bnc,bmc->bnm",
            g[:, top:bottom].reshape(b, -1, g.shape[-1]),
            x[:, first:last].reshape(b, -1, x.shape[-1]),
            precision="highest",
            preferred_element_type=jnp.float32,
        )
        n = np.arange(block.shape[1])[:, None]
        blocks.append(block[:, n, position[top * w : bottom * w] - first * w])
    products = jnp.concatenate(blocks, 1).reshape(b, h, w, -1)
    return jnp.where(inside[None], products, 0)


class KernelGenerator(nn.Module):
    """Two small convolutions that read the map and give each position its kernel feature f, bandwidth a, confidence c.

    They see every local feature divided by its root mean square, so that f, a and c do not depend on the scale of the
    backbone's map (ReLU and ReLU6 maps differ by orders of magnitude). At the start a and c are `a_init` and `c_init`
    everywhere, and |f[xy] - f[uv]|^2 is about kernel_dim * (1 - correlation of the two local features).
    """

    kernel_dim: int
    hidden: int
    a_init: float
    c_init: float

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"]
    ) -> tuple[Float32[Array, "b h w d"], Float32[Array, "b h w"], Float32[Array, "b h w"]]:
        power = jnp.mean(jnp.square(x.astype(jnp.float32)), axis=-1, keepdims=True)
        x = x * jax.lax.rsqrt(power + 1e-12).astype(x.dtype)
        hidden = nn.relu(nn.Dense(self.hidden, dtype=x.dtype, name="reduce")(x))
        hidden = jnp.where(
            mask[..., None], hidden, 0
        )  # the bias has coloured the padding, and the next layer looks there
        f = nn.Conv(self.kernel_dim, (3, 3), dtype=x.dtype, name="feature")(hidden).astype(jnp.float32)
        biases = jnp.log(jnp.expm1(jnp.array([self.a_init, self.c_init])))
        controls = nn.Conv(
            2, (3, 3), dtype=x.dtype, kernel_init=nn.initializers.zeros, bias_init=lambda *_: biases, name="controls"
        )(hidden)
        a, c = jnp.moveaxis(jnp.where(mask[..., None], nn.softplus(controls.astype(jnp.float32)), 0), -1, 0)
        return f, a, c


class LearnableSmoothing(nn.Module):
    """`smooth` with generated f, a and c, `iterations` times, each time with a generator of its own.

    `start` says what it does before training: "identity" (a = 3, c = 1) or "average" (a = 0.01, c = 1). Neither is
    exact, because an exact one would have no gradient to leave it.
    """

    window: int = 3
    kernel_dim: int = 16
    hidden: int = 64
    iterations: int = 1
    dilation: int = 1
    start: str = "identity"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"]
    ) -> tuple[Float[Array, "b h w c"], dict[str, Float32[Array, "b h w"]]]:
        """The smoothed map, and the maps "a" and "c" of the last iteration."""
        a_init = {"identity": 3.0, "average": 0.01}[self.start]
        for i in range(self.iterations):
            generator = KernelGenerator(self.kernel_dim, self.hidden, a_init, c_init=1.0, name=f"generator_{i}")
            f, a, c = generator(x, mask)
            x = smooth(x, f, a, c, window=self.window, dilation=self.dilation, mask=mask)
        return x, {"a": a, "c": c}
