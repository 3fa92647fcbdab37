"""Dicts in .npy files are read as data, and whatever else such a file holds is refused."""

import io
import os
import pickle

import numpy as np
import pytest

from sret_jax.datasets import object_file
from sret_jax.datasets.object_file import read_npy_dict
from sret_jax.errors import UserError


class Evil:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def written(path, value):
    np.save(path, value, allow_pickle=True)
    return path.with_suffix(".npy")


def test_what_numpy_wrote_is_read(tmp_path):
    value = {
        "0_5": "labels/a.json",
        "1_2": np.array([[1, 2], [3, 4]]),
        "floats": [np.array([[1.5, 2]], np.float32)],
        "lists": [[1, 2], [3.5, -4]],
        "number": np.int64(3),
        "empty": [],
        "ragged": np.array([[1, 2], [3]], dtype=object),
    }
    found = read_npy_dict(written(tmp_path / "x", value))
    assert set(found) == set(value)
    np.testing.assert_array_equal(found["1_2"], value["1_2"])
    np.testing.assert_array_equal(found["floats"][0], value["floats"][0])
    assert found["lists"] == value["lists"] and found["empty"] == [] and found["number"] == 3
    assert found["ragged"] == [[1, 2], [3]] and found["0_5"] == "labels/a.json"


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_what_older_numpy_wrote_is_read(tmp_path, protocol):
    """Its arrays are named `numpy.core`, where newer ones say `numpy._core`, and its pickles are of older protocols."""
    value = np.array({"1_2": np.array([[1, 2], [3, 4]]), "list": [[1, 2]]}, dtype=object)
    file, pickled = io.BytesIO(), pickle.dumps(value, protocol=protocol)
    if protocol < 4:  # where names are not counted
        pickled = pickled.replace(b"numpy._core.", b"numpy.core.")
        assert b"numpy.core.multiarray" in pickled and b"_core" not in pickled
    np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
    (tmp_path / "x.npy").write_bytes(file.getvalue() + pickled)
    found = read_npy_dict(tmp_path / "x.npy")
    assert found["1_2"].tolist() == [[1, 2], [3, 4]] and found["list"] == [[1, 2]]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"a": Evil()}, "posix.system"),
        ([1, 2], r"'int64' \[2\], not one dict"),
        (np.array(None), "holds no dict"),
        ({"a": {1, 2}}, "refused"),
    ],
)
def test_anything_else_is_refused_with_its_reason(tmp_path, monkeypatch, value, reason):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=reason):
        read_npy_dict(written(tmp_path / "x", value))
    assert not (tmp_path / "pwned").exists()


def test_a_damaged_or_endless_file_is_refused(tmp_path, monkeypatch):
    path = written(tmp_path / "x", {str(i): [i] for i in range(100)})
    data = path.read_bytes()
    for cut in (5, 60, len(data) - 20):
        (tmp_path / "cut.npy").write_bytes(data[:cut])
        with pytest.raises(UserError, match="cut.npy: refused"):
            read_npy_dict(tmp_path / "cut.npy")
    (tmp_path / "header.npy").write_bytes(data.replace(b"()", b"(("))
    with pytest.raises(UserError, match="header.npy: refused"):
        read_npy_dict(tmp_path / "header.npy")
    with pytest.raises(UserError, match="cannot be opened"):
        read_npy_dict(tmp_path / "none.npy")
    monkeypatch.setattr(object_file, "MAX_READS", 50)
    with pytest.raises(UserError, match="more than 50 parts"):
        read_npy_dict(path)
