"""What is wrong with a checkpoint is named by its entry: what an attacker saves, a file cut off, a wrong byte."""

import numpy as np
import pytest

from sret_jax.errors import UserError
from sret_jax.models.weights.torch_file import read_torch
from tests.support.torch_pickles import Global, Storage, legacy_file, tensor, zip_file

_DATA = Storage(np.arange(6, dtype="<f4"), "0")
_SENTINEL = "touched-by-a-pickle"


@pytest.mark.parametrize("write", [legacy_file, zip_file])
@pytest.mark.parametrize(
    "evil",
    [
        Global("os", "system", f"touch {_SENTINEL}"),
        Global("builtins", "eval", "1"),
        Global("torch._utils", "_rebuild_tensor_v2", _DATA, 0, (2, 3), (3, 1), False, Global("os", "getcwd")),
        tensor(5, (2, 3)),
        tensor(_DATA, (2, 3), (-3, 1)),
        np.array([{}], object),
        [["x", "y"], {"deeper": 1}, Global("os", "system")],
        {(1, 2): 3},
    ],
)
@pytest.mark.parametrize("place", ["alone", "last", "between", "inside"])
def test_what_is_refused_is_named_by_its_entry(write, evil, place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before, after = {"a.weight": tensor(_DATA, (6,)), "a.bias": tensor(_DATA, (2,))}, {"c": tensor(_DATA, (3,))}
    root = {
        "alone": {"b.weight": evil},
        "last": before | {"b.weight": evil},
        "between": before | {"b.weight": evil} | after,
        "inside": {"epoch": 3, "meta": {"mean": [1.0]}, "state_dict": before | {"b.weight": evil}, "args": after},
    }[place]
    (tmp_path / "evil.pth").write_bytes(write(root, [_DATA]))
    with pytest.raises(UserError, match=r"evil\.pth: refused as a checkpoint: .*, at the entry 'b\.weight'; save"):
        read_torch(tmp_path / "evil.pth")
    assert not (tmp_path / _SENTINEL).exists()


_OTHER = Storage(np.arange(40, dtype="<f4"), "1")
_TWO = {"a": tensor(_DATA, (2, 3)), "b": tensor(_OTHER, (40,)), "c": tensor(_OTHER, (5, 8))}


@pytest.mark.parametrize("write", [legacy_file, zip_file])
def test_a_file_that_is_cut_off_names_the_tensor(write, tmp_path):
    """Anywhere in the bytes of a tensor, and in the pickle behind its first entry."""
    data, path = write(_TWO, [_DATA, _OTHER]), tmp_path / "cut.pth"

    def refused(length):
        path.write_bytes(data[:length])
        with pytest.raises(UserError, match=r"cut\.pth: refused as a checkpoint: ") as error:
            read_torch(path)
        return str(error.value)

    start, part = data.rfind(_OTHER.values.tobytes()), " 'model/data/1'," if write is zip_file else ""
    for length in (start, start + 1, start + 80, start + 159):
        assert f"{part} the storage of 'b'" in refused(length)
    assert "the storage of 'a'" in refused(data.find(_DATA.values.tobytes()) + 3)
    for name in "abc":
        assert f"at the entry '{name}'" in refused(data.find(b"X\x01\x00\x00\x00" + name.encode()) + 12)
    for length in range(len(data)):
        refused(length)


def test_a_wrong_byte_in_a_zip_names_the_member_and_the_tensor(tmp_path):
    data = bytearray(zip_file(_TWO, [_DATA, _OTHER]))
    data[data.rfind(_OTHER.values.tobytes()) + 9] ^= 1
    (tmp_path / "x.pth").write_bytes(data)
    with pytest.raises(UserError, match=r"\(BadZipFile\), in 'model/data/1', the storage of 'b'; save"):
        read_torch(tmp_path / "x.pth")
