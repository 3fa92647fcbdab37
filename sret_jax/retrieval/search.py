"""Which photos of a collection are most like a query: one index, exact or by ScaNN. Only this file knows ScaNN."""

import hashlib
import importlib.util
import json
import logging
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from sret_jax.artifacts import DamagedError, commit_folder, fingerprint, verify_folder
from sret_jax.config import SearchConfig
from sret_jax.errors import UserError
from sret_jax.retrieval.exact import cosines, exact_top_k, normalized, queries_at_once

log = logging.getLogger(__name__)

BRUTE_FORCE_BELOW, AH_BELOW = 20_000, 100_000  # photos; the size rules of ScaNN's docs/algorithms.md
REORDER = 10  # candidates re-scored per answer
APPROXIMATE = ("ah", "tree_ah")  # methods that may miss a photo, and whose own scores have 8 bits
TIE = 1e-5  # scores closer than this may come in another order from another way of summing
SCANN_FILES = {
    "ah_codebook.pb",
    "dataset.npy",
    "datapoint_to_token.npy",
    "dp_norms.npy",
    "hashed_dataset.npy",
    "int8_dataset.npy",
    "int8_multipliers.npy",
    "scann_assets.pbtxt",
    "scann_config.pb",
    "serialized_partitioner.pb",
}  # what a searcher may consist of; never scann_docids.pkl, which ScaNN unpickles


@dataclass(frozen=True)
class SearchResult:
    """The nearest photos of each query, best first; equal scores in the order of the index."""

    ids: Int[np.ndarray, "q k"]  # row in the index; -1 where an approximate search found fewer than k
    scores: Float[np.ndarray, "q k"]  # cosine; -inf where the id is -1
    index_names: list[str]

    def names(self, query: int) -> list[str]:
        """The photos found for one query, best first; shorter than k where fewer were found."""
        return [self.index_names[i] for i in self.ids[query] if i >= 0]


class Index:
    """Cosine search over named descriptors.

    `build` or `load` makes one. `description` says in words what was built. Candidates come from the device (exact) or
    from ScaNN; their scores are always recomputed in float64 from the descriptors, so every method gives the same score
    to the same photo, and exact search and ScaNN's brute force give the same ids.

    Attributes:
      descriptors: float32 [n d], of unit length.
      names: of the photos, unique.
      method: "exact", "brute_force", "ah" or "tree_ah".
      settings: what `build` chose: leaves, leaves_to_search.
      fingerprint: of what it was built from, as `content_fingerprint` gives it.
    """

    def __init__(
        self,
        descriptors: Float[np.ndarray, "n d"],
        names: list[str],
        config: SearchConfig,
        method: str,
        settings: dict[str, int],
        fingerprint: str,
        scann: Any = None,
    ):
        self.descriptors, self.names, self.config = descriptors, names, config
        self.method, self.settings, self.fingerprint, self._scann = method, settings, fingerprint, scann

    @classmethod
    def build(
        cls, descriptors: Float[np.ndarray, "n d"], names: list[str], config: SearchConfig | None = None
    ) -> "Index":
        """An index over one descriptor per photo.

        Args:
          descriptors: of any length but zero; they are normalised here.
          names: one per row, unique.
          config: `method="auto"` follows ScaNN's size rules: brute force below 20,000 photos, asymmetric hashing with
            re-scoring below 100,000, and partitioned into sqrt(n) leaves above. Without ScaNN: exact.

        Raises:
          UserError: a zero or non-finite descriptor, a repeated name, or too few photos for the method.
        """
        config = config or SearchConfig()
        if len(names) != len(descriptors):
            raise UserError(f"index: {len(descriptors)} descriptors but {len(names)} names; give one name per row")
        if not names:
            raise UserError("index: no photo to search; give at least one")
        seen: set[str] = set()
        for name in names:
            if name in seen:
                raise UserError(f"index: the name {name!r} occurs twice; photo names must be unique")
            seen.add(name)
        key = content_fingerprint(descriptors, names, config)
        descriptors = normalized(descriptors, names)
        method = _choose(config.method, len(names))
        settings = _settings(method, len(names), config)
        scann = None if method == "exact" else _build_scann(descriptors, method, settings)
        return cls(descriptors, list(names), config, method, settings, key, scann)

    def add(self, descriptors: Float[np.ndarray, "n d"], names: list[str]) -> "Index":
        """A new index of these photos after the present ones, built anew: the method may change with the size."""
        if descriptors.shape[1] != self.dim:
            raise UserError(f"index: descriptors of length {descriptors.shape[1]} added to an index of {self.dim}")
        everything = np.concatenate([self.descriptors, normalized(descriptors, names)])
        return Index.build(everything, self.names + list(names), self.config)

    @property
    def dim(self) -> int:
        return self.descriptors.shape[1]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def description(self) -> str:
        rescored = self.config.reorder or f"{REORDER} times the answers"
        how = {
            "exact": "exact search on the device",
            "brute_force": "ScaNN brute force",
            "ah": "ScaNN asymmetric hashing, {rescored} re-scored",
            "tree_ah": "ScaNN tree of {leaves} leaves, {leaves_to_search} searched, asymmetric hashing, {rescored} "
            "re-scored",
        }[self.method].format(**self.settings, rescored=rescored)
        return f"{how}, {len(self)} photos x {self.dim}"

    def search(self, queries: Float[np.ndarray, "q d"], k: int) -> SearchResult:
        """The k photos of largest cosine to each query.

        Raises:
          UserError: k is not within 1 and the number of photos, or a query is zero, not finite or of another length.
        """
        if not 1 <= k <= len(self):
            raise UserError(f"asked for {k} neighbours of {len(self)} photos; ask for 1 to {len(self)}, or add photos")
        if queries.shape[1] != self.dim:
            raise UserError(f"queries of length {queries.shape[1]} but an index of {self.dim}: not the same network")
        queries = normalized(queries, [f"query {i}" for i in range(len(queries))])
        ids, scores = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
        step = queries_at_once(len(self), k, self.config.chunk_rows)
        for start in range(0, len(queries), step):
            part = slice(start, start + step)
            ids[part], scores[part] = self._search(queries[part], k)
        return SearchResult(ids, scores, self.names)

    def _search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        approximate = self.method in APPROXIMATE
        wanted = min(len(self), k + (max(16, k // 4) if approximate else 16))
        while True:
            ids, raw = self._candidates(queries, wanted)
            # Whatever may tie with the k-th photo has to be among the candidates, or the order of ties would be chance.
            tied = (ids >= 0).all(1) & (raw[:, -1] > raw[:, k - 1] - TIE)
            if wanted == len(self) or approximate or not tied.any():
                break
            wanted = min(len(self), 4 * wanted)
        scores = np.where(ids < 0, -np.inf, cosines(queries, self.descriptors, np.maximum(ids, 0))).astype(np.float32)
        order = np.lexsort((np.where(ids < 0, len(self), ids), -scores), axis=1)[:, :k]
        return np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1)

    def _candidates(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        if self._scann is None:
            return exact_top_k(queries, self.descriptors, k, self.config.chunk_rows)
        settings = {"leaves_to_search": self.settings["leaves_to_search"]} if self.method == "tree_ah" else {}
        if self.method in APPROXIMATE:
            wanted = self.config.reorder or REORDER * k
            settings["pre_reorder_num_neighbors"] = min(len(self), max(k, wanted))
        share = -(-len(queries) // (os.cpu_count() or 1))  # of each thread
        ids, raw = self._scann.search_batched_parallel(queries, final_num_neighbors=k, batch_size=share, **settings)
        ids = ids.astype(np.int64)
        missing = np.isnan(raw)  # ScaNN fills what it did not find with id 0 and nan
        if ids.shape != (len(queries), k) or (~missing & (ids >= len(self))).any():
            raise DamagedError(
                "ScaNN answered with photos that are not in the index; delete the index and build it anew"
            )
        return np.where(missing, -1, ids), np.where(missing, -np.inf, raw)

    def save(self, path: Path) -> None:
        """Writes the index as a folder that can be moved; a kill at any moment leaves the old one or the new one."""
        with commit_folder(Path(path)) as folder:
            np.save(folder / "descriptors.npy", self.descriptors)
            about = {
                "method": self.method,
                "settings": self.settings,
                "config": vars(self.config),
                "description": self.description,
                "fingerprint": self.fingerprint,
                "names": self.names,
            }
            (folder / "index.json").write_text(json.dumps(about, indent=1) + "\n")
            if self._scann is not None:
                (folder / "scann").mkdir()
                self._scann.serialize(str(folder / "scann"), relative_path=True)

    @classmethod
    def load(cls, path: Path) -> "Index":
        """Inverse of `save`. Every byte is checked against the manifest before ScaNN's loader sees any of it.

        Raises:
          DamagedError: something is missing, changed, or does not belong to an index.
        """
        path = Path(path)
        if not path.is_dir():
            raise UserError(f"{path}: no such index; build it and save it there")
        verify_folder(path)
        try:
            about = json.loads((path / "index.json").read_bytes())
            names, method, settings, key = (about[name] for name in ("names", "method", "settings", "fingerprint"))
            config = SearchConfig(**about["config"])
            descriptors = np.load(path / "descriptors.npy", mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DamagedError(f"{path}: not an index that this version wrote ({error}); build it anew") from None
        if descriptors.ndim != 2 or len(descriptors) != len(names) or descriptors.dtype != np.float32:
            raise DamagedError(f"{path}: {len(names)} names for descriptors {descriptors.shape}; build the index anew")
        if method != "exact" and not _has_scann():
            log.warning("ScaNN is not installed (it has wheels for Linux only): exact search takes its place")
            method = "exact"
        scann = None if method == "exact" else _load_scann(path / "scann")
        if scann is not None and scann.size() != len(names):
            raise DamagedError(f"{path}: {scann.size()} photos in ScaNN but {len(names)} names; build the index anew")
        return cls(np.asarray(descriptors), names, config, method, settings, key, scann)


def content_fingerprint(descriptors: Float[np.ndarray, "n d"], names: list[str], config: SearchConfig) -> str:
    """Identifies what an index is built from."""
    return fingerprint(names, vars(config), hashlib.sha256(np.ascontiguousarray(descriptors)).hexdigest())


def _has_scann() -> bool:
    return importlib.util.find_spec("scann") is not None


def _choose(method: str, n: int) -> str:
    if method == "auto":
        method = "brute_force" if n < BRUTE_FORCE_BELOW else "ah" if n < AH_BELOW else "tree_ah"
    if method != "exact" and not _has_scann():
        log.warning("ScaNN is not installed (it has wheels for Linux only): exact search takes its place")
        return "exact"
    if method in ("ah", "tree_ah") and n < 16:
        raise UserError(
            f"search.method={method!r} needs at least 16 photos, there are {n}; use 'brute_force' or 'auto'"
        )
    return method


def _settings(method: str, n: int, config: SearchConfig) -> dict[str, int]:
    if method != "tree_ah":
        return {}
    leaves = math.isqrt(n)
    return {"leaves": leaves, "leaves_to_search": min(leaves, config.leaves_to_search or max(25, leaves // 10))}


def _build_scann(descriptors: np.ndarray, method: str, settings: dict[str, int]) -> Any:
    from scann import ReorderType, scann_ops_pybind

    builder = scann_ops_pybind.builder(descriptors, min(10, len(descriptors)), "dot_product")
    if method == "brute_force":
        return builder.score_brute_force().build()
    if method == "tree_ah":
        builder = builder.tree(
            settings["leaves"], settings["leaves_to_search"], training_sample_size=min(len(descriptors), 250_000)
        )
    builder = builder.score_ah(2, anisotropic_quantization_threshold=0.2)
    # In 8 bits: a quarter of the memory of a second copy. The best are scored once more by the descriptors themselves.
    return builder.reorder(min(len(descriptors), 100), quantize=ReorderType.INT8).build()


def _load_scann(folder: Path) -> Any:
    from scann import scann_ops_pybind

    strange = sorted({p.name for p in folder.iterdir()} - SCANN_FILES)
    if strange:
        raise DamagedError(f"{folder / strange[0]}: not a file that an index has; build the index anew")
    paths = re.findall(r'asset_path\s*:\s*"([^"]*)"', (folder / "scann_assets.pbtxt").read_text())
    outside = sorted(set(paths) - SCANN_FILES)
    if outside:
        raise DamagedError(f"{folder}: refers to {outside[0]!r}, outside of itself; build the index anew")
    try:
        return scann_ops_pybind.load_searcher(str(folder), assets_backcompat_shim=False)
    except (RuntimeError, ValueError) as error:
        raise DamagedError(f"{folder}: ScaNN cannot load it ({error}); build the index anew") from None
