"""Finds the photographs of a collection that show a thing in a photograph.

    sret search QUERY [--region=LEFT,TOP,RIGHT,BOTTOM | X,Y | MASK.png | object] [--k=20] [--collection=NAME]
                      [--verify] [--json]

QUERY is a file, or the name of a photograph of the collection. The region is what is looked for, in pixels of the
upright photograph: a box, a click, or a mask that shows it; `object` is the one that stands out in it, by object
discovery; without a region all of the photograph is looked for. A line of the output
holds the cosine, the name, and where the object is (left, top, right, bottom), or that it was not found.

`--verify` puts the first 50 answers in a new order by spatial verification, and says the inliers of each before its
name. The collection has to keep local features: `sret index PHOTOS --local=sift`.

`--json` prints what `POST /search` of `sret serve` answers, with every answer on a line of its own.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from sret_jax.cli.collections import add_name, collection_folder, is_file, parser, shown
from sret_jax.collection.answers import Answer, Found
from sret_jax.errors import UserError, did_you_mean


def main(words: Sequence[str]) -> None:
    arguments = parser("search", __doc__)
    add_name(arguments)
    arguments.add_argument("query", help="a file, or the name of a photograph of the collection")
    arguments.add_argument("--region", default="", help="what of it is looked for: a box, a click, a mask, or `object`")
    arguments.add_argument("--k", type=int, default=20, help="answers (%(default)s)")
    arguments.add_argument("--start", type=int, default=0, help="answers that are passed over (%(default)s)")
    arguments.add_argument("--no-mark", action="store_true", help="do not look for the object in the answers")
    arguments.add_argument("--verify", action="store_true", help="order the first answers by spatial verification")
    arguments.add_argument("--json", action="store_true", help="print JSON")
    given = arguments.parse_args(words)
    from sret_jax.collection.collection import Collection  # JAX with it, which takes seconds
    from sret_jax.data.regions import Region
    from sret_jax.localization.region_file import region_of

    collection = Collection(collection_folder(given))
    path = os.path.expanduser(given.query)
    query = Path(path) if is_file(path) else given.query
    if isinstance(query, str) and (names := collection.names) and query not in names:
        near = did_you_mean(query, names)
        raise UserError(f"{query}: no such file, and no photograph of the collection {collection.name}{near}")
    region: Region = None
    box = None
    if given.region == "object":
        region = box = collection.object_in(query)
        print(f"object at {','.join(map(str, box))}", file=sys.stderr)
    elif given.region:
        region = region_of(given.region, collection.query_size(query))
    how = {"mark": not given.no_mark, "verify": given.verify}
    found = collection.search(query, region, k=given.k, start=given.start, **how)
    if given.json:
        print(one_a_line(found, given.start, given.k, box))
        return
    for answer in found.answers:
        inliers = f"{'-' if answer.inliers is None else answer.inliers:>5}  " if given.verify else ""
        print(f"{answer.score:6.3f}  {inliers}{shown(answer.name)}  {where(answer)}".rstrip())
    if not found.answers:
        print(f"no answers from {given.start} on", file=sys.stderr)


def one_a_line(found: Found, start: int, k: int, discovered: tuple[int, int, int, int] | None) -> str:
    """What `POST /search` answers, with every answer on a line of its own."""
    from sret_jax.server.results import search_result

    about = search_result(found, start, k, discovered)
    lines = [json.dumps(answer) for answer in about.pop("answers")]
    return json.dumps(about)[:-1] + ', "answers": [\n' + ",\n".join(lines) + "\n]}"


def where(answer: Answer) -> str:
    if answer.found is None:
        return ""
    return ",".join(map(str, answer.box)) if answer.box else "not found"
