"""Small networks to export, with random parameters that nothing compiles."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sret_jax.config import Config, DataConfig, ExtractConfig, ModelConfig
from sret_jax.models.descriptor import build_network
from sret_jax.models.whitening import LearnedWhitening
from sret_jax.retriever import Retriever

# Statistics and exponents that a network needs as they are; everything else is drawn.
FIXED = {"var": 1.3, "p": 3.0, "scale": 1.0, "image_mean": 0.45, "image_deviation": 0.23, "gamma1": 1.0, "gamma2": 1.0}
# Filters and roundings that networks are trained with.
SHOWN = [("bicubic", "nearest"), ("bilinear", "nearest"), ("lanczos", "down"), ("thumbnail", "aspect")]


def small_retriever(learned: int = 0, image_size: int = 64, **model: Any) -> Retriever:
    """A retriever with random parameters.

    Args:
      learned: dimensions after a whitening that was learned after training; 0 for none.
      image_size: longest side of a photograph, pixels.
      model: fields of `ModelConfig`.
    """
    settings = ModelConfig(**({"weights": "none", "whitening": False} | model))
    config = Config(
        data=DataConfig(image_size=image_size, bucket_ratios=(), threads=1),
        model=settings,
        extract=ExtractConfig(batch_size=8),
    )
    network, rng = build_network(settings), np.random.default_rng(0)
    side = 4 * max(network.size_multiple, 8)
    photo = jnp.zeros((1, side, side, 3), jnp.uint8), jnp.ones((1, side, side), bool)
    shapes = jax.eval_shape(network.init, jax.random.key(0), *photo)

    def draw(path: Any, leaf: Any) -> np.ndarray:
        name = path[-1].key
        if name in FIXED:
            return np.full(leaf.shape, FIXED[name], np.float32)
        spread = np.sqrt(2 / max(1, np.prod(leaf.shape[:-1]))) if len(leaf.shape) > 1 else 0.2
        return rng.normal(0, spread, leaf.shape).astype(np.float32)

    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    length = variables["params"]["whitening"]["bias"].shape[0] if settings.whitening else 0
    whitening = LearnedWhitening(*(rng.normal(size=s).astype(np.float32) for s in ((length,), (length, learned))))
    return Retriever(network, variables, config, whitening if learned else None)


def shown_as(retriever: Retriever, filter: str, rounding: str, enlarge: bool) -> Retriever:
    """The same network, shown photographs in another way."""
    data = replace(retriever.config.data, filter=filter, rounding=rounding, enlarge=enlarge)
    return replace(retriever, config=replace(retriever.config, data=data))
