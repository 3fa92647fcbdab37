"""What the server asks of a collection of photographs, and what it is answered."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float

Box = tuple[int, int, int, int]  # (left, top, right, bottom), pixels
Region = Sequence[float] | Bool[np.ndarray, "h w"] | None  # box [left, top, right, bottom], click [x, y], mask; pixels


@runtime_checkable
class Answer(Protocol):
    """A photograph that was found."""

    @property
    def name(self) -> str:
        """The path below the collection's root, with "/"."""

    @property
    def score(self) -> float:
        """The cosine, -1 to 1."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the upright photograph, pixels."""

    @property
    def found(self) -> bool | None:
        """Whether the object was found in it; None where it was not looked for."""

    @property
    def box(self) -> Box | None:
        """(left, top, right, bottom) of the object, pixels of the upright photograph."""

    @property
    def outlines(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """Closed polygons of (x, y) around the object, pixels of the upright photograph."""

    @property
    def inliers(self) -> int | None:
        """Of spatial verification; None where it was not verified."""


@runtime_checkable
class Found(Protocol):
    """What one search found."""

    @property
    def answers(self) -> Sequence[Answer]:
        """Best first; the query itself takes no place among them."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the query, pixels."""

    @property
    def searched(self) -> Box:
        """(left, top, right, bottom) of the part of the query that was described, pixels."""


@runtime_checkable
class Status(Protocol):
    """How a collection is doing."""

    @property
    def name(self) -> str: ...
    @property
    def photos(self) -> int:
        """Photographs that are searched."""

    @property
    def skipped(self) -> Sequence[tuple[str, str]]:
        """(name, reason) of the files that cannot be used."""

    @property
    def indexing(self) -> bool:
        """Whether photographs are being described now: `done` of `total`."""

    @property
    def done(self) -> int: ...
    @property
    def total(self) -> int: ...
    @property
    def updated(self) -> str:
        """When the index last changed, ISO 8601; another one means that photographs may have changed."""

    @property
    def retriever(self) -> str:
        """The network that describes the photographs, in words."""

    @property
    def local(self) -> str:
        """The local features by which answers can be verified, "" for none."""


@runtime_checkable
class Collection(Protocol):
    """Photographs that are searched. Everything raises `UserError` for bad input and may be called by any thread."""

    @property
    def names(self) -> Sequence[str]:
        """Of the photographs that are searched, sorted."""

    def search(
        self,
        query: str | bytes,
        region: Region = None,
        k: int = 20,
        start: int = 0,
        mark: bool = True,
        verify: bool = False,
    ) -> Found:
        """Answers `start` to `start + k` for a photograph of the collection, or an encoded one; with their outlines.

        `verify`: the first of all answers in the order of spatial verification.
        """

    def heat(self, name: str, query: str | bytes, region: Region = None) -> Float[np.ndarray, "h w"]:
        """How much each pixel of the photograph `name` is like the region of the query."""

    def object_in(self, query: str | bytes) -> Box:
        """(left, top, right, bottom) of the object that stands out in a photograph, pixels."""

    def query_size(self, query: str | bytes) -> tuple[int, int]:
        """(height, width) of the upright photograph, pixels."""

    def read(self, name: str) -> bytes:
        """The encoded photograph."""

    def status(self) -> Status: ...
