"""The descriptors that `sret export-descriptors` is given: stored already, or made of photographs now."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sret_jax.collection.collection import Collection
from sret_jax.collection.store import Store
from sret_jax.config.paths import expanded
from sret_jax.data.opening import open_photos
from sret_jax.errors import UserError
from sret_jax.models.weights.shipped import shipped_names
from sret_jax.retriever import load
from sret_jax.storage.row_store import STORE, RowStore


class Named(NamedTuple):
    """Descriptors, their names, and the fingerprint of what made them; "" if unknown."""

    parts: Sequence[np.ndarray]
    names: list[str]
    retriever: str


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
