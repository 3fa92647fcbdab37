"""Cosine search over photographs that come and go: exact while they are few, then ScaNN's own insertion and deletion.

Every row has a slot. A row that is deleted leaves its slot to the last one, in ScaNN and here alike, so that nothing
else moves.

By codes of fewer bits (`config.store`) exact search finds what it finds by float32, bit for bit. ScaNN then holds no
rows of its own, and what it proposes is read and scored here.
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
from sret_jax.retrieval.held_rows import HeldRows, ReadRows, cosines_of, read_all
from sret_jax.retrieval.index import choose_method, method_settings
from sret_jax.retrieval.index_parts import LEAST, build_part, is_bare
from sret_jax.retrieval.searcher import APPROXIMATE, rescored
from sret_jax.storage.artifacts import DamagedError, commit_folder, verify_folder, write_array, write_json

INSERTED_AT_ONCE = 8192  # rows
GROWTH = 1.5  # times the rows that it was built over, from which on an index that learned of them is built anew


class ChangingIndex:
    """Rows of unit length by number, searched one query at a time.

    Attributes:
      method: "exact", "ah" or "tree_ah".
      built_over: rows when it was built: what the leaves and codes of an approximate index were learned from.
    """

    def __init__(self, ids: Int[np.ndarray, "n"], read: ReadRows, config: SearchConfig | None = None):
        """
        Args:
          ids: a number for each row, none twice.
          read: the rows of some of these numbers, and of those that are inserted later, for as long as they are there.
            Of codes, and where ScaNN has none of its own, also what may be among the answers is read by every search.
          config: `method` "auto" is exact below 20,000 rows, and then as for `Index`; `recall` counts where it is
            built, and what comes later is searched with the same settings. `shards` does not count: one process
            searches.

        Raises `UserError` for settings that contradict each other.
        """
        self.config, self._read = replace(config or SearchConfig(), shards=1), read
        validate_index(self.config)
        self.method = _method(self.config, len(ids))
        self.built_over, self._ids = len(ids), _Numbers(ids)
        self._settings = method_settings(self.method, max(1, len(ids)), self.config)
        self._scann: Any = None
        if self.method == "exact":
            self._rows = HeldRows(self._ids.used, read, self.config.store)
        else:
            x = read_all(self._ids.used, read)
            self._settings, self._scann = build_part(x, self.method, self._settings, self.config)

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
        """Whether so many rows came or went that it should be built anew: what it learned of them is of others."""
        n, learned = len(self), self.method != "exact" or self.config.store == "int8"
        changed = learned and not self.built_over / GROWTH <= n <= self.built_over * GROWTH
        return changed or self.method != _method(self.config, n)

    def insert(self, ids: Int[np.ndarray, "m"]) -> None:
        """Rows that are not there yet."""
        for start in range(0, len(ids), INSERTED_AT_ONCE):
            some = ids[start : start + INSERTED_AT_ONCE]
            if self.method == "exact":
                self._rows.append(len(self), some)
            else:
                scann_insert(self._scann, np.ascontiguousarray(self._read(some), np.float32))
            self._ids.append(some)

    def delete(self, ids: Int[np.ndarray, "m"]) -> None:
        """Rows that are there."""
        slots = []
        for id in np.asarray(ids).tolist():
            slot, last = self._ids.remove(id)
            slots.append(slot)
            if self.method == "exact":
                self._rows.move(last, slot)
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
            slots = self._rows.candidates(query, k, len(self))
            ids = self._ids.used[slots]
            scores = self._rows.cosines(query, slots, ids)
        else:
            slots, scores = self._proposed(query, k)
            ids = self._ids.used[slots]
            if is_bare(self.config):
                scores = cosines_of(query, ids, self._read)
        order = np.lexsort((ids, -scores))[:k]
        return ids[order], scores[order]

    def _proposed(self, query: Float[np.ndarray, "d"], k: int) -> tuple[Int[np.ndarray, "m"], Float[np.ndarray, "m"]]:
        """Slots that ScaNN finds, with its scores: the answers, or of a bare one as many as are scored again."""
        wanted = min(len(self), rescored(k, self._settings, self.config))
        bare = is_bare(self.config)
        settings = {} if bare else {"pre_reorder_num_neighbors": wanted}
        if self.method == "tree_ah":
            settings["leaves_to_search"] = self._settings["leaves_to_search"]
        found, scores = scann_top_k(self._scann, query[None], wanted if bare else k, settings)
        there = found[0] >= 0
        return found[0][there], scores[0][there]

    def save(self, folder: Path, key: str) -> None:
        """Writes an approximate index to a folder, with what identifies the rows that it was built over."""
        with commit_folder(folder) as built:
            about = {"key": key, "method": self.method, "built_over": self.built_over, "settings": self._settings}
            about |= {"asked": self.config.recall, "store": self.config.store}
            write_json(built / "index.json", about)
            write_array(built / "ids.npy", self._ids.used)
            save_scann(self._scann, built / "scann")

    @classmethod
    def load(cls, folder: Path, key: str, read: ReadRows, config: SearchConfig | None = None) -> "ChangingIndex | None":
        """What `save` wrote under this key; None where there is nothing, or it is of something else.

        Args:
          read: as for `ChangingIndex`.
          config: another recall or store than that which it was built for is something else.

        Raises `DamagedError` where it is not what was written.
        """
        if not folder.is_dir():
            return None
        verify_folder(folder)
        config = replace(config or SearchConfig(), shards=1)
        try:
            about = json.loads((folder / "index.json").read_bytes())
            ids = np.load(folder / "ids.npy", allow_pickle=False)
            built_for = about["key"], about.get("asked", 0.0), about.get("store", "float32")
            if built_for != (key, config.recall, config.store) or about["method"] not in APPROXIMATE:
                return None
            index = cls.__new__(cls)
            index.config, index.method, index._ids = config, about["method"], _Numbers(ids)
            index.built_over, index._settings, index._read = about["built_over"], about["settings"], read
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
