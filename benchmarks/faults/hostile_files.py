"""Files made to hurt: what no file may be, what is hostile to a format, and mutations of a sound one."""

import copy
import io
import json
import os
import random
import socket
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from strangers import (
    DATA,
    OWN,
    Loader,
    json_of,
    npy_header_of,
    npy_of,
    npz_of,
    objects_of,
    pickled,
    with_header,
)

from tests.support.archives import tar_of
from tests.support.torch_pickles import Global, legacy_file, pickle_of, tensor, zip_file

MARK = "executed"  # the file that whatever is executed leaves
SEED = 0
Cases = Iterator[tuple[str, "bytes | Callable[[Path], None]"]]


def not_files() -> Cases:
    def sparse(path: Path) -> None:
        with open(path, "wb") as file:
            file.truncate(1 << 30)

    def bound(path: Path) -> None:
        place = os.getcwd()
        os.chdir(path.parent)  # the name of a socket is short
        try:
            socket.socket(socket.AF_UNIX).bind(path.name)
        finally:
            os.chdir(place)

    yield "pipe", lambda path: os.mkfifo(path)
    yield "/dev/zero", lambda path: path.symlink_to("/dev/zero")
    yield "/dev/tty", lambda path: path.symlink_to("/dev/tty")
    yield "folder", lambda path: path.mkdir()
    yield "socket", bound
    yield "holes", sparse
    yield "dangling link", lambda path: path.symlink_to("nowhere")
    yield "link to itself", lambda path: path.symlink_to(path.name)
    yield "empty", b""
    yield "one byte", b"\x80"
    yield "ones", b"\xff" * 100_000
    yield "zeros", b"\0" * 9_000_000
    yield "noise", random.Random(SEED).randbytes(1_000_000)


def hostile(loader: Loader) -> Cases:
    """Of a format."""
    sound, value = loader.sound, loader.value
    yield "half", sound[: len(sound) // 2]
    yield "more behind it", sound + b"\0" * 5000
    kind = loader.kind
    if kind == "json":
        yield from hostile_json(value)
    if kind == "text":
        yield "lines", b"\n" * 9_000_000
        yield "one line", b"9" * 9_000_000
        yield "large number", b"1e999 1e999 1e999 1e999\n"
        yield "many digits", b"1" * 5000 + b" 1 1 1\n"
        yield "no text", b"\xff\xfe\0\xd8" * 1000
    if kind == "csv":
        yield from hostile_csv(sound)
    if kind == "npy":
        yield from hostile_npy()
    if kind == "npz":
        yield from hostile_npz()
    if kind in ("pickle", "objects", "torch", "old torch"):
        wrap: dict[str, Callable[[bytes], bytes]] = {
            "pickle": lambda data: data,
            "objects": objects_of,
            "torch": lambda data: zip_file(None, [DATA], pickled=data),
            "old torch": lambda data: legacy_file(None, [DATA], pickled=data),
        }
        for name, data in hostile_pickles(value):
            yield name, wrap[kind](data)
    if kind == "torch":
        yield from hostile_archives()
    if kind == "safetensors":
        yield from hostile_safetensors()
    if kind.startswith("tar"):
        yield from hostile_tars("gz" if kind == "tar.gz" else "")


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield at
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*at, key))


def put(value: Any, at: tuple[Any, ...], new: Any) -> Any:
    if not at:
        return new
    made = copy.copy(value)
    made[at[0]] = put(made[at[0]], at[1:], new)
    return made


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def hostile_json(value: Any) -> Cases:
    yield "deep lists", b"[" * 1_000_000
    yield "deep lists, closed", b"[" * 100_000 + b"]" * 100_000
    yield "deep objects", b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    yield "lists", b"[" + b"[]," * 3_000_000 + b"[]]"
    yield "objects", b"[" + b"{}," * 3_000_000 + b"{}]"
    yield "many digits", b"[" + b"1" * 100_000 + b"]"
    yield "key twice", b'{"train": ["a"], "train": ["b"]}'
    yield "UTF-16", json.dumps(value).encode("utf-16")
    words: list[Any] = [
        None,
        True,
        -1,
        1e300,
        "x",
        "",
        [],
        {},
        10**400,
        1.5,
        nested(40),
        "a\0b",
        "\ud800",
        "x" * 100_000,
    ]
    words += ["../../../etc/passwd", "<script>", ["x"], {"a": 1}, [None] * 1000]
    raw = {"NaN": b"NaN", "infinity": b"1e999", "minus infinity": b"-Infinity", "nested": b"[" * 900 + b"]" * 900}
    chosen = random.Random(SEED)
    everywhere = list(places(value))
    pairs = [(at, word) for at in everywhere for word in words]
    for at, word in chosen.sample(pairs, min(40, len(pairs))):
        yield f"{word!r:.20} at {at}", json_of(put(value, at, word))
    for name, text in raw.items():
        at = everywhere[-1] if name != "nested" else chosen.choice(everywhere)
        yield f"{name} at {at}", json_of(put(value, at, "HERE")).replace(b'"HERE"', text)


def hostile_csv(sound: bytes) -> Cases:
    header = sound.split(b"\n")[0]
    yield "no line ends", b"a" * 9_000_000
    yield "wide header", b"a," * 4_000_000
    yield "wide line", header + b"\n" + b"," * 9_000_000
    yield "open quote", header + b'\n"' + b"a\n" * 4_000_000
    yield "quotes", header + b"\n" + b'"' * 1_000_001
    yield "many digits", header + b"\ncat/0," + b"1" * 5000 + b",cat/1\n"
    yield "landmark of many digits", header + b"\na," + b"1" * 5000 + b" 0.5\n"
    yield "no number", header + b"\na,1 nan\n"
    yield "zero bytes", header + b"\n" + b"\0" * 1000
    yield "UTF-16, cut", b"\xff\xfe" + header.decode().encode("utf-16-le")[:-1]
    yield "same line", header + b"\n" + sound.split(b"\n")[1].join([b"\n"] * 200_000)


def hostile_npy() -> Cases:
    for shape in ("(1 << 40, 4)", "(True, 4)", "(-1, 4)", "(4,)", "()", "(10**400, 4)", "'x'", "None", "(1.5, 4)"):
        yield f"shape {shape}", npy_header_of(shape, data=b"\0" * 64)
    yield "claims", npy_header_of("(1000000000, 4)", data=b"\0" * 64)
    yield "many axes", npy_header_of("(" + "1," * 60 + ")", data=b"\0" * 4)
    for dtype in (
        "'|O'",
        "'<U99999'",
        "'|V8'",
        "[('a', '<i4')]",
        "'1000000000i4'",
        "('<i4', (1000, 1000, 1000))",
        "'c16'",
    ):
        yield f"type {dtype}", npy_header_of("(4, 4)", dtype, b"\0" * 64)
    yield "call", npy_header_of(f"__import__('os').system('touch {MARK}')")
    yield "deep header", npy_header_of("(" * 5000 + ")" * 5000)
    yield "long header", npy_header_of("(" + "1," * 2_000_000 + ")", version=2)
    yield "header of 4 GB", b"\x93NUMPY\x02\0\xff\xff\xff\xff{"
    yield "version 9", b"\x93NUMPY\x09\0\x10\0" + b" " * 100
    yield "NaN", npy_of(np.full((4, 4), np.nan, np.float32))
    yield "pickle", npy_header_of("(4, 4)", "'|O'", pickled(Touch()))


def zipped(members: list[tuple[str, bytes]], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return stream.getvalue()


def directory(entries: int, name: bytes = b"model/data/0", count: int | None = None) -> bytes:
    """An archive of nothing but a directory that lists one member again and again."""
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 0, 0, 33, 0, 0, 0, len(name), 0) + name
    central = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 0, 0, 33, 0, 0, 0, len(name), 0, 0, 0, 0, 0, 0) + name
    listed = central * entries
    told = min(65535, entries if count is None else count)
    return local + listed + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, told, told, len(listed), len(local), 0)


def hostile_npz() -> Cases:
    yield "bomb", zipped([("ranks.npy", npy_header_of("(6250000, 4)", data=b"\0" * 100_000_000))])
    yield "no array", zipped([("x.txt", b"x")])
    yield "two", zipped([("a.npy", npy_of(np.zeros((4, 4)))), ("b.npy", b"x")])
    yield "claims", zipped([("ranks.npy", npy_header_of("(1000000000, 4)", data=b"\0" * 64))])
    yield "objects", zipped([("ranks.npy", npy_header_of("(4, 4)", "'|O'", pickled(Touch())))])
    yield "no .npy", zipped([("ranks.npy", b"x" * 1000)])
    yield "large directory", directory(150_000)
    yield "wrong count", directory(3, count=9)
    good = bytearray(npz_of(ranks=np.arange(32, dtype=np.int32).reshape(8, 4)))
    for at in (14, 18, 22, 26):
        yield f"field {at}", bytes(good[:at] + b"\xff\xff\xff\x7f" + good[at + 4 :])
    end = bytes(good).rfind(b"PK\5\6")
    yield "directory of 4 GB", bytes(good[: end + 12] + b"\xff\xff\xff\xff" + good[end + 16 :])
    yield "directory elsewhere", bytes(good[: end + 16] + b"\xff\xff\xff\x7f" + good[end + 20 :])


def hostile_archives() -> Cases:
    yield "large directory", directory(150_000)
    yield "directory only", directory(10)
    yield "compressed", zip_file({"w": tensor(DATA, (2, 3))}, [DATA], compression=zipfile.ZIP_DEFLATED)
    yield "bomb", zipped([("model/data.pkl", b"\0" * 100_000_000)])
    yield "no pickle", zipped([("model/x", b"x")], zipfile.ZIP_STORED)
    yield "two pickles", zipped([("a/data.pkl", b"N."), ("b/data.pkl", b"N.")], zipfile.ZIP_STORED)


class Touch:
    """Leaves the mark where a pickle of it is executed."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {MARK}",)


def shared(levels: int, width: int = 2) -> Any:
    """A list of a list of a list ..., each of them `width` times the same one."""
    inner: Any = [0.5] * 3
    for _ in range(levels):
        inner = [inner] * width
    return inner


def hostile_pickles(value: Any) -> Iterator[tuple[str, bytes]]:
    def dump(made: Any) -> bytes:
        return pickle_of(made)

    me: list[Any] = []
    me.append(me)
    cyclic: dict[str, Any] = {}
    cyclic["meta"] = cyclic["state_dict"] = cyclic["w"] = cyclic
    words: dict[str, Any] = {
        "system": Global("os", "system", f"touch {MARK}"),
        "eval": Global("builtins", "eval", f"__import__('os').system('touch {MARK}')"),
        "getattr": Global("builtins", "getattr", 1, "real"),
        "load": Global("numpy", "load", "x.npy"),
        "shared 30": shared(30),
        "shared 18": shared(18),
        "shared 6x10": shared(6, 10),
        "itself": me,
        "cyclic": cyclic,
        "large number": 1 << 2000,
        "negative": -(10**30),
        "nan": float("nan"),
        "text": "x" * 3_000_000,
        "many": list(range(30_000)),
        "lists": [[] for _ in range(30_000)],
        "dicts": [{} for _ in range(30_000)],
        "array": np.zeros(1_000_000),
        "shared array": [np.zeros(1_000_000)] * 3000,
        "objects": np.array([None, {}], object),
        "none": None,
        "true": True,
        "deep": nested(300),
    }
    at = [place for place in places(value) if place]
    chosen = random.Random(SEED)
    for name, word in words.items():
        yield f"{name} as the file", dump(word)
        for place in chosen.sample(at, min(3, len(at))):
            yield f"{name} at {place}", dump(put(value, place, word))
    for name, data in (
        ("brackets", b"]" * 9_000_000 + b"."),
        ("braces", b"}" * 9_000_000 + b"."),
        ("marks", b"(" * 9_000_000 + b"."),
        ("tuples", b")" * 9_000_000 + b"."),
        ("wrapped", b"N" + b"\x85" * 9_000_000 + b"."),
        ("remembered", b"N" + b"\x94" * 9_000_000 + b"."),
        ("memo bomb", b"Nr\x00\x84\xd7\x17."),
        ("long integer", b"\x8b" + struct.pack("<I", 5_000_000) + b"\x7f" * 5_000_000 + b"."),
        ("digits", b"I" + b"9" * 5_000_000 + b"\n."),
        ("long text", b"X\xff\xff\xff\x7fabc."),
        ("frame", b"\x95" + struct.pack("<Q", 1 << 62) + b"N."),
        ("bytes", b"\x96" + struct.pack("<Q", 1 << 40) + b"x."),
        ("texts", b"\x8c\x01a" * 3_000_000 + b"."),
        ("numbers", b"M\x01\x02" * 3_000_000 + b"."),
        ("instance", f"(S'touch {MARK}'\nios\nsystem\n.".encode()),
        ("encoded", encoded()),
    ):
        yield name, b"\x80\x04" + data


def encoded() -> bytes:
    """One text, of which bytes are made a thousand times."""
    text = b"X" + struct.pack("<I", 1_000_000) + b"x" * 1_000_000
    return (
        b"(c_codecs\nencode\nq\x00"
        + text
        + b"q\x01X\x06\0\0\0latin1q\x02\x86R"
        + b"h\x00h\x01h\x02\x86R" * 1000
        + b"l."
    )


def hostile_safetensors() -> Cases:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    data = b"\0" * 8
    own = {"__metadata__": OWN}
    for name, change in {
        "shape of 2^40": {"shape": [1 << 40]},
        "shape of truth": {"shape": [True, 2]},
        "negative shape": {"shape": [-2]},
        "shape of 10^400": {"shape": [10**400]},
        "text as shape": {"shape": "2"},
        "number as type": {"dtype": 3},
        "type": {"dtype": "F999"},
        "backwards": {"data_offsets": [8, 0]},
        "gap": {"data_offsets": [4, 8]},
        "beyond": {"data_offsets": [0, 1 << 60]},
        "one offset": {"data_offsets": [0]},
        "no number": {"data_offsets": [0, None]},
    }.items():
        yield name, with_header(own | {"params.a": entry | change}, data)
    yield "deep", with_header(b"[" * 1_000_000)
    yield "lists", with_header(b'{"a":[' + b"[]," * 3_000_000 + b"[]]}")
    yield "overlap", with_header(own | {f"params.{i}": entry for i in range(1000)}, data)
    yield "twice", with_header(b'{"a":%s,"a":%s}' % (json_of(entry), json_of(entry)), data)
    yield "no object", with_header(b"[1]")
    yield "metadata", with_header({"__metadata__": {"format": 3}, "params.a": entry}, data)
    yield "metadata is a list", with_header({"__metadata__": [1], "params.a": entry}, data)
    yield "claims 1 GB", (1 << 30).to_bytes(8, "little") + b"{}"
    yield "claims all", (2**64 - 1).to_bytes(8, "little") + b"{}"
    yield (
        "group and variable",
        with_header(own | {"params.a": entry, "params.a.b": entry | {"data_offsets": [8, 16]}}, data * 2),
    )
    yield "deep name", with_header(own | {"params" + ".a" * 3000: entry}, data)
    yield (
        "tensors",
        with_header({f"t{i}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for i in range(100_000)}),
    )


def hostile_tars(packing: str) -> Cases:
    yield "out", tar_of([("../out.txt", b"x")], packing)
    yield "absolute", tar_of([("/tmp/out.txt", b"x")], packing)
    yield "link", tar_of([("a", b"")], packing, type=tarfile.SYMTYPE, linkname="/etc/passwd")
    yield "hard link", tar_of([("a", b"")], packing, type=tarfile.LNKTYPE, linkname="/etc/passwd")
    yield "device", tar_of([("a", b"")], packing, type=tarfile.CHRTYPE)
    yield "pipe", tar_of([("a", b"")], packing, type=tarfile.FIFOTYPE)
    yield "sparse", tar_of([("a", b"")], packing, type=tarfile.GNUTYPE_SPARSE)
    yield "long name", tar_of([("a/" * 2000 + "b", b"x")], packing)
    yield "longer name", tar_of([("a" * 3_000_000, b"x")], packing)
    yield "many", tar_of([(f"{i}", b"") for i in range(10_000)], packing)
    yield "same name", tar_of([("a", b"x")] * 3000, packing)
    yield "folder and file", tar_of([("a", b"x"), ("a/b", b"x")], packing)
    yield "bomb", tar_of([("a", b"\0" * 60_000_000)], packing)
    yield "zeros behind", tar_of([("a", b"x")], packing) if packing else tar_of([("a", b"x")]) + b"\0" * 30_000_000
    yield "odd names", tar_of([("a\nb", b"x"), ("\udcff", b"x")], packing)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=f"w:{packing}", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("a")
        info.pax_headers = {f"k{i}": "v" for i in range(50_000)}
        tar.addfile(info)
    yield "headers", stream.getvalue()
    header = bytearray(tar_of([("a", b"x" * 100)]))
    header[124:136] = b"\x80" + b"\xff" * 11
    yield "size beyond", bytes(header)
    header[124:136] = b"\xff" * 12
    yield "negative size", bytes(header)


def mutations(sound: bytes, count: int, seed: int) -> Cases:
    """Of bytes: flips, cuts, pieces that are repeated, left out or replaced by extreme numbers."""
    rng = random.Random(seed)
    for i in range(count if sound else 0):
        data = bytearray(sound)
        for _ in range(rng.randint(1, 4)):
            at, length = rng.randrange(len(data) or 1), rng.randint(1, 8)
            piece = rng.choice(
                [
                    rng.randbytes(length),
                    b"\xff" * length,
                    b"\0" * length,
                    b"",
                    bytes(data[at : at + length]) * 5,
                    b"9" * length,
                    b"[" * length,
                ]
            )
            data[at : at + rng.choice([0, length])] = piece
        yield f"mutation {i}", bytes(data)
