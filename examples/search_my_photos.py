"""Which photographs of a folder show what one photograph shows?

    python examples/search_my_photos.py PHOTOS QUERY.jpg [--retriever=runs/mine] [--answers=5]

`--retriever` is what training wrote; without it, the weights that come with the package describe the photographs. The
index is kept beside the folder's name in `index/`, so that the second query costs the second query.
"""

import argparse
from pathlib import Path

import sret_jax


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("query", type=Path)
    parser.add_argument("--retriever", default="spatial-context-lite0", help="or a workdir that training wrote")
    parser.add_argument("--answers", type=int, default=5)
    given = parser.parse_args()

    retriever = sret_jax.load(given.retriever)
    photos = sret_jax.open_photos(given.photos)
    for file, reason in photos.skipped:
        print(f"left out: {file}: {reason}")
    descriptors = retriever.extract(photos, Path("index") / photos.name).descriptors
    index = sret_jax.Index.build(descriptors, photos.names)
    found = index.search(retriever.describe(sret_jax.open_photos(given.query)), k=min(given.answers, len(photos)))
    for name, score in zip(found.names(0), found.scores[0], strict=True):
        print(f"{score:.3f}  {name}")


if __name__ == "__main__":
    main()
