"""The whole network: photographs in, one descriptor each out.

    backbone stage -> [smoothing] -> [refinement] -> GeM (one p per channel) -> L2 -> [whitening] -> L2

Every bracket is a field of `ModelConfig`, so a plain GeM network and one with spatial context differ in nothing else.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt8

from sret_jax.config import ModelConfig, RefinementConfig, SmoothingConfig
from sret_jax.models.backbones import BACKBONES, build_backbone, pretrained
from sret_jax.models.graph import SpatialContextRefinement
from sret_jax.models.pooling import GeM, l2_normalize
from sret_jax.models.smoothing import LearnableSmoothing
from sret_jax.models.whitening import Whitening

Variables = dict[str, Any]
Images = UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"]  # 0 to 255


class RetrievalNetwork(nn.Module):
    """Global descriptors of padded photographs.

    Attributes:
      backbone: returns `{stage: (map, mask)}`.
      stage: the map that is smoothed, refined and pooled.
      size_multiple: photographs whose sides are multiples of it get the same descriptor padded as alone.
      smoothing, refinement, whitening: modules, or None where the network goes without.
    """

    backbone: nn.Module
    pool: nn.Module
    stage: str
    size_multiple: int
    smoothing: nn.Module | None = None
    refinement: nn.Module | None = None
    whitening: nn.Module | None = None

    def feature_map(
        self, images: Images, mask: Bool[Array, "b h w"], train: bool = False
    ) -> tuple[Float[Array, "b h2 w2 c"], Bool[Array, "b h2 w2"], dict[str, Any]]:
        """The map that is pooled, its mask, and the named intermediates on the way to it."""
        x, mask = self.backbone(images, mask, train=train, last_stage=self.stage)[self.stage]
        seen: dict[str, Any] = {"backbone": x}
        if self.smoothing is not None:
            x, seen["smoothing"] = self.smoothing(x, mask)
        if self.refinement is not None:
            x, seen["refinement"] = self.refinement(x, mask)
        return x, mask, seen | {"map": x, "mask": mask}

    def pooled(
        self, images: Images, mask: Bool[Array, "b h w"], train: bool = False
    ) -> tuple[Float[Array, "b c"], dict[str, Any]]:
        """The L2-normalised descriptor before whitening."""
        x, mask, seen = self.feature_map(images, mask, train)
        return l2_normalize(self.pool(x.astype(jnp.float32), mask)), seen

    def __call__(
        self, images: Images, mask: Bool[Array, "b h w"], *, train: bool = False
    ) -> tuple[Float[Array, "b d"], dict[str, Any]]:
        """Descriptors of unit length and the intermediates (maps, `a`, `c`, graph nodes) by name.

        Args:
          images: RGB, 0 to 255, padded at the bottom and the right.
          mask: True on the photograph, False on the padding.
          train: updates BatchNorm statistics where the backbone was built for it.
        """
        descriptor, seen = self.pooled(images, mask, train)
        if self.whitening is not None:
            descriptor = l2_normalize(self.whitening(descriptor))
        return descriptor, seen


def build_network(
    config: ModelConfig, *, train_from: str = "none", batch_stats: str = "frozen", whitening: bool = True
) -> RetrievalNetwork:
    """The network that a config describes; `whitening=False` leaves the fully connected layer out."""
    dtype = jnp.dtype(config.dtype)
    return RetrievalNetwork(
        backbone=build_backbone(config.backbone, dtype=dtype, train_from=train_from, batch_stats=batch_stats),
        pool=GeM(config.pool_p),
        stage=config.stage,
        size_multiple=BACKBONES[config.backbone].size_multiple,
        smoothing=_if_enabled(LearnableSmoothing, config.smoothing),
        refinement=_if_enabled(SpatialContextRefinement, config.refinement),
        whitening=Whitening(config.whitening_dim) if config.whitening and whitening else None,
    )


def _if_enabled(module: type[nn.Module], settings: SmoothingConfig | RefinementConfig) -> nn.Module | None:
    """The module with the fields of its config, which have the same names."""
    fields = {name: value for name, value in vars(settings).items() if name != "enabled"}
    return module(**fields) if settings.enabled else None


def init_network(network: RetrievalNetwork, config: ModelConfig, key: jax.Array) -> Variables:
    """Parameters and BatchNorm statistics: pretrained backbone (unless `weights` is "none"), fresh heads."""
    side = 4 * 32
    fresh = config.weights == "none"

    @jax.jit
    def init(key: jax.Array) -> Variables:
        variables = network.init(key, jnp.zeros((1, side, side, 3), jnp.uint8), jnp.ones((1, side, side), bool))
        # What is not returned is not compiled: neither the forward pass, nor random weights that would be replaced.
        return {c: {n: v for n, v in tree.items() if fresh or n != "backbone"} for c, tree in variables.items()}

    variables = init(key)
    loaded = {} if fresh else pretrained(config.backbone, config.weights)
    return {c: tree | ({"backbone": loaded[c]} if c in loaded else {}) for c, tree in variables.items()}
