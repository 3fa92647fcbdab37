"""Ground truth files: the real ones are read, and nothing in a hostile one is executed."""

import json
import os
import pickle
import struct
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest

from sret_jax.datasets import ground_truth
from sret_jax.datasets.ground_truth import read_ground_truth, read_plain_pickle
from sret_jax.errors import UserError
from sret_jax.storage import object_pickle

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


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_come_back_as_they_were(tmp_path, protocol):
    assert read_plain_pickle(write(tmp_path, PLAIN, protocol=protocol)) == PLAIN


def touch(path: str):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {path}",)

    return Evil()


def inside_of_itself():
    inner = []
    inner.append(inner)
    return inner


def repeated():
    inner = ["x"] * 10
    for _ in range(40):
        inner = [inner, inner]
    return inner


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (Path("x"), "it names the Python object pathlib"),
        (np.array([1j]), "complex|numpy array of type 'c16'"),
        ({1: 2}, "a dict key that is not text"),
        (OrderedDict({1: 2}), "a dict key that is not text"),
        ({1, 2}, "opcode|names the Python object .*set"),
        (repeated(), "each use of a list counted|nested too deeply"),
        (inside_of_itself(), "one is inside of itself"),
        ([[[[[["x"] * 99] * 99] * 99] * 99] * 99], "parts, each use of a list counted"),
        (b"bytes", "no list, dict, text, number or array"),
        (eval, "it names the Python object .*eval"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
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


def test_no_callable_of_ours_can_be_misused(tmp_path):
    """Globals that are known stand for functions that check what they are given."""
    for data in (
        b"cbuiltins\nlist\n(tR.",
        b"c__builtin__\nint\n(S'7'\ntR.",
        b"ccollections\nOrderedDict\n(I5\ntR.",
        b"ccollections\nOrderedDict\n(((I1\nI2\ntltR.",
        b"cnumpy\ndtype\n(S'U99999'\ntR.",
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'O'\ntRS'x'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"(ios\nsystem\nS'true'\n.",
        b"g7\n.",
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"x.",
        b"\x80\x05\x96" + struct.pack("<Q", 4) + b"x.",
        b"I" + b"9" * 5000 + b"\n.",
    ):
        (tmp_path / "x.pkl").write_bytes(data)
        with pytest.raises(UserError, match="x.pkl: refused: "):
            read_plain_pickle(tmp_path / "x.pkl")


def test_copies_of_one_text_or_array_do_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(object_pickle, "SPARE_TEXT", 2000)
    once = b"(c_codecs\nencode\np1\n(S'" + b"x" * 100 + b"'\np3\ntR"
    (tmp_path / "x.pkl").write_bytes(once + 51 * b"g1\n(g3\ntR" + b"l.")
    with pytest.raises(UserError, match="refused: its text becomes more than"):
        read_plain_pickle(tmp_path / "x.pkl")
    shared = np.zeros(1000, np.int8)
    monkeypatch.setattr(ground_truth, "MAX_READS", 3000)
    for value in ([shared] * 4, [shared[:] for _ in range(4)]):
        with pytest.raises(UserError, match="more than 3,000 parts"):
            read_plain_pickle(write(tmp_path, value, protocol=2))


@pytest.mark.parametrize("protocol", [0, 2])
def test_a_damaged_file_is_refused_at_every_byte(tmp_path, protocol):
    whole = pickle.dumps(PLAIN, protocol)
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


@pytest.mark.parametrize("protocol", range(6))
def test_ground_truth_as_people_write_it(tmp_path, protocol):
    """Numbers and arrays of numpy, ordered dicts, tuples, and one list in several places."""
    shared = [np.int64(2), 4]
    gnd = [
        OrderedDict(
            bbx=np.array([0, 1.5, 20, 30]), easy=np.array([0, 3]), hard=(np.int32(1),), junk=shared, note=np.bool_(True)
        ),
        defaultdict(
            list, bbx=(np.float64(5), np.float32(5), 9, np.uint8(9)), easy=[], hard=np.array([], int), junk=shared
        ),
    ]
    names = np.array(["a", "b", "c", "d", "e"])
    for imlist in (names, names.astype(object), tuple(names.tolist())):
        value = OrderedDict(imlist=imlist, qimlist=["q", "r"], gnd=gnd)
        read = read_ground_truth(write(tmp_path, value, protocol=protocol))
        assert read.photos == ["a", "b", "c", "d", "e"] and read.boxes.tolist() == [[0, 1.5, 20, 30], [5, 5, 9, 9]]
        assert [x.tolist() for x in (*read.easy, *read.hard, *read.junk)] == [[0, 3], [], [1], [], [2, 4], [2, 4]]


def test_ground_truth_that_python_2_wrote(tmp_path):
    """Its text and the bytes of its numbers look alike, and an ordered dict comes with a list of its items."""
    number = b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'i8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
    number += b"S'\\x82\\x00\\x00\\x00\\x00\\x00\\x00\\x00'\ntR"
    (tmp_path / "x.pkl").write_bytes(
        b"ccollections\nOrderedDict\n((l(lS'a'\naVn\\u00fc\naa(lS'b'\na" + number + b"aatR."
    )
    assert read_plain_pickle(tmp_path / "x.pkl") == {"a": "nü", "b": 130}


def test_the_remedy_says_what_the_file_should_hold(tmp_path):
    holds = "give a pickle or JSON of {'imlist': .*, 'qimlist': .*, 'gnd': .*'bbx': .*'easy': .*'hard': .*'junk'"
    for value in ({"imlist": ["a"]}, [1], {1, 2}):
        for benchmark, says in (("", holds), ("roxford5k", "give gnd_roxford5k.pkl as its authors publish it, or a")):
            with pytest.raises(UserError, match=says) as error:
                read_ground_truth(write(tmp_path, value), benchmark)
            assert "fetch" not in str(error.value)
    with pytest.raises(UserError, match=f"none.pkl: cannot be opened.*{holds}"):
        read_ground_truth(tmp_path / "none.pkl")
    with pytest.raises(UserError, match="fetch it again from its authors"):
        read_plain_pickle(write(tmp_path, {1, 2}))


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
