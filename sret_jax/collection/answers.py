"""What a collection answers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """A photograph that was found.

    name      path below the root of the collection, with "/"
    score     cosine to the query
    size      (height, width), pixels, upright
    found     whether the object was found in it; None where it was not looked for
    box       (left, top, right, bottom) of the object, pixels; None where there is none
    outlines  closed polygons (x, y) around it, pixels
    inliers   local features of it that one transform carries those of the query to; None where it was not verified
    """

    name: str
    score: float
    size: tuple[int, int]
    found: bool | None = None
    box: tuple[int, int, int, int] | None = None
    outlines: tuple[tuple[tuple[int, int], ...], ...] = ()
    inliers: int | None = None


@dataclass(frozen=True)
class Found:
    """What a search found.

    answers   best first; photographs with the very content of the query are none
    size      (height, width) of the query, pixels
    searched  (left, top, right, bottom) of the part of it that was described
    """

    answers: list[Answer]
    size: tuple[int, int]
    searched: tuple[int, int, int, int]


@dataclass(frozen=True)
class Status:
    """A collection now.

    photos    how many are searched
    skipped   (name, reason) of files that are not
    excluded  names that were taken out by hand
    indexing  whether this process brings it up to date, and has read `done` of `total` files
    updated   when it last was, ISO 8601; "" if never
    search    how it is searched: "exact", "ah" or "tree_ah"; "" before it first was
    recall    recall@10 of the index, measured when it was built for `config.search.recall`; 0 where none was asked for
    local     the local features that are kept for spatial verification, "" for none
    store     what descriptors are held as where this machine searches: "float32", "float16" or "int8"; "" where the
              retriever says it, which is not loaded yet, or a server searches
    """

    name: str
    root: str
    photos: int
    skipped: list[tuple[str, str]]
    excluded: list[str]
    indexing: bool
    done: int
    total: int
    updated: str
    retriever: str
    search: str
    left_behind: int
    local: str = ""
    recall: float = 0.0
    store: str = ""
