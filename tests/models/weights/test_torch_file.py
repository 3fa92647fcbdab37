"""The checkpoint reader: what torch saves comes back bit for bit, what an attacker saves is refused and never run."""

import re
import time
import tracemalloc
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from sret_jax.errors import UserError
from sret_jax.models.weights import restricted_pickle, torch_file
from sret_jax.models.weights.preprocessing import preprocessing
from sret_jax.models.weights.restricted_pickle import Unread
from sret_jax.models.weights.torch_file import read_torch
from tests.support.torch_pickles import Global, Storage, legacy_file, pickle_of, tensor, zip_file


@pytest.mark.parametrize("write", [legacy_file, zip_file])
def test_tensors_of_both_layouts(write, tmp_path):
    a = Storage(np.arange(24, dtype="<f4"), "0")
    b = Storage(np.array([7], "<i8"), "1", kind="LongStorage")
    c = Storage(np.array([0x3F80, 0xC000], "<u2"), "2", kind="BFloat16Storage")
    state = {
        "plain": tensor(a, (2, 3, 4)),
        "transposed": tensor(a, (4, 3), (1, 4), 12),
        "parameter": Global("torch._utils", "_rebuild_parameter", tensor(a, (5,), offset=3), True, OrderedDict()),
        "scalar": tensor(b, ()),
        "half": tensor(c, (2,)),
        "empty": tensor(b, (0, 3)),
    }
    path = tmp_path / "model.pth"
    path.write_bytes(write({"state_dict": state, "epoch": 3, "args": [1.5, None, True, "x"]}, [a, b, c]))
    (read, beside, found), values = read_torch(path), np.arange(24, dtype=np.float32)
    assert found.entry == "state_dict" and not found.others
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
    read = read_torch(tmp_path / "x.pth").state
    assert list(read) == list(state)
    for name, value in state.items():
        np.testing.assert_array_equal(read[name].astype(np.float64), value.detach().double().numpy())
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"module.pth: refused.*torch\.nn\.modules\.linear\.Linear.*state_dict"):
        read_torch(tmp_path / "module.pth")


_DATA = Storage(np.arange(6, dtype="<f4"), "0")
_GOOD = {"w": tensor(_DATA, (2, 3))}
_SENTINEL = "touched-by-a-pickle"
_HOSTILE_ROOTS = {
    "system": ({"w": Global("os", "system", f"touch {_SENTINEL}")}, "names the Python object os.system"),
    "eval": ({"w": Global("builtins", "eval", "1")}, "builtins.eval"),
    "getattr": ({"w": Global("builtins", "getattr", 1, "real")}, "builtins.getattr"),
    "torch.load": ({"w": Global("torch", "load", "x")}, "torch.load"),
    "dotted": ({"w": Global("collections", "OrderedDict.fromkeys", ["a"])}, "OrderedDict.fromkeys"),
    "numpy": ({"w": Global("numpy", "fromfile", "/etc/passwd")}, "numpy.fromfile"),
    "dict with arguments": ({"w": Global("collections", "OrderedDict", [["a", 1]])}, "ordered dict with arguments"),
    "not tensors": ({"w": 3}, r"no state dict, but 'w' \(a int\)|no tensor uses"),
    "no tensor among them": ({"w": tensor(_DATA, (2, 3)), "x": 3}, "the entry 'x' is not a tensor"),
    "no dict": ([1, 2], "no dict of tensors|no tensor uses"),
    "tuple key": ({"w": tensor(_DATA, (2, 3)), (1, 2): 3}, "dict key"),
    "huge key": ({"w": tensor(_DATA, (2, 3)), 1 << 61: 3}, "dict key"),
    "beyond": ({"w": tensor(_DATA, (3, 3))}, "reaches beyond its 6 values"),
    "offset": ({"w": tensor(_DATA, (2, 3), offset=1)}, "reaches beyond"),
    "stride": ({"w": tensor(_DATA, (2, 3), (4, 1))}, "reaches beyond"),
    "negative stride": ({"w": tensor(_DATA, (2, 3), (-3, 1))}, "natural numbers"),
    "negative shape": ({"w": tensor(_DATA, (-1, 3), (3, 1))}, "natural numbers"),
    "true shape": ({"w": tensor(_DATA, (True, 3), (3, 1))}, "natural numbers"),
    "expanded": ({"w": tensor(_DATA, (1 << 30, 1 << 30), (0, 0))}, "reaches beyond"),
    "many axes": ({"w": tensor(_DATA, (1,) * 40)}, "shape and strides"),
    "short stride": ({"w": tensor(_DATA, (2, 3), (1,))}, "shape and strides"),
    "no storage": ({"w": tensor(5, (2, 3))}, "without storage"),
    "count": ({"w": tensor(Storage(_DATA.values, "0", 1 << 40), (2, 3))}, "natural numbers"),
    "larger count": ({"w": tensor(Storage(_DATA.values, "0", 600), (2, 300))}, "another size|shorter than"),
    "wrong type": (
        {"w": tensor(Storage(_DATA.values, "0", kind="DoubleStorage"), (2,))},
        "another size|shorter than",
    ),
    "unknown storage": ({"w": tensor(Storage(_DATA.values, "0", kind="QInt8Storage"), (2,))}, "torch.QInt8Storage"),
    "missing storage": ({"w": tensor(Storage(_DATA.values, "9"), (2, 3))}, "missing|no tensor uses"),
}
_F8 = Global("numpy", "dtype", "f8", False, True)
_LATIN1 = Global("_codecs", "encode", "\x00" * 8, "latin1")
_HOSTILE_META = {
    "object array": (np.array([{}], object), "numpy array of type 'O8'"),
    "text array": (np.array(["x"]), "numpy array of type 'U1'"),
    "record array": (np.zeros(1, [("a", "f4")]), "numpy array of type 'V4'"),
    "other class": (Global("numpy._core.multiarray", "_reconstruct", 3, (0,), b"b"), "another class"),
    "subclass": (np.ma.zeros(3), "numpy.ma"),
    "number of other length": (
        Global("numpy.core.multiarray", "scalar", _F8, Global("_codecs", "encode", "x")),
        "fit",
    ),
    "number of no type": (Global("numpy.core.multiarray", "scalar", "f8", _LATIN1), "do not fit"),
    "encoding": (Global("_codecs", "encode", "x", "rot13"), "another encoding"),
    "decoding": (Global("_codecs", "decode", "x", "rot13"), "_codecs.decode"),
    "default": (Global("collections", "defaultdict", Global("os", "system")), "os.system"),
    "number as default": (Global("collections", "defaultdict", 3), "unknown default"),
    "storage": (Storage(_DATA.values, "0"), "neither plain values nor arrays"),
    "bytes": (Global("builtins", "bytes", 1 << 40), "bytes made of"),
    "class": ({"deep": [Global("numpy", "ndarray")]}, "'deep' is neither plain values nor arrays"),
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
    "long integer": (b"\x80\x02\x8a\xffabc.", "damaged|more than 128 bits"),
    "empty stack": (b"\x80\x02.", "damaged"),
    "no end": (b"\x80\x02}", "damaged"),
    "protocol 9": (b"\x80\x09}.", "damaged"),
    "nested": (b"\x80\x02" + b"(" * 100000 + b"t" * 100000 + b".", "nested too deeply"),
}


@pytest.mark.parametrize("write", [legacy_file, zip_file])
@pytest.mark.parametrize("case", [*_HOSTILE_ROOTS, *_HOSTILE_META, *_HOSTILE_PICKLES])
def test_hostile_files_are_refused_and_never_run(write, case, tmp_path, monkeypatch):
    """As the file, or in the place of an array of the network."""
    monkeypatch.chdir(tmp_path)
    root, reason = _HOSTILE_ROOTS.get(case, (None, None))
    if case in _HOSTILE_META:
        value, reason = _HOSTILE_META[case]
        root, reason = {"state_dict": _GOOD | {"b": value}}, f"{reason}|'b' is not a tensor"
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


@pytest.mark.parametrize("write", [legacy_file, zip_file])
@pytest.mark.parametrize("case", _HOSTILE_META)
def test_what_lies_beside_the_network_is_passed_over_and_never_made(write, case, tmp_path, monkeypatch):
    """It is in the way of nobody; who asks for it gets the reason why it is not there."""
    monkeypatch.chdir(tmp_path)
    value, reason = _HOSTILE_META[case]
    (tmp_path / "x.pth").write_bytes(write({"state_dict": _GOOD, "meta": {"mean": 1, "x": value}}, [_DATA]))
    state, beside, _ = read_torch(tmp_path / "x.pth")
    assert list(state) == ["w"] and list(beside) == ["meta"] and beside["meta"]["mean"] == 1
    found = beside["meta"]["x"]
    while isinstance(found, dict | list):
        (found,) = found.values() if isinstance(found, dict) else found
    assert type(found) is Unread and re.search(reason, found.reason)
    assert not (tmp_path / _SENTINEL).exists()


_UNKNOWN = b"cevil.module\nThing\n"
_OPCODES = {
    "by name": _UNKNOWN,
    "called": _UNKNOWN + b"K\x01}U\x01aK\x02s\x86R",
    "made": _UNKNOWN + b")\x81",
    "made with arguments": _UNKNOWN + b"X\x01\x00\x00\x00a\x85\x81",
    "made with names": _UNKNOWN + b")}U\x01aK\x02s\x92",
    "with a state": _UNKNOWN + b")\x81}U\x01aK\x02sb",
    "with items": _UNKNOWN + b")\x81(U\x01aK\x02u",
    "with one item": _UNKNOWN + b")\x81U\x01aK\x02s",
    "with keys of any kind": _UNKNOWN + b")\x81(K\x02\x85K\x01u",
    "with a list": _UNKNOWN + b")\x81(K\x01K\x02e",
    "with one of a list": _UNKNOWN + b")\x81K\x01a",
    "a set": b"\x8f(K\x01K\x02\x90",
    "a frozen set": b"(K\x01K\x02\x91",
    "the result of a call, called": _UNKNOWN + b")R)R)R",
    "a method": b"cbuiltins\ngetattr\n" + _UNKNOWN + b")\x81X\x06\x00\x00\x00method\x86R",
    "inside of itself": _UNKNOWN + b")\x81q\x30}U\x01ah\x30sb",
    "keys of objects": b"}(K\x05\x85K\x01" + _UNKNOWN + b")\x81K\x02u",
    "eight bytes of length": b"\x8d\x03\x00\x00\x00\x00\x00\x00\x00abc",
    "a long number": b"\x8b\x04\x00\x00\x00\x01\x02\x03\x04",
}


@pytest.mark.parametrize("opcodes", _OPCODES.values(), ids=_OPCODES)
def test_objects_of_unknown_classes_are_stepped_over(opcodes, tmp_path):
    """Every way in which a pickle makes and fills an object, before the network in the file and behind it."""
    root = {"before": "HERE", "state_dict": _GOOD, "behind": ["HERE"], "epoch": 3}
    pickled = pickle_of(root)
    pickled = pickled.replace(b"X\x04\x00\x00\x00HERE", opcodes, 1)
    start = pickled.index(b"behind")
    pickled = pickled[:start] + re.sub(rb"\](q.)?h.a", lambda m: b"](" + opcodes + b"e", pickled[start:])
    (tmp_path / "x.pth").write_bytes(zip_file(root, [_DATA], pickled=pickled))
    state, beside, _ = read_torch(tmp_path / "x.pth")
    np.testing.assert_array_equal(state["w"], np.arange(6).reshape(2, 3))
    assert beside["epoch"] == 3 and set(beside) == {"before", "behind", "epoch"}


def test_cut_and_changed_pickles_of_unknown_objects_end_in_an_error_or_not_at_all(tmp_path):
    """Random bytes put in, taken out and exchanged: nothing but `UserError`, nothing run, little memory."""
    rng, path = np.random.default_rng(0), tmp_path / "x.pth"
    whole = pickle_of({"state_dict": _GOOD, "args": "HERE"})
    for opcodes in _OPCODES.values():
        good = whole.replace(b"X\x04\x00\x00\x00HERE", opcodes)
        for _ in range(60):
            data = bytearray(good)
            for _ in range(rng.integers(1, 4)):
                at = int(rng.integers(2, len(data)))
                data[at : at + int(rng.integers(0, 3))] = rng.bytes(int(rng.integers(0, 3)))
            path.write_bytes(zip_file(None, [_DATA], pickled=bytes(data)))
            try:
                read_torch(path)
            except UserError:
                pass


def test_bytes_made_of_one_text_many_times_are_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(restricted_pickle, "SPARE_TEXT", 0)
    meta = [Global("_codecs", "encode", "x" * 300, "latin1")] * 5
    (tmp_path / "x.pth").write_bytes(zip_file({"state_dict": _GOOD, "meta": meta}, [_DATA]))
    with pytest.raises(UserError, match="its text becomes more than"):
        read_torch(tmp_path / "x.pth")


def test_arrays_that_nobody_asks_for_are_not_read(tmp_path):
    """An optimiser keeps twice the network."""
    moments = Storage(np.zeros(1 << 20, "<f4"), "1")
    root = {"state_dict": _GOOD, "optimizer": {"state": {0: {"exp_avg": tensor(moments, (1 << 20,))}}}}
    data = zip_file(root, [_DATA, moments])
    tracemalloc.start()
    try:
        _, beside, _ = torch_file.read_torch(tmp_path / "x.pth", data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert beside["optimizer"]["state"][0]["exp_avg"].shape == (1 << 20,)


@pytest.mark.parametrize("write", [legacy_file, zip_file])
def test_arrays_and_numbers_beside_the_tensors_come_back(write, tmp_path):
    """What cirtorch, HOW and DIR keep in their files; scikit-learn's PCA is its attributes."""
    pca = b"csklearn.decomposition.pca\nPCA\n)\x81}U\x06whitenK\x01sb"
    meta = {
        "mean": [0.4, 0.5],
        "Lw": {"ss": {"P": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "m": np.arange(3, dtype=">f4")}},
        "best": (np.float32(1.5), np.int64(-3), np.bool_(True), None),
        "tensor": tensor(_DATA, (3, 2)),
        "none": np.zeros((0, 2)),
    }
    path, root = tmp_path / "x.pth", {"meta": meta, "state_dict": _GOOD, "marked": "HERE"}
    pickled = pickle_of(root).replace(b"X\x04\x00\x00\x00HERE", pca)
    path.write_bytes(write(root, [_DATA], pickled=pickled))
    beside = read_torch(path).beside
    found = beside["meta"]
    assert beside["marked"] == {"whiten": 1} and found["mean"] == [0.4, 0.5]
    np.testing.assert_array_equal(found["Lw"]["ss"]["P"], np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(found["Lw"]["ss"]["m"], [0, 1, 2])
    assert found["best"] == (1.5, -3, True, None)
    np.testing.assert_array_equal(found["tensor"], np.arange(6).reshape(3, 2))
    assert found["none"].shape == (0, 2)


def test_a_dict_that_holds_itself_ends_somewhere(tmp_path):
    meta = {}
    meta["a"] = meta["b"] = meta
    (tmp_path / "x.pth").write_bytes(zip_file({"state_dict": _GOOD, "meta": meta}, [_DATA]))
    found = read_torch(tmp_path / "x.pth").beside["meta"]
    while isinstance(found, dict):
        found = found["a"]
    assert "more than 1,000,000 parts" in found.reason


def test_few_parts_are_read_of_a_large_pickle(monkeypatch, tmp_path):
    monkeypatch.setattr(restricted_pickle, "MAX_READS", 300)
    (tmp_path / "x.pth").write_bytes(zip_file({"state_dict": _GOOD, "epochs": list(range(50))}, [_DATA]))
    read_torch(tmp_path / "x.pth")
    (tmp_path / "x.pth").write_bytes(zip_file({"state_dict": _GOOD, "epochs": list(range(1000))}, [_DATA]))
    with pytest.raises(UserError, match="more than 300 parts"):
        read_torch(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "damaged"),
        (b"not a checkpoint at all", "damaged|no torch file"),
        (legacy_file(_GOOD, [_DATA])[:-3], "cut off"),
        (legacy_file(_GOOD, [_DATA, Storage(np.zeros(2, "<f4"), "1")]), "no tensor uses"),
        (zip_file(_GOOD, [_DATA])[:-30], "damaged"),
        (zip_file(_GOOD, [_DATA], compression=zipfile.ZIP_DEFLATED), "compressed"),
        (zip_file(_GOOD, [_DATA], twice=True), "a name twice"),
        (zip_file(_GOOD, [_DATA], byteorder=b"big"), "big-endian"),
    ],
)
def test_damaged_files_are_refused(data, reason, tmp_path):
    path = tmp_path / "damaged.pth"
    path.write_bytes(data)
    with pytest.raises(UserError, match=rf"damaged\.pth: refused as a checkpoint: .*({reason})"):
        read_torch(path)


def test_every_flipped_byte_is_refused_or_harmless(tmp_path):
    """Nothing but `UserError` comes out of a file with one wrong byte."""
    for write in (legacy_file, zip_file):
        root = {"state_dict": _GOOD, "meta": {"mean": np.arange(3.0), "scale": np.float32(2)}}
        good, path = bytearray(write(root, [_DATA])), tmp_path / "flipped.pth"
        for at in range(0, len(good), 3):
            path.write_bytes(bytes(good[:at]) + bytes([good[at] ^ 0x55]) + bytes(good[at + 1 :]))
            try:
                assert all(isinstance(v, np.ndarray) for v in read_torch(path).state.values())
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
    (tmp_path / "large.pth").write_bytes(legacy_file(_GOOD, [_DATA]))
    with pytest.raises(UserError, match="larger than 10 bytes"):
        read_torch(tmp_path / "large.pth")


def shared(levels: int):
    inner = [0.5] * 3
    for _ in range(levels):
        inner = [inner] * 2
    return inner


def test_a_list_that_shares_itself_stays_small(tmp_path):
    """Of a few hundred bytes, and a billion numbers where it is written out."""
    (tmp_path / "x.pth").write_bytes(zip_file({"state_dict": _GOOD, "meta": {"mean": shared(28), "std": 1}}, [_DATA]))
    tracemalloc.start()
    try:
        meta = read_torch(tmp_path / "x.pth").beside["meta"]
        with pytest.raises(UserError, match="x.pth: its mean and std of photographs are not three numbers") as error:
            preprocessing("", ([0.5] * 3, [0.5] * 3), {"meta": meta}, {}, {}, tmp_path / "x.pth")
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("opcodes", [b"]", b"}", b"(", b"N\x85", b"N\x94"])
@pytest.mark.parametrize("write", [legacy_file, zip_file])
def test_a_pickle_of_brackets_stays_small(write, opcodes, tmp_path):
    pickled = b"\x80\x04" + opcodes[:-1] + opcodes[-1:] * 320_000 + b"."
    (tmp_path / "x.pth").write_bytes(write(None, [_DATA], pickled=pickled))
    with pytest.raises(UserError, match="more (containers|references) than a file of its size|nested too deeply"):
        read_torch(tmp_path / "x.pth")
