"""Ground truth files: the real ones are read, and nothing in a hostile one is executed."""

import json
import os
import pickle
import struct
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from sret_jax.datasets import ground_truth
from sret_jax.datasets.ground_truth import read_ground_truth, read_plain_pickle
from sret_jax.errors import UserError

PLAIN = {"imlist": ["a", "ü"], "gnd": [{"bbx": [1, 2.5, -3, 1 << 40], "ok": [], "deep": [[["x"]], None, True]}]}


def truth(**changes) -> dict:
    entries = [
        {"bbx": [0, 1.5, 20, 30], "easy": [0, 3], "hard": [1], "junk": [2]},
        {"bbx": [5, 5, 9, 9], "easy": [], "hard": [], "junk": [4]},
    ]
    return {"imlist": ["a", "b", "c", "d", "e"], "qimlist": ["q", "r"], "gnd": entries} | changes


def write(folder: Path, value, name: str = "gnd_x.pkl", protocol: int = 2) -> Path:
    path = folder / name
    path.write_bytes(json.dumps(value).encode() if name.endswith(".json") else pickle.dumps(value, protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_come_back_as_they_were(tmp_path, protocol):
    assert read_plain_pickle(write(tmp_path, PLAIN, protocol=protocol)) == PLAIN


def touch(path: str):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {path}",)

    return Evil()


def repeated():
    inner = ["x"] * 10
    for _ in range(40):
        inner = [inner, inner]
    return inner


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (OrderedDict(a=1), "GLOBAL"),
        (np.arange(3), "GLOBAL"),
        ({1: 2}, "a dict key that is not text"),
        ({1, 2}, "opcode"),
        (repeated(), "uses a list or a dict twice"),
        (b"bytes", "opcode"),
        (1 << 3000, "opcode LONG4"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_more_than_plain_values_is_refused(tmp_path, value, reason, protocol):
    with pytest.raises(UserError, match=f"gnd_x.pkl: refused: .*{reason}"):
        read_plain_pickle(write(tmp_path, value, protocol=protocol))


def test_nothing_is_executed(tmp_path):
    for protocol in (0, 2, 4):
        path = write(tmp_path, touch(f"{tmp_path}/owned"), protocol=protocol)
        with pytest.raises(UserError, match="refused"):
            read_plain_pickle(path)
    assert [p.name for p in tmp_path.iterdir()] == ["gnd_x.pkl"]
    pickle.loads(path.read_bytes())  # the file does what it says where it is trusted
    assert (tmp_path / "owned").exists()


def test_a_damaged_file_is_refused_at_every_byte(tmp_path):
    whole = pickle.dumps(PLAIN, 2)
    path = tmp_path / "cut.pkl"
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(UserError, match="cut.pkl"):
            read_plain_pickle(path)
    rng = np.random.default_rng(0)
    for _ in range(500):
        data = bytearray(whole)
        data[rng.integers(len(data))] = rng.integers(256)
        path.write_bytes(bytes(data))
        try:
            read_plain_pickle(path)
        except UserError:
            continue
    path.write_bytes(whole + b"x")
    with pytest.raises(UserError, match="bytes after its end"):
        read_plain_pickle(path)


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02Nr\xff\xff\xff\x7f.",  # a memo index that makes the C unpickler allocate gigabytes
        b"\x80\x02X\xff\xff\xff\x7fa.",  # a text of 2 GB in a file of nine bytes
        b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"N.",  # a frame of 4 EB
    ],
)
def test_sizes_that_a_file_only_claims(tmp_path, data):
    path = tmp_path / "claims.pkl"
    path.write_bytes(data)
    try:
        assert read_plain_pickle(path) is None
    except UserError as error:
        assert "refused" in str(error)


def test_a_file_of_too_many_values(tmp_path, monkeypatch):
    monkeypatch.setattr(ground_truth, "MAX_READS", 50)
    with pytest.raises(UserError, match="more than 50 parts"):
        read_plain_pickle(write(tmp_path, [[] for _ in range(60)]))


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.pkl")
    for name, reason in [("missing.pkl", "No such file"), ("pipe.pkl", "not a regular file"), (".", "not a regular")]:
        with pytest.raises(UserError, match=reason):
            read_plain_pickle(tmp_path / name)


@pytest.mark.parametrize("name", ["gnd_x.pkl", "gnd_x.json"])
def test_ground_truth_by_hand(tmp_path, name):
    read = read_ground_truth(write(tmp_path, truth(), name))
    assert read.photos == ["a", "b", "c", "d", "e"] and read.queries == ["q", "r"]
    assert read.boxes.tolist() == [[0, 1.5, 20, 30], [5, 5, 9, 9]]
    assert [x.tolist() for x in (*read.easy, *read.hard, *read.junk)] == [[0, 3], [], [1], [], [2], [4]]
    assert read.version == f"no published version (md5 {read.md5})"


def entry(**changes) -> list[dict]:
    first, second = truth()["gnd"]
    return [first | changes, second]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"imlist": ["a", "b", "a", "d", "e"]}, "imlist: 'a' is listed twice"),
        ({"imlist": ["a", "b", "../c", "d", "e"]}, "'../c' is not a name below"),
        ({"imlist": ["/a", "b", "c", "d", "e"]}, "'/a' is not a name below"),
        ({"imlist": []}, "list of photo names"),
        ({"qimlist": ["q"]}, "1 queries, but gnd has not as many"),
        ({"gnd": 5}, "must correspond"),
        ({"gnd": entry(easy=[0, 5])}, "query 'q': 'easy' holds index 5, but there are 5"),
        ({"gnd": entry(easy=[-1])}, "index -1"),
        ({"gnd": entry(easy=[0, 1])}, "'b' is in 'easy' and in 'hard'"),
        ({"gnd": entry(easy=[0, 0])}, "'a' is in 'easy' and in 'easy'"),
        ({"gnd": entry(easy="all")}, "list of indices"),
        ({"gnd": entry(bbx=[1, 2, 3])}, "four numbers"),
        ({"gnd": entry(bbx=[30, 2, 3, 4])}, "left < right"),
        ({"gnd": [{}, {}]}, "must be a dict with 'bbx'"),
    ],
)
def test_a_mixed_up_list_is_named(tmp_path, changes, reason):
    with pytest.raises(UserError, match=reason):
        read_ground_truth(write(tmp_path, truth(**changes), "gnd_x.json"))


@pytest.mark.parametrize("text", ["[1, 2", "[" * 100_000, "{}", "7", '{"imlist": [], "qimlist": [], "gnd": []}'])
def test_json_that_is_no_ground_truth(tmp_path, text):
    (tmp_path / "gnd.json").write_text(text)
    with pytest.raises(UserError, match="gnd.json"):
        read_ground_truth(tmp_path / "gnd.json")


@pytest.mark.photos
@pytest.mark.parametrize(
    ("name", "count", "sums"), [("roxford5k", 4993, (3029, 2497, 1356)), ("rparis6k", 6322, (6874, 10350, 7153))]
)
def test_the_published_files(photos, name, count, sums):
    read = read_ground_truth(photos / "allsouls" / f"gnd_{name}.pkl")
    assert read.version.startswith(name) and len(read.queries) == 70 and len(read.photos) == count
    assert tuple(sum(map(len, rows)) for rows in (read.easy, read.hard, read.junk)) == sums
    empty = [q for q in range(70) if not len(read.easy[q])]
    assert empty == ([11, 66] if name == "roxford5k" else [])
