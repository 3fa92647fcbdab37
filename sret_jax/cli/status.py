"""Says what is in the collections.

    sret status [--collection=NAME] [--json]

With a name, or where there is one collection only, files that are not used and photographs that were taken out are
listed too.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from sret_jax.cli.collections import add_name, collection_folder, parser
from sret_jax.collection.collection import Collection, Status


def main(words: Sequence[str]) -> None:
    arguments = parser("status", __doc__)
    add_name(arguments)
    arguments.add_argument("--json", action="store_true", help="print JSON")
    given = arguments.parse_args(words)
    folders = sorted(path.parent for path in Path(given.workdir).glob("*/collection.json"))
    if given.collection or len(folders) < 2:
        folders = [collection_folder(given)]
    found = [Collection(folder).status() for folder in folders]
    if given.json:
        print(json.dumps([dataclasses.asdict(status) for status in found], ensure_ascii=False, indent=1))
        return
    for status in found:
        print(f"{status.name}: {status.photos} photographs of {status.root}, {updated(status)}")
        if len(found) == 1:
            for name, reason in status.skipped:
                print(f"  not used: {name}: {reason}")
            for name in status.excluded:
                print(f"  taken out: {name}")
        elif status.skipped or status.excluded:
            print(f"  {len(status.skipped)} files not used, {len(status.excluded)} photographs taken out")


def updated(status: Status) -> str:
    return f"up to date of {status.updated}" if status.updated else "never brought up to date to its end"
