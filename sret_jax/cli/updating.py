"""How `sret index` brings a collection up to date, and what it says of it."""

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sret_jax.cli.collections import shown
from sret_jax.collection.collection import Collection
from sret_jax.collection.update import Progress as Tell
from sret_jax.collection.update import Update

SHOWN = 5  # skipped files that are named


def update(collection: Collection, forget: bool) -> None:
    with progress(collection.name) as tell:
        done = collection.update(tell, forget)
    print(summary(collection, done))


@contextlib.contextmanager
def progress(what: str) -> Iterator[Tell]:
    """Shows on a terminal how many files are read."""
    screen = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task(f"{what}: reading photographs", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def summary(collection: Collection, done: Update) -> str:
    """What an update did, in words."""
    moved = len(done.renamed)
    counts = [("added", len(done.added) - moved), ("changed", len(done.changed))]
    counts += [("renamed", moved), ("removed", len(done.removed) - moved)]
    counts.append(("given local features", len(done.completed)))
    said = ", ".join(f"{count} {what}" for what, count in counts if count) or "nothing new"
    status = collection.status()
    lines = [f"{collection.name}: {status.photos} photographs of {collection.root} ({said})"]
    if status.skipped:
        lines.append(f"{len(status.skipped)} files are no photographs that can be used:")
        few = len(status.skipped) <= SHOWN + 1  # a line that says there is one more takes as much as that one
        lines += [f"  {shown(name)}: {reason}" for name, reason in status.skipped[: None if few else SHOWN]]
        if not few:
            lines.append("  … `sret status` lists all")
    return "\n".join(lines)
