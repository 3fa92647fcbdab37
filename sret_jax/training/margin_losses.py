"""Softmax losses over training instances: one weight vector per instance, and a margin that makes its own task harder.

All take L2-normalised descriptors `x [b d]`, the instance of each `labels [b]`, and `weights [k d]` of any length, and
return the cross-entropy of the logits, averaged over the photographs. `cos[i,j] = x_i . w_j / |w_j|`, `s` is the scale
and `y` the instance of photograph i. They differ in the logits.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from sret_jax.training.pair_losses import products

MOMENTUM = 0.01  # CurricularFace: share of a batch in the moving average


def arcface(
    x: Float[Array, "b d"], labels: Int[Array, "b"], weights: Float[Array, "k d"], *, margin: float, scale: float
) -> Float[Array, ""]:
    """Additive angular margin loss,

        logit[i,j] = s cos(theta[i,j] + m)    if j = y
                   = s cos(theta[i,j])        otherwise,        cos(theta[i,j]) = cos[i,j]

    Where theta + m would pass pi the cosine turns back up, so the authors' code goes on with cos(theta) - m sin(m).

    Args:
        margin: m, radians.
        scale: s, multiplies the cosine.

    Reference: J. Deng et al., ArcFace: Additive Angular Margin Loss for Deep Face Recognition, CVPR 2019, eq. 3.
    """
    cos = _cosines(x, weights)
    return _cross_entropy(_pushed(cos, margin), cos, labels, scale)


def cosface(
    x: Float[Array, "b d"], labels: Int[Array, "b"], weights: Float[Array, "k d"], *, margin: float, scale: float
) -> Float[Array, ""]:
    """Large margin cosine loss: logit[i,y] = s (cos[i,y] - m), the other logits s cos[i,j].

    Args:
        margin: m, a cosine.

    Reference: H. Wang et al., CosFace: Large Margin Cosine Loss for Deep Face Recognition, CVPR 2018, eq. 4.
    """
    cos = _cosines(x, weights)
    return _cross_entropy(cos - margin, cos, labels, scale)


def subcentre_arcface(
    x: Float[Array, "b d"], labels: Int[Array, "b"], weights: Float[Array, "k n d"], *, margin: float, scale: float
) -> Float[Array, ""]:
    """ArcFace with n vectors per instance, of which each photograph is compared with the nearest,

        cos[i,j] = max over n of x_i . w_jn / |w_jn|

    so that a mislabelled or unusual photograph need not pull the instance's main vector to itself.

    Reference: J. Deng et al., Sub-center ArcFace: Boosting Face Recognition by Large-Scale Noisy Web Faces, ECCV 2020.
    """
    classes, centres, dim = weights.shape
    cos = _cosines(x, weights.reshape(classes * centres, dim)).reshape(len(x), classes, centres).max(2)
    return _cross_entropy(_pushed(cos, margin), cos, labels, scale)


def curricularface(
    x: Float[Array, "b d"],
    labels: Int[Array, "b"],
    weights: Float[Array, "k d"],
    t: Float[Array, ""],
    *,
    margin: float,
    scale: float,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """ArcFace that gives hard negatives little weight at the start of training and more later on,

        logit[i,j] = s cos[i,j] (t + cos[i,j])    if j is not y and cos[i,j] > cos(theta[i,y] + m)

    and ArcFace's logits otherwise. t follows the mean of cos[i,y], which grows with training.

    Args:
        t: moving average before this batch, 0 at the start. The batch enters it with weight 0.01 before it is used.

    Returns:
        The loss, and t with this batch in it.

    Reference: Y. Huang et al., CurricularFace: Adaptive Curriculum Learning Loss for Deep Face Recognition, CVPR 2020.
    """
    cos = _cosines(x, weights)
    own = jnp.take_along_axis(cos, labels[:, None], axis=1)
    t = jax.lax.stop_gradient(MOMENTUM * own.mean() + (1 - MOMENTUM) * t)
    hard = cos > _turned(own, margin)
    others = jnp.where(hard, cos * (t + cos), cos)
    return _cross_entropy(_pushed(cos, margin), others, labels, scale), t


def _cosines(x: Float[Array, "b d"], weights: Float[Array, "k d"]) -> Float[Array, "b k"]:
    squares = jnp.sum(weights**2, axis=1, keepdims=True)
    return products(x, weights * jax.lax.rsqrt(jnp.maximum(squares, 1e-12)))


def _turned(cos: Float[Array, "..."], margin: float) -> Float[Array, "..."]:
    """cos(theta + m)."""
    sin = jnp.sqrt(jnp.maximum(1 - cos**2, 1e-6))  # floored: the slope of the root is infinite at 0
    return cos * jnp.cos(margin) - sin * jnp.sin(margin)


def _pushed(cos: Float[Array, "..."], margin: float) -> Float[Array, "..."]:
    """cos(theta + m), going on downwards where theta + m passes pi."""
    return jnp.where(cos > -jnp.cos(margin), _turned(cos, margin), cos - margin * jnp.sin(margin))


def _cross_entropy(
    own: Float[Array, "b k"], others: Float[Array, "b k"], labels: Int[Array, "b"], scale: float
) -> Float[Array, ""]:
    """Of logits that are taken from `own` for the photograph's instance and from `others` elsewhere."""
    mine = jax.nn.one_hot(labels, own.shape[1], dtype=bool)
    logits = scale * jnp.where(mine, own, others)
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
