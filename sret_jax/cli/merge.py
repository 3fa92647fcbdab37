"""Makes one collection of shards that were described apart.

    sret merge PHOTOS [--name=NAME]

`sret index PHOTOS --shard=NUMBER/OF` describes each of them, on whatever machine, and leaves it in
WORKDIR/NAME/shards; where machines share no disk, copy their folders there. Every row is checked while it is copied.
The collection is what `sret index PHOTOS` would have made of all, and goes on as one; the shards can be deleted.
"""

from collections.abc import Sequence

from sret_jax.cli.collections import parser
from sret_jax.config.paths import expanded


def main(words: Sequence[str]) -> None:
    arguments = parser("merge", __doc__)
    arguments.add_argument("photos", type=expanded, help="the folder of the photographs")
    arguments.add_argument("--name", default="", help="of the collection; by default the folder's")
    given = arguments.parse_args(words)
    from sret_jax.collection.collection import Collection  # JAX with it, which takes seconds

    merged = Collection.merge(given.photos, workdir=given.workdir, name=given.name)
    print(f"{merged.name}: {merged.status().photos} photographs of {merged.root}")
