"""Reads the pickle of a checkpoint as data: nothing in it is imported, called or executed.

Plain values as in `plain_pickle`, arrays as in `numpy_pickle`, and what a checkpoint needs besides: dicts, torch's
storage types and tensor constructors, and scikit-learn's PCA. Each of these globals stands for a function of this file
that builds a plain record. Any other is refused by its name.
"""

from collections import OrderedDict
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from sret_jax.storage.numpy_pickle import NUMPY, OPCODES, NumpyUnpickler, PickledArray, PickledDtype, count
from sret_jax.storage.plain_pickle import MALFORMED, Refused, Stream

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


class Storage(NamedTuple):
    dtype: np.dtype
    key: str
    elements: int


class Tensor(NamedTuple):
    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _Pca:
    """The attributes of scikit-learn's PCA."""

    state: dict[str, Any] | None = None


_PCA, _FACTORY = object(), object()  # stand for classes; nothing can be done with them


def _ordered_dict(*items: Any) -> OrderedDict[Any, Any]:
    if items:
        raise Refused("an ordered dict with arguments")
    return OrderedDict()


def _default_dict(*factory: Any) -> dict[Any, Any]:
    if any(f is not _FACTORY for f in factory):
        raise Refused("a dict with an unknown default")
    return {}


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


_GLOBALS: dict[tuple[str, str], Any] = (
    NUMPY
    | {
        ("collections", "OrderedDict"): _ordered_dict,
        ("collections", "defaultdict"): _default_dict,
        ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        ("torch._utils", "_rebuild_parameter"): _parameter,
        ("sklearn.decomposition.pca", "PCA"): _PCA,
        ("sklearn.decomposition._pca", "PCA"): _PCA,
    }
    | {(module, name): _FACTORY for module in ("builtins", "__builtin__") for name in ("dict", "float", "int", "list")}
    | {("torch", name): dtype for name, dtype in _STORAGES.items()}
)


class _Unpickler(NumpyUnpickler):
    known = _GLOBALS

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
        made = self.stack[-2]
        if isinstance(made, _Pca) and isinstance(self.stack[-1], dict):
            made.state = self.stack.pop()
        elif isinstance(made, OrderedDict):
            self.stack.pop()
        else:
            super().load_build()

    def entry(self) -> str | None:
        """The key of the innermost dict whose value was being read when the reading stopped."""
        frames = [*self.metastack, self.stack]
        for i in reversed(range(len(frames))):
            frame = frames[i]
            if i and frames[i - 1] and isinstance(frames[i - 1][-1], dict):  # keys and values by turns
                at = 0
            else:  # one key and its value lie above their dict
                at = 1 + max((n for n, value in enumerate(frame[:-1]) if isinstance(value, dict)), default=len(frame))
            while at + 2 < len(frame) and not callable(frame[at + 1]):  # a value that is not made yet is a constructor
                at += 2
            if at < len(frame) and isinstance(frame[at], str):
                return frame[at]
        return None


_Unpickler.dispatch = _Unpickler.table(
    f"{OPCODES} NEWOBJ BINPERSID",
    {"NEWOBJ": _Unpickler.load_newobj, "BUILD": _Unpickler.load_build},
)


def stream(data: bytes) -> Stream:
    """To `load` from, of no more parts than a checkpoint has."""
    return Stream(data, MAX_READS)


def load(stream: Stream) -> Any:
    """The next object in the stream, made of plain values and the records of this file.

    What a malformed one raises has the entry in which it stopped as a note.
    """
    unpickler = _Unpickler(stream, encoding="utf-8")
    try:
        return unpickler.load()
    except MALFORMED as error:
        entry = unpickler.entry()
        if entry is not None:
            error.add_note(f"at the entry {entry[:80]!r}")
        raise


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
        if isinstance(value, PickledArray | PickledDtype):
            return value.value
        if isinstance(value, _Pca):
            value = value.state
        made: Any
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
