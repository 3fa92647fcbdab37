"""What the commands about collections share: which one is meant."""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from sret_jax.config.paths import expanded
from sret_jax.errors import UserError, choices
from sret_jax.storage.workdir import COLLECTIONS


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every command does."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def parser(command: str, doc: str | None) -> argparse.ArgumentParser:
    """Of a command that is about one collection."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("PIL").setLevel(logging.CRITICAL)  # it names no file; what it cannot read is a skipped one
    out = Parser(f"sret {command}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument(
        "--workdir", type=expanded, default=str(COLLECTIONS), help="where collections are kept (%(default)s)"
    )
    return out


def add_name(to: argparse.ArgumentParser) -> None:
    to.add_argument("--collection", default="", metavar="NAME", help="which; needed where there are several")


def collection_folders(given: argparse.Namespace) -> list[Path]:
    """Those of all collections, or of the one that is named."""
    folders = sorted(path.parent for path in Path(given.workdir).glob("*/collection.json"))
    return [collection_folder(given)] if given.collection or not folders else folders


def in_each(folders: Sequence[Path], act: Callable[[Path], None]) -> None:
    """Does it to every collection; what fails in one is said, and the others are done. Raises the last failure."""
    failure: UserError | None = None
    for folder in folders:
        try:
            act(folder)
        except UserError as error:
            if len(folders) == 1:
                raise
            print(f"{folder.name}: {error}", file=sys.stderr)
            failure = error
    if failure:
        raise UserError(f"not all of the {len(folders)} collections: {failure}")


def is_file(text: str) -> bool:
    """Whether it is the path of a file; text that can be no path is none."""
    try:
        return Path(text).is_file()
    except (OSError, ValueError):
        return False


def shown(name: str) -> str:
    """A name as a terminal may show it."""
    return name if name.isprintable() else name.encode("unicode_escape").decode()


def collection_folder(given: argparse.Namespace) -> Path:
    """The folder of the collection that is meant. Raises `UserError` that lists them where that is not clear."""
    workdir = Path(given.workdir)
    names = sorted(path.parent.name for path in workdir.glob("*/collection.json"))
    if not names:
        raise UserError(f"no collection in {workdir}; `sret index PHOTOS` makes one")
    if not given.collection and len(names) > 1:
        raise UserError(f"{workdir} has several collections; give --collection= one of {', '.join(names)}")
    if given.collection and given.collection not in names:
        raise UserError(f"--collection: no collection {choices(given.collection, names)}")
    return workdir / (given.collection or names[0])
