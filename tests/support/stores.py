"""Stores of a collection, of photographs that are descriptors drawn by chance and nothing else."""

from pathlib import Path

import numpy as np

from sret_jax.collection.state import StoredPhoto
from sret_jax.collection.store import Described, Store


def drawn_store(folder: Path, dim: int) -> Store:
    """A store of 60 photographs, "0/0.jpg" to "0/59.jpg"."""
    store = Store.create(folder, dim, 2, {"retriever": "r"})
    add_drawn(store, 60, 0)
    return store


def add_drawn(store: Store, count: int, seed: int, removed: tuple[str, ...] = (), name: str = "") -> None:
    """Adds photographs "SEED/0.jpg", "SEED/1.jpg" ..., or one of another name, instead of those that are removed."""
    x = np.random.default_rng(seed).normal(size=(count, store.dim))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    names = [name or f"{seed}/{i}.jpg" for i in range(count)]
    photos = [StoredPhoto(one, (30, 20), f"content {seed} {one}", (7, 9), (1, 1), (0, 0)) for one in names]
    store.add(Described(photos, x, [np.zeros((1, 1, 2), np.int8)] * count), removed=removed)
