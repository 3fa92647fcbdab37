"""A loss of one's own, with parameters: every training instance has a vector that its photographs are drawn to."""

import flax.linen as nn
import jax.numpy as jnp
import optax

import sret_jax


@sret_jax.register("loss", "proxies")
class Proxies(nn.Module):
    """Softmax over the cosines with all vectors. x [b d] has unit length, labels [b]."""

    classes: int  # the training instances: a field of this name is filled in
    scale: float = 16.0

    @nn.compact
    def __call__(self, x, labels):
        proxies = self.param("proxies", nn.initializers.normal(1.0), (self.classes, x.shape[1]))
        unit = proxies / jnp.linalg.norm(proxies, axis=1, keepdims=True)
        return optax.softmax_cross_entropy_with_integer_labels(self.scale * x @ unit.T, labels).mean()
