"""A list of photographs: their names, labels and sizes in memory, their bytes on disk."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int, UInt8

from sret_jax.artifacts import fingerprint
from sret_jax.data.decoding import decode_mask, decode_photo
from sret_jax.errors import UserError


@runtime_checkable
class Source(Protocol):
    """Random access to records `{"image": encoded bytes, "mask": PNG bytes or absent}`; safe to read from threads."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, bytes]: ...


@dataclass(frozen=True)
class Rows:
    """A source that shows only some rows of another."""

    source: Source
    rows: Int[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Mapping[str, bytes]:
        return self.source[int(self.rows[index])]


@dataclass(frozen=True, eq=False)
class PhotoSet:
    """`n` photographs. Row `i` everywhere means `names[i]`, `labels[i]`, `sizes[i]` and `source[i]`.

    name        short, for reports
    names       the photographs' ids, unique: paths below the root, with "/"
    labels      index into `instances`; -1 has no label
    instances   sorted names; every one has at least one photograph
    sizes       (height, width) in pixels, upright
    digests     sha256 of each encoded photograph
    skipped     (file, reason) for what was found and not used
    """

    name: str
    names: list[str]
    labels: Int[np.ndarray, " n"]
    instances: list[str]
    sizes: Int[np.ndarray, "n 2"]
    digests: list[str]
    source: Source
    skipped: list[tuple[str, str]]

    def __post_init__(self) -> None:
        counts = {len(self.names), len(self.labels), len(self.sizes), len(self.digests), len(self.source)}
        if len(counts) != 1:
            raise ValueError(f"photo set {self.name}: columns of unequal length {sorted(counts)}")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def fingerprint(self) -> str:
        """Identifies the photographs by name, label and content, in order; where they are stored does not matter."""
        labels = [self.instances[label] if label >= 0 else None for label in self.labels]
        return fingerprint(self.names, labels, self.digests)

    def photo(self, row: int) -> UInt8[np.ndarray, "h w 3"]:
        """The decoded photograph, upright."""
        return decode_photo(self._record(row)["image"])

    def mask(self, row: int) -> Bool[np.ndarray, "h w"] | None:
        """Which pixels show the object; None when nobody marked them."""
        data = self._record(row).get("mask")
        return None if data is None else decode_mask(data)

    def _record(self, row: int) -> Mapping[str, bytes]:
        return self.source[int(row)]

    def select(self, rows: Sequence[int] | Int[np.ndarray, " m"]) -> "PhotoSet":
        """The photographs in `rows`, in that order; labels are numbered anew over the instances that remain."""
        rows = np.asarray(rows, np.int64).reshape(-1)
        kept = sorted({int(label) for label in self.labels[rows]} - {-1})
        number = np.full(len(self.instances) + 1, -1, np.int32)  # the last entry serves label -1
        number[kept] = np.arange(len(kept))
        return dataclasses.replace(
            self,
            names=[self.names[row] for row in rows],
            labels=number[self.labels[rows]],
            instances=[self.instances[label] for label in kept],
            sizes=self.sizes[rows],
            digests=[self.digests[row] for row in rows],
            source=Rows(self.source, rows),
        )

    def select_instances(self, wanted: Sequence[str]) -> "PhotoSet":
        """The photographs of these instances. An unknown name is an error; one without a usable photo is not."""
        skipped = [(file, reason) for file, reason in self.skipped if "/" not in file or file.split("/")[0] in wanted]
        found = set(self.instances) | {file.split("/")[0] for file, _ in self.skipped}
        unknown = sorted(set(wanted) - found)
        if unknown:
            raise UserError(
                f"{self.name}: no instance {unknown[0]!r} ({len(unknown)} of {len(wanted)} names are unknown); "
                f"known: {', '.join(self.instances[:5])}{', …' if len(self.instances) > 5 else ''}"
            )
        labels = [label for label, instance in enumerate(self.instances) if instance in set(wanted)]
        chosen = self.select(np.flatnonzero(np.isin(self.labels, labels)))
        return dataclasses.replace(chosen, skipped=skipped)
