"""The mean of every channel over its strongest positions: a pooling, and a network that is trained with it."""

import jax.numpy as jnp

import sret_jax
from sret_jax.config import Config, DataConfig, ModelConfig, TrainConfig


@sret_jax.register("pooling", "strongest")
def strongest(x, mask, share=0.2):
    """x [b h w c] and its mask [b h w] become [b c]; `share` of the positions count."""
    values = -jnp.sort(-jnp.where(mask[..., None], x, -jnp.inf).reshape(x.shape[0], -1, x.shape[-1]), axis=1)
    count = jnp.maximum(1, share * mask.sum((1, 2)))[:, None, None]
    chosen = (jnp.arange(values.shape[1])[None, :, None] < count) & (values > -jnp.inf)
    return jnp.where(chosen, values, 0).sum(1) / jnp.maximum(chosen.sum(1), 1)


def get_config():
    return Config(
        data=DataConfig(dataset="synthetic", image_size=96, synthetic_instances=8, instances_per_batch=4),
        model=ModelConfig(pool="strongest", parts={"strongest": {"share": 0.1}}, whitening_dim=64),
        train=TrainConfig(steps=4),
    )
