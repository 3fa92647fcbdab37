"""A network of one layer, which a test initialises and runs in no time."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from sret_jax.models.descriptor import RetrievalNetwork
from sret_jax.models.pooling import GeM


class Tiny(nn.Module):
    """A backbone of one strided convolution that does not see the padding."""

    @nn.compact
    def __call__(self, images, mask, *, train=False, last_stage="last"):
        x = jnp.where(mask[..., None], images.astype(jnp.float32) / 255, 0)
        x = nn.relu(nn.Conv(12, (8, 8), strides=8, padding="VALID")(x))
        small = mask[:, ::8, ::8]
        return {"last": (jnp.where(small[..., None], x, 0), small)}


NETWORK = RetrievalNetwork(backbone=Tiny(), pool=GeM(3.0), stage="last", size_multiple=8)
VARIABLES = NETWORK.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3), jnp.uint8), jnp.ones((1, 32, 32), bool))
