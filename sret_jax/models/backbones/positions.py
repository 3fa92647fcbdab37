"""How a vision transformer is told where its patches lie: learned positions, resampled, and rotary ones.

Both are of each photograph's own grid, which is the rectangle that the mask holds, so that padding changes nothing.
"""

import math

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from sret_jax.models.shapes import Size

# How learned positions are resampled; a network's statistic "resampling" is an index of these. Position i of n lies at
# g (i + 1/2) / n - 1/2 of the g stored ones of an axis.
#   offset     bicubic, a = -3/4, n + 0.1 in place of n: DINOv2's code, for its networks without registers
#   antialias  bicubic, a = -1/2, the kernel as wide as a step larger than 1: DINOv2 with registers, and timm
#   bicubic    a = -3/4: transformers' DINOv2 without registers and SigLIP
#   bilinear   Perception Encoder's code
RESAMPLING = ("offset", "antialias", "bicubic", "bilinear")


def resampling(count: Int[Array, "b"], length: Size, *, grid: int, kind: str) -> Float[Array, "b n {grid}"]:
    """Weights with which the stored positions of one axis become the first `count` of `length` positions.

    The border is repeated, except with "antialias": there the weights inside the border are scaled to sum to 1. These
    are torch's interpolations, without and with antialiasing.
    """
    n = count.astype(jnp.float32)[:, None, None]
    step = grid / (n + 0.1 if kind == "offset" else n)
    centre = step * (jnp.arange(length, dtype=jnp.float32)[None, :, None] + 0.5) - 0.5
    stored = jnp.arange(grid, dtype=jnp.float32)[None, None]
    if kind == "antialias":
        weights = _cubic((centre - stored) / jnp.maximum(step, 1), -0.5)
        total = weights.sum(2, keepdims=True)
        return weights / jnp.where(total == 0, 1, total)  # 0 far behind the photograph, in the padding
    if kind == "bilinear":
        return jnp.maximum(1 - jnp.abs(jnp.clip(centre, 0, grid - 1) - stored), 0)
    stored = jnp.arange(-2, grid + 2, dtype=jnp.float32)[None, None]
    weights = _cubic(centre - stored, -0.75)
    first, last = weights[..., :3].sum(2, keepdims=True), weights[..., -3:].sum(2, keepdims=True)
    return jnp.concatenate([first, weights[..., 3:-3], last], axis=2)


def _cubic(t: Array, a: float) -> Array:
    """Keys' cubic convolution kernel; zero from |t| = 2 on."""
    t = jnp.abs(t)
    near, far = ((a + 2) * t - (a + 3)) * t * t + 1, ((t - 5) * t + 8) * a * t - 4 * a
    return jnp.where(t <= 1, near, jnp.where(t < 2, far, 0))


def learned_positions(
    stored: Float[Array, "g g c"], mask: Bool[Array, "b h w"], *, kind: int | Float[Array, ""]
) -> Float[Array, "b h w c"]:
    """The learned positions of each photograph's own grid; `kind` is an index of `RESAMPLING`."""
    grid = len(stored)
    rows, columns = _counts(mask)
    as_stored = ((rows == grid) & (columns == grid))[:, None, None]  # then as it is stored, without the 0.1
    kind = jnp.asarray(kind).astype(jnp.int32)

    def along(count: Int[Array, "b"], length: Size) -> Float[Array, "b n g"]:
        made = jnp.stack([resampling(jnp.maximum(count, 1), length, grid=grid, kind=name) for name in RESAMPLING])
        return jnp.where(as_stored, jnp.eye(length, grid)[None], made[kind])

    down, across = along(rows, mask.shape[1]), along(columns, mask.shape[2])
    return jnp.einsum("bim,mnc,bjn->bijc", down, stored, across, precision=lax.Precision.HIGHEST)


def _counts(mask: Bool[Array, "b h w"]) -> tuple[Int[Array, "b"], Int[Array, "b"]]:
    """Rows and columns of each photograph."""
    return mask.any(2).sum(1), mask.any(1).sum(1)


def _spread(along_y: Float[Array, "b h"], along_x: Float[Array, "b w"]) -> Float[Array, "b 2 h w"]:
    shape = along_y.shape[0], along_y.shape[1], along_x.shape[1]
    return jnp.stack([jnp.broadcast_to(along_y[:, :, None], shape), jnp.broadcast_to(along_x[:, None], shape)], 1)


def centred_angles(mask: Bool[Array, "b h w"], periods: Float[Array, "k"]) -> Float[Array, "b h w 2*k"]:
    """DINOv3's: 2 pi t / period, t from -1 to 1 from border to border; k angles of the row, then k of the column.

    Reference: Siméoni et al., DINOv3, 2025; with their "separate" coordinates.
    """

    def along(count: Int[Array, "b"], length: Size) -> Float[Array, "b n"]:
        share = (jnp.arange(length, dtype=jnp.float32)[None] + 0.5) / jnp.maximum(count, 1)[:, None]
        return 2 * share - 1

    rows, columns = _counts(mask)
    t = _spread(along(rows, mask.shape[1]), along(columns, mask.shape[2]))
    angles = 2 * math.pi * t[..., None] / periods[None, None, None, None]
    return jnp.concatenate([angles[:, 0], angles[:, 1]], axis=-1)


def counted_angles(
    mask: Bool[Array, "b h w"], bands: int, reference: Float[Array, ""] | float
) -> Float[Array, "b h w _"]:
    """Perception Encoder's: t / 10000^(i / bands) for band i, t = 1, 2, ...; of the column first, then of the row.

    reference: 0, or the side of a grid that t is scaled to, (i + 1) reference / n, as timm does; in patches.

    Reference: Bolya et al., Perception Encoder, 2025.
    """

    def along(count: Int[Array, "b"], length: Size) -> Float[Array, "b n"]:
        scale = jnp.where(reference > 0, reference / jnp.maximum(count, 1), 1.0)
        return (jnp.arange(length, dtype=jnp.float32)[None] + 1) * scale[:, None]

    rows, columns = _counts(mask)
    t = _spread(along(rows, mask.shape[1]), along(columns, mask.shape[2]))
    frequencies = 10000.0 ** -(jnp.arange(bands, dtype=jnp.float32) / bands)
    angles = t[..., None] * frequencies[None, None, None, None]
    return jnp.concatenate([angles[:, 1], angles[:, 0]], axis=-1)


def rotated(
    x: Float[Array, "b n heads d"], turn: tuple[Float[Array, "b n _"], Float[Array, "b n _"]], *, halves: bool
) -> Float[Array, "b n heads d"]:
    """Every pair of channels (u, v) turned by its angle: (u cos - v sin, v cos + u sin).

    turn: cosines and sines. halves: the pairs are (i, i + d/2), as in DINOv3, else (2i, 2i + 1).
    """
    cos, sin = (part[:, :, None].astype(x.dtype) for part in turn)
    if halves:
        u, v = jnp.split(x, 2, axis=-1)
        return jnp.concatenate([u * cos - v * sin, v * cos + u * sin], axis=-1)
    u, v = x[..., ::2], x[..., 1::2]
    return jnp.stack([u * cos - v * sin, v * cos + u * sin], axis=-1).reshape(x.shape)
