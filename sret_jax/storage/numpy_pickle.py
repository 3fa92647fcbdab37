"""Reads numpy's arrays and numbers in a pickle as data, besides the lists, dicts, text and numbers of `plain_pickle`.

The globals by which a pickle names them stand for functions of this file; any other is refused by its name.
"""

import math
from typing import Any

import numpy as np

from sret_jax.storage.plain_pickle import PlainUnpickler, Refused

MAX_COUNT = 4 << 30  # values of an array, or elements along one of its axes
OPCODES = "BINBYTES SHORT_BINBYTES GLOBAL STACK_GLOBAL REDUCE BUILD"  # beside those of plain values
_TYPES = {f"{kind}{size}" for kind in "iuf" for size in (1, 2, 4, 8)} - {"f1"} | {"b1"}
_NDARRAY = object()  # stands for the class; nothing can be done with it


class PickledDtype:
    """Type of a numpy array; its byte order arrives later, as its state."""

    def __init__(self, name: str):
        self.value = np.dtype(name)


class PickledArray:
    """A numpy array whose content arrives as its state."""

    value: np.ndarray | None = None


def count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= MAX_COUNT:
        raise Refused("a tensor whose geometry is not made of small natural numbers")
    return value


def _latin1(text: Any, encoding: Any = "latin1") -> bytes:
    """Bytes, as the older pickle protocols write them."""
    if type(text) is not str or encoding != "latin1":
        raise Refused("a text in another encoding than latin1")
    return text.encode("latin1")


def _no_bytes(*content: Any) -> bytes:
    if content:
        raise Refused("bytes made of a Python object")
    return b""


def _dtype(name: Any, *_: Any) -> PickledDtype:
    if type(name) is not str or name not in _TYPES:
        raise Refused(f"a numpy array of type {str(name)[:20]!r}, which is not a plain number")
    return PickledDtype(name)


def _array(kind: Any, *_: Any) -> PickledArray:
    if kind is not _NDARRAY:
        raise Refused("a numpy array of another class")
    return PickledArray()


def _scalar(dtype: Any, data: Any) -> int | float | bool:
    if not isinstance(dtype, PickledDtype) or type(data) is not bytes or len(data) != dtype.value.itemsize:
        raise Refused("a numpy number whose bytes do not fit its type")
    return np.frombuffer(data, dtype.value)[0].item()


def fill_array(array: PickledArray, state: Any) -> None:
    """Sets an array from numpy's (version, shape, type, Fortran order, bytes)."""
    if not isinstance(state, tuple) or len(state) != 5:
        raise Refused("a numpy array with an unknown state")
    _, shape, dtype, fortran, data = state
    if (
        not isinstance(shape, tuple)
        or not isinstance(dtype, PickledDtype)
        or dtype.value.hasobject
        or type(data) is not bytes
        or len(shape) > 16
    ):
        raise Refused("a numpy array without shape, type and bytes")
    if math.prod(map(count, shape)) * dtype.value.itemsize != len(data):
        raise Refused(f"a numpy array of shape {list(shape)} with {len(data)} bytes")
    array.value = np.frombuffer(data, dtype.value).reshape(shape, order="F" if fortran is True else "C")


NUMPY: dict[tuple[str, str], Any] = (
    {("_codecs", "encode"): _latin1, ("numpy", "ndarray"): _NDARRAY, ("numpy", "dtype"): _dtype}
    | {(module, "bytes"): _no_bytes for module in ("builtins", "__builtin__")}
    | {(f"numpy.{core}.multiarray", "_reconstruct"): _array for core in ("core", "_core")}
    | {(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")}
)


class NumpyUnpickler(PlainUnpickler):
    """Arrays come out as `PickledArray`, types as `PickledDtype`. Another kind of file has more `known` globals."""

    known = NUMPY

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.known:
            raise Refused(f"it names the Python object {module}.{name}"[:200])
        return self.known[module, name]

    def load_build(self) -> None:
        """The state of what was made before."""
        state, made = self.stack.pop(), self.stack[-1]
        if isinstance(made, PickledArray):
            fill_array(made, state)
        elif isinstance(made, PickledDtype):
            if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
                raise Refused("a numpy type with an unknown state")
            made.value = made.value.newbyteorder(state[1])
        else:
            raise Refused("an object with a state")


NumpyUnpickler.dispatch = NumpyUnpickler.table(OPCODES, {"BUILD": NumpyUnpickler.load_build})
