"""The whole network: photographs in, one descriptor each out.

    backbone stages [with attention] -> [smoothing] -> [refinement] -> pooling -> L2 -> [whitening] -> L2
                                                            └-> [local features]

Every bracket and the pooling are fields of `ModelConfig`, so GeM, R-MAC, SOLAR, HOW, SuperGlobal and a network with
spatial context differ in nothing else.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jaxtyping import Array, Bool, Float, UInt8

from sret_jax.config import DataConfig, ModelConfig
from sret_jax.config.own_parts import own_part
from sret_jax.errors import UserError, did_you_mean
from sret_jax.models.attention import StageAttention
from sret_jax.models.backbones import BACKBONES, build_backbone
from sret_jax.models.backbones.base import BACKBONE_POOLS, used_stage
from sret_jax.models.backbones.resnet import ResNet
from sret_jax.models.controls import PositionLayer, PositionWeight, Shuffled
from sret_jax.models.delg import STAGE, DelgHead
from sret_jax.models.graph import SpatialContextRefinement
from sret_jax.models.local_features import LocalFeatureHead
from sret_jax.models.pooling import MAC, BackbonePool, GeM, SPoC, WeightedSum, l2_normalize
from sret_jax.models.propagation import SpanRefinement
from sret_jax.models.regional_pooling import RMAC, SuperGlobalPooling
from sret_jax.models.smoothing import LearnableSmoothing
from sret_jax.models.weights.pretrained import start_from
from sret_jax.models.whitening import Whitening

NETWORK_VERSION = 1  # of what networks compute from the same pixels and parameters: raise it when that changes

Variables = dict[str, Any]
Images = UInt8[Array, "b h w 3"] | Float[Array, "b h w _"]  # 0 to 255; or the maps of a stage


class RetrievalNetwork(nn.Module):
    """Global descriptors of padded photographs.

    Attributes:
      backbone: returns `{stage: (map, mask)}`.
      pool: makes a vector of map and mask, `WeightedSum` of local features; `BackbonePool` takes the backbone's.
      stage: the map that is smoothed, refined and pooled.
      size_multiple: photographs whose sides are multiples of it get the same descriptor padded as alone.
      attention, smoothing, refinement, local, whitening: modules, or None where the network goes without.
      l2_added: vectors are normalised as x / (|x| + 1e-6).
      l2_pooled: the pooled vector is normalised before whitening.
    """

    backbone: nn.Module
    pool: nn.Module
    stage: str
    size_multiple: int
    attention: nn.Module | None = None
    smoothing: nn.Module | None = None
    refinement: nn.Module | None = None
    local: nn.Module | None = None
    whitening: nn.Module | None = None
    l2_added: bool = False
    l2_pooled: bool = True

    def feature_map(
        self, images: Images, mask: Bool[Array, "b h w"], train: bool = False, given: str = "", keep: str = ""
    ) -> tuple[Float[Array, "b h2 w2 c"], Bool[Array, "b h2 w2"], dict[str, Any]]:
        """The map that is pooled, its mask, and the named intermediates on the way to it."""
        if given == self.stage:
            maps = {given: (images.astype(self.backbone.dtype), mask)}
        else:
            options: dict[str, Any] = {} if self.attention is None else {"attention": self.attention}
            options |= {"given": given} if given else {}
            last = self.pool.stage if isinstance(self.pool, BackbonePool) else self.stage
            maps = self.backbone(images, mask, train=train, last_stage=last, **options)
        x, mask = maps[self.stage]
        intermediates: dict[str, Any] = {"backbone": x}
        if isinstance(self.pool, BackbonePool) and self.pool.stage in maps:
            intermediates["own"] = maps[self.pool.stage]
        if keep:
            intermediates["kept"] = maps[keep]
        if self.smoothing is not None:
            x, seen = self.smoothing(x, mask)
            intermediates |= {"smoothing": seen} if seen else {}
        if self.refinement is not None:
            x, seen = self.refinement(x, mask)
            intermediates |= {"refinement": seen} if seen else {}
        if isinstance(self.local, DelgHead):
            intermediates["local"], intermediates["delg"] = self.local(*maps[STAGE], train=train)
        elif self.local is not None:
            intermediates["local"] = self.local(x, mask, strength_of=intermediates["backbone"])
        return x, mask, intermediates | {"map": x, "mask": mask}

    def pooled(
        self, images: Images, mask: Bool[Array, "b h w"], train: bool = False, given: str = "", keep: str = ""
    ) -> tuple[Float[Array, "b c"], dict[str, Any]]:
        """The descriptor before whitening, L2-normalised unless the whitening layer takes it as it is."""
        x, mask, intermediates = self.feature_map(images, mask, train, given, keep)
        if isinstance(self.pool, WeightedSum):
            vector = self.pool(**intermediates["local"])
        elif isinstance(self.pool, BackbonePool):
            vector = self.pool(*intermediates["own"]).astype(jnp.float32)
        else:
            vector = self.pool(x.astype(jnp.float32), mask)
        return self._normalize(vector) if self.l2_pooled or self.whitening is None else vector, intermediates

    def _normalize(self, x: Float[Array, "b c"]) -> Float[Array, "b c"]:
        return l2_normalize(x, 1e-6, added=True) if self.l2_added else l2_normalize(x)

    def __call__(
        self, images: Images, mask: Bool[Array, "b h w"], *, train: bool = False, given: str = "", keep: str = ""
    ) -> tuple[Float[Array, "b d"], dict[str, Any]]:
        """Descriptors of unit length and the intermediates (maps, `a`, `c`, graph nodes, local features) by name.

        Args:
          images: RGB, 0 to 255, padded at the bottom and the right.
          mask: True on the photograph, False on the padding.
          train: updates BatchNorm statistics where the backbone was built for it.
          given: name of a stage whose map and mask `images` and `mask` are, made earlier by the same backbone; only
            what is behind it is computed.
          keep: name of a stage of the backbone whose map and mask are among the intermediates, as "kept".
        """
        descriptor, intermediates = self.pooled(images, mask, train, given, keep)
        if self.whitening is not None:
            descriptor = self._normalize(self.whitening(descriptor))
        return descriptor, intermediates


def build_network(
    config: ModelConfig, *, train_from: str = "none", batch_stats: str = "frozen", whitening: bool = True
) -> RetrievalNetwork:
    """The network that a config describes; `whitening=False` leaves the fully connected layer out."""
    dtype = jnp.dtype(config.dtype)
    own = config.parts.get(config.backbone)
    backbone = build_backbone(
        config.backbone, dtype=dtype, train_from=train_from, batch_stats=batch_stats, parameters=own
    )
    if config.relu_floor:
        if not isinstance(backbone, ResNet):
            raise UserError(f"config.model.relu_floor: {config.backbone} has no such ReLUs; set it to 0")
        backbone = backbone.clone(floor=config.relu_floor)
    _check_stages(config, train_from)
    _check_backbone_pool(config)
    _check_attention(config, backbone.attends)
    return RetrievalNetwork(
        backbone=backbone,
        pool=POOLINGS[config.pool](config),
        stage=config.stage,
        size_multiple=BACKBONES[config.backbone].size_multiple,
        attention=StageAttention(tuple(config.attention.stages), batch_stats == "updated", dtype)
        if config.attention.stages
        else None,
        smoothing=SMOOTHINGS[config.smoothing.form](config) if config.smoothing.enabled else None,
        refinement=REFINEMENTS[config.refinement.form](config) if config.refinement.enabled else None,
        local=_local(config),
        whitening=Whitening(config.whitening_dim) if config.whitening and whitening else None,
        l2_added=config.l2_added,
        l2_pooled=config.l2_pooled,
    )


def _check_stages(config: ModelConfig, train_from: str) -> None:
    """Raises `UserError` for a stage that this backbone does not have."""
    stages = list(BACKBONES[config.backbone].stages)
    for field, value, known in (
        ("model.stage", config.stage, stages),
        ("train.train_from", train_from, ["all", "none", *stages]),
    ):
        if value not in known:
            meant = did_you_mean(value, known)
            raise UserError(f"config.{field}={value!r}: {config.backbone} has {', '.join(known)}{meant}")


def _check_backbone_pool(config: ModelConfig) -> None:
    """Raises `UserError` for a vector that this backbone does not make, or beside heads that would not reach it."""
    if config.pool not in BACKBONE_POOLS:
        return
    if BACKBONE_POOLS[config.pool] not in BACKBONES[config.backbone].stages:
        raise UserError(f'config.model.pool={config.pool!r}: {config.backbone} has none; choose another, such as "gem"')
    for field in ("smoothing", "refinement"):
        if getattr(config, field).enabled:
            raise UserError(
                f"config.model.pool={config.pool!r} is the backbone's own vector, which {field} does not reach; "
                'pool the map, for example with "gem"'
            )


def _local(config: ModelConfig) -> nn.Module | None:
    if not config.local.enabled:
        return None
    if config.local.kind == "how":
        return LocalFeatureHead(config.local.dim, config.local.window)
    stages = list(BACKBONES[config.backbone].stages)
    if STAGE not in stages or stages.index(STAGE) > stages.index(config.stage):
        raise UserError(
            f"config.model.local.kind='delg': reads {STAGE!r}, which {config.backbone} pooled at {config.stage!r} does "
            'not have; choose another backbone or stage, or "how"'
        )
    return DelgHead(config.local.dim, dtype=jnp.dtype(config.dtype))


def _check_attention(config: ModelConfig, possible: Sequence[str]) -> None:
    """Raises `UserError` for attention where this backbone has none, or behind the map that is pooled."""
    stages = list(BACKBONES[config.backbone].stages)
    possible = [stage for stage in possible if stages.index(stage) <= stages.index(config.stage)]
    for stage in config.attention.stages:
        if stage not in possible:
            choices = f"choose from {', '.join(possible)}" if possible else "leave it empty"
            raise UserError(
                f"config.model.attention.stages: {config.backbone}, pooled at {config.stage!r}, has none after "
                f"{stage!r}; {choices}"
            )


def _learnable(config: ModelConfig) -> nn.Module:
    """The module with the fields of its config, which have the same names, or the control that stands in for it."""
    settings = config.smoothing
    if settings.control in ("layer", "weight"):
        return {"layer": PositionLayer, "weight": PositionWeight}[settings.control](settings.hidden)
    own = {field.name for field in dataclasses.fields(LearnableSmoothing)}
    layer = LearnableSmoothing(**{name: value for name, value in vars(settings).items() if name in own})
    return Shuffled(layer) if settings.control == "shuffled" else layer


def _refinement(module: type[nn.Module], config: ModelConfig) -> nn.Module:
    """The module with the fields of its config, which have the same names."""
    settings = config.refinement
    own = {field.name for field in dataclasses.fields(module)}
    fields = {name: value for name, value in vars(settings).items() if name in own}
    return module(**fields, shuffled=settings.control == "shuffled")


def _pooled_by_backbone(stage: str, config: ModelConfig) -> nn.Module:
    return BackbonePool(stage)


# What a config can name; `sret_jax.register` adds to them.
Build = Callable[[ModelConfig], nn.Module]
POOLINGS: dict[str, Build] = {
    "gem": lambda config: GeM(config.pool_p, config.pool_shared),
    "mac": lambda _: MAC(),
    "spoc": lambda _: SPoC(),
    "rmac": lambda _: RMAC(),
    "superglobal": lambda config: SuperGlobalPooling(config.pool_p, config.pool_shared),
    "how": lambda _: WeightedSum(),
    **{name: partial(_pooled_by_backbone, stage) for name, stage in BACKBONE_POOLS.items()},
}
SMOOTHINGS: dict[str, Build] = {"learnable": _learnable}
REFINEMENTS: dict[str, Build] = {
    "span": partial(_refinement, SpanRefinement),
    "free": partial(_refinement, SpatialContextRefinement),
}


def descriptor_length(config: ModelConfig) -> int:
    """Numbers of a descriptor of the network that a config describes."""
    if config.whitening:
        return config.whitening_dim
    if config.pool == "how":
        return config.local.dim
    channels = BACKBONES[config.backbone].channels[used_stage(config.pool, config.stage)]
    if own_part("pooling", config.pool) is None:
        return channels
    maps = jnp.zeros((1, 2, 2, channels)), jnp.ones((1, 2, 2), bool)
    return int(jax.eval_shape(POOLINGS[config.pool](config).init_with_output, jax.random.key(0), *maps)[0].shape[1])


def init_network(
    network: RetrievalNetwork, config: ModelConfig, key: jax.Array, data: DataConfig | None = None
) -> Variables:
    """Parameters and BatchNorm statistics: the backbone's and what else `weights` holds from there, the rest fresh.

    What training starts from the training photographs, the whitening layer and the reduction of local features with
    "pca", is not a number until it does: a descriptor through it would look like one and mean nothing.

    `data`: how photographs are shown, where the weights may have to say that it should be in another way.
    """
    side = 4 * (network.size_multiple if network.size_multiple > 1 else 32)
    fresh = config.weights == "none"

    needed: Variables = {}  # shapes of what the backbone computes with

    @jax.jit
    def init(key: jax.Array) -> Variables:
        variables = network.init(key, jnp.zeros((1, side, side, 3), jnp.uint8), jnp.ones((1, side, side), bool))
        needed.update(
            {c: jax.tree.map(jnp.shape, tree["backbone"]) for c, tree in variables.items() if "backbone" in tree}
        )
        # What is not returned is not compiled: neither the forward pass, nor random weights that would be replaced.
        return {c: {n: v for n, v in tree.items() if fresh or n != "backbone"} for c, tree in variables.items()}

    variables = init(key)
    if not fresh:
        variables = start_from(variables, config, data)
        _check_backbone(variables, needed, config)
    learned = [
        name
        for name, start in (("whitening", config.whitening_init), ("local", _reduction_start(config)))
        if start in ("pca", "within") and name in variables["params"]
    ]
    unfilled = {name: jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), variables["params"][name]) for name in learned}
    return {"batch_stats": {}} | variables | {"params": variables["params"] | unfilled}


def _check_backbone(variables: Variables, needed: Variables, config: ModelConfig) -> None:
    """Raises `UserError` where the weights lack a variable of the backbone, or have it in another shape."""
    for kind, tree in needed.items():
        held = flatten_dict(variables.get(kind, {}).get("backbone", {}), sep=".")
        for name, shape in flatten_dict(tree, sep=".").items():
            found = np.shape(held[name]) if name in held else None
            if found != shape and not (name == "positions" and found and _same_but_side(found, shape)):
                has = "nothing" if found is None else list(found)
                raise UserError(
                    f"{config.weights}: {name} of {config.backbone} is {has} in it, not {list(shape)}; the file is "
                    "damaged or of another network"
                )


def _same_but_side(found: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether these are learned positions of a square grid, whose side is the file's, behind as many others."""
    others = shape[0] - math.isqrt(shape[0]) ** 2
    patches = found[0] - others
    return found[1:] == shape[1:] and patches > 0 and math.isqrt(patches) ** 2 == patches


def _reduction_start(config: ModelConfig) -> str:
    return config.local.init if config.local.kind == "how" else ""  # DELG's head trains from random numbers
