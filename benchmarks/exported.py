"""Photographs per second of the network as it is and as `sret export --onnx` writes it, in the same run.

    pip install 'sret_jax[onnx]'
    python benchmarks/exported.py [--retriever=NAME] [--size=320] [--batch=16] [--rounds=5] [--save]

One batch of uint8 photographs to descriptors: by JAX, compiled for that shape, and by ONNX Runtime from the file that
takes every shape. Both use all cores. A ratio compares them round by round; the median is printed.
"""

import argparse

import jax
import numpy as np
from comparison import markdown
from timing import command, interleaved, machine, save

from sret_jax.data.opening import open_photos
from sret_jax.export.onnx_file import session, to_onnx
from sret_jax.export.parity import photographs_of_all_shapes
from sret_jax.export.program import program
from sret_jax.models.weights.shipped import DEFAULT
from sret_jax.retriever import load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--retriever", default=DEFAULT)
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", action="store_true")
    args = parser.parse_args()
    retriever = load(args.retriever)
    few = open_photos([photographs_of_all_shapes().photo(0)])
    data, about = to_onnx(retriever, few)
    run, compiled = session(data), jax.jit(program(retriever))
    images = np.random.default_rng(0).integers(0, 256, (args.batch, args.size, args.size, 3), np.uint8)
    masks = np.ones(images.shape[:3], bool)
    machine_before = machine()
    seconds = interleaved(
        {"sret_jax": lambda: compiled(images, masks), "ONNX Runtime": lambda: run(images, masks)}, args.rounds
    )
    ours = seconds["sret_jax"]
    rows = {
        name: {
            "photographs per second": f"{args.batch / np.median(own):.1f}",
            "sret_jax is faster by": f"{np.median(own / ours):.2f}",
        }
        for name, own in seconds.items()
    }
    text = (
        f"{args.retriever}, {args.batch} photographs of {args.size} x {args.size} px at once, {args.rounds} rounds. "
        f"ONNX Runtime {about['onnxruntime']}; {machine_before}. {command()}\n\n{markdown(rows)}\n"
    )
    print(text)
    if args.save:
        save("exported", text)


if __name__ == "__main__":
    main()
