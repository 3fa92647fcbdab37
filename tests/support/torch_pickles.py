"""Torch files written by hand, in both layouts, with any global: what the reader of checkpoints is tested on."""

import io
import pickle
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from sret_jax.models.weights import torch_file


class Global:
    """Pickles as a reference to `module.name`; called, it pickles as a call."""

    def __init__(self, module, name, *args):
        self.module, self.name, self.args = module, name, args


class Storage:
    def __init__(self, values, key, count=None, kind="FloatStorage"):
        self.values, self.key, self.kind = np.asarray(values), key, kind
        self.count = self.values.size if count is None else count


class Pickler(pickle._Pickler):
    """Writes protocol 2 as torch does, with globals that need not exist here."""

    def persistent_id(self, obj):
        if isinstance(obj, Storage):
            return ("storage", Global("torch", obj.kind), obj.key, "cpu", obj.count)
        return None

    def save(self, obj, save_persistent_id=True):
        if not isinstance(obj, Global):
            return super().save(obj, save_persistent_id)
        self.write(b"c" + f"{obj.module}\n{obj.name}\n".encode())
        if obj.args:
            self.save(obj.args)
            self.write(b"R")
        return None


def pickle_of(obj):
    stream = io.BytesIO()
    Pickler(stream, 2).dump(obj)
    return stream.getvalue()


def tensor(storage, shape, stride=None, offset=0):
    stride = tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape))) if stride is None else stride
    return Global("torch._utils", "_rebuild_tensor_v2", storage, offset, shape, stride, False, OrderedDict())


def legacy_file(root, storages=(), pickled=None):
    info = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    head = [torch_file._LEGACY_MAGIC, 1001, info]
    data = b"".join(map(pickle_of, head)) + (pickled or pickle_of(root)) + pickle_of([s.key for s in storages])
    return data + b"".join(struct.pack("<q", s.values.size) + s.values.tobytes() for s in storages)


def zip_file(root, storages=(), pickled=None, compression=zipfile.ZIP_STORED, twice=False, byteorder=b"little"):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr("model/data.pkl", pickled or pickle_of(root))
        archive.writestr("model/byteorder", byteorder)
        for s in storages:
            archive.writestr(f"model/data/{s.key}", s.values.tobytes())
        if twice:
            with pytest.warns(UserWarning, match="Duplicate"):
                archive.writestr("model/data.pkl", pickle_of(root))
    return stream.getvalue()
