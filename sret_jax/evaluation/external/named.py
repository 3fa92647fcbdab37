"""Rankings by name: a line per query, or a line per answer as `rankings.csv` of an evaluation has it."""

import csv
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from sret_jax.data.lists import NAMED
from sret_jax.data.names import RowsByName, composed
from sret_jax.datasets.tables import csv_columns, from_harmless, numbered_csv
from sret_jax.errors import UserError
from sret_jax.storage.foreign import short

OWN = ("query", "rank", "photo")  # columns of `rankings.csv`
ENDINGS = (".jpg", ".jpeg", ".png", ".webp")


def without_ending(name: str) -> str:
    stem, _, ending = name.rpartition(".")
    return stem if stem and f".{ending.lower()}" in ENDINGS else name


def landmark_id(name: str) -> str:
    """The id of Google Landmarks in a file name or a path: `index/0/a/b/0ab....jpg` is `0ab...`."""
    return without_ending(name.strip().replace("\\", "/").rsplit("/", 1)[-1])


def named_lists(path: str | Path) -> Iterator[tuple[str, str, list[str]]]:
    """`(where in the file, query, names of its answers, best first)`, of a CSV file in one of two forms.

        id,images                  the images of a query are separated by spaces; a name with a space is quoted
        query,rank,photo,...       a line per answer, in any order

    Raises `UserError` naming the line that cannot be read, or a rank that is none or there twice.
    """
    if set(OWN) <= set(csv_columns(path)):
        return _ranked_lines(path)
    return _query_lines(path)


def _query_lines(path: str | Path) -> Iterator[tuple[str, str, list[str]]]:
    for number, row in numbered_csv(path, ("id", "images")):
        try:
            words = next(csv.reader([row["images"]], delimiter=" ", skipinitialspace=True, strict=True), [])
        except csv.Error as error:
            raise UserError(f"{path}, line {number}: images {row['images'][:80]!r} cannot be read ({error})") from None
        yield f"{path}, line {number}", row["id"], [word for word in words if word]


def _ranked_lines(path: str | Path) -> Iterator[tuple[str, str, list[str]]]:
    found: dict[str, dict[int, str]] = {}
    first: dict[str, str] = {}
    for number, row in numbered_csv(path, OWN):
        where, query = f"{path}, line {number}", from_harmless(row["query"])
        if not row["rank"].strip().isdecimal() or len(row["rank"]) > 18:
            raise UserError(f"{where}: rank {short(row['rank'])} is no number")
        first.setdefault(query, where)
        own, rank = found.setdefault(query, {}), int(row["rank"])
        if rank in own:
            raise UserError(f"{where}: query {query!r} has rank {rank} twice")
        own[rank] = from_harmless(row["photo"])
    for query, own in found.items():
        yield first[query], query, [own[rank] for rank in sorted(own)]


class Names:
    """Rows by name, also where a file of answers has an ending behind its names, or all of them below one folder."""

    def __init__(self, names: Iterable[str]):
        self.rows = RowsByName(list(names))
        bare = [composed(without_ending(name)) for name in self.rows]
        count = Counter(bare)
        self.bare = {name: row for row, name in enumerate(bare) if count[name] == 1}
        self.folder: str | None = None  # before the names of the file, as the first of them says

    def row(self, name: str) -> int | None:
        found = self._row(name)
        if found is None:
            folder = self._folder(name) if self.folder is None else self.folder
            if folder and name.startswith(folder):
                found = self._row(name[len(folder) :])
                if found is not None:
                    self.folder = folder
        return found

    def _row(self, name: str) -> int | None:
        return self.rows[name] if name in self.rows else self.bare.get(composed(without_ending(name)))

    def _folder(self, name: str) -> str:
        """The shortest beginning of a path without which it is known."""
        ends = [i + 1 for i, letter in enumerate(name) if letter == "/"]
        return next((name[:end] for end in ends if self._row(name[end:]) is not None), "")


def read_answers(
    path: str | Path,
    queries: Sequence[str],
    photos: Sequence[str],
    scored: Collection[int],
    distractors: bool = False,
) -> Int[np.ndarray, "q k"]:
    """Rankings by name, as photo indices, best first and -1 behind them.

    Args:
      path: a CSV file as `named_lists` takes it; a query without answers has a line without images.
      queries: the q names there are.
      photos: names of what is searched.
      scored: rows of the queries that have something to find, which have to be there.
      distractors: an unknown photograph is a distractor, numbered from `len(photos)` on; otherwise it is an error.

    Raises:
      UserError: names the line with a query or an image that is unknown or there twice, and queries that are missing.
    """
    rows, row = Names(queries), Names(photos)
    others: dict[str, int] = {}
    answers: dict[int, list[int]] = {}
    for where, name, names in named_lists(path):
        query = rows.row(name)
        if query is None:
            raise UserError(f"{where}: unknown query {name!r}; query names look like {queries[0]!r}")
        if query in answers:
            raise UserError(f"{where}: query {name!r} is answered twice")
        given = [row.row(photo) for photo in names]
        unknown = [photo for photo, found in zip(names, given, strict=True) if found is None]
        if unknown and not distractors:
            raise UserError(
                f"{where}: unknown photograph {unknown[0]!r} ({len(unknown)} such); names look like {photos[0]!r}, and "
                "a name with a space is quoted"
            )
        found = [
            others.setdefault(photo, len(photos) + len(others)) if i is None else i
            for photo, i in zip(names, given, strict=True)
        ]
        if more := len(found) - len(set(found)):
            twice = next(photo for i, photo in enumerate(names) if found[i] in found[:i])
            raise UserError(f"{where}: {twice!r} is named twice ({more} such); every photograph has one rank")
        answers[query] = found
    if missing := [queries[i] for i in sorted(scored) if i not in answers]:
        listed = ", ".join(map(repr, missing[:NAMED])) + (", …" if len(missing) > NAMED else "")
        raise UserError(
            f"{path}: {len(missing)} of the {len(scored)} queries are not in it ({listed}); one without answers has a "
            "line without images"
        )
    out = np.full((len(queries), max(map(len, answers.values()), default=0)), -1, np.int64)
    for i, found in answers.items():
        out[i, : len(found)] = found
    if others and not (out[out >= 0] < len(photos)).any():
        raise UserError(
            f"{path}: none of the benchmark's {len(photos)} photographs is ranked, but {len(others)} others like "
            f"{next(iter(others))!r}; names look like {photos[0]!r}"
        )
    return out
