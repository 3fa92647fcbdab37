"""Reads what Python and numpy keep tables in: lists, dicts, text, numbers, and arrays of these, of any protocol.

`OrderedDict`, `defaultdict` and numpy's arrays and numbers come out as plain dicts, lists and numbers; nothing is
imported, called or executed.
"""

import re
import struct
from typing import Any

import numpy as np

from sret_jax.storage.numpy_pickle import NUMPY, OPCODES, NumpyUnpickler, PickledArray, PickledDtype, fill_array
from sret_jax.storage.plain_pickle import MALFORMED, TEXT_OPCODES, Refused, Stream

MAX_DEPTH = 20
SPARE = 1_000_000  # parts that a list which is used several times may add, in any file
SPARE_TEXT = 16 << 20  # bytes that text which is used several times may become
TEXT = re.compile(r"U\d{1,4}")  # an array of texts, by the letters of the longest


class ObjectArray(PickledArray):
    """Of numbers or texts, or of objects in a flat list: its state tells."""

    content: list[Any] | None = None


class _Dict(dict[Any, Any]):
    """One that arrived by the name of its class, and is filled afterwards."""


def _array(kind: Any, *_: Any) -> Any:
    return ObjectArray() if kind is NUMPY["numpy", "ndarray"] else NUMPY["numpy._core.multiarray", "_reconstruct"](kind)


def _dtype(name: Any, *_: Any) -> PickledDtype:
    if name in ("O", "O8") or type(name) is str and TEXT.fullmatch(name):
        made = PickledDtype("u1")
        made.value = np.dtype(object if name[0] == "O" else name)
        return made
    return NUMPY["numpy", "dtype"](name)


def _scalar(dtype: Any, data: Any) -> Any:
    """Its bytes are text in what Python 2 wrote."""
    if isinstance(dtype, PickledDtype) and dtype.value.hasobject:
        raise Refused("a numpy number that is an object")
    data = data.encode("latin1") if type(data) is str else data
    return NUMPY["numpy._core.multiarray", "scalar"](dtype, data)


def _buffer(data: Any, dtype: Any, shape: Any, order: Any) -> ObjectArray:
    """An array as protocol 5 has it, of numbers only."""
    made = ObjectArray()
    fill_array(made, (1, shape, dtype, order == "F", data))
    return made


def _dict(*items: Any) -> dict[Any, Any]:
    """Filled as a whole by Python 2, later by Python 3."""
    made = _Dict()
    for key, value in items[0] if items else ():
        if type(key) is not str:
            raise Refused("a dict key that is not text")
        made[key] = value
    return made


def _default_dict(*_: Any) -> dict[Any, Any]:
    return _Dict()


class ObjectUnpickler(NumpyUnpickler):
    """Keys of its dicts are text."""

    known = (
        NUMPY
        | {("numpy", "dtype"): _dtype}
        | {(f"numpy.{c}.multiarray", "_reconstruct"): _array for c in ("core", "_core")}
        | {(f"numpy.{c}.multiarray", "scalar"): _scalar for c in ("core", "_core")}
        | {(f"numpy.{c}.numeric", "_frombuffer"): _buffer for c in ("core", "_core")}
        | {("collections", "OrderedDict"): _dict, ("collections", "defaultdict"): _default_dict}
        | {(module, name): object() for module in ("builtins", "__builtin__") for name in ("list", "dict", "int")}
    )

    def set_item(self, key: Any, value: Any) -> None:
        if type(key) is not str:
            raise Refused("a dict key that is not text")
        super().set_item(key, value)

    encoded = 0  # bytes made of text so far

    def load_reduce(self) -> None:
        """A text that is used often must not become as many copies of its bytes."""
        super().load_reduce()
        self._count(self.stack[-1])

    def load_bytes(self) -> None:
        """Those that may change, of protocol 5; as many as there are, whatever the file claims."""
        (size,) = struct.unpack("<Q", self.read(8))
        data = self.read(min(size, self.size + 1))
        if len(data) != size:
            raise Refused("bytes that are not all there")
        self.append(data)

    def _count(self, made: Any) -> None:
        self.encoded += len(made) if type(made) is bytes else 0
        if self.encoded > self.size + SPARE_TEXT:
            raise Refused("its text becomes more than its own size of numbers")

    def load_build(self) -> None:
        state, made = self.stack[-1], self.stack[-2]
        fields = isinstance(state, tuple) and len(state) == 5
        if isinstance(made, PickledDtype) and made.value.hasobject:
            self.stack.pop()
        elif isinstance(made, ObjectArray) and fields and type(state[4]) is list:
            made.content = self.stack.pop()[4]
        else:
            if isinstance(made, ObjectArray) and fields and type(state[4]) is str:  # Python 2's bytes
                self.stack[-1] = (*state[:4], state[4].encode("latin1"))
                self._count(self.stack[-1][4])
            super().load_build()


ObjectUnpickler.dispatch = ObjectUnpickler.table(
    f"{OPCODES} {TEXT_OPCODES} BYTEARRAY8",
    {
        "BUILD": ObjectUnpickler.load_build,
        "REDUCE": ObjectUnpickler.load_reduce,
        "DICT": ObjectUnpickler.load_dict,
        "BYTEARRAY8": ObjectUnpickler.load_bytes,
    },
)


def read_objects(data: bytes, most: int, *, keep_arrays: bool = False) -> Any:
    """The plain value of a pickle: dicts with text as keys, lists, text, numbers and None.

    A list that is used several times is one list in the result too; what it would be in full counts towards `most`.

    Args:
      data: the pickle, with nothing behind it.
      most: parts that it may have, which bounds the memory.
      keep_arrays: numpy's arrays of numbers stay arrays, instead of lists.

    Raises:
      one of `MALFORMED`, of which `Refused` says what is not allowed.
    """
    try:
        return _read(data, most, "utf-8", keep_arrays)
    except UnicodeError as first:
        try:  # Python 2 writes the bytes of numbers as text
            return _read(data, most, "latin1", keep_arrays)
        except MALFORMED:
            raise first from None


def _read(data: bytes, most: int, encoding: str, keep_arrays: bool) -> Any:
    stream = Stream(data, most)
    value = ObjectUnpickler(stream, encoding=encoding).load()
    if stream.read(1):
        raise Refused("bytes after its end")
    return _Plain(min(most, SPARE + len(data)), keep_arrays).of(value, MAX_DEPTH)[0]


class _Plain:
    """Makes every list and dict once, and counts how much they would be if each use were a list of its own."""

    def __init__(self, most: int, keep_arrays: bool):
        self.most, self.left, self.keep_arrays = most, most, keep_arrays
        self.made: dict[int, tuple[Any, int]] = {}

    def of(self, value: Any, depth: int) -> tuple[Any, int]:
        if value is None or isinstance(value, bool | int | float | str):
            return value, 1
        if id(value) not in self.made:
            if depth == 0:
                raise Refused("its lists are nested too deeply, or one is inside of itself")
            self.made[id(value)] = self._container(value, depth - 1)
        plain, size = self.made[id(value)]
        if size > self.most:
            raise Refused(f"its lists have more than {self.most:,} parts, each use of a list counted")
        return plain, size

    def _container(self, value: Any, depth: int) -> tuple[Any, int]:
        if isinstance(value, ObjectArray) and value.content is None and value.value is not None:
            if self.keep_arrays:  # whoever takes it may copy it at each use
                return value.value, 1 + value.value.size
            self.left -= max(value.value.size, value.value.nbytes // 8)  # arrays may share their bytes, lists do not
            if self.left < 0:
                raise Refused(f"its arrays have more than {self.most:,} parts")
            return value.value.tolist(), 1 + value.value.size
        if isinstance(value, ObjectArray) and value.content is not None:
            value = value.content
        if isinstance(value, list | tuple):
            parts = [self.of(part, depth) for part in value]
            return [part for part, _ in parts], 1 + sum(size for _, size in parts)
        if isinstance(value, dict):
            fields = {key: self.of(part, depth) for key, part in value.items()}
            return {key: part for key, (part, _) in fields.items()}, 1 + sum(size for _, size in fields.values())
        raise Refused("it holds something that is no list, dict, text, number or array")
