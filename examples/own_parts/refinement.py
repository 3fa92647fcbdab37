"""A smoothing and a refinement of one's own: a map in, a map of the same shape out."""

import flax.linen as nn
import jax.numpy as jnp

import sret_jax


@sret_jax.register("smoothing", "blend")
class Blend(nn.Module):
    """Moves every position towards the mean of its window, by a share that is learned for each channel."""

    window: int = 3

    @nn.compact
    def __call__(self, x, mask):
        share = nn.sigmoid(self.param("share", nn.initializers.constant(-2.0), (1, 1, 1, x.shape[-1])))
        inside, size = mask[..., None].astype(x.dtype), (self.window, self.window)
        total = nn.avg_pool(x * inside, size, padding="SAME")
        mean = total / jnp.maximum(nn.avg_pool(inside, size, padding="SAME"), 1e-6)
        return x + share * (mean - x)


@sret_jax.register("refinement", "context")
class Context(nn.Module):
    """Weighs the channels of every position by what all of the photograph shows."""

    hidden: int = 32

    @nn.compact
    def __call__(self, x, mask):
        inside = mask[..., None]
        mean = jnp.where(inside, x, 0).sum((1, 2)) / jnp.maximum(inside.sum((1, 2)), 1)
        scale = jnp.sqrt(jnp.square(mean).mean(1, keepdims=True) + 1e-12)
        hidden = nn.relu(nn.Dense(self.hidden, name="reduce")(mean / scale))
        weight = 2 * nn.sigmoid(nn.Dense(x.shape[-1], kernel_init=nn.initializers.zeros, name="weigh")(hidden))
        refined = x * weight[:, None, None]
        return refined, {"what the context changes": jnp.linalg.norm(refined - x, axis=-1)}  # shown in the report
