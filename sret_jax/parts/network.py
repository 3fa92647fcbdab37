"""Parts of a network of one's own, as modules that check what they give: whatever is wrong has the line of theirs."""

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict
from jaxtyping import Array, Bool, Float

from sret_jax.config.own_parts import Part
from sret_jax.models.backbones import BackboneInfo
from sret_jax.models.backbones.base import Backbone, Maps
from sret_jax.models.backbones.layers import erase

NAME = "own"  # of their module in ours, and so of its parameters


def is_module(part: Part) -> bool:
    return isinstance(part.definition, type) and issubclass(part.definition, nn.Module)


def frozen(parameters: Mapping[str, Any]) -> FrozenDict[str, Any]:
    """Lists as tuples, so that a network of them has a hash."""

    def tuples(value: Any) -> Any:
        if isinstance(value, Mapping):
            return FrozenDict({name: tuples(one) for name, one in value.items()})
        return tuple(map(tuples, value)) if isinstance(value, list | tuple) else value

    return FrozenDict({name: tuples(value) for name, value in parameters.items()})


def _called(part: Part, parameters: Mapping[str, Any], *arrays: Array) -> Any:
    """What a function, or a module made here, inside of one of ours, gives for these arrays."""
    with part.blamed():
        if is_module(part):
            return part.definition(**parameters, name=NAME)(*arrays)
        return part.definition(*arrays, **parameters)


def shape_of(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if hasattr(value, "shape") else type(value).__name__


def _is_float(value: Any) -> bool:
    return isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jnp.floating)


class OwnPooling(nn.Module):
    part: Part
    parameters: FrozenDict[str, Any] = FrozenDict()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"]) -> Float[Array, "b d"]:
        vector = _called(self.part, self.parameters, x, mask)
        if not (_is_float(vector) and vector.ndim == 2 and vector.shape[0] == x.shape[0]):
            wanted = f"a vector of numbers for each map of {list(x.shape)}, [{x.shape[0]}, d]"
            raise self.part.fails(f"gave {shape_of(vector)}, not {wanted}")
        return jnp.asarray(vector, jnp.float32)


class OwnRefinement(nn.Module):
    """A smoothing or a refinement."""

    part: Part
    parameters: FrozenDict[str, Any] = FrozenDict()

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], mask: Bool[Array, "b h w"]
    ) -> tuple[Float[Array, "b h w c"], dict[str, Array]]:
        given = _called(self.part, self.parameters, x, mask)
        refined, seen = given if isinstance(given, tuple) and len(given) == 2 else (given, {})
        if not (_is_float(refined) and refined.shape == x.shape):
            raise self.part.fails(f"gave {shape_of(refined)}, not a map like the one it got, {list(x.shape)}")
        leading = [getattr(one, "shape", ())[:1] for one in jax.tree.leaves(seen)]
        if not (isinstance(seen, Mapping) and all(one == x.shape[:1] for one in leading)):
            raise self.part.fails(f"gave {shape_of(seen)} beside its map, not a dict of arrays [{x.shape[0]}, ...]")
        return jnp.where(mask[..., None], refined, 0).astype(x.dtype), dict(seen)


class OwnBackbone(Backbone):
    """All of it trains, or nothing: `train_from` of another stage freezes the parameters before it, no more."""

    goes_on: ClassVar[bool] = False
    part: Part = None  # type: ignore[assignment]  # fields of the class before have defaults
    parameters: FrozenDict[str, Any] = FrozenDict()

    @nn.compact
    def maps(
        self,
        images: Array,
        mask: Array,
        train: bool,
        last_stage: str,
        attention: nn.Module | None = None,
        given: str = "",
    ) -> Maps:
        part, info = self.part, backbone_info(self.part)
        if given:
            raise part.fails(f"cannot go on from the map of {given!r}; set config.train.on_maps=False")
        options = {"train": train and self.update_stats and self.train_from != "none", "last_stage": last_stage}
        taken = inspect.signature(part.definition.__call__).parameters  # type: ignore[operator]
        takes_all = any(one.kind is one.VAR_KEYWORD for one in taken.values())
        with part.blamed():
            fields = getattr(part.definition, "__dataclass_fields__", {})
            own = part.definition(
                **({"dtype": self.dtype} if "dtype" in fields else {}) | dict(self.parameters), name=NAME
            )
            found = own(images, mask, **{name: value for name, value in options.items() if takes_all or name in taken})
        if not (isinstance(found, Mapping) and last_stage in found):
            raise part.fails(f"gave {_names(found)}, not a dict with the map of {last_stage!r}")
        return {stage: self._checked(stage, of_stage, info) for stage, of_stage in found.items()}

    def _checked(self, stage: str, given: Any, info: BackboneInfo) -> tuple[Array, Array]:
        x, mask = given if isinstance(given, tuple) and len(given) == 2 else (given, None)
        if stage not in info.channels:
            raise self.part.fails(f"gave the map of {stage!r}, which its `stages` do not have")
        if not (_is_float(x) and x.ndim == 4 and x.shape[-1] == info.channels[stage]):
            wanted = f"a map [b, h, w, {info.channels[stage]}], as its `channels` say"
            raise self.part.fails(f"gave {shape_of(x)} as {stage!r}, not {wanted}")
        if not (isinstance(mask, jax.Array) and mask.dtype == bool and mask.shape == x.shape[:3]):
            raise self.part.fails(f"gave {shape_of(mask)} as the mask of {stage!r}, not bool {list(x.shape[:3])}")
        return erase(x if self.train_from != "none" else jax.lax.stop_gradient(x), mask), mask

    def trains(self, stage: int) -> bool:
        return self.train_from != "none"


def _names(found: Any) -> str:
    return f"a dict with {', '.join(map(repr, found)) or 'nothing'}" if isinstance(found, Mapping) else shape_of(found)


def backbone_info(part: Part) -> BackboneInfo:
    """What is known of a backbone before it is built. Raises `UserError` for what its class does not say."""
    of_class = part.definition
    multiple: Any = getattr(of_class, "size_multiple", None)
    stages: Any = getattr(of_class, "stages", None)
    channels: Any = getattr(of_class, "channels", None)
    whole = isinstance(stages, Mapping) and isinstance(channels, Mapping) and list(stages) == list(channels) and stages
    if not is_module(part) or not whole or not isinstance(multiple, int) or multiple < 1:
        raise part.fails(
            "is not a class of flax that says `size_multiple` (a whole number), `stages` ({name: stride}) and "
            "`channels` ({name: number}), of the same names in the same order"
        )

    def build(parameters: Mapping[str, Any], train_from: str, update_stats: bool, dtype: Any) -> OwnBackbone:
        return OwnBackbone(part.name, train_from, update_stats, dtype, part, frozen(parameters))

    brought = getattr(of_class, "pretrained", None)
    return BackboneInfo(multiple, dict(stages), dict(channels), build=build, pretrained=brought)
