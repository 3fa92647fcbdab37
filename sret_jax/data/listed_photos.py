"""The photographs that a benchmark lists, every one of them: on a part of a benchmark nothing is measured."""

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from sret_jax.data.image_folder import Found, content_key, plain_name, read_found
from sret_jax.data.photo_set import PhotoSet
from sret_jax.data.prepared import Index, PhotoBuilder, in_order, open_prepared, prepared
from sret_jax.errors import UserError

log = logging.getLogger(__name__)

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".JPG", "")  # in which a listed name is looked for
NAMED = 5  # of the photographs that are missing, in the error; the log has the others


class ListedPhotos(PhotoBuilder):
    """Writes the photographs of a list in its order, as they are; a single one that cannot be used is an error."""

    def __init__(self, benchmark: str, found: Sequence[Found], index: Index, data_dir: Path) -> None:
        self.benchmark, self.found = benchmark, found
        super().__init__(index, data_dir)

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        unusable = []
        for found, outcome in in_order(f"reading {self.benchmark}", read_found, self.found):
            if isinstance(outcome, str):
                unusable.append((found.name, outcome))
            elif not unusable:
                data, size = outcome
                yield self.index.add(found.name, found.instance, size, data), {"image": data, "name": found.name}
        if unusable:
            raise UserError(incomplete(self.benchmark, len(self.found), unusable))


Builder = Callable[[str, Sequence[Found], Index, Path], PhotoBuilder]


def prepare_listed(
    benchmark: str, root: Path, found: Sequence[Found], cache_dir: str | Path, builder: Builder = ListedPhotos
) -> PhotoSet:
    """The photographs of a list, in its order, read and checked once and kept in `cache_dir`.

    The set is the same whichever `builder` writes it: `ListedPhotos` on this machine, or `data/beam.py` on many.

    Raises `UserError` that names what is listed twice, missing or no photograph.
    """
    seen: set[str] = set()
    for entry in found:
        if entry.name in seen:
            raise UserError(f"{benchmark}: {entry.name!r} is listed twice; every photograph has one place in the list")
        seen.add(entry.name)
    missing = [(entry.name, entry.reason) for entry in found if entry.reason]
    if missing:
        raise UserError(incomplete(benchmark, len(found), missing))
    folder = Path(cache_dir) / "listed" / f"{plain_name(benchmark)}-{content_key(root, list(found), 'listed')}"
    prepared(folder, partial(builder, benchmark, found))
    return open_prepared(folder, benchmark)


def listed(folder: Path, name: str, instance: str | None = None) -> Found:
    """The entry of a list for the photograph `name` below `folder`, given there with or without its ending."""
    if name.startswith("/") or ".." in PurePosixPath(name).parts or not name.isprintable():
        return Found(name, "", instance, "not a name below the photo folder")
    for ending in ENDINGS:
        path = folder / (name + ending)
        if path.is_file():
            return Found(name, str(path), instance)
    return Found(name, str(folder / name), instance, f"not in {folder}")


def incomplete(benchmark: str, count: int, unusable: list[tuple[str, str]]) -> str:
    """What is missing of a benchmark, in words, from (name, reason) of each."""
    for name, reason in unusable[NAMED:]:
        log.warning("%s: %s: %s", benchmark, name, reason)
    examples = "; ".join(f"{name}: {reason}" for name, reason in unusable[:NAMED])
    more = "; …" if len(unusable) > NAMED else ""
    return (
        f"{benchmark}: {len(unusable)} of its {count} photographs cannot be used ({examples}{more}); "
        "it is measured on all of them or not at all, so complete the folder"
    )
