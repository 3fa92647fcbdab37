"""Names of photographs that people and other programs write: `é` is one character or two, and both mean the same file.

macOS and some archives write names decomposed, keyboards compose them. Names are compared in the composed form (NFC),
shown as they are on the disk, and files are opened by the name that the disk has.
"""

import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sret_jax.errors import UserError


def composed(name: str) -> str:
    """The form in which names are compared."""
    return unicodedata.normalize("NFC", name)


class RowsByName(Mapping[str, int]):
    """Name -> its place among `names`, however it is composed.

    Two names that differ in their composition alone stay two: each is found as it is written. Written in a third form
    they are a `UserError` that names both.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._exact = {name: row for row, name in enumerate(names)}
        self._alike: dict[str, list[str]] = {}
        for name in self._exact:
            if not name.isascii():
                self._alike.setdefault(composed(name), []).append(name)

    def __getitem__(self, name: str) -> int:
        if name in self._exact:
            return self._exact[name]
        found = self._alike.get(composed(name), [])
        if len(found) > 1:
            raise UserError(
                f"{name!r} fits {len(found)} names that differ only in how accents are written: "
                f"{', '.join(map(ascii, found))}; rename one of them"
            )
        if not found:
            raise KeyError(name)
        return self._exact[found[0]]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name in self._exact or composed(name) in self._alike)

    def __iter__(self) -> Iterator[str]:
        return iter(self._exact)

    def __len__(self) -> int:
        return len(self._exact)


def on_disk(folder: Path, name: str) -> Path:
    """`folder / name` as the disk writes it; where there is no such file, or several, as it was given."""
    path = folder / name
    if name.isascii() or os.path.lexists(path):
        return path
    for part in Path(name).parts:
        found = folder / part
        if not os.path.lexists(found):
            try:
                alike = [entry for entry in os.listdir(folder) if composed(entry) == composed(part)]
            except OSError:
                return path
            if len(alike) != 1:
                return path
            found = folder / alike[0]
        folder = found
    return folder
