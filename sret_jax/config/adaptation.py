"""The settings of a linear adaptation: `training/adaptation.py`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class AdaptConfig:
    dim: int = 512  # numbers of an adapted descriptor; that of the descriptors themselves where it is less
    start: str = "within"  # of the layer: "random" as published, or in closed form "pca", "within"
    ridge: float = 1.0  # of "within": in units of the mean variance; 0: by cross-validation over instances
    epochs: int = 10
    batch_size: int = 128  # descriptors
    learning_rate: float = 3e-4
    weight_decay: float = 1e-6  # part of the gradient
    scale: float = 16.0  # multiplies the cosine before the softmax
    held_out: float = 0.2  # share of the instances that decide, where none are named
    seed: int = 0
