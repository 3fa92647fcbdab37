"""What is inside of files of strangers is measured before it is built, and typed before it is used."""

import io
import json
import math
import os
import time
import tracemalloc
import zipfile

import numpy as np
import pytest

from sret_jax.storage import foreign
from sret_jax.storage.files import Unreadable
from sret_jax.storage.foreign import (
    a_list,
    a_number,
    a_text,
    a_whole_number,
    an_object,
    check_safetensors,
    numbers,
    open_npy,
    open_zip,
    parse_json,
    read_lines,
    read_npz_array,
    short,
)


def refused(call, *given, match, **more):
    """It is, in no time and no memory."""
    start = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(Unreadable, match=match) as error:
            call(*given, **more)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert time.process_time() - start < 5 and len(error.value.reason) < 400 and "\n" not in error.value.reason


def test_json_comes_back_as_it_was():
    value = {"names": ["a", "é\U0001f600"], "box": [0, -1.5, 1e12, 3], "none": None, "true": True, "deep": [[[[]]]]}
    assert parse_json(json.dumps(value).encode()) == value
    assert parse_json(json.dumps(value).encode("utf-16")) == value
    assert parse_json(b"\xef\xbb\xbf[1]") == [1]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe\xfd", "not JSON"),
        (b"[" * 900_000, "nested more than 64 deep"),
        (b"[" * 100_000 + b"]" * 100_000, "nested more than 64 deep"),
        (b"[" * 66 + b"]" * 66, "nested more than 64 deep"),
        (b'{"a":' * 70 + b"1" + b"}" * 70, "nested more than 64 deep"),
        (b"[" + b"[]," * 1_000_000 + b"[]]", "at most 1,000,000 lists"),
        (b"[NaN]", "NaN is no number"),
        (b"[-Infinity]", "-Infinity is no number"),
        (b"[" + b"1" * 5000 + b"]", "not JSON"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' is there twice"),
    ],
)
def test_json_that_hurts_is_refused(data, reason):
    refused(parse_json, data, match=reason)


@pytest.mark.parametrize("value", [True, None, "1", [1], math.inf, 10**400, -(10**400), 1e300, parse_json(b"1e999")])
def test_what_is_no_number_is_named_by_its_place(value):
    with pytest.raises(Unreadable, match=r"^width of entry 3 is .{1,80}, not a number up to 1e\+12$"):
        a_number(value, "width of entry 3")


def test_values_are_typed():
    assert numbers([1, 2.5], "box", 2, 4) == [1.0, 2.5] and a_number(np.float32(0.5), "x") == 0.5
    assert a_whole_number(3, "n", 4) == 3 and a_text("cat/é.jpg", "name") == "cat/é.jpg"
    for call, value in (
        (a_text, 3),
        (a_text, "a\0b"),
        (a_text, "\ud800"),
        (a_text, "x" * 5000),
        (a_whole_number, True),
        (a_whole_number, -1),
        (a_whole_number, 1.0),
        (a_whole_number, 1 << 60),
        (a_list, {}),
        (an_object, []),
        (numbers, "12"),
        (numbers, [1, math.nan]),
    ):
        with pytest.raises(Unreadable, match="^it is "):
            call(value, "it")
    with pytest.raises(Unreadable, match=r"box is \[1, 2, 3\], not 2 or 4 numbers"):
        numbers([1, 2, 3], "box", 2, 4)


def test_values_in_errors_are_short():
    me = []
    me.append(me)
    for value in (me, "x" * 10**6, [[["y" * 1000] * 1000] * 1000] * 1000, 10**5000, {str(i): i for i in range(1000)}):
        assert len(short(value)) <= 120


def test_lines(tmp_path, monkeypatch):
    path = tmp_path / "x.txt"
    path.write_bytes(b"\xef\xbb\xbfa\r\n\nb\x0cb\n")  # a form feed is part of a name
    assert read_lines(path) == ["a", "", "b\x0cb"]
    path.write_bytes(b"")
    assert read_lines(path) == []
    path.write_bytes(b"\xff")
    refused(read_lines, path, match="not text in UTF-8")
    monkeypatch.setattr(foreign, "MAX_LINES", 10)
    path.write_bytes(b"\n" * 11)
    refused(read_lines, path, match="more than 10 lines")


def npy(shape: str, dtype="'<i4'", data=b""):
    text = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(3, 4), (0, 4)])
def test_arrays_come_back_mapped_and_read_only(tmp_path, order, shape):
    x = np.arange(math.prod(shape), dtype=">i2").reshape(shape, order=order)
    np.save(tmp_path / "x.npy", x)
    found = open_npy(tmp_path / "x.npy", 1 << 20, "iu", 2)
    np.testing.assert_array_equal(found, x)
    assert found.size == 0 or isinstance(found, np.memmap) and not found.flags.writeable


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (npy("(2, 2)", data=b"x" * 15), "in 15 bytes; it is cut off or damaged"),
        (npy("(2, 2)", data=b"x" * 17), "in 17 bytes"),
        (npy("(1000000000, 1000)"), "in 0 bytes"),
        (npy("(True, 4)", data=b"x" * 16), r"the shape \(True, 4\)"),
        (npy("(-1, 4)"), "the shape"),
        (npy("(1 << 40, 4)"), "no .npy file"),
        (npy("(4,)", data=b"x" * 16), "not numbers along 2 axes"),
        (npy("(2, 2)", "'|O'", b"x" * 32), "'object' .*not numbers"),
        (npy("(2, 2)", "'<f4'", b"x" * 16), "'float32' .*not numbers"),
        (npy("(1, 1)", "'1000000000i4'"), "not numbers|no .npy file"),
        (npy("__import__('os').abort()"), "no .npy file"),
        (npy("(" * 5000 + ")" * 5000), "no .npy file"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{", "no .npy file"),
        (b"\x93NUMPY\x09\x00", "no .npy file"),
        (b"", "no .npy file"),
    ],
)
def test_a_header_has_to_fit_its_data(tmp_path, data, reason):
    (tmp_path / "x.npy").write_bytes(data)
    refused(open_npy, tmp_path / "x.npy", 1 << 30, "iu", 2, match=reason)


def packed(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return stream.getvalue()


def test_an_array_is_unpacked_after_its_sizes_are_known(tmp_path):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, ranks=np.arange(12).reshape(3, 4))
    np.testing.assert_array_equal(read_npz_array(path, 1 << 20, "iu", 2, "ranks"), np.arange(12).reshape(3, 4))
    zeros = npy("(100000, 1000)", data=bytes(400_000_000))
    for data, reason in (
        (packed(ranks=zeros), "becomes more than 30 times as large"),
        (packed(ranks=npy("(1000000, 1000)", data=b"x" * 64)), "cut off or damaged"),
        (packed(ranks=npy("(2, 2)", "'|O'", b"x" * 32)), "not numbers"),
        (packed(a=b"", b=b""), "holds the arrays a, b, and none is called 'ranks'"),
        (packed(ranks=npy("(2, 2)", data=b"x" * 16))[:-10], "damaged archive"),
    ):
        path.write_bytes(data)
        refused(read_npz_array, path, 1 << 30, "iu", 2, "ranks", match=reason)


def test_a_directory_of_an_archive_is_measured_before_it_is_read():
    once = packed(a=b"x" * 100)
    start = once.rfind(b"PK\x01\x02")
    end = once.rfind(b"PK\x05\x06")
    entry = once[start:end]

    def listed(count: int, told: int) -> io.BytesIO:
        return io.BytesIO(
            once[:start]
            + entry * count
            + once[end : end + 8]
            + told.to_bytes(2, "little") * 2
            + (count * len(entry)).to_bytes(4, "little")
            + once[end + 16 :]
        )

    assert list(open_zip(listed(1, 1))[1]) == ["a.npy"]
    refused(open_zip, listed(2, 2), match="a name twice")
    refused(open_zip, listed(400_000, 2), match="or in more than 16 MiB")
    moved = bytearray(packed(a=b"x" * 100, b=b"y" * 100))
    second = moved.rfind(b"PK\x01\x02")
    moved[second + 42 : second + 46] = bytes(4)  # it lies where the first one does
    refused(open_zip, io.BytesIO(bytes(moved)), match="overlap")


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def tensors(header, data=b"\0" * 8) -> bytes:
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(header).to_bytes(8, "little") + header + data


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\xff" * 8, "its header would have"),
        (tensors(b"[" * 100_000), "nested"),
        (tensors({"a": ENTRY}, b"\0" * 7), "'a' is cut off"),
        (tensors({"a": ENTRY}, b"\0" * 9), "1 bytes behind its last tensor"),
        (tensors({"a": ENTRY, "b": ENTRY}), "'b' does not lie behind"),
        (tensors({"a": ENTRY | {"shape": [True]}}), "shape of 'a' is True"),
        (tensors({"a": ENTRY | {"data_offsets": [0, 10**400]}}), "place of 'a' is a number of many digits"),
        (tensors({"a": ENTRY | {"data_offsets": [0]}}), "'a' does not lie"),
        (tensors({"a": {"dtype": "F32"}}), "'a' has no 'shape'"),
        (tensors({"__metadata__": {"format": 3}, "a": ENTRY}), "metadata 'format' is 3, not a text"),
    ],
)
def test_a_safetensors_header_has_to_fit(data, reason):
    refused(check_safetensors, data, match=reason)
    assert check_safetensors(tensors({"a": ENTRY, "__metadata__": {"x": "y"}})) == {"x": "y"}


def test_no_reader_waits_for_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "x")
    for call in (
        lambda path: foreign.read_json(path),
        lambda path: read_lines(path),
        lambda path: open_npy(path, 1 << 20, "iu", 2),
        lambda path: read_npz_array(path, 1 << 20, "iu", 2, "x"),
        lambda path: foreign.is_zip(path),
    ):
        refused(call, tmp_path / "x", match="not a regular file")
