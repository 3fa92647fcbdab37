"""ScaNN: building a searcher, searching with it, and reading it from disk. Only this file knows the library."""

import errno
import importlib.util
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from sret_jax.storage.artifacts import DamagedError
from sret_jax.storage.journal import append_at

SCANN_FILES = {
    "ah_codebook.pb",
    "dataset.npy",
    "datapoint_to_token.npy",
    "dp_norms.npy",
    "hashed_dataset.npy",
    "scann_assets.pbtxt",
    "scann_config.pb",
    "serialized_partitioner.pb",
}  # what a searcher may consist of; never scann_docids.pkl, which ScaNN unpickles


def has_scann() -> bool:
    return importlib.util.find_spec("scann") is not None


def build_scann(descriptors: np.ndarray, method: str, settings: dict[str, int], bare: bool = False) -> Any:
    """A searcher over these descriptors of unit length.

    It keeps a copy of them, by which it scores again what it finds; `bare`, it keeps codes of 2 bits a number only.
    """
    from scann import scann_ops_pybind

    builder = scann_ops_pybind.builder(descriptors, min(10, len(descriptors)), "dot_product")
    if method == "brute_force":
        return builder.score_brute_force().build()
    if method == "tree_ah":
        builder = builder.tree(
            settings["leaves"],
            settings["leaves_to_search"],
            training_sample_size=min(len(descriptors), 250_000),
            spherical=True,  # centroids of unit length, as the descriptors: a leaf is a direction
        )
    builder = builder.score_ah(2, anisotropic_quantization_threshold=0.2)
    return (builder if bare else builder.reorder(min(len(descriptors), 100))).build()


def scann_top_k(
    scann: Any, queries: Float[np.ndarray, "q d"], k: int, settings: dict[str, int]
) -> tuple[Int[np.ndarray, "q k"], Float[np.ndarray, "q k"]]:
    """Row indices and dot products of the k largest that it finds, best first; -1 and -inf where it finds fewer.

    Args:
      settings: how it searches: `leaves_to_search`, `pre_reorder_num_neighbors`.

    Raises:
      DamagedError: it answers with rows that there are not.
    """
    share = -(-len(queries) // (os.cpu_count() or 1))  # of each thread
    ids, scores = scann.search_batched_parallel(queries, final_num_neighbors=k, batch_size=share, **settings)
    ids = ids.astype(np.int64)
    missing = np.isnan(scores)  # ScaNN fills what it did not find with id 0 and nan
    if ids.shape != (len(queries), k) or (~missing & (ids >= scann.size())).any():
        raise DamagedError("ScaNN answered with photos that are not in the index; delete the index and build it anew")
    return np.where(missing, -1, ids), np.where(missing, -np.inf, scores)


def scann_insert(scann: Any, x: Float[np.ndarray, "n d"]) -> None:
    """Rows of unit length, behind those that are there."""
    scann.searcher.upsert([None] * len(x), x, 256)


def scann_delete(scann: Any, slots: list[int]) -> None:
    """Takes rows out, one after the other: each time the last row moves into the place that is free."""
    scann.searcher.delete(slots)


def save_scann(scann: Any, folder: Path) -> None:
    """Writes a searcher to a new folder.

    ScaNN does not say why it could not write a file, and nothing at all of a small one that was cut: one more byte at
    the end of each file makes the system say so.

    Raises `OSError` that names the file.
    """
    folder.mkdir()
    failed: RuntimeError | None = None
    try:
        scann.serialize(str(folder), relative_path=True)
    except RuntimeError as error:
        failed = error
    for path in sorted(folder.iterdir()):
        append_at(path, path.stat().st_size, b"\n")
        append_at(path, path.stat().st_size - 1, b"")
    if failed:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(folder)) from failed


def load_scann(folder: Path, n: int) -> Any:
    """The searcher that was serialized to this folder, over n photos; runs nothing that an index has no use for.

    Raises:
      DamagedError: a file that an index has not, or whose size does not fit.
    """
    from scann import scann_ops_pybind

    strange = sorted({p.name for p in folder.iterdir()} - SCANN_FILES)
    if strange:
        raise DamagedError(f"{folder / strange[0]}: not a file that an index has; build the index anew")
    paths = re.findall(r'asset_path\s*:\s*"([^"]*)"', (folder / "scann_assets.pbtxt").read_text())
    outside = sorted(set(paths) - SCANN_FILES)
    if outside:
        raise DamagedError(f"{folder}: refers to {outside[0]!r}, outside of itself; build the index anew")
    try:
        for file in sorted(folder.glob("*.npy")):  # of different sizes, ScaNN would end the process
            if (rows := len(np.load(file, mmap_mode="r", allow_pickle=False))) != n:
                raise DamagedError(f"{file} has {rows} rows for {n} names; build the index anew")
        return scann_ops_pybind.load_searcher(str(folder), assets_backcompat_shim=False)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise DamagedError(f"{folder}: ScaNN cannot load it ({error}); build the index anew") from None
