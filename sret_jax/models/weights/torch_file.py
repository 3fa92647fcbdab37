"""Reads a `.pth` file without torch and without executing a pickle.

Both layouts of `torch.save` are understood: the zip archive and the legacy stream that older checkpoints use. The
pickle inside is read as data by `restricted_pickle`. A tensor becomes an array only after its geometry has been
checked against the bytes that are really there.
"""

import math
import os
import stat
import struct
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from sret_jax.errors import UserError
from sret_jax.models.weights.restricted_pickle import Storage, Tensor, load, plain, stream
from sret_jax.storage.plain_pickle import MALFORMED, Refused

MAX_FILE = 2 << 30  # bytes; the largest checkpoint of the field has 1.2 GB
MAX_PICKLE = 512 << 20  # bytes; learned whitenings of 2048 dimensions are pickled inside, 50 MB each
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001


def read_torch(path: str | Path, data: bytes | None = None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The state dict of a torch checkpoint, name -> read-only array in the file's order, and what it says beside it.

    The state dict is the entry `state_dict` if there is one, and a leading `module.` is removed from its names; the
    other entries (`meta`, ...) come back as plain values and arrays. Raises `UserError` naming the file and the reason
    when it is missing, damaged, or names a Python object that is no tensor, array or plain value. `data` is the content
    of the file where the caller has read it already.
    """
    data = read_bytes(Path(path)) if data is None else data
    try:
        return _decode(data)
    except (*MALFORMED, zipfile.BadZipFile, NotImplementedError) as error:
        reason = str(error) if isinstance(error, Refused) else f"damaged or not a torch file ({type(error).__name__})"
        where = "".join(f", {note}" for note in getattr(error, "__notes__", ()))
        raise UserError(
            f"{path}: refused as a checkpoint: {reason}{where}; save it again with torch.save(model.state_dict(), file)"
        ) from None


def read_bytes(path: Path) -> bytes:
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


def _decode(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    root, storages = _decode_zip(data) if data[:4] == b"PK\x03\x04" else _decode_legacy(data)
    if not isinstance(root, dict):
        raise Refused("it holds no dict of tensors")
    wrapped = isinstance(root.get("state_dict"), dict)
    state = root["state_dict"] if wrapped else root
    out = {}
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise Refused(f"the entry {str(name)[:80]!r} is not a tensor")
        out[name.removeprefix("module.")] = _array(name, tensor, storages)
    beside = {k: v for k, v in root.items() if k != "state_dict"} if wrapped else {}
    return out, plain(beside, lambda name, tensor: _array(name, tensor, storages))


def _array(name: str, tensor: Tensor, storages: dict[str, memoryview]) -> np.ndarray:
    storage, offset, shape, stride = tensor
    buffer = storages.get(storage.key)
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


def _decode_legacy(data: bytes) -> tuple[Any, dict[str, memoryview]]:
    """Magic number, protocol, system info, object, storage keys: five pickles; then each storage as count and bytes."""
    source = stream(data[:MAX_PICKLE])
    if load(source) != _LEGACY_MAGIC or load(source) != _LEGACY_PROTOCOL:
        raise Refused("it is no torch file")
    info, root, keys = load(source), load(source), load(source)
    if not isinstance(info, dict) or info.get("little_endian") is not True:
        raise Refused("it was written on a big-endian machine")
    used = _storages_of(root)
    view, at, storages = memoryview(data), source.tell(), {}
    if not isinstance(keys, list) or not all(isinstance(k, str) for k in keys) or len(keys) != len(set(keys)):
        raise Refused("its list of storages is damaged")
    for key in keys:
        if key not in used:
            raise Refused("it holds a storage that no tensor uses")
        storage = used[key]
        size = storage.elements * storage.dtype.itemsize
        if at + 8 + size > len(data) or struct.unpack_from("<q", data, at) != (storage.elements,):
            raise Refused(f"it is cut off: {_storage_of(root, key)} is shorter than its tensors say")
        storages[key] = view[at + 8 : at + 8 + size]
        at += 8 + size
    return root, storages


def _storages_of(root: Any) -> dict[str, Storage]:
    """Every storage that tensors in nested dicts, lists and tuples refer to, by key."""
    found: dict[str, Storage] = {}
    todo, seen = [root], set()
    while todo:
        node = todo.pop()
        if isinstance(node, Tensor):
            found.setdefault(node.storage.key, node.storage)
        elif isinstance(node, dict | list | tuple) and id(node) not in seen:
            seen.add(id(node))
            todo += node.values() if isinstance(node, dict) else node
    return found


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


def _decode_zip(data: bytes) -> tuple[Any, dict[str, memoryview]]:
    try:
        archive = zipfile.ZipFile(BytesIO(data))
    except zipfile.BadZipFile as error:
        error.add_note(_last_part(data))
        raise
    with archive:
        entries = archive.infolist()
        names = [entry.filename for entry in entries]
        pickles = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1 or len(names) != len(set(names)):
            raise Refused("its archive does not hold exactly one data.pkl, or a name twice")
        if any(entry.compress_type != zipfile.ZIP_STORED or entry.file_size > len(data) for entry in entries):
            raise Refused("its archive is compressed, which torch never does")
        if sum(entry.file_size for entry in entries) > len(data):
            raise Refused("its archive entries overlap")
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in names and _read(archive, f"{folder}byteorder") != b"little":
            raise Refused("it was written on a big-endian machine")
        if archive.getinfo(pickles[0]).file_size > MAX_PICKLE:
            raise Refused(f"its data.pkl is larger than {MAX_PICKLE} bytes")
        root = load(stream(_read(archive, pickles[0])))
        storages = {}
        for key in _storages_of(root):
            if (member := f"{folder}data/{key}") in names:
                storages[key] = memoryview(_read(archive, member, root))
        return root, storages


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
        root = load(stream(data[start : start + MAX_PICKLE]))
        where = f", {_storage_of(root, key)}" if (key := last.rpartition("/")[2]) in _storages_of(root) else ""
    except MALFORMED as error:
        where = "".join(f", {note}" for note in getattr(error, "__notes__", ()))
    return f"its last part is {last[:80]!r}{where}"
