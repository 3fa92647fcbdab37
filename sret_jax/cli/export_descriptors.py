"""Exports descriptors for other programs.

    sret export-descriptors SOURCE DIR [--dtype=float32|float16|int8] [--per=dimension|vector] [--form=npy|parquet]

SOURCE is a collection, by its name or its folder; a store of descriptors that an evaluation left, as
`RUN/descriptors/folder`; or a folder of photographs, which are described by `--retriever`. DIR gets descriptors.npy or
descriptors.parquet, names.json and about.json; of int8 scale.npy too: a number is `stored * scale`, with a scale for
each dimension or for each vector. `sret_jax.export.descriptors.read_descriptors(DIR)` reads it back for an index.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from sret_jax.cli.collections import Parser
from sret_jax.config.names import DESCRIPTOR_DTYPES, DESCRIPTOR_FORMS, DESCRIPTOR_SCALES
from sret_jax.config.paths import expanded
from sret_jax.storage.workdir import COLLECTIONS


def main(words: Sequence[str]) -> None:
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    parser = Parser(
        "sret export-descriptors", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="a collection, a store, or a folder of photographs")
    parser.add_argument("folder", type=expanded, help="to be written, new")
    parser.add_argument("--dtype", default=DESCRIPTOR_DTYPES[0], help=f"{', '.join(DESCRIPTOR_DTYPES)} (%(default)s)")
    parser.add_argument(
        "--per", default=DESCRIPTOR_SCALES[0], help=f"of int8: {' or '.join(DESCRIPTOR_SCALES)} (%(default)s)"
    )
    parser.add_argument("--form", default=DESCRIPTOR_FORMS[0], help=f"{' or '.join(DESCRIPTOR_FORMS)} (%(default)s)")
    parser.add_argument("--retriever", default="", help="what describes a folder of photographs")
    parser.add_argument("--workdir", type=expanded, default=str(COLLECTIONS), help="of collections (%(default)s)")
    given = parser.parse_args(words)
    from sret_jax.cli.described import found_in  # JAX with it, which takes seconds
    from sret_jax.export.descriptors import write_descriptors
    from sret_jax.storage.artifacts import new_folder

    new_folder(given.folder)  # before photographs are described for it
    found = found_in(given.source, Path(given.workdir), given.retriever)
    chosen = {"dtype": given.dtype, "per": given.per, "form": given.form}
    write_descriptors(given.folder, found.parts, found.names, retriever=found.retriever, **chosen)
    print(f"{given.folder}: {len(found.names)} descriptors of {found.parts[0].shape[1]} numbers, {given.dtype}")
