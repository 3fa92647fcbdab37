"""What every backbone is: one call that returns the map and the mask of each stage."""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt8

from sret_jax.models.backbones.layers import erase
from sret_jax.models.platform import on_cpu
from sret_jax.models.shapes import known

STAGES = ("c1", "c2", "c3", "c4", "c5", "last")  # strides 2, 4, 8, 16, 32, 32
# Maps of one position, behind the stages: what a network itself makes of a photograph.
CLASS_TOKEN, ATTENTION_POOL = "cls", "attention_pool"
BACKBONE_POOLS = {"class_token": CLASS_TOKEN, "attention": ATTENTION_POOL}  # values of config.model.pool -> such a map
IMAGE_MEAN, IMAGE_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, for values 0..1
Maps = dict[str, tuple[Float[Array, "b _ _ _"], Bool[Array, "b _ _"]]]


def used_stage(pool: str, stage: str) -> str:
    """The last stage that a network computes: of the map that is pooled, or of the backbone's own vector."""
    return BACKBONE_POOLS.get(pool, stage)


class Backbone(nn.Module):
    """`train_from` is the first stage that trains; with `update_stats` its BatchNorms use the batch's statistics."""

    attends: ClassVar[tuple[str, ...]] = ()  # the stages after which attention may sit
    goes_on: ClassVar[bool] = True  # from the map of a stage
    variant: str
    train_from: str = "none"
    update_stats: bool = False
    dtype: Any = jnp.float32

    def __call__(
        self,
        images: UInt8[Array, "b h w 3"] | Float[Array, "b h w _"],
        mask: Bool[Array, "b h w"],
        *,
        train: bool = False,
        last_stage: str = "last",
        attention: nn.Module | None = None,
        given: str = "",
    ) -> Maps:
        """Maps and masks of the stages up to `last_stage`, zero outside the mask; images hold 0..255.

        With the name of a stage in `given`, `images` and `mask` are the map and mask of that stage, made earlier by the
        same network, and only the stages behind it are computed. A transformer has no such shortcut.

        `attention(stage, map, mask, train=train)` replaces the map of each of its `stages`, for the stages behind it
        too. Then the gradient flows back to it through whatever is behind, frozen or not.

        On a CPU the batch goes through the network two photographs at a time (one, if their number is odd): the maps
        of the early stages then stay in the cache instead of being written to fresh memory, which is 1.7 times as fast.
        Not where the backbone trains: the gradient of that loop takes three times as long to compile; nor around
        attention, whose parameters are not the backbone's; nor where the network is exported for batches of any size.
        """
        if attention is not None or given:
            return self.maps(images, mask, train, last_stage, attention, given)
        batch = images.shape[0]
        trains = train and self.train_from != "none"
        if not known(batch) or not on_cpu() or trains or self.is_initializing():
            return self.maps(images, mask, train, last_stage)
        group = 2 if batch % 2 == 0 else 1
        if batch <= group:
            return self.maps(images, mask, train, last_stage)

        def step(network: Backbone, _: tuple[()], part: tuple[Array, Array]) -> tuple[tuple[()], Maps]:
            return (), network.maps(*part, train, last_stage)

        scan = nn.scan(step, variable_broadcast=("params", "batch_stats"), split_rngs={"params": False})
        parts = jax.tree.map(lambda x: x.reshape(batch // group, group, *x.shape[1:]), (images, mask))
        return jax.tree.map(lambda x: x.reshape(batch, *x.shape[2:]), scan(self, (), parts)[1])

    def maps(
        self,
        images: Array,
        mask: Array,
        train: bool,
        last_stage: str,
        attention: nn.Module | None = None,
        given: str = "",
    ) -> Maps:
        raise NotImplementedError

    def end(
        self, maps: Maps, stage: str, x: Array, mask: Array, *, attention: nn.Module | None = None, train: bool = False
    ) -> None:
        """Adds a finished stage to `maps`. The gradient stops here where nothing before the stage's end trains."""
        stages = () if attention is None else attention.stages
        if not self.trains(STAGES.index(stage)) and not set(stages) & set(maps):
            x = jax.lax.stop_gradient(x)
        x = erase(x, mask)
        if attention is not None and stage in stages:
            x = attention(stage, x, mask, train=train)
        maps[stage] = x, mask

    def normalized(
        self,
        images: Array,
        image_mean: tuple[float, ...] = IMAGE_MEAN,
        image_deviation: tuple[float, ...] = IMAGE_DEVIATION,
    ) -> Array:
        """`(images / 255 - mean) / deviation` per channel.

        The two are variables, because they belong to the weights: a checkpoint that names its own brings them along.
        """

        def of_channels(name: str, start: tuple[float, ...]) -> Array:
            stored = self.variable("batch_stats", name, lambda: jnp.array(start, jnp.float32))
            return 255 * stored.value.reshape(1, 1, 1, 3)

        mean, deviation = of_channels("image_mean", image_mean), of_channels("image_deviation", image_deviation)
        return (images.astype(jnp.float32) - mean) / deviation

    def trains(self, stage: int) -> bool:
        """Whether the stage of this index in `STAGES` trains."""
        if self.train_from in ("none", "all"):
            return self.train_from == "all"
        return stage >= STAGES.index(self.train_from)
