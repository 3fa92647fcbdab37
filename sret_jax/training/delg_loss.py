"""The losses of DELG's local features: what the attention looks at must name the instance, and nothing may be lost."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

ATTENTION, RECONSTRUCTION = 1.0, 10.0  # weights beside the loss of the descriptor, as published


def init_delg_loss(classes: int, channels: int, key: Array) -> dict[str, Array]:
    """The classifier of the attention loss, [channels classes]."""
    kernel = jax.nn.initializers.glorot_uniform()(key, (channels, classes))
    return {"kernel": kernel, "bias": jnp.zeros(classes)}


def attention_loss(
    attended: Float[Array, "b c"], labels: Int[Array, "b"], kernel: Float[Array, "c k"], bias: Float[Array, "k"]
) -> Float[Array, ""]:
    """Softmax cross-entropy of `attended @ kernel + bias`, averaged over the photographs.

    Args:
        attended: mean of the local features of each photograph, weighted by their strengths.

    Reference: Cao, Araujo, Sim, Unifying deep local and global features for image search, ECCV 2020.
    """
    logits = jnp.matmul(attended, kernel, precision=jax.lax.Precision.HIGHEST) + bias[None]
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def delg_loss(params: dict[str, Array], inputs: dict[str, Array], labels: Int[Array, "b"]) -> Float[Array, ""]:
    """attention_loss + 10 * mean error of the autoencoder: what is added to the loss of the descriptor.

    Args:
        params: of `init_delg_loss`.
        inputs: "attended" [b c] and "error" [b] of `DelgHead`.

    Reference: Cao, Araujo, Sim, ECCV 2020.
    """
    attention = attention_loss(inputs["attended"], labels, params["kernel"], params["bias"])
    return ATTENTION * attention + RECONSTRUCTION * inputs["error"].mean()
