"""Converts a checkpoint from elsewhere to a file for `config.model.weights`.

    sret convert IN OUT.safetensors [--entry=NAME] [--strip=PREFIX] [--learned-whitening=NAME]

IN is a torch checkpoint (.pth, .pt, .ckpt, .bin), a safetensors file with torch's names, a folder that transformers,
timm or the hub saved, local-dir:FOLDER, or hf-hub:ORG/NAME[@REVISION] (pip install "sret_jax[hub]").
`config.model.weights` takes whatever IN may be as well.

Which dict in a file is the network, and which prefix its names carry, is found: averaged weights before raw ones
(state_dict_ema, model_ema, ...), a teacher before its student, then state_dict, model, net, ... and any single other
one; behind module., _orig_mod., model., backbone. and the like. What was taken is said where there was a choice.
--entry and --strip choose; for `config.model.weights` the same is written FILE#ENTRY/PREFIX. Objects of any class may
lie beside the network: nothing in the file is executed.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from sret_jax.config.paths import expanded
from sret_jax.errors import UserError


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        "sret convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("input", type=expanded, help="file or folder with torch's names, or hf-hub:ORG/NAME")
    parser.add_argument("output", type=expanded, help="the .safetensors file to write")
    parser.add_argument("--entry", default="", help="of the file, that is the network; NAME/NAME of one inside another")
    parser.add_argument("--strip", default="", help="prefix of the network's names; those without it are left out")
    parser.add_argument("--layout", default="auto", help="of the input's names; auto looks at them")
    parser.add_argument(
        "--learned-whitening", default="", help="NAME/ss or NAME/ms of cirtorch, NAME of DIR; kept beside"
    )
    parser.add_argument("--backbone", default="", help="the network, where the file alone does not tell")
    given = parser.parse_args(words)
    if Path(given.output).suffix != ".safetensors":
        raise UserError(f"{given.output}: the name must end in .safetensors")
    from sret_jax.models.weights.file import read_weights, write_weights  # JAX with it, which takes seconds

    part = "/".join(filter(None, (given.entry.strip("/"), given.strip.strip("."))))
    weights = read_weights(given.input, given.layout, given.learned_whitening, part, given.backbone)
    write_weights(given.output, weights)
    modules = ", ".join(
        [*sorted(weights.variables["params"]), *(["learned whitening"] if "whitening" in weights.variables else [])]
    )
    where = f", from {weights.part}" if weights.part else ""
    print(f"{given.output}: {weights.backbone} up to {weights.stage}, layout {weights.layout}{where}; holds {modules}")
    if weights.filter:
        fields = {"filter": weights.filter, "rounding": weights.rounding}
        shown = " ".join(f"--config.data.{field}={value}" for field, value in fields.items() if value)
        print(f"its authors resize photographs with {shown}")
