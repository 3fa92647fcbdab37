"""Which photographs of a folder show what is in one photograph, or in a box of it, and where?

    python examples/search_my_photos.py PHOTOS QUERY.jpg [--region LEFT TOP RIGHT BOTTOM] [--retriever=runs/mine]

`--retriever` is what training wrote; without it, the weights that come with the package describe the photographs. The
collection is kept in `runs/collections`, so that the second query costs the second query.
"""

import argparse
from pathlib import Path

import sret_jax


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("query", type=Path)
    parser.add_argument("--region", type=int, nargs=4, help="of the query, pixels")
    parser.add_argument("--retriever", help="a workdir that training wrote")
    parser.add_argument("--answers", type=int, default=5)
    given = parser.parse_args()

    collection = sret_jax.Collection.open(given.photos, retriever=given.retriever)
    collection.update()
    for file, reason in collection.status().skipped:
        print(f"left out: {file}: {reason}")
    for answer in collection.search(given.query, given.region, k=given.answers).answers:
        print(f"{answer.score:.3f}  {answer.name}  {answer.box if answer.found else 'not found'}")


if __name__ == "__main__":
    main()
