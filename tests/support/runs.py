"""Configs of runs that take seconds."""

from pathlib import Path

from sret_jax.config import Config, DataConfig, ExtractConfig


def config(root: Path | str = "", **settings) -> Config:
    """For measuring `tests.support.networks.NETWORK` on photographs of `photos.py` and `miniatures.py`."""
    return Config(
        data=DataConfig(root=str(root), image_size=64, bucket_ratios=(), threads=1),
        extract=ExtractConfig(batch_size=4),
        **settings,
    )


def extraction_config(**settings) -> Config:
    return Config(data=DataConfig(image_size=64, threads=1), extract=ExtractConfig(**({"batch_size": 4} | settings)))
