"""What of their own photographs people ask for: a box, a click or a mask of each, from a file."""

import json
from pathlib import Path

import numpy as np

from sret_jax.data.photo_set import PhotoSet
from sret_jax.datasets.mask_file import read_mask
from sret_jax.errors import UserError
from sret_jax.localization.query_region import region_weights
from sret_jax.storage.files import Unreadable, read_file

FORM = '{"<photo>": [left, top, right, bottom] or [x, y] or "<mask>.png"}, pixels'


def read_regions(path: str | Path, queries: PhotoSet) -> dict[int, np.ndarray]:
    """Regions by row of the queries, each a box, a click or a mask as `query_region.region_weights` takes it.

    Args:
      path: a JSON file {"<photo>": [left, top, right, bottom] or [x, y] or "<mask>.png"}, pixels of the upright photo;
        masks lie beside it, in a form that `mask_file` reads. A photo that is not in it is a query as a whole.
      queries: their names and sizes.

    Raises:
      UserError: names the entry that is no region of its photo.
    """
    path = Path(path)
    try:
        entries = json.loads(read_file(path))
        if not isinstance(entries, dict):
            raise ValueError("it holds no object")
    except Unreadable as rejected:
        raise UserError(f"{path}: {rejected.reason}; give {FORM}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: no file of regions ({error}); give {FORM}") from None
    rows, out = {name: row for row, name in enumerate(queries.names)}, {}
    for name, region in entries.items():
        if name not in rows:
            raise UserError(f"{path}: unknown query {name!r}; query names look like {queries.names[0]!r}")
        height, width = queries.sizes[rows[name]].tolist()
        try:
            found = read_mask(path.parent / region, (height, width)) if isinstance(region, str) else _numbers(region)
            region_weights(found, (height, width), np.ones((1, 1), bool))  # says what is wrong with it
        except UserError as error:
            raise UserError(f"{path}: {name!r}: {error}") from None
        out[rows[name]] = found
    return out


def _numbers(region: object) -> np.ndarray:
    try:
        return np.asarray(region, np.float64).reshape(-1)
    except (ValueError, TypeError):
        raise UserError(f"no region; give {FORM}") from None
