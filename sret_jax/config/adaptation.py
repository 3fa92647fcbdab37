"""The settings of a linear adaptation: `training/adaptation.py`."""

from dataclasses import dataclass
from typing import Annotated

from sret_jax.config.rules import Between, OneOf, Rate, Ridge, Seed, ShareBelow1, ruled


@ruled
@dataclass(frozen=True)
class AdaptConfig:
    # numbers of an adapted descriptor; that of the descriptors themselves where it is less
    dim: Annotated[int, Between(0, 65536)] = 512
    # of the layer: "random" as published, or in closed form "pca", "within"
    start: Annotated[str, OneOf("within", "pca", "random")] = "within"
    ridge: Ridge = 1.0  # of "within": in units of the mean variance; 0: by cross-validation over instances
    epochs: Annotated[int, Between(0, 100_000)] = 10  # 0: the start alone
    batch_size: Annotated[int, Between(1, 1_000_000)] = 128  # descriptors
    learning_rate: Rate = 3e-4
    weight_decay: Annotated[float, Between(0, 100)] = 1e-6  # part of the gradient
    scale: Annotated[float, Between(0, 10_000, above=True)] = 16.0  # multiplies the cosine before the softmax
    held_out: ShareBelow1 = 0.2  # share of the instances that decide, where none are named
    seed: Seed = 0
