"""What of their own photographs people ask for: a box, a click or a mask of each, from a file."""

import os
from pathlib import Path

import numpy as np

from sret_jax.data.names import RowsByName, on_disk
from sret_jax.data.photo_set import PhotoSet
from sret_jax.data.regions import checked_region
from sret_jax.datasets.mask_file import read_mask
from sret_jax.errors import UserError
from sret_jax.storage.files import Unreadable, named
from sret_jax.storage.foreign import a_text, an_object, numbers, read_json, short

FORM = '{"<photo>": [left, top, right, bottom] or [x, y] or "<mask>.png"}, pixels'


def read_regions(path: str | Path, queries: PhotoSet) -> dict[int, np.ndarray]:
    """Regions by row of the queries, each a box, a click or a mask as in `data.regions`.

    Args:
      path: a JSON file {"<photo>": [left, top, right, bottom] or [x, y] or "<mask>.png"}, pixels of the upright photo;
        masks lie beside it, in a form that `mask_file` reads. A photo that is not in it is a query as a whole.
      queries: their names and sizes.

    Raises:
      UserError: names the entry that is no region of its photo.
    """
    path = Path(path)
    with named(path, f"it is no file of regions; give {FORM}"):
        entries = an_object(read_json(path), "it")
    rows, out = RowsByName(queries.names), {}
    for name, region in entries.items():
        if name not in rows:
            raise UserError(f"{path}: unknown query {short(name)}; query names look like {queries.names[0]!r}")
        if rows[name] in out:
            raise UserError(f"{path}: {name!r} is there twice, its accents written in two ways; keep one")
        height, width = queries.sizes[rows[name]].tolist()
        try:
            if isinstance(region, str):
                found = read_mask(on_disk(path.parent, a_text(region, "the mask")), (height, width))
            else:
                found = np.array(numbers(region, "the region", 2, 4))
            checked_region(found, (height, width))  # says what is wrong with it
        except Unreadable as rejected:
            raise UserError(f"{path}: {name!r}: {rejected.reason}; give {FORM}") from None
        except UserError as error:
            raise UserError(f"{path}: {name!r}: {error}") from None
        out[rows[name]] = found
    return out


def region_of(text: str, size: tuple[int, int]) -> np.ndarray:
    """A region as it is written on a command line: `left,top,right,bottom`, `x,y`, or the file of a mask.

    Args:
      size: (height, width) of its photograph, pixels.

    Raises:
      UserError: it is none of the photograph.
    """
    try:
        found = np.array([float(number) for number in text.split(",")])
    except ValueError:
        if len(text) > 1000 or not os.path.isfile(text):
            raise UserError(f"region {text[:100]!r}: give LEFT,TOP,RIGHT,BOTTOM or X,Y or the file of a mask") from None
        found = read_mask(Path(text), size)
    checked_region(found, size)  # says what is wrong with it
    return found
