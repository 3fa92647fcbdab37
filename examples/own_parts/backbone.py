"""A backbone of one's own, of two convolutions over patches, trained from nothing."""

import flax.linen as nn
import jax.numpy as jnp

import sret_jax
from sret_jax.config import Config, DataConfig, ModelConfig, TrainConfig


@sret_jax.register("backbone", "patches")
class Patches(nn.Module):
    """images [b h w 3], 0 to 255, and their mask [b h w] become the map and the mask of each stage."""

    size_multiple = 16  # sides of photographs and buckets are multiples of it
    stages = {"last": 16}  # stride of each stage's map
    channels = {"last": 64}
    depth: int = 1

    @nn.compact
    def __call__(self, images, mask):
        x = nn.Conv(64, (16, 16), strides=16, padding="VALID", name="patches")(images.astype(jnp.float32) / 255 - 0.5)
        mask = mask[:, ::16, ::16]
        for i in range(self.depth):
            x = jnp.where(mask[..., None], x, 0)  # what lies outside of a photograph must not reach it
            x = nn.relu(x + nn.Conv(64, (3, 3), name=f"layer_{i}")(x))
        return {"last": (x, mask)}


def get_config():
    return Config(
        data=DataConfig(dataset="synthetic", image_size=96, synthetic_instances=8, instances_per_batch=4),
        model=ModelConfig(backbone="patches", weights="none", parts={"patches": {"depth": 2}}, whitening_dim=32),
        train=TrainConfig(steps=4, train_from="all"),
    )
