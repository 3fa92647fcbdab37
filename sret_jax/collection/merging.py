"""One collection of shards that were described apart: copied and checked row by row, ordered by name."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sret_jax.collection.place import read_about
from sret_jax.collection.shard import SHARDS, Shard
from sret_jax.collection.store import Store
from sret_jax.errors import UserError

SHOWN = 5  # shards that are named in an error


def finished_shards(folder: Path) -> list[tuple[dict[str, Any], Store]]:
    """Of a collection, all of them, in order: what is written of each, and its store.

    Raises `UserError` where one is missing, has not been brought up to date to its end, or was described otherwise than
    the first; `DamagedError` where one is not what was written.
    """
    abouts = [read_about(path.parent) | {"folder": path.parent} for path in folder.glob(f"{SHARDS}/*/collection.json")]
    if not abouts:
        raise UserError(f"{folder / SHARDS}: no shards there; `sret index PHOTOS --shard=NUMBER/OF` makes one")
    found = {Shard.parse(about["shard"]): about for about in abouts}
    of = min(shard.of for shard in found)
    if others := sorted({shard.of for shard in found} - {of}):
        raise UserError(f"{folder / SHARDS}: shards of {of} and of {others[0]}; delete those that do not count")
    wanted = [Shard(number, of) for number in range(of)]
    for what, without in (
        ("not there", [shard for shard in wanted if shard not in found]),
        ("not finished", [shard for shard in wanted if "updated" not in found.get(shard, {"updated": ""})]),
    ):
        if without:
            named = ", ".join(map(str, without[:SHOWN])) + (", …" if len(without) > SHOWN else "")
            raise UserError(
                f"{folder / SHARDS}: {what}: {named}; `sret index PHOTOS --shard={without[0]}` describes it"
            )
    parts = [(found[shard], Store(found[shard]["folder"])) for shard in wanted]
    for about, store in parts:
        if store.state.header != parts[0][1].state.header:
            raise UserError(
                f"{about['folder']}: described by another retriever, or with other local features, than "
                f"{parts[0][0]['folder'].name}; index both with the same"
            )
    return parts


def rows_by_name(stores: Sequence[Store], excluded: Mapping[str, str]) -> list[tuple[Store, int]]:
    """The photographs of stores, by name; without those that a person took out, by name or by content."""
    contents = {digest for digest in excluded.values() if digest}
    rows = [(name, store, row) for store in stores for name, row in store.state.live.items() if name not in excluded]
    kept = [(name, store, row) for name, store, row in rows if store.state.photos[row].digest not in contents]
    return [(store, row) for _, store, row in sorted(kept, key=lambda entry: entry[0])]
