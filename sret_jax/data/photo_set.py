"""A list of photographs: their names, labels and sizes in memory, their bytes on disk."""

import bisect
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int, UInt8

from sret_jax.data.decoding import decode_mask, decode_photo
from sret_jax.data.names import RowsByName
from sret_jax.errors import UserError
from sret_jax.storage.artifacts import fingerprint


@runtime_checkable
class RecordSource(Protocol):
    """Random access to records `{"image": encoded bytes, "mask": PNG bytes or absent}`; safe to read from threads."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, bytes]: ...


@dataclass(frozen=True)
class SelectedRecords:
    """A source that shows only some rows of another."""

    source: RecordSource
    rows: Int[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Mapping[str, bytes]:
        return self.source[int(self.rows[index])]


@dataclass(frozen=True)
class ConcatenatedRecords:
    """Sources one after the other."""

    sources: Sequence[RecordSource]

    @cached_property
    def _ends(self) -> list[int]:
        return list(itertools.accumulate(map(len, self.sources), initial=0))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Mapping[str, bytes]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = bisect.bisect_right(self._ends, index) - 1
        return self.sources[part][index - self._ends[part]]


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
    pairs       rows of queries and of a match of each, where the set names its pairs; None: any two of an instance
    boxes       (left, top, right, bottom) of the part of each that is meant, pixels; None: all of it
    sources     where each instance comes from, in line with `instances`; None: all from one source
    """

    name: str
    names: list[str]
    labels: Int[np.ndarray, " n"]
    instances: list[str]
    sizes: Int[np.ndarray, "n 2"]
    digests: list[str]
    source: RecordSource
    skipped: list[tuple[str, str]]
    boxes: Int[np.ndarray, "n 4"] | None = None
    pairs: Int[np.ndarray, "m 2"] | None = None
    sources: list[str] | None = None

    def __post_init__(self) -> None:
        counts = {len(self.names), len(self.labels), len(self.sizes), len(self.digests), len(self.source)}
        if len(counts) != 1:
            raise ValueError(f"photo set {self.name}: columns of unequal length {sorted(counts)}")
        if self.sources is not None and len(self.sources) != len(self.instances):
            raise ValueError(f"photo set {self.name}: {len(self.sources)} sources of {len(self.instances)} instances")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def fingerprint(self) -> str:
        """Identifies the photographs by name, label and content, in order; where they are stored does not matter."""
        labels = [self.instances[label] if label >= 0 else None for label in self.labels]
        boxes = [] if self.boxes is None else [self.boxes.tolist()]
        pairs = [] if self.pairs is None else [{"pairs": self.pairs.tolist()}]
        return fingerprint(self.names, labels, self.digests, *boxes, *pairs)

    @property
    def regions(self) -> Int[np.ndarray, "n 2"]:
        """(height, width) of what `photo` returns."""
        return self.sizes if self.boxes is None else (self.boxes[:, 2:] - self.boxes[:, :2])[:, ::-1]

    def photo(self, row: int, at_least: int | None = None) -> UInt8[np.ndarray, "h w 3"]:
        """The decoded photograph, upright; the part in its box where it has one.

        Where it has none, `at_least` allows it to be smaller, its longest side not below that: see `decode_photo`.
        """
        if self.boxes is None:
            return decode_photo(self._record(row)["image"], at_least)
        photo = self.whole(row)
        left, top, right, bottom = self.boxes[row]
        return photo[top:bottom, left:right]

    def whole(self, row: int) -> UInt8[np.ndarray, "h w 3"]:
        """The decoded photograph, upright."""
        return decode_photo(self._record(row)["image"])

    def mask(self, row: int) -> Bool[np.ndarray, "h w"] | None:
        """Which pixels of the whole photograph show the object; None when nobody marked them."""
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
        pairs = self.pairs
        if pairs is not None:
            place = np.full(len(self), -1)
            place[rows] = np.arange(len(rows))
            pairs = place[pairs][(place[pairs] >= 0).all(1)]
        return dataclasses.replace(
            self,
            pairs=pairs,
            names=[self.names[row] for row in rows],
            labels=number[self.labels[rows]],
            instances=[self.instances[label] for label in kept],
            sizes=self.sizes[rows],
            digests=[self.digests[row] for row in rows],
            source=SelectedRecords(self.source, rows),
            boxes=None if self.boxes is None else self.boxes[rows],
            sources=None if self.sources is None else [self.sources[label] for label in kept],
        )

    def select_instances(self, wanted: Sequence[str]) -> "PhotoSet":
        """The photographs of these instances. An unknown name is an error; one without a usable photo is not."""
        folders = [file.partition("/")[0] for file, _ in self.skipped]
        found = RowsByName(list(dict.fromkeys([*self.instances, *folders])))
        unknown = sorted(name for name in set(wanted) if name not in found)
        if unknown:
            raise UserError(
                f"{self.name}: no instance {unknown[0]!r} ({len(unknown)} of {len(wanted)} names are unknown); "
                f"known: {', '.join(self.instances[:5])}{', …' if len(self.instances) > 5 else ''}"
            )
        rows = {found[name] for name in wanted}
        labels = [label for label in range(len(self.instances)) if label in rows]
        chosen = self.select(np.flatnonzero(np.isin(self.labels, labels)))
        skipped = [entry for entry in self.skipped if "/" not in entry[0] or found[entry[0].partition("/")[0]] in rows]
        return dataclasses.replace(chosen, skipped=skipped)


def with_distractors(photos: PhotoSet, distractors: Sequence[PhotoSet]) -> PhotoSet:
    """The photos, and after them those of other sets without their labels, as `<set>/<photo>`."""
    if not distractors:
        return photos
    sets = [photos, *distractors]
    return PhotoSet(
        name=" + ".join(part.name for part in sets),
        names=photos.names + [f"{other.name}/{name}" for other in distractors for name in other.names],
        labels=np.concatenate([photos.labels, *(np.full(len(other), -1, np.int32) for other in distractors)]),
        instances=photos.instances,
        sizes=np.concatenate([part.sizes for part in sets]),
        digests=[digest for part in sets for digest in part.digests],
        source=ConcatenatedRecords([part.source for part in sets]),
        skipped=[entry for part in sets for entry in part.skipped],
        sources=photos.sources,
    )


def joined(sets: Sequence[PhotoSet], prefixes: Sequence[str]) -> PhotoSet:
    """Photo sets one after the other as one, with the labels of all.

    Names of photographs, instances and skipped files get the prefix of their set, as `<prefix>/<name>`, so that equal
    names of two sets stay apart. The source of an instance is `<prefix>`, or `<prefix>/<source>` where its set has
    sources of its own.

    Args:
      prefixes: of the sets, all different.

    Raises:
      ValueError: equal prefixes, or sets with boxes or pairs.
    """
    if len(set(prefixes)) != len(sets) or any(part.boxes is not None or part.pairs is not None for part in sets):
        raise ValueError("joined: each set needs a prefix of its own, and none may have boxes or pairs")
    named = list(zip(prefixes, sets, strict=True))
    sources = {
        f"{prefix}/{instance}": prefix if part.sources is None else f"{prefix}/{part.sources[label]}"
        for prefix, part in named
        for label, instance in enumerate(part.instances)
    }
    instances = sorted(sources)
    number = {instance: label for label, instance in enumerate(instances)}
    labels = [
        number[f"{prefix}/{part.instances[label]}"] if label >= 0 else -1
        for prefix, part in named
        for label in part.labels.tolist()
    ]
    return PhotoSet(
        name=" + ".join(part.name for part in sets),
        names=[f"{prefix}/{name}" for prefix, part in named for name in part.names],
        labels=np.array(labels, np.int32),
        instances=instances,
        sizes=np.concatenate([part.sizes for part in sets]),
        digests=[digest for part in sets for digest in part.digests],
        source=ConcatenatedRecords([part.source for part in sets]),
        skipped=[(f"{prefix}/{file}", reason) for prefix, part in named for file, reason in part.skipped],
        sources=[sources[instance] for instance in instances],
    )


def one_instance_each(photos: PhotoSet) -> PhotoSet:
    """The same photographs, each an instance of its own that has its name, with the sources that these name."""
    instances = sorted(photos.names)
    number = {name: label for label, name in enumerate(instances)}
    labels = np.array([number[name] for name in photos.names], np.int32)
    return dataclasses.replace(photos, labels=labels, instances=instances, sources=named_sources(instances))


def named_sources(instances: Sequence[str]) -> list[str] | None:
    """The part of each instance's name before "__"; None unless every name has one, and there are two different."""
    found = [name.partition("__") for name in instances]
    sources = [source for source, mark, _ in found if source and mark]
    return sources if len(sources) == len(found) and len(set(sources)) > 1 else None
