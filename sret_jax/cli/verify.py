"""Checks that what is stored of a collection is what was written; every byte is read.

    sret verify [--mend] [--collection=NAME]

Ends with exit code 1 where something is damaged, and names the photographs. With `--mend` what is stored of them is
forgotten, and the next `sret index` describes them again.
"""

import sys
from collections.abc import Sequence

from sret_jax.cli.collections import add_name, collection_folder, parser, shown


def main(words: Sequence[str]) -> None:
    arguments = parser("verify", __doc__)
    add_name(arguments)
    arguments.add_argument("--mend", action="store_true", help="forget what is damaged, to be described again")
    given = arguments.parse_args(words)
    from sret_jax.collection.collection import Collection  # JAX with it, which takes seconds

    collection = Collection(collection_folder(given))
    damaged = collection.verify(mend=given.mend)
    for name in damaged:
        print(f"damaged: {shown(name)}")
    if damaged and given.mend:
        print(f"{collection.name}: {len(damaged)} photographs are described again by the next `sret index`")
        return
    if damaged:
        print(f"{collection.name}: what is stored of {len(damaged)} photographs is damaged; `sret verify --mend`")
        sys.exit(1)
    print(f"{collection.name}: all that is stored of {collection.status().photos} photographs is as it was written")
