"""Parts of one's own without editing the package: `register` gives a function or class a name that configs can use.

protocols  what a part of each kind looks like
registry   `register`
network, loss, answers, benchmark  parts of each kind among those that come with the package, with checks around them
"""

from sret_jax.parts.protocols import (
    Backbone,
    LocalizationMethod,
    Loss,
    OpensBenchmark,
    Pooling,
    Refinement,
    Reranker,
)
from sret_jax.parts.registry import register

__all__ = [
    "Backbone",
    "LocalizationMethod",
    "Loss",
    "OpensBenchmark",
    "Pooling",
    "Refinement",
    "Reranker",
    "register",
]
