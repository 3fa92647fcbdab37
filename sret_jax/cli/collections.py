"""What the commands about collections share: which one is meant."""

import argparse
import logging
from pathlib import Path
from typing import NoReturn

from sret_jax.config.paths import expanded
from sret_jax.errors import UserError, choices

WORKDIR = "runs/collections"


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every command does."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def parser(command: str, doc: str | None) -> argparse.ArgumentParser:
    """Of a command that is about one collection."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    out = Parser(f"sret {command}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument("--workdir", type=expanded, default=WORKDIR, help="where collections are kept (%(default)s)")
    return out


def add_name(to: argparse.ArgumentParser) -> None:
    to.add_argument("--collection", default="", metavar="NAME", help="which; needed where there are several")


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
