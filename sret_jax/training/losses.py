"""The losses by name, over the descriptors of one whole batch, with their parameters and their memory."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sret_jax.config import TrainConfig
from sret_jax.training import margin_losses, pair_losses, tuple_losses

Tree = dict[str, Any]


def _no_arrays(config: TrainConfig, classes: int, dim: int, key: Array) -> Tree:
    return {}


@dataclass(frozen=True)
class Loss:
    """A loss by its name.

    value   (config, its parameters, its memory, descriptors [b d], labels [b]) -> the loss, and its memory with this
            batch in it
    params  (config, training instances, length of a descriptor, key) -> its parameters at the start
    memory  the same of what it remembers from batch to batch without a gradient
    """

    value: Callable[[TrainConfig, Tree, Tree, Array, Array], tuple[Array, Tree]]
    params: Callable[[TrainConfig, int, int, Array], Tree] = _no_arrays
    memory: Callable[[TrainConfig, int, int, Array], Tree] = _no_arrays


def _of_pairs(value: Callable[[TrainConfig, Array, Array], Array]) -> Loss:
    return Loss(lambda config, params, memory, x, labels: (value(config, x, labels), memory))


def _class_weights(config: TrainConfig, classes: int, dim: int, key: Array) -> Tree:
    shape = (classes, config.sub_centres, dim) if config.loss == "subcentre_arcface" else (classes, dim)
    return {"weights": jax.random.normal(key, shape) / jnp.sqrt(dim)}


def _of_classes(value: Callable[..., Array]) -> Loss:
    def with_memory(config: TrainConfig, params: Tree, memory: Tree, x: Array, labels: Array) -> tuple[Array, Tree]:
        return value(x, labels, params["weights"], margin=config.margin, scale=config.scale), memory

    return Loss(with_memory, _class_weights)


def _curricularface(config: TrainConfig, params: Tree, memory: Tree, x: Array, labels: Array) -> tuple[Array, Tree]:
    loss, t = margin_losses.curricularface(
        x, labels, params["weights"], memory["t"], margin=config.margin, scale=config.scale
    )
    return loss, {"t": t}


def _solar(config: TrainConfig, x: Array, labels: Array) -> Array:
    p, n, where = tuple_losses.hardest_tuples(x, labels, config.negatives)
    return tuple_losses.solar(x, x[p], x[n], margin=config.margin, weight=config.solar_weight, where=where)


# What `train.loss` can name; `sret_jax.register` adds to it.
LOSSES: dict[str, Loss] = {
    "contrastive": _of_pairs(lambda config, x, labels: pair_losses.contrastive(x, labels, margin=config.margin)),
    "infonce": _of_pairs(lambda config, x, labels: pair_losses.infonce(x, labels, temperature=config.temperature)),
    "multi_similarity": _of_pairs(
        lambda config, x, labels: pair_losses.multi_similarity(x, labels, base=config.margin)
    ),
    "triplet": _of_pairs(lambda config, x, labels: pair_losses.triplet(x, labels, margin=config.margin)),
    "solar": _of_pairs(_solar),
    "arcface": _of_classes(margin_losses.arcface),
    "cosface": _of_classes(margin_losses.cosface),
    "subcentre_arcface": _of_classes(margin_losses.subcentre_arcface),
    "curricularface": Loss(_curricularface, _class_weights, lambda *_: {"t": jnp.zeros(())}),
}


def init_loss(config: TrainConfig, classes: int, dim: int, key: Array) -> Tree:
    """The loss's own parameters: weight vectors per training instance for the ArcFace family, none for the others."""
    return LOSSES[config.loss].params(config, classes, dim, key)


def init_loss_state(config: TrainConfig, classes: int, dim: int, key: Array) -> Tree:
    """What the loss remembers from batch to batch without a gradient: CurricularFace's moving average."""
    return LOSSES[config.loss].memory(config, classes, dim, key)


def batch_loss(
    config: TrainConfig,
    params: dict[str, Any],
    state: dict[str, Any],
    descriptors: Float[Array, "b d"],
    labels: Int[Array, "b"],
    *,
    tuples: bool = False,
) -> tuple[Float[Array, ""], dict[str, Any]]:
    """The loss with the config's margin and scale, and its state with this batch in it.

    With `tuples` the rows are mined tuples one after the other: query, positive, `config.negatives` negatives.
    """
    if tuples:
        return _loss_of_tuples(config, descriptors), state
    return LOSSES[config.loss].value(config, params, state, descriptors, labels)


def _loss_of_tuples(config: TrainConfig, descriptors: Float[Array, "b d"]) -> Float[Array, ""]:
    of_tuple = descriptors.reshape(-1, 2 + config.negatives, descriptors.shape[1])
    rows = of_tuple[:, 0], of_tuple[:, 1], of_tuple[:, 2:]
    match config.loss:
        case "contrastive":
            return tuple_losses.tuple_contrastive(*rows, margin=config.margin)
        case "triplet":
            return tuple_losses.tuple_triplet(*rows, margin=config.margin)
        case "solar":
            return tuple_losses.solar(*rows, margin=config.margin, weight=config.solar_weight)
    raise ValueError(f"loss {config.loss!r} has no form for tuples")
