"""Converts a checkpoint from elsewhere to a file for `config.model.weights`.

    sret convert IN OUT.safetensors [--learned-whitening=NAME]

IN is a torch checkpoint (`.pth`, `.pt`) or a safetensors file with torch's names, in one of the layouts of
`models/weights/layouts/`. `config.model.weights` takes either file.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from sret_jax.config.paths import expanded
from sret_jax.errors import UserError
from sret_jax.models.weights.file import read_weights, write_weights


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        "sret convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("input", type=expanded, help="a .pth, .pt or .safetensors file with torch's names")
    parser.add_argument("output", type=expanded, help="the .safetensors file to write")
    parser.add_argument("--layout", default="auto", help="of the input's names; auto looks at them")
    parser.add_argument(
        "--learned-whitening", default="", help="NAME/ss or NAME/ms of cirtorch, NAME of DIR; kept beside"
    )
    parser.add_argument("--backbone", default="", help="the network, where the file alone does not tell")
    given = parser.parse_args(words)
    if Path(given.output).suffix != ".safetensors":
        raise UserError(f"{given.output}: the name must end in .safetensors")
    weights = read_weights(given.input, given.layout, given.learned_whitening, given.backbone)
    write_weights(given.output, weights)
    modules = ", ".join([*weights.variables["params"], *(["learned whitening"] if given.learned_whitening else [])])
    print(f"{given.output}: {weights.backbone} up to {weights.stage}, layout {weights.layout}; holds {modules}")
