"""Reads the tensors of a `.pth` file without torch and without executing a pickle.

Both layouts of `torch.save` are understood: the zip archive and the legacy stream that older checkpoints use. The
pickle inside is interpreted by Python's own pure-Python unpickler, cut down to the opcodes that a state dict needs;
the only globals it knows are ordered dicts, storage types and tensor constructors, and these build plain records.
A tensor becomes an array only after its geometry has been checked against the bytes that are really there.
"""

import io
import math
import os
import pickle
import stat
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from sret_jax.errors import UserError

MAX_FILE = 2 << 30  # bytes; the largest ResNet checkpoint of the field has 0.5 GB
MAX_PICKLE = 16 << 20  # bytes; a state dict of 5,000 tensors needs 1 MB
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
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
_MALFORMED = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    RecursionError,
    struct.error,
    zipfile.BadZipFile,
    NotImplementedError,
)


class _Refused(ValueError):
    """The file asks for something that a file of tensors does not need; the text says what."""


class _Storage(NamedTuple):
    dtype: np.dtype
    key: str
    count: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def _ordered_dict(*items: Any) -> OrderedDict:
    if items:
        raise _Refused("an ordered dict with arguments")
    return OrderedDict()


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= MAX_FILE:
        raise _Refused("a tensor whose geometry is not made of small natural numbers")
    return value


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> _Tensor:
    if not isinstance(storage, _Storage) or not isinstance(shape, tuple) or not isinstance(stride, tuple):
        raise _Refused("a tensor without storage, shape and strides")
    if len(shape) != len(stride) or len(shape) > 16:
        raise _Refused("a tensor whose shape and strides differ in length")
    return _Tensor(storage, _count(offset), tuple(map(_count, shape)), tuple(map(_count, stride)))


def _parameter(data: Any, *_: Any) -> _Tensor:
    if not isinstance(data, _Tensor):
        raise _Refused("a parameter that is not a tensor")
    return data


_GLOBALS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _ordered_dict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
} | {("torch", name): dtype for name, dtype in _STORAGES.items()}
_OPCODES = (
    "PROTO STOP FRAME MARK EMPTY_DICT EMPTY_LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 APPEND APPENDS SETITEM "
    "SETITEMS BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE "
    "SHORT_BINUNICODE BINSTRING SHORT_BINSTRING NONE NEWTRUE NEWFALSE GLOBAL STACK_GLOBAL REDUCE BUILD BINPERSID"
).split()


class _Unpickler(pickle._Unpickler):  # the C unpickler allocates whatever a memo index asks for: 6 GB from nine bytes
    dispatch = {getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]] for name in _OPCODES}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _GLOBALS:
            raise _Refused(f"it names the Python object {module}.{name}"[:200])
        return _GLOBALS[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or any(v is not None for v in pid[5:]):
            raise _Refused("a storage that is not a plain one")
        _, dtype, key, _, count = pid[:5]
        if not isinstance(dtype, np.dtype) or not isinstance(key, str):
            raise _Refused("a storage without type and key")
        return _Storage(dtype, key, _count(count))

    def load_build(self) -> None:
        """An ordered dict carries `_metadata` of torch modules, which holds no tensors."""
        self.stack.pop()
        if not isinstance(self.stack[-1], OrderedDict):
            raise _Refused("an object with a state")

    def load_setitems(self) -> None:
        """Keys are text or small numbers: large integers can be chosen so that all of them collide."""
        items = self.pop_mark()
        for key, value in zip(items[::2], items[1::2], strict=True):
            self._set(key, value)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set(key, value)

    def _set(self, key: Any, value: Any) -> None:
        if not isinstance(self.stack[-1], dict):
            raise _Refused("items set on something that is not a dict")
        if type(key) is not str and not (type(key) is int and abs(key) < 1 << 31):
            raise _Refused("a dict key that is neither text nor a small number")
        self.stack[-1][key] = value

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.SETITEM[0]] = load_setitem


def read_torch(path: str | Path) -> dict[str, np.ndarray]:
    """The state dict of a torch checkpoint: name -> read-only array, in the file's order.

    A dict with an entry `state_dict` stands for that entry, and a leading `module.` is removed from the names.
    Raises `UserError` naming the file and the reason when it is missing, damaged or holds more than tensors.
    """
    data = _read(Path(path))
    try:
        return _decode(data)
    except _MALFORMED as error:
        reason = str(error) if isinstance(error, _Refused) else f"damaged or not a torch file ({type(error).__name__})"
        raise UserError(
            f"{path}: refused as a checkpoint: {reason}; save it again with torch.save(model.state_dict(), file)"
        ) from None


def _read(path: Path) -> bytes:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a FIFO must not block
    except OSError as error:
        raise UserError(f"{path}: cannot read the weights file: {error.strerror}; check the path") from None
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path}: not a regular file; give the path of a torch checkpoint")
        if status.st_size > MAX_FILE:
            raise UserError(f"{path}: {status.st_size} bytes; a weights file may have {MAX_FILE} at most")
        with open(handle, "rb", closefd=False) as f:
            return f.read(status.st_size)
    finally:
        os.close(handle)


def _decode(data: bytes) -> dict[str, np.ndarray]:
    root, storages = _decode_zip(data) if data[:4] == b"PK\x03\x04" else _decode_legacy(data)
    if not isinstance(root, dict):
        raise _Refused("it holds no dict of tensors")
    state = root["state_dict"] if isinstance(root.get("state_dict"), dict) else root
    out = {}
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, _Tensor):
            raise _Refused(f"the entry {str(name)[:80]!r} is not a tensor")
        out[name.removeprefix("module.")] = _array(name, tensor, storages)
    return out


def _array(name: str, tensor: _Tensor, storages: dict[str, memoryview]) -> np.ndarray:
    storage, offset, shape, stride = tensor
    buffer = storages.get(storage.key)
    if buffer is None or len(buffer) != storage.count * storage.dtype.itemsize:
        raise _Refused(f"the bytes of {name!r} are missing or of another size")
    if 0 in shape:
        return np.zeros(shape, storage.dtype)
    last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
    if last >= storage.count or math.prod(shape) > storage.count:
        raise _Refused(f"{name!r} of shape {list(shape)} reaches beyond its {storage.count} values")
    size = storage.dtype.itemsize
    array = np.ndarray(shape, storage.dtype, buffer, offset * size, tuple(s * size for s in stride))
    array.flags.writeable = False
    return array


def _load(stream: io.BytesIO) -> Any:
    return _Unpickler(stream, encoding="utf-8").load()


def _decode_legacy(data: bytes) -> tuple[Any, dict[str, memoryview]]:
    """Magic number, protocol, system info, object, storage keys: five pickles; then each storage as count and bytes."""
    stream = io.BytesIO(data[:MAX_PICKLE])
    if _load(stream) != _LEGACY_MAGIC or _load(stream) != _LEGACY_PROTOCOL:
        raise _Refused("it is no torch file")
    info, root, keys = _load(stream), _load(stream), _load(stream)
    if not isinstance(info, dict) or info.get("little_endian") is not True:
        raise _Refused("it was written on a big-endian machine")
    counts = _storages_of(root)
    view, at, storages = memoryview(data), stream.tell(), {}
    if not isinstance(keys, list) or not all(isinstance(k, str) for k in keys) or len(keys) != len(set(keys)):
        raise _Refused("its list of storages is damaged")
    for key in keys:
        if key not in counts:
            raise _Refused("it holds a storage that no tensor uses")
        (count,) = struct.unpack_from("<q", data, at)
        size = counts[key].count * counts[key].dtype.itemsize
        if count != counts[key].count or at + 8 + size > len(data):
            raise _Refused("it is cut off: a storage is shorter than its tensors say")
        storages[key] = view[at + 8 : at + 8 + size]
        at += 8 + size
    return root, storages


def _storages_of(root: Any) -> dict[str, _Storage]:
    """Every storage that tensors in nested dicts, lists and tuples refer to, by key."""
    found: dict[str, _Storage] = {}
    todo, seen = [root], set()
    while todo:
        node = todo.pop()
        if isinstance(node, _Tensor):
            found.setdefault(node.storage.key, node.storage)
        elif isinstance(node, dict | list | tuple) and id(node) not in seen:
            seen.add(id(node))
            todo += node.values() if isinstance(node, dict) else node
    return found


def _decode_zip(data: bytes) -> tuple[Any, dict[str, memoryview]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
        names = [entry.filename for entry in entries]
        pickles = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1 or len(names) != len(set(names)):
            raise _Refused("its archive does not hold exactly one data.pkl, or a name twice")
        if any(entry.compress_type != zipfile.ZIP_STORED or entry.file_size > len(data) for entry in entries):
            raise _Refused("its archive is compressed, which torch never does")
        if sum(entry.file_size for entry in entries) > len(data):
            raise _Refused("its archive entries overlap")
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
            raise _Refused("it was written on a big-endian machine")
        if archive.getinfo(pickles[0]).file_size > MAX_PICKLE:
            raise _Refused(f"its data.pkl is larger than {MAX_PICKLE} bytes")
        root = _load(io.BytesIO(archive.read(pickles[0])))
        wanted = _storages_of(root)
        return root, {k: memoryview(archive.read(f"{folder}data/{k}")) for k in wanted if f"{folder}data/{k}" in names}
