"""Reads the pickle of a checkpoint as data: nothing in it is imported, called or executed.

Plain values as in `plain_pickle`, and the opcodes that a checkpoint needs besides. The only globals it knows are
dicts, torch's storage types and tensor constructors, numpy's arrays and numbers, and scikit-learn's PCA; each
of them stands for a function of this file that builds a plain record. Any other global is refused by its name.
"""

import math
from collections import OrderedDict
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from sret_jax.plain_pickle import PlainUnpickler, Refused, Stream

MAX_COUNT = 4 << 30  # values of a tensor, or elements along one of its axes
MAX_READS = 4_000_000  # a checkpoint of 5,000 tensors and an optimiser needs 400,000; each may allocate some 100 bytes
MAX_DEPTH = 32  # of nested dicts, lists and tuples
_STORAGES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
_NUMPY_TYPES = {f"{kind}{size}" for kind in "iuf" for size in (1, 2, 4, 8)} - {"f1"} | {"b1"}


class Storage(NamedTuple):
    dtype: np.dtype
    key: str
    count: int


class Tensor(NamedTuple):
    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _Pca:
    """The attributes of scikit-learn's PCA."""

    state: dict[str, Any] | None = None


class _Dtype:
    """Type of a numpy array; its byte order arrives later, as its state."""

    def __init__(self, name: str):
        self.value = np.dtype(name)


class _Array:
    """A numpy array whose content arrives as its state."""

    value: np.ndarray | None = None


_NDARRAY, _PCA, _FACTORY = object(), object(), object()  # stand for classes; nothing can be done with them


def _ordered_dict(*items: Any) -> OrderedDict:
    if items:
        raise Refused("an ordered dict with arguments")
    return OrderedDict()


def _default_dict(*factory: Any) -> dict:
    if any(f is not _FACTORY for f in factory):
        raise Refused("a dict with an unknown default")
    return {}


def count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= MAX_COUNT:
        raise Refused("a tensor whose geometry is not made of small natural numbers")
    return value


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> Tensor:
    if not isinstance(storage, Storage) or not isinstance(shape, tuple) or not isinstance(stride, tuple):
        raise Refused("a tensor without storage, shape and strides")
    if len(shape) != len(stride) or len(shape) > 16:
        raise Refused("a tensor whose shape and strides differ in length")
    return Tensor(storage, count(offset), tuple(map(count, shape)), tuple(map(count, stride)))


def _parameter(data: Any, *_: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise Refused("a parameter that is not a tensor")
    return data


def _latin1(text: Any, encoding: Any = "latin1") -> bytes:
    """Bytes, as the older pickle protocols write them."""
    if type(text) is not str or encoding != "latin1":
        raise Refused("a text in another encoding than latin1")
    return text.encode("latin1")


def _no_bytes(*content: Any) -> bytes:
    if content:
        raise Refused("bytes made of a Python object")
    return b""


def _dtype(name: Any, *_: Any) -> _Dtype:
    if type(name) is not str or name not in _NUMPY_TYPES:
        raise Refused(f"a numpy array of type {str(name)[:20]!r}, which is not a plain number")
    return _Dtype(name)


def _array(kind: Any, *_: Any) -> _Array:
    if kind is not _NDARRAY:
        raise Refused("a numpy array of another class")
    return _Array()


def _scalar(dtype: Any, data: Any) -> int | float | bool:
    if not isinstance(dtype, _Dtype) or type(data) is not bytes or len(data) != dtype.value.itemsize:
        raise Refused("a numpy number whose bytes do not fit its type")
    return np.frombuffer(data, dtype.value)[0].item()


def _fill(array: _Array, state: Any) -> None:
    """Sets an array from numpy's (version, shape, type, Fortran order, bytes)."""
    if not isinstance(state, tuple) or len(state) != 5:
        raise Refused("a numpy array with an unknown state")
    _, shape, dtype, fortran, data = state
    if not isinstance(shape, tuple) or not isinstance(dtype, _Dtype) or type(data) is not bytes or len(shape) > 16:
        raise Refused("a numpy array without shape, type and bytes")
    if math.prod(map(count, shape)) * dtype.value.itemsize != len(data):
        raise Refused(f"a numpy array of shape {list(shape)} with {len(data)} bytes")
    array.value = np.frombuffer(data, dtype.value).reshape(shape, order="F" if fortran is True else "C")


_GLOBALS: dict[tuple[str, str], Any] = (
    {
        ("collections", "OrderedDict"): _ordered_dict,
        ("collections", "defaultdict"): _default_dict,
        ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        ("torch._utils", "_rebuild_parameter"): _parameter,
        ("_codecs", "encode"): _latin1,
        ("numpy", "ndarray"): _NDARRAY,
        ("numpy", "dtype"): _dtype,
        ("sklearn.decomposition.pca", "PCA"): _PCA,
        ("sklearn.decomposition._pca", "PCA"): _PCA,
    }
    | {(module, "bytes"): _no_bytes for module in ("builtins", "__builtin__")}
    | {(module, name): _FACTORY for module in ("builtins", "__builtin__") for name in ("dict", "float", "int", "list")}
    | {("torch", name): dtype for name, dtype in _STORAGES.items()}
    | {(f"numpy.{core}.multiarray", "_reconstruct"): _array for core in ("core", "_core")}
    | {(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")}
)


class _Unpickler(PlainUnpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _GLOBALS:
            raise Refused(f"it names the Python object {module}.{name}"[:200])
        return _GLOBALS[module, name]

    def persistent_load(self, pid: Any) -> Storage:
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or any(v is not None for v in pid[5:]):
            raise Refused("a storage that is not a plain one")
        _, dtype, key, _, n = pid[:5]
        if not isinstance(dtype, np.dtype) or not isinstance(key, str):
            raise Refused("a storage without type and key")
        return Storage(dtype, key, count(n))

    def load_newobj(self) -> None:
        arguments, kind = self.stack.pop(), self.stack.pop()
        if kind is not _PCA or arguments != ():
            raise Refused("a new object")
        self.append(_Pca())

    def load_build(self) -> None:
        """The state of what was made before. An ordered dict's `_metadata` of torch modules holds no tensors."""
        state, made = self.stack.pop(), self.stack[-1]
        if isinstance(made, _Array):
            _fill(made, state)
        elif isinstance(made, _Dtype):
            if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
                raise Refused("a numpy type with an unknown state")
            made.value = made.value.newbyteorder(state[1])
        elif isinstance(made, _Pca) and isinstance(state, dict):
            made.state = state
        elif not isinstance(made, OrderedDict):
            raise Refused("an object with a state")


_Unpickler.dispatch = _Unpickler.table(
    "BINBYTES SHORT_BINBYTES GLOBAL STACK_GLOBAL REDUCE NEWOBJ BUILD BINPERSID",
    {"NEWOBJ": _Unpickler.load_newobj, "BUILD": _Unpickler.load_build},
)


def stream(data: bytes) -> Stream:
    """To `load` from, of no more parts than a checkpoint has."""
    return Stream(data, MAX_READS)


def load(stream: Stream) -> Any:
    """The next object in the stream, made of plain values and the records of this file."""
    return _Unpickler(stream, encoding="utf-8").load()


def plain(root: Any, array_of: Any) -> Any:
    """`root` with every `Tensor` replaced by `array_of(name, tensor)` and every numpy record by its array."""
    done: dict[int, Any] = {}

    def convert(name: str, value: Any, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise Refused(f"its entry {name[:80]!r} is nested too deeply")
        if id(value) in done:
            return done[id(value)]
        if isinstance(value, Tensor):
            return array_of(name, value)
        if isinstance(value, _Array | _Dtype):
            return value.value
        if isinstance(value, _Pca):
            value = value.state
        if isinstance(value, dict):
            made = {k: convert(str(k), v, depth + 1) for k, v in value.items()}
        elif isinstance(value, list | tuple):
            made = type(value)(convert(name, v, depth + 1) for v in value)
        elif value is None or isinstance(value, bool | int | float | str | bytes):
            return value
        else:
            raise Refused(f"its entry {name[:80]!r} is neither plain values nor arrays")
        done[id(value)] = made
        return made

    return convert("root", root, 0)
