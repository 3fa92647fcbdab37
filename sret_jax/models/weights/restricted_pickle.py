"""Reads the pickle of a checkpoint as data: nothing in it is imported, called or executed.

Plain values as in `plain_pickle`, arrays as in `numpy_pickle`, and what a checkpoint needs besides: dicts, torch's
storage types and tensor constructors, and scikit-learn's PCA. Each of these globals stands for a function of this file
that builds a plain record.

Anything else (the arguments of a script, an optimiser, a path, a function by its name) becomes an `Unread`, which says
what stood there and holds nothing of it: what would have been its state, its items or its arguments is dropped. So a
network can be taken from among objects of any class, while whoever needs one of these has the reason to refuse it.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from sret_jax.storage.numpy_pickle import NUMPY, OPCODES, NumpyUnpickler, PickledArray, PickledDtype, count
from sret_jax.storage.plain_pickle import MALFORMED, Refused, Stream

MAX_READS = 4_000_000  # a checkpoint of 5,000 tensors and an optimiser needs 400,000; each may allocate some 100 bytes
MAX_DEPTH = 32  # of nested dicts, lists and tuples
MAX_PARTS = 1_000_000  # of an entry that is made plain, each use of a list counted
SPARE_TEXT = 16 << 20  # bytes that text which is used several times may become, as protocol 2 writes those of numbers
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


class Unread:
    """What stands for an object that is not built; `reason` names it, for an error of whoever needs it."""

    __slots__ = ("reason",)  # a file may have millions

    def __init__(self, reason: str):
        self.reason = reason


UNREAD_KEY = "\0"  # under it a dict has the `Unread` of keys that are neither text nor small numbers


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
        ("torch._utils", "_rebuild_tensor"): _tensor,
        ("torch._utils", "_rebuild_parameter"): _parameter,
        ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
        ("sklearn.decomposition.pca", "PCA"): _PCA,
        ("sklearn.decomposition._pca", "PCA"): _PCA,
    }
    | {(module, name): _FACTORY for module in ("builtins", "__builtin__") for name in ("dict", "float", "int", "list")}
    | {("torch", name): dtype for name, dtype in _STORAGES.items()}
)


class _Unpickler(NumpyUnpickler):
    known = _GLOBALS
    encoded = 0  # bytes made of text so far

    def __init__(self, stream: Stream):
        super().__init__(stream, encoding="utf-8")
        self.left = {
            kind: min(left, MAX_PARTS) for kind, left in self.left.items()
        }  # an old file has tensors behind it
        self.storages: dict[str, Storage | Unread] = {}

    def find_class(self, module: str, name: str) -> Any:
        try:
            return super().find_class(module, name)
        except Refused as error:
            return Unread(str(error))

    def persistent_load(self, pid: Any) -> Storage | Unread:
        if isinstance(pid, tuple) and pid[:1] == ("module",):  # the class of a whole network, with its source
            return _unread_among(*pid) or Unread("a module")
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or any(v is not None for v in pid[5:]):
            raise Refused("a storage that is not a plain one")
        _, dtype, key, _, n = pid[:5]
        if not isinstance(dtype, np.dtype | Unread) or not isinstance(key, str):
            raise Refused("a storage without type and key")
        return self.storages.setdefault(key, dtype if isinstance(dtype, Unread) else Storage(dtype, key, count(n)))

    def load_reduce(self) -> None:
        """A call: of one of the functions of this file; of anything else, and where it refuses, nothing is made."""
        arguments, function = self.stack.pop(), self.stack.pop()
        unread = _unread_among(function, *(arguments if isinstance(arguments, tuple) else ()))
        try:
            self.append(unread or function(*arguments))
        except Refused as error:
            self.append(Unread(str(error)))
        made = self.stack[-1]
        self.encoded += len(made) if type(made) is bytes else 0
        if self.encoded > self.size + SPARE_TEXT:
            raise Refused("its text becomes more than its own size of numbers")

    def load_newobj(self) -> None:
        arguments, kind = self.stack.pop(), self.stack.pop()
        if kind is _PCA and arguments == ():
            self.append(_Pca())
        else:
            self.append(_unread_among(kind) or Unread("a new object"))

    def load_newobj_ex(self) -> None:
        self.stack.pop()
        self.load_newobj()

    def load_build(self) -> None:
        """The state of what was made before. An ordered dict's `_metadata` of torch modules holds no tensors."""
        state, made = self.stack[-1], self.stack[-2]
        if isinstance(made, _Pca) and isinstance(state, dict):
            made.state = self.stack.pop()
        elif isinstance(made, OrderedDict | Unread):
            self.stack.pop()
        else:
            try:
                super().load_build()
            except Refused as error:
                self.stack[-1] = _unread_among(*(state if isinstance(state, tuple) else ())) or Unread(str(error))

    def set_item(self, key: Any, value: Any) -> None:
        made = self.stack[-1]
        if isinstance(made, Unread):
            return
        try:
            super().set_item(key, value)
        except Refused as error:
            if not isinstance(made, dict):
                raise
            made[UNREAD_KEY] = Unread(str(error))

    def load_append(self) -> None:
        value = self.stack.pop()
        self._add([value])

    def load_appends(self) -> None:
        self._add(self.pop_mark())

    def _add(self, values: list[Any]) -> None:
        made = self.stack[-1]
        if type(made) is list:
            made.extend(values)
        elif not isinstance(made, Unread):
            raise Refused("items added to something that is not a list")

    def load_empty_set(self) -> None:
        self.append(Unread("a set"))

    def load_frozenset(self) -> None:
        self.pop_mark()
        self.load_empty_set()

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


def _unread_among(*values: Any) -> Unread | None:
    return next((value for value in values if isinstance(value, Unread)), None)


_Unpickler.dispatch = _Unpickler.table(
    f"{OPCODES} NEWOBJ NEWOBJ_EX BINPERSID EMPTY_SET FROZENSET ADDITEMS BINUNICODE8 BINBYTES8 LONG4",
    {
        "REDUCE": _Unpickler.load_reduce,
        "NEWOBJ": _Unpickler.load_newobj,
        "NEWOBJ_EX": _Unpickler.load_newobj_ex,
        "BUILD": _Unpickler.load_build,
        "APPEND": _Unpickler.load_append,
        "APPENDS": _Unpickler.load_appends,
        "EMPTY_SET": _Unpickler.load_empty_set,
        "FROZENSET": _Unpickler.load_frozenset,
        "ADDITEMS": _Unpickler.load_appends,
    },
)


def stream(data: bytes) -> Stream:
    """To `load` from, of no more parts than a checkpoint has."""
    return Stream(data, MAX_READS)


def load(stream: Stream) -> Any:
    """The next object in the stream, made of plain values and the records of this file.

    What a malformed one raises has the entry in which it stopped as a note.
    """
    return load_with_storages(stream)[0]


def load_with_storages(stream: Stream) -> tuple[Any, dict[str, Storage | Unread]]:
    """`load`, and by its key every storage that was named on the way, by tensors that were not built too."""
    unpickler = _Unpickler(stream)
    try:
        return unpickler.load(), unpickler.storages
    except MALFORMED as error:
        entry = unpickler.entry()
        if entry is not None:
            error.add_note(f"at the entry {entry[:80]!r}")
        raise


def plain(root: Any, array_of: Callable[[str, Tensor], np.ndarray]) -> Any:
    """`root` with every `Tensor` replaced by `array_of(name, tensor)` and every numpy record by its array.

    What is neither plain values nor arrays, nested too deeply, or too much where each use of a list is counted, is an
    `Unread` in it.
    """
    done: dict[int, tuple[Any, int]] = {}

    def convert(name: str, value: Any, depth: int) -> tuple[Any, int]:
        if depth > MAX_DEPTH:
            return Unread(f"its entry {name[:80]!r} is nested too deeply"), 1
        if id(value) in done:
            return done[id(value)]
        if isinstance(value, Tensor):
            array = array_of(name, value)
            return array, 1
        if isinstance(value, PickledArray | PickledDtype):
            return Unread("a numpy array without content") if value.value is None else value.value, 1
        if isinstance(value, _Pca):
            value = value.state
        made: Any
        if isinstance(value, dict):
            items = [(k, *convert(str(k), v, depth + 1)) for k, v in value.items()]
            made, size = {k: v for k, v, _ in items}, sum(size for _, _, size in items)
        elif type(value) in (list, tuple):
            parts = [convert(name, v, depth + 1) for v in value]
            made = type(value)(v for v, _ in parts)
            size = sum(size + (v.size if isinstance(v, np.ndarray) else 0) for v, size in parts)  # numpy copies them
        elif value is None or isinstance(value, bool | int | float | str | bytes | Unread):
            return value, 1
        else:
            return Unread(f"its entry {name[:80]!r} is neither plain values nor arrays"), 1
        if size >= MAX_PARTS:
            made, size = Unread(f"its entry {name[:80]!r} has more than {MAX_PARTS:,} parts"), 1
        done[id(value)] = made, size + 1
        return made, size + 1

    return convert("root", root, 0)[0]
