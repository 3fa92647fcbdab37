"""Which photos of a collection are most like a query: one index, exact or by ScaNN."""

import hashlib
import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from sret_jax.config import SearchConfig
from sret_jax.errors import UserError
from sret_jax.extraction.origin import Descriptors, check_same_retriever, retriever_of
from sret_jax.retrieval.approximate import build_scann, has_scann, load_scann, save_scann, scann_top_k
from sret_jax.retrieval.exact import cosines, exact_top_k, normalized, queries_at_once
from sret_jax.storage.artifacts import DamagedError, commit_folder, fingerprint, verify_folder, write_array, write_json
from sret_jax.storage.refusals import plainly

log = logging.getLogger(__name__)

BRUTE_FORCE_BELOW, AH_BELOW = 20_000, 100_000  # photos; the size rules of ScaNN's docs/algorithms.md
REORDER = 10  # candidates re-scored per answer
APPROXIMATE = ("ah", "tree_ah")  # methods that may miss a photo
TIE = 1e-5  # scores closer than this may come in another order from another way of summing


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

    `build` or `load` makes one. `description` says in words what was built. Exact search and ScaNN's brute force score
    their candidates in float64 and give the same ids and scores; the approximate methods score theirs in float32,
    within 1e-6 of that. ScaNN holds the descriptors itself: of a loaded index, they stay on disk until read.

    Attributes:
      descriptors: float32 [n d], of unit length.
      names: of the photos, unique.
      method: "exact", "brute_force", "ah" or "tree_ah".
      settings: what `build` chose: leaves, leaves_to_search.
      fingerprint: of what it was built from, as `content_fingerprint` gives it.
      retriever: fingerprint of the one that described the photos; "" if unknown.
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
        retriever: str = "",
    ):
        self.descriptors, self.names, self.config, self.retriever = descriptors, names, config, retriever
        self.method, self.settings, self.fingerprint, self._scann = method, settings, fingerprint, scann

    @classmethod
    def build(
        cls, descriptors: Float[np.ndarray, "n d"], names: list[str], config: SearchConfig | None = None
    ) -> "Index":
        """An index over one descriptor per photo.

        Until it is saved and loaded it holds the descriptors twice where ScaNN searches: here and there.

        Args:
          descriptors: of any length but zero; they are normalised here.
          names: one per row, unique.
          config: `method="auto"` follows ScaNN's size rules: brute force below 20,000 photos, asymmetric hashing with
            re-scoring below 100,000, and partitioned into 2 sqrt(n) leaves above. Without ScaNN: exact.

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
        key, retriever = content_fingerprint(descriptors, names, config), retriever_of(descriptors)
        descriptors = normalized(descriptors, names)
        method = choose_method(config.method, len(names))
        settings = method_settings(method, len(names), config)
        scann = None if method == "exact" else build_scann(descriptors, method, settings)
        return cls(descriptors, list(names), config, method, settings, key, scann, retriever)

    def add(self, descriptors: Float[np.ndarray, "n d"], names: list[str]) -> "Index":
        """A new index of these photos after the present ones, built anew: the method may change with the size."""
        if descriptors.shape[1] != self.dim:
            raise UserError(f"index: descriptors of length {descriptors.shape[1]} added to an index of {self.dim}")
        check_same_retriever(retriever_of(descriptors), self.retriever)
        everything = np.concatenate([self.descriptors, normalized(descriptors, names)])
        return Index.build(Descriptors.of(everything, self.retriever), self.names + list(names), self.config)

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
          UserError: k is not within 1 and the number of photos, a query is zero, not finite or of another length, or
            it was described by another retriever than the photos.
        """
        if not 1 <= k <= len(self):
            raise UserError(f"k={k}: the index has {len(self)} photos; choose 1 to {len(self)}, or add photos")
        check_same_retriever(retriever_of(queries), self.retriever)
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
        if self.method in APPROXIMATE:
            ids, scores = self._candidates(queries, k)  # best first, but for the order of equal ones
            tied = (scores[:, 1:] == scores[:, :-1]).any(1)
            ids[tied], scores[tied] = _best_first(ids[tied], scores[tied], k)
            return ids, scores
        wanted = min(len(self), k + 16)
        while True:
            ids, raw = self._candidates(queries, wanted)
            # Whatever may tie with the k-th photo has to be among the candidates, or the order of ties would be chance.
            if wanted == len(self) or not (raw[:, -1] > raw[:, k - 1] - TIE).any():
                return _best_first(ids, cosines(queries, self.descriptors, ids), k)
            wanted = min(len(self), 4 * wanted)

    def _candidates(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        if self._scann is None:
            return exact_top_k(queries, self.descriptors, k, self.config.chunk_rows)
        settings = {"leaves_to_search": self.settings["leaves_to_search"]} if self.method == "tree_ah" else {}
        if self.method in APPROXIMATE:
            settings["pre_reorder_num_neighbors"] = min(len(self), max(k, self.config.reorder or REORDER * k))
        return scann_top_k(self._scann, queries, k, settings)

    def save(self, path: Path) -> None:
        """Writes the index as a folder that can be moved; a kill at any moment leaves the old one or the new one."""
        with plainly(path), commit_folder(Path(path)) as folder:
            about = {
                "method": self.method,
                "settings": self.settings,
                "config": vars(self.config),
                "description": self.description,
                "fingerprint": self.fingerprint,
                "retriever": self.retriever,
                "names": self.names,
            }
            write_json(folder / "index.json", about)
            if self._scann is None:
                write_array(folder / "descriptors.npy", self.descriptors)
            else:  # writes them too
                save_scann(self._scann, folder / "scann")

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
            file = path / ("descriptors.npy" if method == "exact" else "scann/dataset.npy")
            descriptors = np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DamagedError(f"{path}: not an index that this version wrote ({error}); build it anew") from None
        if descriptors.ndim != 2 or len(descriptors) != len(names) or descriptors.dtype != np.float32:
            raise DamagedError(
                f"{file} has {len(descriptors)} rows for {len(names)} names, or no descriptors; build the index anew"
            )
        if method != "exact" and not has_scann():
            log.warning("ScaNN is not installed (it has wheels for Linux only): exact search takes its place")
            method = "exact"
        scann = None if method == "exact" else load_scann(path / "scann", len(names))
        return cls(np.asarray(descriptors), names, config, method, settings, key, scann, about.get("retriever", ""))


def content_fingerprint(descriptors: Float[np.ndarray, "n d"], names: list[str], config: SearchConfig) -> str:
    """Identifies what an index is built from."""
    return fingerprint(names, vars(config), hashlib.sha256(np.ascontiguousarray(descriptors).data).hexdigest())


def _best_first(ids: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k of highest score, equal ones by id, and -1 (no photo) last."""
    order = np.lexsort((ids, -scores), axis=1)[:, :k]
    return np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1)


def choose_method(method: str, n: int) -> str:
    """The method for n photos: "auto" by ScaNN's size rules. Raises `UserError` for one that cannot be used."""
    if method == "asmk":
        raise UserError("search.method='asmk' compares local features: an index of descriptors has none")
    if method == "auto":
        method = "brute_force" if n < BRUTE_FORCE_BELOW else "ah" if n < AH_BELOW else "tree_ah"
    if method != "exact" and not has_scann():
        log.warning("ScaNN is not installed (it has wheels for Linux only): exact search takes its place")
        return "exact"
    if method in APPROXIMATE and n < 16:
        raise UserError(
            f"search.method={method!r} needs at least 16 photos, there are {n}; use 'brute_force' or 'auto'"
        )
    return method


def method_settings(method: str, n: int, config: SearchConfig) -> dict[str, int]:
    """How many leaves an index over n photos has, and how many of them are searched."""
    if method != "tree_ah":
        return {}
    leaves = 2 * math.isqrt(n)
    return {"leaves": leaves, "leaves_to_search": min(leaves, config.leaves_to_search or max(25, leaves // 10))}
