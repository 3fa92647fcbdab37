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
from typing import NamedTuple

import numpy as np

from sret_jax.cli.collections import Parser
from sret_jax.collection.collection import Collection
from sret_jax.collection.store import Store
from sret_jax.config.paths import expanded
from sret_jax.data.opening import open_photos
from sret_jax.errors import UserError
from sret_jax.export.descriptors import DTYPES, FORMS, SCALES, write_descriptors
from sret_jax.models.weights.shipped import shipped_names
from sret_jax.retriever import load
from sret_jax.storage.artifacts import new_folder
from sret_jax.storage.row_store import STORE, RowStore
from sret_jax.storage.workdir import COLLECTIONS


class Named(NamedTuple):
    """Descriptors, their names, and the fingerprint of what made them; "" if unknown."""

    parts: Sequence[np.ndarray]
    names: list[str]
    retriever: str


def main(words: Sequence[str]) -> None:
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    parser = Parser(
        "sret export-descriptors", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="a collection, a store, or a folder of photographs")
    parser.add_argument("folder", type=expanded, help="to be written, new")
    parser.add_argument("--dtype", default=DTYPES[0], help=f"{', '.join(DTYPES)} (%(default)s)")
    parser.add_argument("--per", default=SCALES[0], help=f"of int8: {' or '.join(SCALES)} (%(default)s)")
    parser.add_argument("--form", default=FORMS[0], help=f"{' or '.join(FORMS)} (%(default)s)")
    parser.add_argument("--retriever", default="", help="what describes a folder of photographs")
    parser.add_argument("--workdir", type=expanded, default=str(COLLECTIONS), help="of collections (%(default)s)")
    given = parser.parse_args(words)
    new_folder(given.folder)  # before photographs are described for it
    found = found_in(given.source, Path(given.workdir), given.retriever)
    chosen = {"dtype": given.dtype, "per": given.per, "form": given.form}
    write_descriptors(given.folder, found.parts, found.names, retriever=found.retriever, **chosen)
    print(f"{given.folder}: {len(found.names)} descriptors of {found.parts[0].shape[1]} numbers, {given.dtype}")


def found_in(source: str, workdir: Path, retriever: str) -> Named:
    """The descriptors of a collection, a store or a folder of photographs."""
    folder = Path(expanded(source))
    named = workdir / source
    collection = next((own for own in (folder, named) if (own / "collection.json").is_file()), None)
    if retriever and (collection or (folder / STORE).is_file()):
        raise UserError(f"{source}: is described already; --retriever goes with a folder of photographs")
    if collection:
        store = Store(Collection(collection).folder)
        rows = sorted(store.state.live.values())
        if not rows:
            raise UserError(f"{source}: no photograph in it; `sret index` describes them")
        names = [store.state.photos[row].name for row in rows]
        return Named([store.descriptors()[rows]], names, str(store.state.header.get("retriever", "")))
    if (folder / STORE).is_file():
        rows_of = RowStore.load(folder)
        parts = rows_of.parts()
        if parts[0].dtype != np.float32 or parts[0].ndim != 2:
            raise UserError(f"{source}: a store of something else than descriptors; choose one of RUN/descriptors/")
        return Named(parts, rows_of.names, rows_of.retriever)
    own = load(retriever if retriever in shipped_names() else expanded(retriever)) if retriever else load()
    photos = open_photos(folder)
    return Named([np.asarray(own.describe(photos))], photos.names, own.fingerprint)
