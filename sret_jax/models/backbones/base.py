"""What every backbone is: one call that returns the map and the mask of each stage."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt8

STAGES = ("c1", "c2", "c3", "c4", "c5", "last")  # strides 2, 4, 8, 16, 32, 32
Maps = dict[str, tuple[Float[Array, "b _ _ _"], Bool[Array, "b _ _"]]]


class Backbone(nn.Module):
    """`train_from` is the first stage that trains; with `update_stats` its BatchNorms use the batch's statistics."""

    variant: str
    train_from: str = "none"
    update_stats: bool = False
    dtype: Any = jnp.float32

    def __call__(
        self,
        images: UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"],
        mask: Bool[Array, "b h w"],
        *,
        train: bool = False,
        last_stage: str = "last",
    ) -> Maps:
        """Maps and masks of the stages up to `last_stage`, zero outside the mask; images hold 0..255.

        On a CPU the batch goes through the network two photographs at a time (one, if their number is odd): the maps
        of the early stages then stay in the cache instead of being written to fresh memory, which is 1.7 times as fast.
        Not where the backbone trains: the gradient of that loop takes three times as long to compile.
        """
        batch = len(images)
        group = 2 if batch % 2 == 0 else 1
        whole = jax.default_backend() != "cpu" or batch <= group or (train and self.train_from != "none")
        if whole or self.is_initializing():
            return self.maps(images, mask, train, last_stage)

        def step(network: Backbone, _: tuple[()], part: tuple[Array, Array]) -> tuple[tuple[()], Maps]:
            return (), network.maps(*part, train, last_stage)

        scan = nn.scan(step, variable_broadcast=("params", "batch_stats"), split_rngs={"params": False})
        parts = [x.reshape(batch // group, group, *x.shape[1:]) for x in (images, mask)]
        return jax.tree.map(lambda x: x.reshape(batch, *x.shape[2:]), scan(self, (), tuple(parts))[1])

    def maps(self, images: Array, mask: Array, train: bool, last_stage: str) -> Maps:
        raise NotImplementedError

    def trains(self, stage: int) -> bool:
        """Whether the stage of this index in `STAGES` trains."""
        if self.train_from in ("none", "all"):
            return self.train_from == "all"
        return stage >= STAGES.index(self.train_from)
