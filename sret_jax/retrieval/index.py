"""Which photos of a collection are most like a query: one index, exact or by ScaNN, whole or in shards."""

import hashlib
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from sret_jax.config import SearchConfig
from sret_jax.config.validation import validate_index
from sret_jax.errors import UserError
from sret_jax.extraction.origin import Descriptors, check_same_retriever, retriever_of
from sret_jax.retrieval.approximate import has_scann
from sret_jax.retrieval.codes import Codes, encode
from sret_jax.retrieval.exact import normalized
from sret_jax.retrieval.index_parts import (
    LEAST,
    Part,
    build_part,
    build_parts,
    copy_parts,
    is_bare,
    listed_parts,
    write_rows_of,
    write_scann,
)
from sret_jax.retrieval.searcher import APPROXIMATE, REORDER, Searcher, Settings
from sret_jax.retrieval.shards import Shards
from sret_jax.retrieval.tuning import said
from sret_jax.storage.artifacts import DamagedError, commit_folder, fingerprint, verify_folder, write_json
from sret_jax.storage.refusals import plainly

log = logging.getLogger(__name__)

LATER = ("recall", "store", "shards", "engine", "server", "table")  # indexes of before there were these go on to count
BRUTE_FORCE_BELOW, AH_BELOW = 20_000, 100_000  # photos; the size rules of ScaNN's docs/algorithms.md


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
    their candidates in float64 and give the same ids and scores, bit for bit, in however many shards and by whichever
    codes (`config.store`); the approximate methods score theirs in float32, within 1e-6 of that. ScaNN holds the
    descriptors itself, but where there are codes or shards; of a loaded index they stay on disk until read.

    Attributes:
      descriptors: float32 [n d], of unit length.
      names: of the photos, unique.
      method: "exact", "brute_force", "ah" or "tree_ah".
      settings: what `build` chose: leaves, leaves_to_search; where `config.recall` is set also the reorder, for ten
        answers, and the recall that was measured. In shards: of the one of least recall, or of the first.
      fingerprint: of what it was built from, as `content_fingerprint` gives it.
      retriever: fingerprint of the one that described the photos; "" if unknown.
    """

    def __init__(
        self,
        descriptors: Float[np.ndarray, "n d"],
        names: list[str],
        config: SearchConfig,
        method: str,
        settings: Settings,
        fingerprint: str,
        scann: Any = None,
        retriever: str = "",
        codes: Codes | None = None,
        shards: Shards | None = None,
    ):
        self.descriptors, self.names, self.config, self.retriever = descriptors, names, config, retriever
        self.method, self.settings, self.fingerprint, self._scann = method, settings, fingerprint, scann
        self._codes, self._shards = codes, shards

    @classmethod
    def build(
        cls, descriptors: Float[np.ndarray, "n d"], names: list[str], config: SearchConfig | None = None
    ) -> "Index":
        """An index over one descriptor per photo.

        Until it is saved and loaded it holds the descriptors twice where ScaNN searches: here and there. One in shards
        lies in a temporary folder until it is no longer used.

        Args:
          descriptors: of any length but zero; they are normalised here.
          names: one per row, unique.
          config: `method="auto"` follows ScaNN's size rules: brute force below 20,000 photos, asymmetric hashing with
            re-scoring below 100,000, and partitioned into 2 sqrt(n) leaves above. Without ScaNN: exact.

        Raises:
          UserError: a zero or non-finite descriptor, a repeated name, too few photos for the method or the shards, or
            settings that contradict each other.
        """
        config = config or SearchConfig()
        validate_index(config)
        check_names(descriptors, names)
        key, retriever = content_fingerprint(descriptors, names, config), retriever_of(descriptors)
        descriptors = normalized(descriptors, names)
        method = choose_method(config.method, len(names))
        if method == "brute_force" and is_bare(config):
            method = "exact"
        codes = None if config.store == "float32" else encode(descriptors, config.store)
        if config.shards == 1:
            settings, scann = build_part(descriptors, method, method_settings(method, len(names), config), config)
            return cls(descriptors, list(names), config, method, settings, key, scann, retriever, codes)
        parts = build_parts(descriptors, codes, method, lambda n: method_settings(method, n, config), config)
        settings, shards = _lowest([part.settings for part in parts]), Shards(parts, Path(parts[0].folder))
        rows = replace(parts[0], start=0, stop=len(names)).rows()
        return cls(rows, list(names), config, method, settings, key, None, retriever, None, shards)

    def add(self, descriptors: Float[np.ndarray, "n d"], names: list[str]) -> "Index":
        """A new index of these photos after the present ones, built anew: the method may change with the size."""
        return Index.build(joined_descriptors(self, descriptors, names), self.names + list(names), self.config)

    @property
    def dim(self) -> int:
        return self.descriptors.shape[1]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def description(self) -> str:
        parts = [part.settings for part in self._shards.parts] if self._shards else [self.settings]
        each = list(dict.fromkeys(_described(self.method, settings, self.config) for settings in parts))
        return f"{_in_shards(len(parts))}{' and '.join(each)}, {len(self)} photos x {self.dim}"

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
        return SearchResult(*(self._shards or self._searcher()).search(queries, k), self.names)

    def _searcher(self) -> Searcher:
        bare = is_bare(self.config)
        return Searcher(self.descriptors, self.method, self.settings, self.config, self._scann, self._codes, bare)

    def close(self) -> None:
        """Ends the processes of an index in shards, which otherwise end with the index or with this process."""
        if self._shards:
            self._shards.close()

    def save(self, path: Path) -> None:
        """Writes the index as a folder that can be moved; a kill at any moment leaves the old one or the new one."""
        with plainly(path), commit_folder(Path(path)) as folder:
            parts = self._shards.parts if self._shards else [self._only_part(folder)]
            about: dict[str, Any] = {
                "method": self.method,
                "settings": self.settings,
                "config": vars(self.config),
                "description": self.description,
                "fingerprint": self.fingerprint,
                "retriever": self.retriever,
                "names": self.names,
            }
            if is_bare(self.config):
                about["parts"] = [part.listed() for part in parts]
            write_json(folder / "index.json", about)
            if self._shards:
                copy_parts(parts, folder)
            else:
                write_rows_of(parts[0], self.descriptors, self._codes)
                write_scann(parts[0], self._scann)

    def _only_part(self, folder: Path) -> Part:
        error = self._codes.error if self._codes else 0.0
        return Part(str(folder), -1, 0, len(self), len(self), self.method, self.settings, self.config, error)

    @classmethod
    def load(cls, path: Path) -> "Index":
        """Inverse of `save`. Every byte is checked against the manifest before ScaNN's loader sees any of it.

        Raises:
          DamagedError: something is missing, changed, or does not belong to an index.
        """
        path = Path(path).absolute()
        if not path.is_dir():
            raise UserError(f"{path}: no such index; build it and save it there")
        verify_folder(path)
        try:
            about = json.loads((path / "index.json").read_bytes())
            names, method, settings, key = (about[name] for name in ("names", "method", "settings", "fingerprint"))
            config = SearchConfig(**about["config"])
            parts, retriever = listed_parts(path, about, config), about.get("retriever", "")
            if method != "exact" and not has_scann():
                log.warning("ScaNN is not installed (it has wheels for Linux only): exact search takes its place")
                method, parts = "exact", [replace(part, exactly=True) for part in parts]
            if len(parts) > 1:
                rows = replace(parts[0], start=0, stop=len(names)).rows()
                return cls(rows, names, config, method, settings, key, None, retriever, None, Shards(parts))
            own = parts[0].load()
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise DamagedError(f"{path}: not an index that this version wrote ({error}); build it anew") from None
        return cls(own.rows, names, config, method, settings, key, own.scann, retriever, own.codes)


def _lowest(settings: Sequence[Settings]) -> Settings:
    """Those of the part that finds least."""
    return min(settings, key=lambda own: own.get("recall", 1.0))


def _in_shards(parts: int) -> str:
    return f"{parts} shards, a process each: " if parts > 1 else ""


def _described(method: str, settings: Settings, config: SearchConfig) -> str:
    rescored = f"{config.reorder or f'{REORDER} times the answers'} re-scored"
    if "reorder" in settings:
        rescored = f"{settings['reorder']} re-scored for ten answers"
    how = {
        "exact": "exact search on the device",
        "brute_force": "ScaNN brute force",
        "ah": "ScaNN asymmetric hashing, {rescored}",
        "tree_ah": "ScaNN tree of {leaves} leaves, {leaves_to_search} searched, asymmetric hashing, {rescored}",
    }[method].format(**settings | {"rescored": rescored})
    by = f", {config.store} re-scored by float32" if config.store != "float32" else ""
    recall = said(settings, config.recall) if method in APPROXIMATE else ""
    return ", ".join(filter(None, [how + by, recall]))


def check_names(descriptors: Float[np.ndarray, "n d"], names: Sequence[str]) -> None:
    """Raises `UserError` unless every descriptor, of one at least, has a name of its own."""
    if len(names) != len(descriptors):
        raise UserError(f"index: {len(descriptors)} descriptors but {len(names)} names; give one name per row")
    if not names:
        raise UserError("index: no photo to search; give at least one")
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise UserError(f"index: the name {name!r} occurs twice; photo names must be unique")
        seen.add(name)


def joined_descriptors(index: Any, descriptors: Float[np.ndarray, "m d"], names: list[str]) -> Descriptors:
    """Those of an index, or of any engine, and new ones after them.

    Raises `UserError` for new ones of another length, of another retriever, or that cannot be normalised.
    """
    if descriptors.shape[1] != index.dim:
        raise UserError(f"index: descriptors of length {descriptors.shape[1]} added to an index of {index.dim}")
    check_same_retriever(retriever_of(descriptors), index.retriever)
    return Descriptors.of(np.concatenate([index.descriptors, normalized(descriptors, names)]), index.retriever)


def content_fingerprint(descriptors: Float[np.ndarray, "n d"], names: list[str], config: SearchConfig) -> str:
    """Identifies what an index is built from."""
    plain = vars(SearchConfig())
    settings = {name: value for name, value in vars(config).items() if name not in LATER or value != plain[name]}
    return fingerprint(names, settings, hashlib.sha256(np.ascontiguousarray(descriptors).data).hexdigest())


def choose_method(method: str, n: int) -> str:
    """The method for n photos: "auto" by ScaNN's size rules. Raises `UserError` for one that cannot be used."""
    if method == "asmk":
        raise UserError("search.method='asmk' compares local features: an index of descriptors has none")
    if method == "auto":
        method = "brute_force" if n < BRUTE_FORCE_BELOW else "ah" if n < AH_BELOW else "tree_ah"
    if method != "exact" and not has_scann():
        log.warning("ScaNN is not installed (it has wheels for Linux only): exact search takes its place")
        return "exact"
    if method in APPROXIMATE and n < LEAST:
        raise UserError(
            f"search.method={method!r} needs at least {LEAST} photos, there are {n}; use 'brute_force' or 'auto'"
        )
    return method


def method_settings(method: str, n: int, config: SearchConfig) -> Settings:
    """How many leaves an index over n photos has, and how many of them are searched."""
    if method != "tree_ah":
        return {}
    leaves = 2 * math.isqrt(n)
    return {"leaves": leaves, "leaves_to_search": min(leaves, config.leaves_to_search or max(25, leaves // 10))}
