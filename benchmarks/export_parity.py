"""How far ONNX Runtime's descriptors are from the network's own, by network.

    pip install 'sret_jax[onnx]'
    python benchmarks/export_parity.py [--save]

What `sret export --onnx` measures before it keeps a file: twenty photographs of all shapes, each alone and in padded
batches. Of the networks that do not come with the package every parameter is as it is initialised, and noise of 0.02 on
it, so that none is zero.
"""

import argparse
import dataclasses

import jax
import numpy as np
from comparison import markdown
from timing import command, machine, save

from sret_jax.config import AttentionConfig, Config, DataConfig, ModelConfig
from sret_jax.export.onnx_file import to_onnx
from sret_jax.models.weights.shipped import DEFAULT
from sret_jax.retriever import Retriever, load

# Of the model, and the longest side of a photograph in pixels.
NETWORKS: dict[str, tuple[ModelConfig, int]] = {
    "EfficientNet-Lite0, GeM": (ModelConfig(), 224),
    "ResNet-50, GeM": (ModelConfig("resnet50"), 224),
    "DINOv2 ViT-S/14, GeM": (ModelConfig("dinov2_vits14"), 224),
    "ResNet-50, second-order attention, GeM": (ModelConfig("resnet50", attention=AttentionConfig(("c4", "c5"))), 160),
}
NOISE = 0.02


def drawn(model: ModelConfig, image_size: int) -> Retriever:
    """A network with random parameters."""
    model = dataclasses.replace(model, weights="none", whitening=False)
    retriever, rng = load(Config(data=DataConfig(image_size=image_size), model=model)), np.random.default_rng(0)
    noisy = jax.tree.map(
        lambda x: np.asarray(x + rng.normal(0, NOISE, x.shape), np.float32), retriever.variables["params"]
    )
    return dataclasses.replace(retriever, variables=dict(retriever.variables) | {"params": noisy})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true")
    args, machine_before, rows = parser.parse_args(), machine(), {}
    networks = {f"{DEFAULT}, {load().config.data.image_size} px": load()}
    networks |= {
        f"{name}; random parameters, {size} px": drawn(model, size) for name, (model, size) in NETWORKS.items()
    }
    for name, retriever in networks.items():
        _, about = to_onnx(retriever)
        rows[name] = {"largest difference": f"{about['parity']['largest difference']:.1e}"}
        print(f"{name}: {rows[name]['largest difference']}", flush=True)
    parity = about["parity"]
    text = (
        f"{parity['photographs']} photographs, in batches of {' and '.join(map(str, parity['batches']))}; the bound is "
        f"{parity['bound']:.0e}. ONNX Runtime {about['onnxruntime']}, onnx {about['onnx']}; {machine_before}. "
        f"{command()}\n\n{markdown(rows)}\n"
    )
    print(text)
    if args.save:
        save("export_parity", text)


if __name__ == "__main__":
    main()
