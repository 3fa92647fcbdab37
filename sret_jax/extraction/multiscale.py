"""One descriptor from those of a photograph at several scales, and the resizing of what a network is given.

What `extract.scale_pooling` makes of descriptors v[s] of unit length, and whose descriptors are made so:

    "mean"      sum_s v[s]                                                SOLAR, DELG, cirtorch with a whitening layer
    "gem"       ( mean_s v[s]^p )^(1/p), p the network's exponents        cirtorch without one
    "power3"    r( mean_s r(v[s], 3), 1/3 ),  r(v, p) = sign(v) |v|^p     DIR
    "max"       max_s v[s]                                                SuperGlobal

Each is normalised again, and a whitening that was learned after training comes after that.

With `extract.resized` "photo" every scale is made from the decoded photograph, bicubic and antialiased, to multiples of
the network's stride. With "tensor" the photograph is resized once, to scale 1, and the other scales are made from what
the network is given then, bilinear and without antialiasing, as cirtorch and SOLAR do: enlarged, a photograph has no
more detail than at scale 1, and reduced it is aliased.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, UInt8

from sret_jax.models.pooling import scale_gem

DIR_POWER, DIR_EPS = 3.0, 1e-6


def pool_scales(x: Float32[np.ndarray, "s n d"], how: str, p: Float[np.ndarray, "..."]) -> Float32[np.ndarray, "n d"]:
    """The n descriptors of unit length.

    Args:
        x: descriptors of unit length at s scales.
        how: "mean", "gem", "power3" or "max", as above.
        p: exponents of "gem", one for all or one per component; descriptors must then not be negative.
    """
    match how:
        case "mean":
            pooled = x.sum(0)
        case "gem":
            pooled = (x**p).mean(0) ** (1 / p)
        case "power3":
            pooled = _signed_power(_signed_power(x, DIR_POWER).mean(0), 1 / DIR_POWER)
        case "max":
            pooled = np.asarray(scale_gem(jnp.asarray(x)))
        case _:
            raise ValueError(f"unknown scale pooling {how!r}")
    return pooled / np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), 1e-12)


def _signed_power(x: np.ndarray, p: float) -> np.ndarray:
    return np.sign(x) * np.maximum(np.abs(x), DIR_EPS) ** np.float32(p)


def resize_input(
    images: UInt8[Array, "b h w 3"],
    mask: Bool[Array, "b h w"],
    scale: float,
    multiple: int,
    *,
    recomputed: bool = False,
) -> tuple[Float[Array, "b h2 w2 3"], Bool[Array, "b h2 w2"]]:
    """Photographs `scale` times as large, bilinear, each to the whole part of its size; the new masks show them.

    Pixel i is sampled at (i + 1/2) / scale - 1/2, as torch's `interpolate(scale_factor=scale, align_corners=False)`
    does, and behind its border a photograph goes on with its last pixel, whatever it is padded with. With `recomputed`
    the scale of the pixels is new size / old size, which differs where the whole part was taken, as with torch's
    `recompute_scale_factor`. The new sides are multiples of `multiple`. Values stay 0 to 255: a normalisation by a
    mean and a deviation per channel may come before or after.
    """
    sides = mask.shape[1:]
    sizes = [np.floor(np.arange(n + 1) * scale).astype(np.int32) for n in sides]  # of a photo of 0..n pixels
    shape = [-(-int(size[-1]) // multiple) * multiple for size in sizes]
    old = jnp.stack([mask.any(axis).sum(1) for axis in (2, 1)], 1)
    new = jnp.stack([jnp.asarray(size)[old[:, i]] for i, size in enumerate(sizes)], 1)
    factors = new / jnp.maximum(old, 1) if recomputed else jnp.full(2, scale, jnp.float32)
    shown = mask[..., None].astype(jnp.float32)
    padded = jnp.concatenate([images.astype(jnp.float32) * shown, shown], axis=3)

    def resize(photo: Array, factor: Array) -> Array:
        return jax.image.scale_and_translate(
            photo, (*shape, 4), (0, 1), factor, jnp.zeros(2), "linear", antialias=False, precision="highest"
        )

    resized = jax.vmap(resize, (0, 0 if recomputed else None))(padded, factors)
    rows, columns = (jnp.arange(n)[None] < new[:, i, None] for i, n in enumerate(shape))
    inside = rows[:, :, None] & columns[:, None]
    weight = resized[..., 3:]  # what of the sampled pixels is photograph
    return jnp.where(inside[..., None], resized[..., :3] / jnp.where(weight > 0, weight, 1), 0), inside
