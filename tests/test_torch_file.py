"""The checkpoint reader: what torch saves comes back bit for bit, what an attacker saves is refused and never run."""

import io
import pickle
import struct
import time
import tracemalloc
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from sret_jax.errors import UserError
from sret_jax.models import restricted_pickle, torch_file
from sret_jax.models.torch_file import read_torch


class _Global:
    """Pickles as a reference to `module.name`; called, it pickles as a call."""

    def __init__(self, module, name, *args):
        self.module, self.name, self.args = module, name, args


class _Storage:
    def __init__(self, values, key, count=None, kind="FloatStorage"):
        self.values, self.key, self.kind = np.asarray(values), key, kind
        self.count = self.values.size if count is None else count


class _Pickler(pickle._Pickler):
    """Writes protocol 2 as torch does, with globals that need not exist here."""

    def persistent_id(self, obj):
        if isinstance(obj, _Storage):
            return ("storage", _Global("torch", obj.kind), obj.key, "cpu", obj.count)
        return None

    def save(self, obj, save_persistent_id=True):
        if not isinstance(obj, _Global):
            return super().save(obj, save_persistent_id)
        self.write(b"c" + f"{obj.module}\n{obj.name}\n".encode())
        if obj.args:
            self.save(obj.args)
            self.write(b"R")
        return None


def _pickled(obj):
    stream = io.BytesIO()
    _Pickler(stream, 2).dump(obj)
    return stream.getvalue()


def _tensor(storage, shape, stride=None, offset=0):
    stride = tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape))) if stride is None else stride
    return _Global("torch._utils", "_rebuild_tensor_v2", storage, offset, shape, stride, False, OrderedDict())


def _legacy(root, storages=(), pickled=None):
    info = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    head = [torch_file._LEGACY_MAGIC, 1001, info]
    data = b"".join(map(_pickled, head)) + (pickled or _pickled(root)) + _pickled([s.key for s in storages])
    return data + b"".join(struct.pack("<q", s.values.size) + s.values.tobytes() for s in storages)


def _zip(root, storages=(), pickled=None, compression=zipfile.ZIP_STORED, twice=False, byteorder=b"little"):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr("model/data.pkl", pickled or _pickled(root))
        archive.writestr("model/byteorder", byteorder)
        for s in storages:
            archive.writestr(f"model/data/{s.key}", s.values.tobytes())
        if twice:
            with pytest.warns(UserWarning, match="Duplicate"):
                archive.writestr("model/data.pkl", _pickled(root))
    return stream.getvalue()


@pytest.mark.parametrize("write", [_legacy, _zip])
def test_tensors_of_both_layouts(write, tmp_path):
    a = _Storage(np.arange(24, dtype="<f4"), "0")
    b = _Storage(np.array([7], "<i8"), "1", kind="LongStorage")
    c = _Storage(np.array([0x3F80, 0xC000], "<u2"), "2", kind="BFloat16Storage")
    state = {
        "module.plain": _tensor(a, (2, 3, 4)),
        "transposed": _tensor(a, (4, 3), (1, 4), 12),
        "parameter": _Global("torch._utils", "_rebuild_parameter", _tensor(a, (5,), offset=3), True, OrderedDict()),
        "scalar": _tensor(b, ()),
        "half": _tensor(c, (2,)),
        "empty": _tensor(b, (0, 3)),
    }
    path = tmp_path / "model.pth"
    path.write_bytes(write({"state_dict": state, "epoch": 3, "args": [1.5, None, True, "x"]}, [a, b, c]))
    (read, beside), values = read_torch(path), np.arange(24, dtype=np.float32)
    assert beside == {"epoch": 3, "args": [1.5, None, True, "x"]}
    assert list(read) == ["plain", "transposed", "parameter", "scalar", "half", "empty"]
    np.testing.assert_array_equal(read["plain"], values.reshape(2, 3, 4))
    np.testing.assert_array_equal(read["transposed"], values[12:].reshape(3, 4).T)
    np.testing.assert_array_equal(read["parameter"], values[3:8])
    assert read["scalar"] == 7 and read["scalar"].dtype == np.int64
    np.testing.assert_array_equal(read["half"].astype(np.float32), [1.0, -2.0])
    assert read["empty"].shape == (0, 3)
    assert not read["plain"].flags.writeable


@pytest.mark.parity
@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_saves_comes_back(zipped, tmp_path):
    torch = pytest.importorskip("torch")
    state = OrderedDict(
        a=torch.randn(3, 4).t(),
        b=torch.nn.Parameter(torch.randn(2, 5)),
        c=torch.randn(10)[2:5],
        d=torch.randint(0, 9, (2,)),
        e=torch.randn(4).to(torch.bfloat16),
        f=torch.tensor(True),
        g=torch.randn(3).half(),
    )
    torch.save({"state_dict": state}, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    read, _ = read_torch(tmp_path / "x.pth")
    assert list(read) == list(state)
    for name, tensor in state.items():
        np.testing.assert_array_equal(read[name].astype(np.float64), tensor.detach().double().numpy())
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"module.pth: refused.*torch\.nn\.modules\.linear\.Linear.*state_dict"):
        read_torch(tmp_path / "module.pth")


_DATA = _Storage(np.arange(6, dtype="<f4"), "0")
_GOOD = {"w": _tensor(_DATA, (2, 3))}
_SENTINEL = "touched-by-a-pickle"
_HOSTILE_ROOTS = {
    "system": ({"w": _Global("os", "system", f"touch {_SENTINEL}")}, "names the Python object os.system"),
    "eval": ({"w": _Global("builtins", "eval", "1")}, "builtins.eval"),
    "getattr": ({"w": _Global("builtins", "getattr", 1, "real")}, "builtins.getattr"),
    "torch.load": ({"w": _Global("torch", "load", "x")}, "torch.load"),
    "dotted": ({"w": _Global("collections", "OrderedDict.fromkeys", ["a"])}, "OrderedDict.fromkeys"),
    "numpy": ({"w": _Global("numpy", "fromfile", "/etc/passwd")}, "numpy.fromfile"),
    "dict with arguments": ({"w": _Global("collections", "OrderedDict", [["a", 1]])}, "ordered dict with arguments"),
    "not tensors": ({"w": 3}, "'w' is not a tensor|no tensor uses"),
    "no dict": ([1, 2], "no dict of tensors|no tensor uses"),
    "tuple key": ({(1, 2): 3}, "dict key"),
    "huge key": ({1 << 61: 3}, "dict key"),
    "beyond": ({"w": _tensor(_DATA, (3, 3))}, "reaches beyond its 6 values"),
    "offset": ({"w": _tensor(_DATA, (2, 3), offset=1)}, "reaches beyond"),
    "stride": ({"w": _tensor(_DATA, (2, 3), (4, 1))}, "reaches beyond"),
    "negative stride": ({"w": _tensor(_DATA, (2, 3), (-3, 1))}, "natural numbers"),
    "negative shape": ({"w": _tensor(_DATA, (-1, 3), (3, 1))}, "natural numbers"),
    "true shape": ({"w": _tensor(_DATA, (True, 3), (3, 1))}, "natural numbers"),
    "expanded": ({"w": _tensor(_DATA, (1 << 30, 1 << 30), (0, 0))}, "reaches beyond"),
    "many axes": ({"w": _tensor(_DATA, (1,) * 40)}, "shape and strides"),
    "short stride": ({"w": _tensor(_DATA, (2, 3), (1,))}, "shape and strides"),
    "no storage": ({"w": _tensor(5, (2, 3))}, "without storage"),
    "count": ({"w": _tensor(_Storage(_DATA.values, "0", 1 << 40), (2, 3))}, "natural numbers"),
    "larger count": ({"w": _tensor(_Storage(_DATA.values, "0", 600), (2, 300))}, "another size|shorter than"),
    "wrong type": (
        {"w": _tensor(_Storage(_DATA.values, "0", kind="DoubleStorage"), (2,))},
        "another size|shorter than",
    ),
    "unknown storage": ({"w": _tensor(_Storage(_DATA.values, "0", kind="QInt8Storage"), (2,))}, "torch.QInt8Storage"),
    "missing storage": ({"w": _tensor(_Storage(_DATA.values, "9"), (2, 3))}, "missing|no tensor uses"),
}
_F8 = _Global("numpy", "dtype", "f8", False, True)
_LATIN1 = _Global("_codecs", "encode", "\x00" * 8, "latin1")
_HOSTILE_META = {
    "object array": (np.array([{}], object), "numpy array of type 'O8'"),
    "text array": (np.array(["x"]), "numpy array of type 'U1'"),
    "record array": (np.zeros(1, [("a", "f4")]), "numpy array of type 'V4'"),
    "other class": (_Global("numpy._core.multiarray", "_reconstruct", 3, (0,), b"b"), "another class"),
    "subclass": (np.ma.zeros(3), "numpy.ma"),
    "number of other length": (
        _Global("numpy.core.multiarray", "scalar", _F8, _Global("_codecs", "encode", "x")),
        "fit",
    ),
    "number of no type": (_Global("numpy.core.multiarray", "scalar", "f8", _LATIN1), "do not fit"),
    "encoding": (_Global("_codecs", "encode", "x", "rot13"), "another encoding"),
    "decoding": (_Global("_codecs", "decode", "x", "rot13"), "_codecs.decode"),
    "default": (_Global("collections", "defaultdict", _Global("os", "system")), "os.system"),
    "number as default": (_Global("collections", "defaultdict", 3), "unknown default"),
    "called list": (_Global("builtins", "list", (1, 2)), "damaged"),
    "called class": (_Global("sklearn.decomposition._pca", "PCA", 3), "damaged"),
    "storage": (_Storage(_DATA.values, "0"), "neither plain values nor arrays|damaged"),
    "bytes": (_Global("builtins", "bytes", 1 << 40), "bytes made of"),
    "class": ({"deep": [_Global("numpy", "ndarray")]}, "'deep' is neither plain values nor arrays"),
}
_HOSTILE_PICKLES = {
    "memo bomb": (b"\x80\x02Nr\x00\x84\xd7\x17.", "no dict of tensors|no tensor uses"),  # 6 GB in the C unpickler
    "old instance": (b"\x80\x02(S'x'\nios\nsystem\n.", "damaged"),
    "new object": (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "a new object"),
    "new object with arguments": (b"\x80\x02csklearn.decomposition._pca\nPCA\nK\x01\x85\x81.", "a new object"),
    "state of an array": (b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n\x85RNb.", "unknown state"),
    "extension": (b"\x80\x02\x82\x01.", "damaged"),
    "state of a list": (b"\x80\x02]}b.", "object with a state"),
    "call of a number": (b"\x80\x02K\x01)R.", "damaged"),
    "long text": (b"\x80\x02X\xff\xff\xff\xffabc.", "damaged"),
    "long integer": (b"\x80\x02\x8a\xffabc.", "damaged"),
    "empty stack": (b"\x80\x02.", "damaged"),
    "no end": (b"\x80\x02}", "damaged"),
    "protocol 9": (b"\x80\x09}.", "damaged"),
    "nested": (b"\x80\x02" + b"(" * 100000 + b"t" * 100000 + b".", "no dict of tensors|damaged|no tensor uses"),
}


@pytest.mark.parametrize("write", [_legacy, _zip])
@pytest.mark.parametrize("case", [*_HOSTILE_ROOTS, *_HOSTILE_META, *_HOSTILE_PICKLES])
def test_hostile_files_are_refused_and_never_run(write, case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root, reason = _HOSTILE_ROOTS.get(case, (None, None))
    if case in _HOSTILE_META:
        meta, reason = _HOSTILE_META[case]
        root = {"state_dict": _GOOD, "meta": meta}
    pickled, reason = _HOSTILE_PICKLES.get(case, (None, reason))
    path = tmp_path / "evil.pth"
    path.write_bytes(write(root, [_DATA], pickled=pickled))
    start = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=rf"evil\.pth: refused as a checkpoint: .*({reason}).*torch\.save"):
            read_torch(path)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert time.process_time() - start < 5
    assert not (tmp_path / _SENTINEL).exists()


@pytest.mark.parametrize("write", [_legacy, _zip])
def test_arrays_and_numbers_beside_the_tensors_come_back(write, tmp_path):
    """What cirtorch, HOW and DIR keep in their files; scikit-learn's PCA is its attributes."""
    pca = b"csklearn.decomposition.pca\nPCA\n)\x81}U\x06whitenK\x01sb"
    meta = {
        "mean": [0.4, 0.5],
        "Lw": {"ss": {"P": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "m": np.arange(3, dtype=">f4")}},
        "best": (np.float32(1.5), np.int64(-3), np.bool_(True), None),
        "tensor": _tensor(_DATA, (3, 2)),
        "none": np.zeros((0, 2)),
    }
    path, root = tmp_path / "x.pth", {"meta": meta, "state_dict": _GOOD, "marked": "HERE"}
    pickled = _pickled(root).replace(b"X\x04\x00\x00\x00HERE", pca)
    path.write_bytes(write(root, [_DATA], pickled=pickled))
    _, beside = read_torch(path)
    found = beside["meta"]
    assert beside["marked"] == {"whiten": 1} and found["mean"] == [0.4, 0.5]
    np.testing.assert_array_equal(found["Lw"]["ss"]["P"], np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(found["Lw"]["ss"]["m"], [0, 1, 2])
    assert found["best"] == (1.5, -3, True, None)
    np.testing.assert_array_equal(found["tensor"], np.arange(6).reshape(3, 2))
    assert found["none"].shape == (0, 2)


def test_a_dict_that_holds_itself_is_refused(tmp_path):
    meta = {}
    meta["a"] = meta["b"] = meta
    (tmp_path / "x.pth").write_bytes(_zip({"state_dict": _GOOD, "meta": meta}, [_DATA]))
    with pytest.raises(UserError, match="nested too deeply"):
        read_torch(tmp_path / "x.pth")


def test_few_parts_are_read_of_a_large_pickle(monkeypatch, tmp_path):
    monkeypatch.setattr(restricted_pickle, "MAX_READS", 300)
    (tmp_path / "x.pth").write_bytes(_zip({"state_dict": _GOOD, "epochs": list(range(50))}, [_DATA]))
    read_torch(tmp_path / "x.pth")
    (tmp_path / "x.pth").write_bytes(_zip({"state_dict": _GOOD, "epochs": list(range(1000))}, [_DATA]))
    with pytest.raises(UserError, match="more than 300 parts"):
        read_torch(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "damaged"),
        (b"not a checkpoint at all", "damaged|no torch file"),
        (_legacy(_GOOD, [_DATA])[:-3], "cut off"),
        (_legacy(_GOOD, [_DATA, _Storage(np.zeros(2, "<f4"), "1")]), "no tensor uses"),
        (_zip(_GOOD, [_DATA])[:-30], "damaged"),
        (_zip(_GOOD, [_DATA], compression=zipfile.ZIP_DEFLATED), "compressed"),
        (_zip(_GOOD, [_DATA], twice=True), "a name twice"),
        (_zip(_GOOD, [_DATA], byteorder=b"big"), "big-endian"),
    ],
)
def test_damaged_files_are_refused(data, reason, tmp_path):
    path = tmp_path / "damaged.pth"
    path.write_bytes(data)
    with pytest.raises(UserError, match=rf"damaged\.pth: refused as a checkpoint: .*({reason})"):
        read_torch(path)


def test_every_flipped_byte_is_refused_or_harmless(tmp_path):
    """Nothing but `UserError` comes out of a file with one wrong byte."""
    for write in (_legacy, _zip):
        root = {"state_dict": _GOOD, "meta": {"mean": np.arange(3.0), "scale": np.float32(2)}}
        good, path = bytearray(write(root, [_DATA])), tmp_path / "flipped.pth"
        for at in range(0, len(good), 3):
            path.write_bytes(bytes(good[:at]) + bytes([good[at] ^ 0x55]) + bytes(good[at + 1 :]))
            try:
                assert all(isinstance(v, np.ndarray) for v in read_torch(path)[0].values())
            except UserError:
                pass


def test_only_regular_files_of_a_sane_size(tmp_path, monkeypatch):
    import os

    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(UserError, match="not a regular file|Is a directory"):
            read_torch(path)
    with pytest.raises(UserError, match="No such file.*check the path"):
        read_torch(tmp_path / "absent.pth")
    monkeypatch.setattr(torch_file, "MAX_FILE", 10)
    (tmp_path / "large.pth").write_bytes(_legacy(_GOOD, [_DATA]))
    with pytest.raises(UserError, match="may have 10 at most"):
        read_torch(tmp_path / "large.pth")
