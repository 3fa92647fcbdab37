"""METHOD 1, learnable smoothing: every local feature becomes a learned, edge-aware average of its window."""

import math
from functools import partial
from typing import TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Integer

from sret_jax.models.shapes import Size, known

Grid: TypeAlias = tuple[Size, Size, int, int]  # height, width, window, dilation
_BLOCK = 256  # positions of the map in one block of `_products`


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
    b, h, w, _ = x.shape
    grid = (h, w, window, dilation)
    inside = _neighbourhood(*grid)[1][None] if known(h, w) else True
    x, f, a, c = (z.reshape(b, h * w, *z.shape[3:]) for z in (x, *(z.astype(jnp.float32) for z in (f, a, c))))
    shown = jnp.ones((b, h * w), bool) if mask is None else mask.reshape(b, h * w)
    of_neighbours = [jnp.exp(-a * jnp.sum((f - f_uv) ** 2, axis=-1)) for f_uv in _neighbours(f, grid)]
    of_neighbours[len(of_neighbours) // 2] = c
    counts = jnp.stack(_neighbours(shown, grid), -1) & shown[..., None] & inside
    weights = jnp.where(counts, jnp.stack(of_neighbours, -1), 0)
    weights = weights / (1e-10 + weights.sum(-1, keepdims=True))
    return _weighted_sum(x, weights, grid).reshape(b, h, w, -1)


def _neighbourhood(
    h: int, w: int, window: int, dilation: int
) -> tuple[Integer[np.ndarray, "k"], Bool[np.ndarray, "{h}*{w} k"]]:
    """Neighbour k of position n = row * w + column is position n + shift[k], where inside[n, k]."""
    steps = (np.arange(window) - window // 2) * dilation
    v, u = (z.ravel() for z in np.meshgrid(steps, steps, indexing="ij"))
    row, column = np.divmod(np.arange(h * w), w)
    row, column = row[:, None] + v, column[:, None] + u
    return v * w + u, (row >= 0) & (row < h) & (column >= 0) & (column < w)


def _neighbours(x: Array, grid: Grid) -> list[Array]:
    """x [b, h * w, ...] at neighbour k of every position, for every k; outside the map anything.

    In a network that is exported for maps of any size shifts in a flat map are no numbers: there the map is padded and
    shifted along both sides, and is 0, or False, outside.
    """
    h, w, window, dilation = grid
    if known(h, w):
        return _views(x, _neighbourhood(*grid)[0])
    steps = [(i - window // 2) * dilation for i in range(window)]
    reach = steps[-1]
    rest = x.shape[2:]
    padded = jnp.pad(x.reshape(-1, h, w, *rest), [(0, 0), (reach, reach), (reach, reach)] + [(0, 0)] * len(rest))

    def view(v: int, u: int) -> Array:
        start = (0, reach + v, reach + u) + (0,) * len(rest)
        return jax.lax.slice(padded, start, (padded.shape[0], reach + v + h, reach + u + w, *rest))

    return [view(v, u).reshape(-1, h * w, *rest) for v in steps for u in steps]


def _views(x: Array, shift: np.ndarray) -> list[Array]:
    """x[:, n + shift[k]] for every k. Outside the map this is anything: 0, or the far end of a neighbouring row."""
    reach = int(shift.max())
    padded = jnp.pad(x, [(0, 0), (reach, reach)] + [(0, 0)] * (x.ndim - 2))
    return [padded[:, reach + s : reach + s + x.shape[1]] for s in shift.tolist()]


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _weighted_sum(x: Float[Array, "b n c"], weights: Float32[Array, "b n k"], grid: Grid) -> Float[Array, "b n c"]:
    """sum_k weights[..., k] * (view k of x). XLA fuses the views: nothing but the padded map is stored.

    The weights are 0 where a neighbour lies outside the map. Autodiff would store all views for the gradient of the
    weights. By hand:
    - of x: the same sum, with the weights with which a position enters its neighbours' averages;
    - of the weights: products of g and x over the channels, for K^2 neighbours, taken for a whole block at once.
    """
    first, *others = (weights[..., k, None] * view for k, view in enumerate(_neighbours(x, grid)))
    return sum(others, first).astype(x.dtype)


def _weighted_sum_fwd(x: Array, weights: Array, grid: Grid) -> tuple[Array, tuple[Array, Array]]:
    return _weighted_sum(x, weights, grid), (x, weights)


def _weighted_sum_bwd(grid: Grid, saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, weights = saved
    shift, inside = _neighbourhood(*grid)
    transposed = jnp.stack([view[..., -1 - k] for k, view in enumerate(_views(weights, shift))], -1)
    transposed = jnp.where(inside[None], transposed, 0)
    return _weighted_sum(g, transposed, grid), jnp.where(inside[None], _products(g, x, shift), 0)


_weighted_sum.defvjp(_weighted_sum_fwd, _weighted_sum_bwd)


def _products(
    g: Float[Array, "b n c"], x: Float[Array, "b n c"], shift: Integer[np.ndarray, "k"]
) -> Float32[Array, "b n k"]:
    """g[n] . x[n + shift[k]] for every k; outside the map anything.

    A block of g times the part of x it can reach: mostly products that are not needed, and still several times faster
    than K^2 reductions, because it is a matrix product. At most 16 blocks.
    """
    positions, reach = x.shape[1], int(shift.max())
    size = max(_BLOCK, math.ceil(positions / 16))
    blocks = []
    for start in range(0, positions, size):
        end = min(start + size, positions)
        first, last = max(start - reach, 0), min(end + reach, positions)
        block = jnp.einsum(
            "bnc,bmc->bnm",
            g[:, start:end],
            x[:, first:last],
            precision="highest",
            preferred_element_type=jnp.float32,
        )
        n = np.arange(end - start)[:, None]
        blocks.append(block[:, n, np.clip(start + n + shift - first, 0, last - first - 1)])
    return jnp.concatenate(blocks, 1)


class KernelGenerator(nn.Module):
    """Two small convolutions that read the map and give each position its kernel feature f, bandwidth a, confidence c.

    They see every local feature divided by its root mean square, so that f, a and c do not depend on the scale of the
    backbone's map (ReLU and ReLU6 maps differ by orders of magnitude). At the start a and c are `a_init` and `c_init`
    everywhere, and |f[xy] - f[uv]|^2 is about kernel_dim * (1 - correlation of the two local features).

    Without `bandwidth` a stays at `a_init`, without `confidence` c stays at `c_init`.
    """

    kernel_dim: int
    hidden: int
    a_init: float
    c_init: float
    bandwidth: bool = True
    confidence: bool = True

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"]
    ) -> tuple[Float32[Array, "b h w d"], Float32[Array, "b h w"], Float32[Array, "b h w"]]:
        power = jnp.mean(jnp.square(x.astype(jnp.float32)), axis=-1, keepdims=True)
        x = x * jax.lax.rsqrt(power + 1e-12).astype(x.dtype)
        hidden = nn.relu(nn.Dense(self.hidden, dtype=x.dtype, name="reduce")(x))
        hidden = jnp.where(mask[..., None], hidden, 0)  # the bias coloured the padding, and the next layer looks there
        f = nn.Conv(self.kernel_dim, (3, 3), dtype=x.dtype, name="feature")(hidden).astype(jnp.float32)
        biases = jnp.log(jnp.expm1(jnp.array([self.a_init, self.c_init])))
        controls = nn.Conv(
            2, (3, 3), dtype=x.dtype, kernel_init=nn.initializers.zeros, bias_init=lambda *_: biases, name="controls"
        )(hidden)
        learned = nn.softplus(controls.astype(jnp.float32))
        constant = jnp.array([self.a_init, self.c_init], jnp.float32)[None, None, None]
        controls = jnp.where(np.array([self.bandwidth, self.confidence])[None, None, None], learned, constant)
        a, c = jnp.moveaxis(jnp.where(mask[..., None], controls, 0), -1, 0)
        return f, a, c


class LearnableSmoothing(nn.Module):
    """`smooth` with generated f, a and c, `iterations` times, each time with a generator of its own.

    `start` says what it does before training: "identity" (a = 3, c = 1) or "average" (a = 0.01, c = 1). Neither is
    exact, because an exact one would have no gradient to leave it: the relative error is 1 to 4 % of the map for the
    identity and 1 to 2 % for the average, on the maps of a pretrained EfficientNet-Lite0. Without `bandwidth` a stays
    there for good, without `confidence` c does.
    """

    window: int = 3
    kernel_dim: int = 16
    hidden: int = 64
    iterations: int = 1
    dilation: int = 1
    start: str = "identity"
    bandwidth: bool = True
    confidence: bool = True

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"]
    ) -> tuple[Float[Array, "b h w c"], dict[str, Float32[Array, "b h w"]]]:
        """The smoothed map, and the maps "a" and "c" of the last iteration."""
        a_init = {"identity": 3.0, "average": 0.01}[self.start]
        for i in range(self.iterations):
            generator = KernelGenerator(
                self.kernel_dim, self.hidden, a_init, 1.0, self.bandwidth, self.confidence, name=f"generator_{i}"
            )
            f, a, c = generator(x, mask)
            x = smooth(x, f, a, c, window=self.window, dilation=self.dilation, mask=mask)
        return x, {"a": a, "c": c}
