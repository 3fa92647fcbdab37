"""Reads a `.pth` file without torch and without executing a pickle.

Both layouts of `torch.save` are understood: the zip archive and the legacy stream that older checkpoints use. The
pickle inside is read as data by `restricted_pickle`, and which dict in it is the network is found by `entries`. A
tensor becomes an array only when it is needed, and after its geometry has been checked against the bytes there are.
"""

import functools
import math
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sret_jax.errors import UserError
from sret_jax.models.weights.entries import CHOOSE, Found, Unclear, find_state, is_array
from sret_jax.models.weights.restricted_pickle import Tensor, Unread, load, load_with_storages, plain, stream
from sret_jax.storage.files import Unreadable, named, read_file
from sret_jax.storage.foreign import open_zip
from sret_jax.storage.plain_pickle import MALFORMED, Refused

MAX_FILE = 2 << 30  # bytes; the largest checkpoint of the field has 1.2 GB
MAX_PICKLE = 512 << 20  # bytes; learned whitenings of 2048 dimensions are pickled inside, 50 MB each
DAMAGED = (*MALFORMED, zipfile.BadZipFile, NotImplementedError)
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001


class TorchFile(NamedTuple):
    """The network in a torch checkpoint, and what is beside it."""

    state: dict[str, np.ndarray]  # read-only arrays by their names, in the file's order
    beside: Mapping[str, Any]  # the other entries, made of plain values and arrays when they are asked for
    found: Found  # where in the file the network is


def read_torch(path: str | Path, data: bytes | None = None, part: str = "") -> TorchFile:
    """The network in a torch checkpoint, chosen by the rule of `entries` or as the `part` of the file that is wanted.

    Objects of unknown classes may be beside it; in it there are tensors and arrays. Raises `UserError` naming the file
    and the reason when it is missing or damaged, has no such part, or names a Python object where an array belongs.
    `data` is the content of the file where the caller has read it already.
    """
    data = read_bytes(Path(path)) if data is None else data
    try:
        return _decode(data, part)
    except Unclear as error:
        raise UserError(f"{path}: {error}: {CHOOSE}") from None
    except DAMAGED as error:
        reason = str(error) if isinstance(error, Refused) else f"damaged or not a torch file ({type(error).__name__})"
        where = "".join(f", {note}" for note in getattr(error, "__notes__", ()))
        raise UserError(
            f"{path}: refused as a checkpoint: {reason}{where}; save it again with torch.save(model.state_dict(), file)"
        ) from None


def read_bytes(path: Path) -> bytes:
    """The bytes of a file of weights. Raises `UserError` naming it where it cannot be one."""
    with named(path, "check the path, and give the file of a checkpoint"):
        return read_file(path, MAX_FILE)


def _decode(data: bytes, part: str) -> TorchFile:
    root, content = _decode_zip(data) if data[:4] == b"PK\x03\x04" else _decode_legacy(data)
    found = find_state(root, part)
    state = {str(name): _entry(name, value, content) for name, value in found.state.items()}
    top = found.entry.partition("/")[0]
    beside = {} if found.state is root else {key: value for key, value in root.items() if key != top}
    return TorchFile(state, _Beside(beside, content), found)


def _entry(name: Any, value: Any, content: "Content") -> np.ndarray:
    """An array of the network; `Refused` for anything else."""
    try:
        if isinstance(value, Unread):
            raise Refused(value.reason)
        if not isinstance(name, str) or not is_array(value) or getattr(value, "value", 0) is None:
            raise Refused(f"the entry {str(name)[:80]!r} is not a tensor")
        return _array(name, value, content) if isinstance(value, Tensor) else np.asarray(value.value)
    except Refused as error:
        error.add_note(f"at the entry {str(name)[:80]!r}")
        raise


class _Beside(Mapping[str, Any]):
    """Entries of a checkpoint beside the network. One that is never asked for is never made."""

    def __init__(self, entries: dict[str, Any], content: "Content"):
        self._entries, self._content = entries, content

    def __getitem__(self, key: str) -> Any:
        value = self._entries[key]
        try:
            return plain(value, lambda name, tensor: _array(name, tensor, self._content))
        except DAMAGED as error:
            return Unread(str(error))

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def _array(name: str, tensor: Tensor, content: "Content") -> np.ndarray:
    storage, offset, shape, stride = tensor
    buffer = content(storage.key)
    if buffer is None or len(buffer) != storage.elements * storage.dtype.itemsize:
        raise Refused(f"the bytes of {name!r} are missing or of another size")
    if 0 in shape:
        return np.zeros(shape, storage.dtype)
    last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
    if last >= storage.elements or math.prod(shape) > storage.elements:
        raise Refused(f"{name!r} of shape {list(shape)} reaches beyond its {storage.elements} values")
    size = storage.dtype.itemsize
    array = np.ndarray(shape, storage.dtype, buffer, offset * size, tuple(s * size for s in stride))
    array.flags.writeable = False
    return array


Content = Callable[[str], memoryview | None]  # the bytes of a storage, by its key


def _decode_legacy(data: bytes) -> tuple[Any, Content]:
    """Magic number, protocol, system info, object, storage keys: five pickles; then each storage as count and bytes."""
    source = stream(data[:MAX_PICKLE])
    if load(source) != _LEGACY_MAGIC or load(source) != _LEGACY_PROTOCOL:
        raise Refused("it is no torch file")
    info, (root, used), keys = load(source), load_with_storages(source), load(source)
    if not isinstance(info, dict) or info.get("little_endian") is not True:
        raise Refused("it was written on a big-endian machine")
    behind = source.tell()

    @functools.cache
    def storages() -> dict[str, memoryview]:
        view, at, found = memoryview(data), behind, dict[str, memoryview]()
        if not isinstance(keys, list) or not all(isinstance(k, str) for k in keys) or len(keys) != len(set(keys)):
            raise Refused("its list of storages is damaged")
        for key in keys:
            if key not in used:
                raise Refused("it holds a storage that no tensor uses")
            storage = used[key]
            if isinstance(storage, Unread):  # how long it is depends on its type
                raise Refused(storage.reason)
            size = storage.elements * storage.dtype.itemsize
            if at + 8 + size > len(data) or struct.unpack_from("<q", data, at) != (storage.elements,):
                raise Refused(f"it is cut off: {_storage_of(root, key)} is shorter than its tensors say")
            found[key] = view[at + 8 : at + 8 + size]
            at += 8 + size
        return found

    return root, lambda key: storages().get(key)


def _storage_of(root: Any, key: str) -> str:
    """That storage in words: "the storage of" its first tensor."""
    todo, seen = [("", root)], set()
    while todo:
        name, node = todo.pop()
        if isinstance(node, Tensor) and node.storage.key == key:
            return f"the storage of {name[:80]!r}"
        if isinstance(node, dict | list | tuple) and not isinstance(node, Tensor) and id(node) not in seen:
            seen.add(id(node))
            parts = [(str(k), v) for k, v in node.items()] if isinstance(node, dict) else [(name, v) for v in node]
            todo += reversed(parts)
    return f"the storage {key[:80]!r}"


def _decode_zip(data: bytes) -> tuple[Any, Content]:
    try:
        archive, names = open_zip(BytesIO(data))
    except zipfile.BadZipFile as error:
        error.add_note(_last_part(data))
        raise
    except Unreadable as error:
        raise Refused(error.reason) from None
    pickles = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise Refused("its archive does not hold exactly one data.pkl")
    if any(e.compress_type != zipfile.ZIP_STORED or e.file_size != e.compress_size for e in names.values()):
        raise Refused("its archive is compressed, which torch never does")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in names and _read(archive, f"{folder}byteorder") != b"little":
        raise Refused("it was written on a big-endian machine")
    if archive.getinfo(pickles[0]).file_size > MAX_PICKLE:
        raise Refused(f"its data.pkl is larger than {MAX_PICKLE} bytes")
    root = load(stream(_read(archive, pickles[0])))

    @functools.cache  # several tensors may lie in one storage
    def content(key: str) -> memoryview | None:
        member = f"{folder}data/{key}"
        return memoryview(_read(archive, member, root)) if member in names else None

    return root, content


def _read(archive: zipfile.ZipFile, member: str, root: Any = None) -> bytes:
    """A member of the archive; an error says which and, with the object in the pickle, which tensor's."""
    try:
        return archive.read(member)
    except (*MALFORMED, zipfile.BadZipFile) as error:
        error.add_note(f"in {member[:80]!r}")
        if root is not None:
            error.add_note(_storage_of(root, member.rpartition("/")[2]))
        raise


def _last_part(data: bytes) -> str:
    """The last member of an archive whose end is missing and, where the pickle before it is whole, its first tensor."""

    def member(at: int) -> tuple[str, int]:
        """Name, and where the content begins: behind a header of 30 bytes, the name and a field of its own."""
        name, field = struct.unpack_from("<HH", data[at : at + 30].ljust(30, b"\0"), 26)
        return data[at + 30 : at + 30 + name].decode(errors="replace"), at + 30 + name + field

    last, start = member(data.rfind(b"PK\x03\x04"))[0], member(0)[1]
    try:
        root, storages = load_with_storages(stream(data[start : start + MAX_PICKLE]))
        where = f", {_storage_of(root, key)}" if (key := last.rpartition("/")[2]) in storages else ""
    except MALFORMED as error:
        where = "".join(f", {note}" for note in getattr(error, "__notes__", ()))
    return f"its last part is {last[:80]!r}{where}"
