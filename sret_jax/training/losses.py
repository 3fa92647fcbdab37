"""The loss that a config names, over the descriptors of one whole batch, with its parameters and its memory."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sret_jax.config import CLASSIFYING, TrainConfig
from sret_jax.training import margin_losses, pair_losses, tuple_losses


def init_loss(config: TrainConfig, classes: int, dim: int, key: Array) -> dict[str, Array]:
    """The loss's own parameters: weight vectors per training instance for the ArcFace family, none for the others."""
    if config.loss not in CLASSIFYING:
        return {}
    shape = (classes, config.sub_centres, dim) if config.loss == "subcentre_arcface" else (classes, dim)
    return {"weights": jax.random.normal(key, shape) / jnp.sqrt(dim)}


def init_loss_state(config: TrainConfig) -> dict[str, Array]:
    """What the loss remembers from batch to batch without a gradient: CurricularFace's moving average."""
    return {"t": jnp.zeros(())} if config.loss == "curricularface" else {}


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
    margin, scale = config.margin, config.scale
    match config.loss:
        case "arcface" | "cosface" | "subcentre_arcface":
            classify = getattr(margin_losses, config.loss)
            return classify(descriptors, labels, params["weights"], margin=margin, scale=scale), state
        case "curricularface":
            loss, t = margin_losses.curricularface(
                descriptors, labels, params["weights"], state["t"], margin=margin, scale=scale
            )
            return loss, {"t": t}
        case "contrastive":
            return pair_losses.contrastive(descriptors, labels, margin=margin), state
        case "multi_similarity":
            return pair_losses.multi_similarity(descriptors, labels, base=margin), state
        case "infonce":
            return pair_losses.infonce(descriptors, labels, temperature=config.temperature), state
        case "triplet":
            return pair_losses.triplet(descriptors, labels, margin=margin), state
        case "solar":
            p, n, where = tuple_losses.hardest_tuples(descriptors, labels, config.negatives)
            rows = descriptors, descriptors[p], descriptors[n]
            return tuple_losses.solar(*rows, margin=margin, weight=config.solar_weight, where=where), state
    raise ValueError(f"unknown loss {config.loss!r}")


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
