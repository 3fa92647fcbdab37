"""Exports a network as a folder to pass on.

    sret export RUN DIR [--stablehlo] [--onnx]

RUN is a workdir that `sret train` wrote, one step of its checkpoints, the name of weights that come with the package,
or a folder that was exported before. DIR gets model.safetensors, config.json, which also says how photographs are
shown to the network, and README.md, a card; `sret_jax.load(DIR)` describes photographs to the bit as RUN does. Nothing
in it names a place on this machine. The card leaves the licence to you.

`--stablehlo` adds a program for JAX alone, on CPU, CUDA and TPU. `--onnx` adds one for ONNX Runtime, which needs `pip
install 'sret_jax[onnx]'`; it is only kept where its descriptors are the same within 1e-4 on twenty photographs of all
shapes, or on yours in `--photos`. It computes in float32, and a network of bfloat16 is compared as it is in float32.
Both take photographs of any number and size.
"""

import argparse
from collections.abc import Sequence

from sret_jax.cli.collections import Parser
from sret_jax.config.paths import expanded
from sret_jax.errors import UserError


def main(words: Sequence[str]) -> None:
    parser = Parser("sret export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="the network: a workdir, a step, a name, or a folder")
    parser.add_argument("folder", type=expanded, help="to be written, new")
    parser.add_argument("--stablehlo", action="store_true", help="also as a program for JAX")
    parser.add_argument("--onnx", action="store_true", help="also as a program for ONNX Runtime")
    parser.add_argument("--photos", type=expanded, default="", help="that the ONNX file is compared on")
    parser.add_argument("--one-scale", action="store_true", help="describe at scale 1 alone, as programs do")
    given = parser.parse_args(words)
    if given.photos and not given.onnx:
        raise UserError("--photos are what --onnx is compared on: give that too")
    from sret_jax.data.opening import open_photos  # JAX with what follows, which takes seconds
    from sret_jax.export.folder import export_retriever
    from sret_jax.models.weights.shipped import shipped_names

    run = given.run if given.run in shipped_names() else expanded(given.run)
    photos = open_photos(given.photos) if given.photos else None
    about = export_retriever(
        run,
        given.folder,
        as_stablehlo=given.stablehlo,
        as_onnx=given.onnx,
        one_scale=given.one_scale,
        photos=photos,
    )
    print(f"{given.folder}: model.safetensors, config.json, README.md")
    for own in about.get("programs", {}).values():
        parity = own.get("parity")
        compared = (
            f", in {own['computed_in']} off by {parity['largest difference']:.1e} at most on {parity['photographs']} "
            "photographs"
            if parity
            else ""
        )
        print(f"{given.folder}/{own['file']}: {own['free']}{compared}")
