"""Photographs per second of the same network in JAX, in timm and in ONNX Runtime, in the same run.

    pip install torch timm 'sret_jax[onnx]'
    python benchmarks/engines.py [--networks lite0 resnet50 vits16] [--sizes SIZE ...] [--batches 1 8] [--rounds 15]
                                 [--save]

- sret_jax: compiled by XLA for the shape.
- timm: eagerly, channels last.
- timm, compiled: by `torch.compile`, which needs a C++ compiler, such as g++; where a network cannot be compiled the
  table says so.
- ONNX Runtime: the file of `sret export --onnx`, which takes every shape.

Every engine is given the same uint8 photographs in memory and returns descriptors of unit length, computed in float32
by as many threads as this process may use cores. Convolutional maps are pooled by GeM; the transformer's class token is
the descriptor. Weights are random, which does not change the time. Lite0 and ResNet-50 are shown photographs at 320
pixels, which is the size of the configs that train; the ViT is DINOv3's, at 224 and 448 pixels.

A ratio compares an engine with ours round by round. Printed are its median, and in brackets its quartiles. The machine
has to be quiet: where something else takes a core, the threads of torch wait for each other, and it looks several times
slower than it is. `taskset -c 0 python ...` compares the engines on one core.
"""

import argparse
import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
from comparison import markdown
from timing import command, interleaved, machine, save

from sret_jax.config import Config, ModelConfig
from sret_jax.data.opening import open_photos
from sret_jax.errors import UserError
from sret_jax.export.onnx_file import session, to_onnx
from sret_jax.export.parity import Run, photographs_of_all_shapes
from sret_jax.export.program import program
from sret_jax.models.backbones.base import IMAGE_DEVIATION, IMAGE_MEAN
from sret_jax.retriever import Retriever, load

OURS, EAGER, COMPILED, ONNX = "sret_jax", "timm", "timm, compiled", "ONNX Runtime"
PAUSE = 0.05  # seconds before each call, in which the threads of the engine before stop waiting busily
P, EPSILON = 3.0, 1e-6  # of GeM


class Network(NamedTuple):
    """Its names here and in timm, the pooling, and the sizes of the photographs, pixels."""

    title: str
    ours: str
    timms: str
    pool: str
    sizes: tuple[int, ...]


NETWORKS = {
    "lite0": Network("EfficientNet-Lite0", "efficientnet_lite0", "efficientnet_lite0", "gem", (320,)),
    "resnet50": Network("ResNet-50", "resnet50", "resnet50", "gem", (320,)),
    "vits16": Network("ViT-S/16", "dinov3_vits16", "vit_small_patch16_dinov3", "class_token", (224, 448)),
}


class Descriptor(torch.nn.Module):
    """A network of timm from uint8 photographs `[b h w 3]` to descriptors."""

    def __init__(self, network: torch.nn.Module, pool: str):
        super().__init__()
        self.network, self.pool = network, pool
        self.register_buffer("mean", 255 * torch.tensor(IMAGE_MEAN))
        self.register_buffer("deviation", 255 * torch.tensor(IMAGE_DEVIATION))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = (images.float() - self.mean) / self.deviation
        x = self.network.forward_features(x.movedim(3, 1))  # a view, which is channels last
        x = x[:, 0] if self.pool == "class_token" else x.clamp(min=EPSILON).pow(P).mean((2, 3)).pow(1 / P)
        return torch.nn.functional.normalize(x)


def in_timm(network: Network) -> Descriptor:
    sys.path.append(str(Path(__file__).parents[1]))
    from tests.support.published_networks import timm_network  # declares what timm's imports ask of torchvision

    changes = {"num_classes": 0} | ({"dynamic_img_size": True} if network.pool == "class_token" else {})
    return Descriptor(timm_network(network.timms, **changes), network.pool).to(memory_format=torch.channels_last).eval()


def in_onnx(retriever: Retriever, threads: int) -> Run | str:
    """The network in ONNX Runtime, or why there is none."""
    try:
        data, _ = to_onnx(retriever, open_photos([photographs_of_all_shapes().photo(0)]))
    except UserError as error:
        return _reason(error)
    return session(data, threads)


def contenders(
    ours: Callable[..., Any], theirs: Descriptor, onnx: Run | str, images: np.ndarray
) -> tuple[dict[str, Callable[[], Any]], dict[str, str]]:
    """What describes the photographs, by engine; and of the engines that cannot, why."""
    masks, given, without = np.ones(images.shape[:3], bool), torch.from_numpy(images), {}
    calls = {OURS: lambda: ours(images, masks), EAGER: lambda: theirs(given)}
    torch._dynamo.reset()  # it gives up after so many shapes of one network, and runs eagerly without a word
    compiled = torch.compile(theirs, dynamic=False)
    try:
        compiled(given)
        calls[COMPILED] = lambda: compiled(given)
    except Exception as error:  # of a compiler that is missing, or whatever it does not take
        without[COMPILED] = _reason(error)
    if isinstance(onnx, str):
        without[ONNX] = onnx
    else:
        calls[ONNX] = lambda: onnx(images, masks)
    shapes = set()
    for name, call in calls.items():
        found = np.asarray(call())
        shapes.add(found.shape)
        assert found.dtype == np.float32 and np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-3), name
    assert len(shapes) == 1, shapes
    return calls, without


def _reason(error: Exception) -> str:
    """The first line that says something, of an error that may have pages."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:120]


def cells(seconds: dict[str, np.ndarray], without: dict[str, str], batch: int) -> dict[str, str]:
    """By engine: photographs per second, and by how much ours is faster."""
    out = {OURS: f"{batch / np.median(seconds[OURS]):.1f}"}
    for name in (EAGER, COMPILED, ONNX):
        if name in without:
            out[name] = f"not available: {without[name]}"
            continue
        low, middle, high = np.percentile(seconds[name] / seconds[OURS], [25, 50, 75])
        out[name] = f"{batch / np.median(seconds[name]):.1f}; ours × {middle:.2f} ({low:.2f} to {high:.2f})"
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--sizes", nargs="+", type=int, help="pixels, multiples of 32; default: those of each network")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--save", action="store_true", help="keep the table under benchmarks/results")
    options = parser.parse_args()
    threads, machine_before = len(os.sched_getaffinity(0)), machine()
    torch.set_num_threads(threads)
    rng, rows = np.random.default_rng(0), {}
    for network in map(NETWORKS.get, options.networks):
        model = ModelConfig(network.ours, weights="none", pool=network.pool, whitening=False)
        retriever, theirs = load(Config(model=model)), in_timm(network)
        onnx, ours = in_onnx(retriever, threads), jax.jit(program(retriever))
        parameters = (
            sum(np.size(x) for x in jax.tree.leaves(retriever.variables["params"]["backbone"])),
            sum(x.numel() for x in theirs.network.parameters()),
        )
        for size, batch in itertools.product(options.sizes or network.sizes, options.batches):
            images = rng.integers(0, 256, (batch, size, size, 3), np.uint8)
            with torch.inference_mode():
                calls, without = contenders(ours, theirs, onnx, images)
                seconds = interleaved(calls, options.rounds, PAUSE)
            row = {"parameters, ours and timm's": ", ".join(f"{count / 1e6:.2f} M" for count in parameters)}
            row |= cells(seconds, without, batch)
            rows[title := f"{network.title}, {size} px, batch {batch}"] = row
            print(title, row, flush=True)
    text = (
        f"Photographs per second; ours × 2 means that sret_jax takes half of the time. {options.rounds} rounds, "
        f"medians and quartiles, float32, threads of each engine: {threads}. "
        f"{_versions()}; {machine_before}. {command()}\n\n"
        f"{markdown(rows)}\n"
    )
    print(text)
    if options.save:
        print("saved", save("engines", text))


def _versions() -> str:
    import onnxruntime
    import timm

    return f"torch {torch.__version__}, timm {timm.__version__}, ONNX Runtime {onnxruntime.__version__}"


if __name__ == "__main__":
    main()
