"""Cosine search over photographs that come and go: exact while they are few, then ScaNN's own insertion and deletion.

Every row has a slot. A row that is deleted leaves its slot to the last one, in ScaNN and here alike, so that nothing
else moves.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from sret_jax.config import SearchConfig
from sret_jax.config.validation import validate_index
from sret_jax.retrieval.approximate import (
    load_scann,
    save_scann,
    scann_delete,
    scann_insert,
    scann_top_k,
)
from sret_jax.retrieval.index import choose_method, method_settings
from sret_jax.retrieval.index_parts import LEAST, build_part
from sret_jax.retrieval.searcher import APPROXIMATE, rescored
from sret_jax.storage.artifacts import DamagedError, commit_folder, verify_folder, write_array, write_json

GROWTH = 1.5  # times the rows that it was built over, from which on an approximate index is built anew


class ChangingIndex:
    """Rows of unit length by number, searched one query at a time.

    Attributes:
      method: "exact", "ah" or "tree_ah".
      built_over: rows when it was built: what the leaves and codes of an approximate index were learned from.
    """

    def __init__(self, ids: Int[np.ndarray, "n"], x: Float[np.ndarray, "n d"], config: SearchConfig | None = None):
        """
        Args:
          ids: a number for each row, none twice.
          x: float32, of unit length.
          config: `method` "auto" is exact below 20,000 rows, and then as for `Index`; `recall` counts where it is
            built, and what comes later is searched with the same settings. Rows are held as float32, by one process.

        Raises `UserError` for settings that contradict each other.
        """
        self.config = config or SearchConfig()
        validate_index(self.config)
        self.method = _method(self.config, len(ids))
        self.built_over, self._ids = len(ids), _Numbers(ids)
        self._settings = method_settings(self.method, max(1, len(ids)), self.config)
        if self.method == "exact":
            self._rows = np.array(x, np.float32)
        else:
            own = replace(self.config, store="float32", shards=1)
            x = np.ascontiguousarray(x, np.float32)
            self._settings, scann = build_part(x, self.method, self._settings, own)
            self._scann: Any = scann

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, id: int) -> bool:
        return id in self._ids.slot

    @property
    def ids(self) -> Int[np.ndarray, "n"]:
        """The rows that are there, in no particular order."""
        return self._ids.used.copy()

    @property
    def recall(self) -> float:
        """Recall@10 that was measured when it was built for `config.recall`; 0 where none was asked for."""
        return float(self._settings.get("recall", 0.0))

    @property
    def outgrown(self) -> bool:
        """Whether so many rows came or went that it should be built anew."""
        n = len(self)
        changed = self.method != "exact" and not self.built_over / GROWTH <= n <= self.built_over * GROWTH
        return changed or self.method != _method(self.config, n)

    def insert(self, ids: Int[np.ndarray, "m"], x: Float[np.ndarray, "m d"]) -> None:
        """Rows of unit length that are not there yet."""
        if not len(ids):
            return
        start = len(self)
        self._ids.append(ids)
        if self.method != "exact":
            scann_insert(self._scann, np.ascontiguousarray(x, np.float32))
            return
        if start + len(ids) > len(self._rows):  # twice as large, so that a row is copied once or twice in all
            larger = np.empty((2 * (start + len(ids)), x.shape[1]), np.float32)
            larger[:start] = self._rows[:start]
            self._rows = larger
        self._rows[start : start + len(ids)] = x

    def delete(self, ids: Int[np.ndarray, "m"]) -> None:
        """Rows that are there."""
        slots = []
        for id in np.asarray(ids).tolist():
            slot, last = self._ids.remove(id)
            slots.append(slot)
            if self.method == "exact":
                self._rows[slot] = self._rows[last]
        if slots and self.method != "exact":
            scann_delete(self._scann, slots)

    def search(self, query: Float[np.ndarray, "d"], k: int) -> tuple[Int[np.ndarray, "m"], Float[np.ndarray, "m"]]:
        """The rows of largest cosine to a query of unit length, best first, and their cosines; equal ones by number.

        As many as k, or as there are; an approximate index may find fewer.
        """
        k = min(k, len(self))
        if not k:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        if self.method == "exact":
            cosine = self._rows[: len(self)] @ query
            slots = np.argpartition(-cosine, k - 1)[:k]
            slots = np.flatnonzero(cosine >= cosine[slots].min()) if k < len(self) else slots  # and whatever ties
            scores = cosine[slots]
        else:
            settings = {"pre_reorder_num_neighbors": min(len(self), rescored(k, self._settings, self.config))}
            if self.method == "tree_ah":
                settings["leaves_to_search"] = self._settings["leaves_to_search"]
            found, cosines = scann_top_k(self._scann, query[None], k, settings)
            there = found[0] >= 0
            slots, scores = found[0][there], cosines[0][there]
        ids = self._ids.used[slots]
        order = np.lexsort((ids, -scores))[:k]
        return ids[order], scores[order]

    def save(self, folder: Path, key: str) -> None:
        """Writes an approximate index to a folder, with what identifies the rows that it was built over."""
        with commit_folder(folder) as built:
            about = {"key": key, "method": self.method, "built_over": self.built_over, "settings": self._settings}
            about["asked"] = self.config.recall
            write_json(built / "index.json", about)
            write_array(built / "ids.npy", self._ids.used)
            save_scann(self._scann, built / "scann")

    @classmethod
    def load(cls, folder: Path, key: str, config: SearchConfig | None = None) -> "ChangingIndex | None":
        """What `save` wrote under this key; None where there is nothing, or it is of something else.

        Raises `DamagedError` where it is not what was written.
        """
        if not folder.is_dir():
            return None
        verify_folder(folder)
        try:
            about = json.loads((folder / "index.json").read_bytes())
            ids = np.load(folder / "ids.npy", allow_pickle=False)
            asked = config.recall if config else 0.0
            if about["key"] != key or about["method"] not in APPROXIMATE or about.get("asked", 0.0) != asked:
                return None
            index = cls.__new__(cls)
            index.config, index.method, index._ids = config or SearchConfig(), about["method"], _Numbers(ids)
            index.built_over, index._settings = about["built_over"], about["settings"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DamagedError(f"{folder}: not an index that this version wrote ({error}); index again") from None
        index._scann = load_scann(folder / "scann", len(ids))
        return index


def _method(config: SearchConfig, n: int) -> str:
    method = choose_method(config.method, n) if n >= LEAST else "exact"
    return method if method in APPROXIMATE else "exact"  # ScaNN's brute force is no faster for one query


class _Numbers:
    """The number of the row in every slot, and the slot of every row."""

    def __init__(self, ids: Int[np.ndarray, "n"]):
        self._array, self._count = np.array(ids, np.int64), len(ids)
        self.slot = {id: slot for slot, id in enumerate(self._array.tolist())}

    def __len__(self) -> int:
        return self._count

    @property
    def used(self) -> Int[np.ndarray, "n"]:
        return self._array[: self._count]

    def append(self, ids: Int[np.ndarray, "m"]) -> None:
        end = self._count + len(ids)
        if end > len(self._array):
            self._array = np.concatenate([self.used, np.empty(end, np.int64)])
        self._array[self._count : end] = ids
        self.slot.update((id, self._count + i) for i, id in enumerate(np.asarray(ids).tolist()))
        self._count = end

    def remove(self, id: int) -> tuple[int, int]:
        """The slot that becomes free, and the last one, whose row moves there."""
        slot, last = self.slot.pop(id), self._count - 1
        if slot != last:
            self._array[slot] = self._array[last]
            self.slot[int(self._array[slot])] = slot
        self._count = last
        return slot, last
