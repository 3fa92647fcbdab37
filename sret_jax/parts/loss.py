"""A loss of one's own among those that `train.loss` names."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from sret_jax.config import TrainConfig
from sret_jax.config.own_parts import Part
from sret_jax.parts.network import frozen, is_module, shape_of
from sret_jax.training.losses import Loss, Tree

CLASSES = "classes"  # the field of a module that gets the number of training instances


def own_loss(part: Part) -> Loss:
    """A function without memory, or a module with parameters and with variables that go from batch to batch."""

    def checked(value: Any) -> Array:
        if not (isinstance(value, jax.Array) and value.shape == () and jnp.issubdtype(value.dtype, jnp.floating)):
            raise part.fails(f"gave {shape_of(value)}, not one number")
        return value.astype(jnp.float32)

    counts = CLASSES in getattr(part.definition, "__dataclass_fields__", {})
    if not is_module(part):

        def of_function(config: TrainConfig, params: Tree, memory: Tree, x: Array, labels: Array) -> tuple[Array, Tree]:
            with part.blamed():
                value = part.definition(x, labels, **frozen(part.parameters(config)))
            return checked(value), memory

        return Loss(of_function)

    def module(config: TrainConfig, classes: int) -> Any:
        with part.blamed():
            return part.definition(**({CLASSES: classes} if counts else {}) | dict(frozen(part.parameters(config))))

    def start(config: TrainConfig, classes: int, dim: int, key: Array) -> Tree:
        with part.blamed():
            variables: Tree = module(config, classes).init(key, jnp.eye(2, dim), jnp.arange(2))
        return variables

    def params(config: TrainConfig, classes: int, dim: int, key: Array) -> Tree:
        own: Tree = start(config, classes, dim, key).get("params", {})
        return own

    def memory(config: TrainConfig, classes: int, dim: int, key: Array) -> Tree:
        own = {kind: tree for kind, tree in start(config, classes, dim, key).items() if kind != "params"}
        return own | ({CLASSES: jnp.zeros(classes, jnp.int8)} if counts else {})  # whose length is what counts

    def value(config: TrainConfig, params: Tree, memory: Tree, x: Array, labels: Array) -> tuple[Array, Tree]:
        own = {kind: tree for kind, tree in memory.items() if kind != CLASSES}
        with part.blamed():
            called = module(config, len(memory.get(CLASSES, ()))).apply
            loss, changed = called({"params": params} | own, x, labels, mutable=list(own))
        return checked(loss), memory | dict(changed)

    return Loss(value, params, memory)
