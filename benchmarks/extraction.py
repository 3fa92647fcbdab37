"""EfficientNet-Lite0 descriptors against the same network in torch: photographs per second, in the same run.

    pip install torch efficientnet_lite_pytorch
    python benchmarks/extraction.py [--size 320] [--batch 16] [--photos 64] [--root FOLDER] [--rounds 5] [--save]

- network: one batch from uint8 photographs to the last map. torch runs eagerly under `no_grad` with as many threads as
  there are cores, in both of its memory layouts.
- extract: encoded photographs to GeM descriptors. Both sides decode and resize with this project's pipeline, into the
  same padded buckets; torch then runs the batch, pools and normalises. Photographs are drawn by code, or read from
  `--root`.

A ratio compares ours with torch round by round; the median is printed. The floor counts each multiply-add of the
network once: 0.78 billion a photograph at 320 x 320, at the rate of a large matrix product measured here.
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from efficientnet_lite_pytorch import EfficientNet
from timing import command, interleaved, machine, save

from sret_jax.config import Config, DataConfig, ExtractConfig
from sret_jax.data.folders import prepare_folder
from sret_jax.data.pipeline import evaluation_batches
from sret_jax.datasets.synthetic_views import prepare_synthetic
from sret_jax.models.backbones import build_backbone, efficientnet_lite
from sret_jax.models.weights.pretrained import installed_weights, pretrained
from sret_jax.models.weights.torch_file import read_torch
from sret_jax.retriever import load, without_unfilled_layers

NAME, OURS = "efficientnet_lite0", "sret_jax"


def multiply_adds(size: int) -> int:
    """Of one square photograph through the network."""
    side = size // 2
    total = side**2 * 27 * 32
    for block in efficientnet_lite.blocks(NAME):
        wide, out = block.inputs * block.expansion, side // block.stride
        total += side**2 * block.inputs * wide * (block.expansion > 1)
        total += out**2 * wide * (block.kernel**2 + block.outputs)
        side = out
    return total + side**2 * block.outputs * efficientnet_lite.HEAD


def torch_network(size: int) -> EfficientNet:
    network = EfficientNet.from_name("efficientnet-lite0", image_size=size).eval()
    state = {
        name: torch.from_numpy(np.array(value)) for name, value in read_torch(installed_weights(NAME)).state.items()
    }
    network.load_state_dict(state)
    return network


@torch.no_grad()
def torch_map(network: EfficientNet, images: np.ndarray, layout: torch.memory_format) -> torch.Tensor:
    x = torch.from_numpy(images).permute(0, 3, 1, 2).to(torch.float32).contiguous(memory_format=layout)
    return network.extract_features((x - 127) / 128)


def network_calls(options: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    shape = (options.batch, options.size, options.size, 3)
    images = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    mask = np.ones(shape[:3], bool)
    loaded = {collection: tree["backbone"] for collection, tree in pretrained(NAME, "auto").items()}
    backbone, variables = build_backbone(NAME), jax.device_put(loaded)
    ours = jax.jit(lambda v, x, m: backbone.apply(v, x, m)["last"][0])
    reference = torch_network(options.size)
    wide = torch_network(options.size).to(memory_format=torch.channels_last)
    expected = torch_map(reference, images, torch.contiguous_format).permute(0, 2, 3, 1).numpy()
    print("largest difference of the maps:", np.abs(np.asarray(ours(variables, images, mask)) - expected).max())
    return {
        OURS: lambda: ours(variables, images, mask),
        "torch": lambda: torch_map(reference, images, torch.contiguous_format),
        "torch, channels last": lambda: torch_map(wide, images, torch.channels_last),
    }


def extract_calls(options: argparse.Namespace, cache: str) -> tuple[dict[str, Callable[[], Any]], int]:
    config = Config(data=DataConfig(image_size=options.size), extract=ExtractConfig(batch_size=options.batch))
    retriever = load(without_unfilled_layers(config))
    if options.root:
        photos = prepare_folder(options.root, cache)
        photos = photos.select(np.arange(min(options.photos, len(photos))))
    else:
        photos = prepare_synthetic(cache, instances=options.photos // 8, photos=8, seed=0, split="test")
    reference: dict[torch.memory_format, EfficientNet] = {}

    def in_torch(layout: torch.memory_format) -> np.ndarray:
        if layout not in reference:
            reference[layout] = torch_network(options.size).to(memory_format=layout)
        out = np.zeros((len(photos), efficientnet_lite.HEAD), np.float32)
        batches = evaluation_batches(
            photos,
            image_size=options.size,
            bucket_ratios=config.data.bucket_ratios,
            size_multiple=retriever.network.size_multiple,
            batch_size=options.batch,
            threads=config.data.threads,
        )
        for batch in batches:
            x = torch_map(reference[layout], batch["image"], layout)
            pooled = x.clamp(min=1e-6).pow(config.model.pool_p).mean((2, 3)).pow(1 / config.model.pool_p)
            real = batch["row"] >= 0
            out[batch["row"][real]] = torch.nn.functional.normalize(pooled).numpy()[real]
        return out

    return {
        OURS: lambda: retriever.describe(photos),
        "torch": lambda: in_torch(torch.contiguous_format),
        "torch, channels last": lambda: in_torch(torch.channels_last),
    }, len(photos)


def table(title: str, calls: dict[str, Callable[[], Any]], photos: int, rounds: int) -> list[str]:
    seconds = interleaved(calls, rounds)
    lines = [f"| {title} | best photos/s | median photos/s | ours / this |", "|---" * 4 + "|"]
    for name, s in seconds.items():
        ratio = np.median(s / seconds[OURS])
        lines.append(f"| {name} | {photos / s.min():.1f} | {photos / np.median(s):.1f} | {ratio:.2f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=320, help="longest side, pixels, a multiple of 32")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--photos", type=int, default=64)
    parser.add_argument("--root", default="", help="folder <instance>/<photo>; empty: drawn by code")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", action="store_true", help="keep the table under benchmarks/results")
    options = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))

    m = jnp.ones((2048, 2048), jnp.float32)
    product = jax.jit(lambda z: z @ z)
    rate = 2 * 2048**3 / interleaved({"product": lambda: product(m)}, 10)["product"].min()
    flop = 2 * multiply_adds(options.size)
    lines = [f"# EfficientNet-Lite0 at {options.size} pixels, float32, batch {options.batch}", "", machine(), ""]
    lines += [f"torch {torch.__version__}, {torch.get_num_threads()} threads", "", command(), ""]
    lines += [
        f"- floor: {flop / 2e9:.2f} billion multiply-adds a photograph, a 2048 x 2048 product runs at "
        f"{rate / 1e9:.0f} GFLOP/s: {rate / flop:.1f} photos/s",
        "",
    ]
    lines += [*table("network", network_calls(options), options.batch, options.rounds), ""]
    with tempfile.TemporaryDirectory() as cache:
        calls, photos = extract_calls(options, cache)
        lines += table(f"extract, {photos} photographs", calls, photos, options.rounds)
    text = "\n".join(lines) + "\n"
    print(text)
    if options.save:
        print("saved", save("extraction", text))


if __name__ == "__main__":
    main()
