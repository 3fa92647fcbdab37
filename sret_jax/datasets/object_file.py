"""The dict that `numpy.save` wrote to a .npy file, read as data: the pickle inside of it can name no Python object."""

import io
from pathlib import Path
from typing import Any

from sret_jax.errors import UserError
from sret_jax.storage.files import Unreadable, read_file
from sret_jax.storage.foreign import npy_header, short
from sret_jax.storage.object_pickle import read_objects
from sret_jax.storage.plain_pickle import MALFORMED, Refused

MAX_BYTES = 1 << 30  # a mask's polygon in full is 10 KiB, and PRParis has 17,000 pairs
MAX_READS = 12_000_000  # parts of the pickle: polygons of a hundred points for 5,000 pairs need two million


def read_npy_dict(path: str | Path) -> dict[str, Any]:
    """The dict of a file written by `numpy.save(path, dict)`, with text as keys; arrays in it become arrays.

    Raises `UserError` with the reason for anything else, including a pickle that names a Python object.
    """
    try:
        data = read_file(path, MAX_BYTES)  # from a regular file of bounded size, whatever it holds
        header = io.BytesIO(data)
        shape, _, dtype = npy_header(header)
        if shape != () or not dtype.hasobject:
            raise Refused(f"it holds {short(str(dtype))} {short(list(shape))}, not one dict")
        root = read_objects(data[header.tell() :], MAX_READS, keep_arrays=True)  # an array of one object
        if not isinstance(root, list) or not root or not isinstance(root[0], dict):
            raise Refused("it holds no dict")
        return root[0]
    except Unreadable as rejected:
        raise UserError(f"{path}: refused: {rejected.reason}; write it with numpy.save(path, dict)") from None
    except MALFORMED as error:
        reason = str(error) if isinstance(error, Refused) else f"damaged, or no .npy file ({type(error).__name__})"
        raise UserError(f"{path}: refused: {reason}; write it with numpy.save(path, dict)") from None
