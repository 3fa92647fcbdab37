"""One collection of shards that were described apart: copied and checked row by row, ordered by name."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sret_jax.collection.place import read_about
from sret_jax.collection.shard import NOTES, SHARDS, Shard
from sret_jax.collection.store import Store, write_generation
from sret_jax.collection.view import has_photos
from sret_jax.errors import UserError

SHOWN = 5  # shards that are named in an error


class DescribedShard(NamedTuple):
    """What is written of a shard, and its photographs."""

    about: dict[str, Any]
    store: Store


def finished_shards(folder: Path) -> list[DescribedShard]:
    """All shards of a collection, in their order.

    Raises `UserError` where one is missing, has not been brought up to date to its end, or was described otherwise than
    the first; `DamagedError` where one is not what was written.
    """
    there = {path.parent: read_about(path.parent) for path in folder.glob(f"{SHARDS}/*/collection.json")}
    if not there:
        raise UserError(f"{folder / SHARDS}: no shards there; `sret index PHOTOS --shard=NUMBER/OF` makes one")
    found = {Shard.parse(about["shard"]): (place, about) for place, about in there.items()}
    of = min(shard.of for shard in found)
    if others := sorted({shard.of for shard in found} - {of}):
        raise UserError(f"{folder / SHARDS}: shards of {of} and of {others[0]}; delete those that do not count")
    wanted = [Shard(number, of) for number in range(of)]
    for what, without in (
        ("not there", [shard for shard in wanted if shard not in found]),
        ("not finished", [shard for shard in wanted if shard in found and "updated" not in found[shard][1]]),
    ):
        if without:
            named = ", ".join(map(str, without[:SHOWN])) + (", …" if len(without) > SHOWN else "")
            raise UserError(
                f"{folder / SHARDS}: {what}: {named}; `sret index PHOTOS --shard={without[0]}` describes it"
            )
    shards = [DescribedShard(about, Store(place)) for place, about in map(found.__getitem__, wanted)]
    first = shards[0].store
    for _, store in shards:
        if store.state.header != first.state.header:
            raise UserError(
                f"{store.folder}: described by another retriever, or with other local features, than "
                f"{first.folder.name}; index both with the same"
            )
    return shards


def merge_shards(folder: Path, shards: Sequence[DescribedShard]) -> None:
    """Makes the photographs of shards those of the collection in `folder`, of whoever holds its lock.

    What a person took out of it, by name or by content, stays out. Raises as `write_generation`.
    """
    excluded = dict(Store(folder).state.excluded) if has_photos(folder) else {}
    contents = {digest for digest in excluded.values() if digest}
    states = [(store, store.state) for _, store in shards]
    skipped = {name: why for _, state in states for name, why in state.skipped.items() if name not in excluded}
    rows = {
        name: (store, row)
        for store, state in states
        for name, row in state.live.items()
        if name not in excluded and state.photos[row].digest not in contents
    }
    for _, store in shards:
        if (store.folder / NOTES).is_dir():
            shutil.copytree(store.folder / NOTES, folder / NOTES, dirs_exist_ok=True)
    write_generation(folder, shards[0].store.state.header, [rows[name] for name in sorted(rows)], skipped, excluded)
