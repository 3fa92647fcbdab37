"""Parts that do not come with the package: the examples, and ones that a test writes into files of their own."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from sret_jax.cli.own_parts import import_parts
from sret_jax.config import Config, DataConfig, EvalConfig, ExtractConfig, ModelConfig, TrainConfig, own_parts
from sret_jax.parts import registry
from tests.support.commands import REPOSITORY

EXAMPLES = REPOSITORY / "examples/own_parts"


@contextlib.contextmanager
def forgotten() -> Iterator[None]:
    """What is registered inside is gone behind it."""
    tables = [own_parts._PARTS, *(known for known, _ in registry._PLACES.values())]
    before = [dict(table) for table in tables]
    try:
        yield
    finally:
        for table, old in zip(tables, before, strict=True):
            table.clear()
            table.update(old)


def forget() -> None:
    """As in a process that has registered nothing."""
    for kind, name in list(own_parts._PARTS):
        registry._PLACES[kind][0].pop(name)
    own_parts._PARTS.clear()


def write_parts(path: Path, text: str) -> Path:
    """A file of parts with the usual imports on its first five lines, which is run."""
    head = "import flax.linen as nn\nimport jax.numpy as jnp\nimport numpy as np\n\nimport sret_jax\n"
    path.write_text(head + text)
    import_parts(str(path))
    return path


def use_examples(*names: str) -> None:
    for name in names:
        import_parts(str(EXAMPLES / f"{name}.py"))


def small_config(root: Path | str, *, steps: int = 3, model: dict | None = None, **train) -> Config:
    """A run of seconds on the backbone of `examples/own_parts/backbone.py`."""
    settings = {"backbone": "patches", "weights": "none", "whitening_dim": 8} | (model or {})
    return Config(
        data=DataConfig(
            root=str(root), image_size=64, bucket_ratios=(), threads=1, instances_per_batch=2, photos_per_instance=2
        ),
        model=ModelConfig(**settings),
        train=TrainConfig(**({"steps": steps, "warmup_steps": 0, "save_every": 1, "train_from": "all"} | train)),
        extract=ExtractConfig(batch_size=4),
        eval=EvalConfig(benchmarks=()),
    )
