"""What has changed among the photographs of a source since it was last looked at, told by their stamps."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sret_jax.collection.shard import Shard
from sret_jax.collection.state import State
from sret_jax.data.files import UNCERTAIN, UNLISTED
from sret_jax.data.sources import PhotoSource


@dataclass(frozen=True)
class FoundFile:
    """A file that has to be read: it is new, or not what it was."""

    name: str
    stamp: tuple[int, int]


@dataclass(frozen=True)
class Changes:
    """What an update has to do.

    read      files that are new or may have changed
    gone      names of photographs that are no longer there
    skipped   (name, reason, stamp) of what cannot be a photograph, whatever it holds, where that is new
    unskipped names of skipped files that are no longer there
    """

    read: list[FoundFile]
    gone: list[str]
    skipped: list[tuple[str, str, tuple[int, int]]]
    unskipped: list[str]


def find_changes(source: PhotoSource, state: State, leave_out: Sequence[Path], shard: Shard | None = None) -> Changes:
    """What a source has that the state of its collection has not, and the other way round.

    Photographs below a folder, or in an archive, that cannot be listed are taken to be there still.

    Args:
      leave_out: folders that are not looked into, wherever they are: the collections' own.
      shard: whose photographs alone count.

    Raises `UserError` where the source cannot be reached.
    """
    read, skipped, there, unlisted = [], [], set(), []
    for entry in source.entries(shard.has if shard else None, leave_out):
        if entry.reason.startswith(UNLISTED):
            unlisted.append(entry.name + "/")
        if shard and not shard.has(entry.unit):
            continue
        there.add(entry.name)
        if entry.name in state.excluded:
            continue
        if entry.reason:
            if state.skipped.get(entry.name) != (entry.reason, entry.stamp):
                skipped.append((entry.name, entry.reason, entry.stamp))
        elif not _known(entry.name, entry.stamp, state):
            read.append(FoundFile(entry.name, entry.stamp))

    def is_gone(name: str) -> bool:
        return name in state.excluded or (name not in there and not name.startswith(tuple(unlisted)))

    gone = [name for name in state.live if is_gone(name)]
    return Changes(read, gone, skipped, [name for name in state.skipped if is_gone(name)])


def settled(stamp: tuple[int, int]) -> tuple[int, int]:
    """The stamp by which a file that is read now is known again, or one that nothing is known by."""
    return stamp if time.time_ns() - stamp[1] > UNCERTAIN else (stamp[0], 0)


def _known(name: str, stamp: tuple[int, int], state: State) -> bool:
    if name in state.live:
        return state.photos[state.live[name]].stamp == stamp
    return name in state.skipped and state.skipped[name][1] == stamp
