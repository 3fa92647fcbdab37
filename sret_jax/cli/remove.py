"""Takes photographs out of a collection.

    sret remove NAME [NAME ...] [--undo] [--collection=NAME]

Names are those that `sret search` prints. The files stay where they are, and `sret index` does not bring them back;
with `--undo` it does.
"""

from collections.abc import Sequence

from sret_jax.cli.collections import add_name, collection_folder, parser


def main(words: Sequence[str]) -> None:
    arguments = parser("remove", __doc__)
    add_name(arguments)
    arguments.add_argument("names", nargs="+", help="of the photographs")
    arguments.add_argument("--undo", action="store_true", help="let `sret index` bring them back")
    given = arguments.parse_args(words)
    from sret_jax.collection.collection import Collection  # JAX with it, which takes seconds

    collection, names = Collection(collection_folder(given)), list(dict.fromkeys(given.names))
    if given.undo:
        collection.restore(names)
        print(f"{collection.name}: {len(names)} photographs come back with the next `sret index`")
    else:
        collection.remove(names)
        print(f"{collection.name}: {collection.status().photos} photographs left")
