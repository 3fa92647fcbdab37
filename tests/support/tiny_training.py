"""Whole training runs on drawn photographs with a network of one layer, which can be ended at any step."""

import json

import jax
import jax.numpy as jnp

from sret_jax.config import Config, DataConfig, EvalConfig, MiningConfig, ModelConfig, TrainConfig
from sret_jax.training import loop, parallel
from tests.support.networks import NETWORK
from tests.support.photos import drawn_data, make_photos

PHOTOS = make_photos([3, 2, 4, 1, 3, 2])


class Killed(BaseException):
    """Ends a run as a signal that cannot be caught would: nothing more is saved."""


def config(**train) -> Config:
    """Three steps of 2 * 2 tuples an epoch, each with two negatives."""
    settings = {"steps": 8, "loss": "contrastive", "negatives": 2, "accumulate": 2, "warmup_steps": 0}
    settings |= {"learning_rate": 0.05, "save_every": 1, "keep": 20, "optimizer": "sgd"}
    return Config(
        data=DataConfig(image_size=40, sampling="tuples", threads=2),
        mining=MiningConfig(queries=13, pool=14, tuples_per_batch=2, image_size=24),
        model=ModelConfig(whitening=False, weights="none"),
        train=TrainConfig(**(settings | train)),
        eval=EvalConfig(benchmarks=()),
    )


def validated(cache, **train):
    """Trains what is behind a map that is stored, on four objects, and validates on two."""
    settings = {"steps": 6, "loss": "contrastive", "margin": 1.2, "warmup_steps": 0, "save_every": 2, "log_every": 1}
    settings |= {"on_maps": True, "validate_every": 2, "whitening_refit": "within", "learning_rate": 0.01}
    return Config(
        data=drawn_data(cache, held_out=0.34),
        model=ModelConfig(weights="none", stage="c2", whitening_dim=8, whitening_init="within", whitening_ridge=1.0),
        train=TrainConfig(**(settings | train)),
        eval=EvalConfig(benchmarks=()),
    )


def logged(workdir):
    """What `metrics.jsonl` says, but how fast it went."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: x for name, x in line.items() if name not in ("images_per_second", "check")} for line in lines]


def start():
    return NETWORK.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3), jnp.uint8), jnp.ones((1, 32, 32), bool))


def make_tiny(monkeypatch):
    """As `make_run`, with that network and its photographs."""
    monkeypatch.setattr(loop, "build_network", lambda *_, **__: NETWORK)
    monkeypatch.setattr(loop, "init_network", lambda *_: start() | {"batch_stats": {}})
    monkeypatch.setattr(loop, "descriptor_length", lambda *_: 12)
    monkeypatch.setattr(loop, "prepare_photos", lambda *_: PHOTOS)
    return make_run(monkeypatch)


def make_run(monkeypatch):
    """`run(config, workdir, steps=None)`: `train`, which is killed after so many steps."""
    shard = parallel.shard

    def run(settings, workdir, steps=None, measure=None):
        left = [steps]

        def counted(batches):
            if left[0] == 0:
                raise Killed
            left[0] = left[0] and left[0] - 1
            return shard(batches)

        monkeypatch.setattr(parallel, "shard", counted)
        return loop.train(settings, workdir, measure)

    return run
