"""The dict that `numpy.save` wrote to a .npy file, read as data: the pickle inside of it can name no Python object."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from sret_jax.errors import UserError
from sret_jax.storage.files import Unreadable, read_file
from sret_jax.storage.numpy_pickle import NUMPY, OPCODES, NumpyUnpickler, PickledArray, PickledDtype
from sret_jax.storage.plain_pickle import MALFORMED, Refused, Stream

MAX_BYTES = 1 << 30  # a mask's polygon in full is 10 KiB, and PRParis has 17,000 pairs
MAX_READS = 40_000_000  # parts of the pickle: polygons of a hundred points for 5,000 pairs need two million
MAX_DEPTH = 8


def _array(kind: Any, *_: Any) -> Any:
    return _Either() if kind is NUMPY["numpy", "ndarray"] else NUMPY["numpy._core.multiarray", "_reconstruct"](kind)


class _Either(PickledArray):
    """Of numbers, or of objects in a flat list: its state tells."""

    content: list[Any] | None = None


def _dtype(name: Any, *_: Any) -> PickledDtype:
    if name in ("O", "O8"):
        made = PickledDtype("u1")
        made.value = np.dtype(object)
        return made
    return NUMPY["numpy", "dtype"](name)


class _Unpickler(NumpyUnpickler):
    known = (
        NUMPY
        | {("numpy", "dtype"): _dtype}
        | {(f"numpy.{c}.multiarray", "_reconstruct"): _array for c in ("core", "_core")}
    )

    def load_build(self) -> None:
        state, made = self.stack[-1], self.stack[-2]
        if isinstance(made, PickledDtype) and made.value.hasobject:
            self.stack.pop()
        elif isinstance(made, _Either) and isinstance(state, tuple) and len(state) == 5 and type(state[4]) is list:
            made.content = self.stack.pop()[4]
        else:
            super().load_build()


_Unpickler.dispatch = _Unpickler.table(OPCODES, {"BUILD": _Unpickler.load_build})


def read_npy_dict(path: str | Path) -> dict[str, Any]:
    """The dict of a file written by `numpy.save(path, dict)`, with text as keys; arrays in it become arrays.

    Raises `UserError` with the reason for anything else, including a pickle that names a Python object.
    """
    try:
        data = read_file(path, MAX_BYTES)  # from a regular file of bounded size, whatever it holds
        header = io.BytesIO(data)
        version = np.lib.format.read_magic(header)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(header)
        if shape != () or not dtype.hasobject:
            raise Refused(f"it holds {dtype} {list(shape)}, not one dict")
        root = _Unpickler(Stream(data[header.tell() :], MAX_READS), encoding="latin1").load()
        if not isinstance(root, _Either) or not root.content or not isinstance(root.content[0], dict):
            raise Refused("it holds no dict")
        return {key: _plain(value, MAX_DEPTH) for key, value in root.content[0].items() if type(key) is str}
    except Unreadable as rejected:
        raise UserError(f"{path}: {rejected.reason}; give the .npy file of a dict") from None
    except MALFORMED as error:
        reason = str(error) if isinstance(error, Refused) else f"damaged, or no .npy file ({type(error).__name__})"
        raise UserError(f"{path}: refused: {reason}; write it with numpy.save(path, dict)") from None


def _plain(value: Any, depth: int) -> Any:
    if depth == 0:
        raise Refused("its lists are nested too deeply")
    if isinstance(value, _Either):
        return [_plain(v, depth - 1) for v in value.content] if value.content is not None else value.value
    if isinstance(value, list | tuple):
        return [_plain(v, depth - 1) for v in value]
    if isinstance(value, dict):
        return {k: _plain(v, depth - 1) for k, v in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise Refused("it holds something that is no list, dict, text, number or array")
