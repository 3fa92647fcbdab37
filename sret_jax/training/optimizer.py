"""What one optimiser step does with a gradient: clip, AdamW or SGD, decay, and a learning rate per group.

A parameter's group is read from its path in `{"network": {"backbone", "pool", ...}, "loss": {...}}`:

    frozen     backbone stages before `train_from` or behind the pooled one, and the reduction of HOW's local features:
               no update and no optimiser memory
    backbone   the other stages: learning_rate * backbone_lr
    pool       the GeM exponents: learning_rate * pool_lr
    whitening  the whitening layer: learning_rate * whitening_lr
    heads      everything else, the loss's own weights too, and those of a pooling that does not come with the package:
               learning_rate

Weight decay acts on arrays of two or more axes: kernels, but not biases, norms and exponents. With `decayed="all"` it
acts on everything but the exponents.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from sret_jax.config import ModelConfig, TrainConfig
from sret_jax.models.backbones import BACKBONES, parameters_up_to
from sret_jax.models.backbones.base import used_stage

Lengths = tuple[tuple[int, int], ...]  # (steps done, length of the run from there on), the first from 0


def learning_rate(config: TrainConfig, lengths: Lengths = ()) -> optax.Schedule:
    """Learning rate of the heads at each step: linear warm-up to the peak, then half a cosine towards 0.

    Or, after the warm-up, the peak times epoch_decay^e in the e-th epoch, e = 0, 1, ... So train SOLAR and HOW, which
    step the schedule after an epoch, and cirtorch, which steps it before: in its torch, 1.0, the first step changes
    nothing. Since torch 1.1 it does: cirtorch's code then trains at `learning_rate` times epoch_decay^(e + 1).

    A run that grew has the rate of its first length up to the step from which it was longer, and from there on, step
    by step, that of a run which had the new length all along. Of an exponential fall, both are the same.

    Args:
        lengths: that the run had; by default `config.steps` all along.
    """
    rates = [_learning_rate(dataclasses.replace(config, steps=steps)) for _, steps in lengths]
    if len(rates) < 2:
        return _learning_rate(config)

    def current(step: Any) -> Any:
        rate = rates[0](step)
        for (done, _), later in zip(lengths[1:], rates[1:], strict=True):
            rate = jnp.where(step < done, rate, later(step))
        return rate

    return current


def _learning_rate(config: TrainConfig) -> optax.Schedule:
    warmup = min(config.warmup_steps, config.steps)
    if config.schedule == "exponential":

        def fall(step: Any) -> Any:
            return config.learning_rate * config.epoch_decay ** (step // config.epoch_steps)

    else:
        fall = optax.schedules.cosine_decay_schedule(config.learning_rate, max(config.steps - warmup, 1))
    if warmup == 0:
        return fall
    first = config.learning_rate / (warmup + 1)  # not 0, or the first step would be lost
    rise = optax.schedules.linear_schedule(first, config.learning_rate, warmup)
    return optax.schedules.join_schedules([rise, fall], [warmup])


def trained_backbone(model: ModelConfig, train_from: str) -> set[tuple[str, ...]]:
    """Paths, below "backbone", of the parameters from stage `train_from` up to the stage that is pooled."""

    def up_to(stage: str) -> set[tuple[str, ...]]:
        return parameters_up_to(model.backbone, stage, model.parts.get(model.backbone))

    if train_from == "none":
        return set()
    used = up_to(used_stage(model.pool, model.stage))
    if train_from == "all":
        return used
    stages = list(BACKBONES[model.backbone].stages)
    if train_from not in stages:
        raise ValueError(f"{model.backbone} has no stage {train_from!r}")
    own = up_to(train_from)
    for stage in reversed(stages[: stages.index(train_from)]):
        before = up_to(stage)
        if before != own:  # else another name of the same map, as "last" is of a ResNet's "c5"
            return used - before
    return used


def build_optimizer(
    config: TrainConfig, model: ModelConfig, params: Any, lengths: Lengths = ()
) -> optax.GradientTransformation:
    """The transformation for parameters of this tree; the norm that is clipped is that of all trained ones together.

    `lengths`: as of `learning_rate`.
    """
    trained = trained_backbone(model, config.train_from)
    rates = {
        "backbone": config.backbone_lr,
        "pool": config.pool_lr,
        "whitening": config.whitening_lr,
        "heads": 1.0,
    }

    def group(path: Any, _: Any) -> str:
        names = _names(path)
        if names[:2] == ("network", "local"):
            return "frozen" if model.local.kind == "how" else "heads"
        if names[:2] == ("network", "backbone"):
            return "backbone" if names[2:] in trained else "frozen"
        if names[:3] == ("network", "pool", "own"):
            return "heads"
        return names[1] if names[0] == "network" and names[1] in rates else "heads"

    def decays(tree: Any) -> Any:
        def is_decayed(path: Any, p: Any) -> bool:
            return p.ndim >= 2 or (config.decayed == "all" and group(path, p) != "pool")

        return jax.tree_util.tree_map_with_path(is_decayed, tree)

    def scale_groups(updates: Any, _: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, u: rates[group(path, u)] * u, updates)

    decay = optax.add_decayed_weights(config.weight_decay, mask=decays)
    if config.optimizer == "adamw":
        rule = [optax.scale_by_adam(), decay]
    elif config.optimizer == "adam":
        rule = [decay, optax.scale_by_adam()]
    else:
        rule = [decay, optax.trace(decay=0.9, nesterov=True)]  # decay under the momentum, as SGD has it
    clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    update = optax.chain(
        *clip,
        *rule,
        optax.stateless(scale_groups),
        optax.scale_by_learning_rate(learning_rate(config, lengths)),
    )
    kinds = jax.tree_util.tree_map_with_path(lambda *leaf: "frozen" if group(*leaf) == "frozen" else "trained", params)
    return optax.partition({"trained": update, "frozen": optax.set_to_zero()}, kinds)


def _names(path: Any) -> tuple[str, ...]:
    return tuple(str(part.key) for part in path)
