"""Runs that take seconds: their configs, and a network measured in one call."""

from pathlib import Path
from typing import Any

from sret_jax.config import Config, DataConfig, ExtractConfig
from sret_jax.evaluation.benchmark import Benchmark, open_benchmark
from sret_jax.evaluation.run import evaluate
from sret_jax.models.descriptor import RetrievalNetwork, Variables
from sret_jax.models.whitening import LearnedWhitening
from sret_jax.retriever import Retriever


def config(root: Path | str = "", **settings) -> Config:
    """For measuring `tests.support.networks.NETWORK` on photographs of `photos.py` and `miniatures.py`."""
    return Config(
        data=DataConfig(root=str(root), image_size=64, bucket_ratios=(), threads=1),
        extract=ExtractConfig(batch_size=4),
        **settings,
    )


def extraction_config(**settings) -> Config:
    return Config(data=DataConfig(image_size=64, threads=1), extract=ExtractConfig(**({"batch_size": 4} | settings)))


def measure(
    network: RetrievalNetwork,
    variables: Variables,
    settings: Config,
    benchmark: str,
    out: Path,
    *,
    cache_dir: Path | None = None,
    workdir: Path | None = None,
    opened: Benchmark | None = None,
    whitening: LearnedWhitening | None = None,
    anchors: bool = False,
    regions: str = "",
    **where,
) -> dict[str, Any]:
    """What `results.json` holds after a network was measured; `where` goes to `open_benchmark`.

    Results in W/eval/NAME have their descriptors and the rest in W.
    """
    place = workdir or (out.parents[1] if out.parent.name == "eval" else out)
    opened = opened or open_benchmark(benchmark, config=settings, cache=cache_dir or out / "cache", **where)
    retriever = Retriever(network, variables, settings, whitening)
    results = evaluate(retriever, opened, out, workdir=place, anchors=anchors, regions=regions)
    return results.to_dict()
