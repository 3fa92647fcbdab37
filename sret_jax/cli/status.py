"""Says what is in the collections.

    sret status [--collection=NAME] [--json]

With a name, or where there is one collection only, files that are not used and photographs that were taken out are
listed too.
"""

import dataclasses
import json
from collections.abc import Sequence

from sret_jax.cli.collections import add_name, collection_folders, in_each, parser, shown
from sret_jax.collection.answers import Status
from sret_jax.config.names import STORES


def main(words: Sequence[str]) -> None:
    arguments = parser("status", __doc__)
    add_name(arguments)
    arguments.add_argument("--json", action="store_true", help="print JSON")
    given = arguments.parse_args(words)
    from sret_jax.collection.collection import Collection  # JAX with it, which takes seconds

    folders = collection_folders(given)
    found: list[Status] = []
    try:
        in_each(folders, lambda folder: found.append(Collection(folder).status()))
    finally:  # one that fails hides no other
        if given.json:
            print(json.dumps([dataclasses.asdict(status) for status in found], ensure_ascii=False, indent=1))
        else:
            tell(found, whole=len(folders) == 1)


def tell(found: Sequence[Status], whole: bool) -> None:
    """Prints each; `whole`: with the names of what is not searched."""
    for status in found:
        print(f"{status.name}: {status.photos} photographs of {status.root}, {updated(status)}")
        if search := searched(status):
            print(f"  search: {search}")
        if status.local:
            print(f"  local features: {status.local}")
        if whole:
            for name, reason in status.skipped:
                print(f"  not used: {shown(name)}: {reason}")
            for name in status.excluded:
                print(f"  taken out: {shown(name)}")
        elif status.skipped or status.excluded:
            print(f"  {len(status.skipped)} files not used, {len(status.excluded)} photographs taken out")


def searched(status: Status) -> str:
    """How it is searched, where somebody asked for something: a store or a recall."""
    by = f"by {status.store}" if status.store not in ("", STORES[0]) else ""
    recall = f"recall@10 {status.recall:.4g} on its own photographs" if status.recall else ""
    if not by and not recall:
        return ""
    return ", ".join(filter(None, [" ".join(filter(None, [status.search, by])), recall]))


def updated(status: Status) -> str:
    return f"up to date of {status.updated}" if status.updated else "never brought up to date to its end"
