"""One optimiser step as a pure function of state and batch."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from sret_jax.config import TrainConfig
from sret_jax.training import parallel
from sret_jax.training.delg_loss import delg_loss
from sret_jax.training.losses import batch_loss

TrainBatch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


@flax.struct.dataclass
class TrainState:
    """Everything that a step reads and changes.

    step         optimiser steps done
    params       {"network": the network's parameters, "loss": the loss's own}
    batch_stats  running statistics of the BatchNorms
    opt_state    the optimiser's memory
    key          data of the random key of the run, the same for all steps
    loss_state   what the loss remembers from batch to batch
    """

    step: Any  # jax arrays on the devices, numpy arrays on the host
    params: dict[str, Any]
    batch_stats: dict[str, Any]
    opt_state: optax.OptState
    key: Any
    loss_state: dict[str, Any] = flax.struct.field(default_factory=dict)


def make_step(
    network: nn.Module,
    optimizer: optax.GradientTransformation,
    config: TrainConfig,
    *,
    tuples: bool = False,
    given: str = "",
) -> Callable[[TrainState, TrainBatch], tuple[TrainState, Metrics]]:
    """The function to hand to `parallel.data_parallel`.

    Its batch has, per device, `image` uint8 [a b h w 3], `mask` bool [a b h w], `label` int32 [a b] for a batches of
    which the gradients are averaged, and `stop` bool [a]. Its metrics: `loss`, `gradient_norm` before clipping, and
    `stop`, whether any process is to stop. With `tuples` the batch holds mined tuples, one after the other. With
    `given` its `image` [a b h w c] are maps of that stage of the backbone.
    """

    options: dict[str, Any] = {"given": given} if given else {}

    def loss_of(params: Any, memory: Any, batch: TrainBatch, key: jax.Array) -> tuple[jax.Array, Any]:
        batch_stats, loss_state = memory
        (descriptors, intermediates), updated = network.apply(
            {"params": params["network"], "batch_stats": batch_stats},
            batch["image"],
            batch["mask"],
            train=True,
            **options,
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        everyone = parallel.gather(descriptors), parallel.gather(batch["label"])
        loss, loss_state = batch_loss(config, params["loss"], loss_state, *everyone, tuples=tuples)
        if "delg" in intermediates:
            everywhere = jax.tree.map(parallel.gather, intermediates["delg"])
            loss += delg_loss(params["loss"]["delg"], everywhere, everyone[1])
        return loss, (updated.get("batch_stats", {}), loss_state)

    def step(state: TrainState, batch: TrainBatch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        key = jax.random.fold_in(key, parallel.device_index())
        stop = batch["stop"].any()
        batches = {name: x for name, x in batch.items() if name in ("image", "mask", "label")}

        def accumulate(carry: Any, one: tuple[jax.Array, TrainBatch]) -> tuple[Any, None]:
            memory, so_far = carry
            i, inputs = one
            (loss, memory), gradient = jax.value_and_grad(loss_of, has_aux=True)(
                state.params, memory, inputs, jax.random.fold_in(key, i)
            )
            return (memory, jax.tree.map(jnp.add, so_far, (loss, gradient))), None

        nothing = jnp.zeros(()), jax.tree.map(jnp.zeros_like, state.params)
        memory = state.batch_stats, state.loss_state
        numbered = jnp.arange(config.accumulate), batches
        if config.accumulate == 1:  # without a loop the compiler keeps its parallel convolutions
            carry, _ = accumulate((memory, nothing), jax.tree.map(lambda x: x[0], numbered))
        else:
            carry, _ = jax.lax.scan(accumulate, (memory, nothing), numbered)
        (batch_stats, loss_state), total = carry
        loss, gradient = parallel.mean(jax.tree.map(lambda x: x / config.accumulate, total))
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        metrics = {"loss": loss, "gradient_norm": optax.tree.norm(gradient), "stop": parallel.any_device(stop)}
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, batch_stats, opt_state, state.key, loss_state), metrics

    return step
