"""Files of strangers, made to hurt, given to every loader: what is executed, crashes, hangs or takes gigabytes.

    python benchmarks/faults/hostile.py              all of them, a few minutes on two cores
    python benchmarks/faults/hostile.py --half       the shorter half, which is a test too
    python benchmarks/faults/hostile.py --only=marks.json --show

Each loader gets what no such file may be (a pipe, a device, a socket, a folder, holes), what is hostile to its format
(nesting, sizes that are only claimed, lists that share themselves, calls), wrong values in place of every value of a
sound file, and mutations of its bytes with a fixed seed. The loaders run in child processes, many files each; memory
is the peak of the resident set over what it was before the file, seconds are the processor's, so that other programs do
not count, and a file that is waited for is a hang. One that leaves a mark has been executed. Needs Linux.
"""

import argparse
import copy
import io
import json
import os
import pickle
import random
import resource
import shutil
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).parents[2]))
from tests.support.torch_pickles import Global, Storage, legacy_file, pickle_of, tensor, zip_file

SECONDS, MEGABYTES = 5.0, 256
PATIENCE = 120  # seconds by the clock after which a child that says nothing is killed
ADDRESSES = 8 << 30  # bytes of address space that a child may map beside what it has
MARK = "executed"  # the file that whatever is executed leaves
SEED = 0
NAMES = [f"cat/{i}" for i in range(8)]
SIZES = np.full((8, 2), 70)


@dataclass
class Loader:
    """What reads a kind of file: `call` gets the path of `file` in a folder that has a sound one beside it, if any."""

    file: str
    sound: bytes
    call: Callable[[Path], Any]
    kind: str  # of its format
    value: Any = None  # what the sound file holds, to put other values in
    beside: dict[str, bytes] = field(default_factory=dict)
    seal: bool = False  # a manifest fits whatever is there


class Photos:
    """What the readers ask of a photo set."""

    names, sizes = NAMES, SIZES

    def __len__(self) -> int:
        return len(NAMES)


# ---- What reads them -----------------------------------------------------------------------------------------------


def loaders() -> dict[str, Loader]:
    from sret_jax.data import folders
    from sret_jax.datasets import lookups, sfm120k
    from sret_jax.datasets.ground_truth import read_ground_truth
    from sret_jax.datasets.mask_file import read_mask
    from sret_jax.datasets.pixel_truth import read_labelme
    from sret_jax.datasets.unpacking import unpack
    from sret_jax.evaluation import adaptation_run
    from sret_jax.evaluation.external.marks import read_marks
    from sret_jax.evaluation.external.named import read_answers
    from sret_jax.evaluation.external.submissions import read_ranks, read_recognition_csv, read_retrieval_csv
    from sret_jax.export.descriptors import read_descriptors
    from sret_jax.export.stablehlo import StableHLO
    from sret_jax.localization.region_file import read_regions
    from sret_jax.models.weights.file import _learned_whitening, read_weights
    from sret_jax.models.weights.folder import open_folder
    from sret_jax.models.weights.preprocessing import preprocessing
    from sret_jax.models.weights.torch_file import read_torch
    from sret_jax.models.weights.trained import read_saved
    from sret_jax.server.parameters import json_object, known_name, search_parameters

    photos: Any = Photos()

    def marks(path: Path) -> None:
        found = read_marks(path, NAMES, photos)
        for query in range(8):
            for photo in range(8):
                found.mask(query, photo), found.outline(query, photo)

    def torch(path: Path) -> None:
        found = read_torch(path)
        dict(found.beside)
        if isinstance(found.beside.get("meta"), dict):
            preprocessing("", ([0.5] * 3, [0.5] * 3), found.beside, {}, {}, path)
            if found.beside["meta"].get("Lw"):
                _learned_whitening(found.beside, "x/ss", path)

    def served(path: Path) -> None:
        from sret_jax.storage.files import read_file

        given = json_object(read_file(path))
        search_parameters(given), known_name(given.get("name"), sorted(NAMES))

    def unpacked(path: Path) -> None:
        unpack(path, path.parent / "out", "archive", False)

    truth = {
        "imlist": NAMES,
        "qimlist": ["q0", "q1"],
        "gnd": [{"bbx": [0, 0, 9.5, 9], "easy": [0, 1], "hard": [2], "junk": [3]} for _ in range(2)],
    }
    sfm = {"train": {"cids": ["abcdef0", "abcdef1"], "cluster": [1, 2], "qidxs": [0], "pidxs": [1]}}
    splits = {"train": ["a", "b"], "val": ["c"]}
    regions = {"cat/0": [1, 2, 30, 40], "cat/1": [5.5, 6]}
    runs = {"counts": [0, 100, 4800], "size": [70, 70]}
    coco = [
        {"category_id": 0, "image_id": "cat/1", "bbox": [1, 2, 3.5, 4], "score": 0.5},
        {"category_id": 1, "image_id": 2, "segmentation": [[1, 2, 30, 2, 30, 40]], "score": 1},
        {"category_id": 2, "image_id": 3, "segmentation": runs, "score": 1},
    ]
    labelme = {"shapes": [{"points": [[1, 2], [30.5, 2], [30, 40]]}], "imageHeight": 70, "imageWidth": 70}
    paintings = [{"image": "a", "mask": "m.png", "objects": [{"painting": "p", "box_xyxy": [1, 2, 3, 4]}]}]
    request = {"name": "cat/0", "region": [1, 2, 3, 4], "k": 5, "start": 0, "verify": False}
    polygons = {f"qimlist_0_imlist_{i}": np.array([[1, 2], [30, 2], [30, 40]], np.int32) for i in range(3)}
    ranks = np.argsort(np.random.default_rng(0).random((8, 4)), 0).astype(np.int32)
    weights = safetensors_of(OWN, {"params.a": np.zeros(2, np.float32)})
    network = safetensors_of({}, {"network/params/a": np.zeros(2, np.float32)})
    index = {"weight_map": {"a": "model-1.safetensors"}}
    config = {"pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}}
    saved = {"format": "sret_jax retriever 1", "config": {}}
    about = {"format": "sret_jax descriptors 1", "dtype": "float32", "form": "npy", "rows": 4, "dimensions": 3}
    stored = {
        "about.json": json_of(about),
        "names.json": json_of(NAMES[:4]),
        "descriptors.npy": npy_of(np.zeros((4, 3), np.float32)),
    }
    torched = {"state_dict": GOOD, "meta": {"mean": [0.4] * 3, "std": [0.2] * 3}}
    table = b"query,rank,photo\n" + b"".join(b"cat/%d,1,cat/%d\n" % (i, 7 - i) for i in range(8))

    def one(file: str, kind: str, sound: bytes, call: Callable[[Path], Any], value: Any = None, **more: Any) -> Loader:
        return Loader(file, sound, call, kind, value, **more)

    def of_json(file: str, value: Any, call: Callable[[Path], Any], **more: Any) -> Loader:
        return one(file, "json", json_of(value), call, value, **more)

    def below(call: Callable[[Path], Any]) -> Callable[[Path], Any]:
        return lambda path: call(path.parent)

    return {
        "splits": of_json("splits.json", splits, lambda p: folders._read_split(p, "train")),
        "labels.json": of_json("labels.json", ["a", None, "b", 3], lambda p: adaptation_run.read_labels(str(p), "", 4)),
        "labels.txt": one("labels.txt", "text", b"a\nb\n\na\n", lambda p: adaptation_run.read_labels(str(p), "", 4)),
        "descriptors": one(
            "x.npy", "npy", npy_of(np.zeros((4, 3), np.float32)), lambda p: adaptation_run._read_descriptors(p)
        ),
        "truth.json": of_json("gnd.json", truth, read_ground_truth),
        "truth.pkl": one("gnd.pkl", "pickle", pickle.dumps(truth, 2), read_ground_truth, truth),
        "sfm.pkl": one("sfm.pkl", "pickle", pickle.dumps(sfm, 2), lambda p: sfm120k._columns(p, "train"), sfm),
        "ranks.npy": one("ranks.npy", "npy", npy_of(ranks), lambda p: read_ranks(p, 4, 8)),
        "ranks.npz": one("ranks.npz", "npz", npz_of(ranks=ranks), lambda p: read_ranks(p, 4, 8)),
        "answers.csv": one("a.csv", "csv", table, lambda p: read_answers(p, NAMES, NAMES, [0, 1])),
        "retrieval.csv": one("r.csv", "csv", b"id,images\na,b c\n", lambda p: read_retrieval_csv(p, {"a", "b"})),
        "recognition.csv": one(
            "g.csv", "csv", b"id,landmarks\na,3 0.5\n", lambda p: read_recognition_csv(p, {"a", "b"})
        ),
        "marks.json": of_json("marks.json", coco, marks),
        "marks.npy": one("marks.npy", "objects", objects_of(polygons), marks, polygons),
        "regions": of_json("regions.json", regions, lambda p: read_regions(p, photos)),
        "mask": one("mask.png", "bytes", mask_png(), lambda p: read_mask(p, (70, 70))),
        "labelme": of_json("label.json", labelme, lambda p: read_labelme(p, (70, 70))),
        "paintings": of_json("ground_truth.json", paintings, below(lookups.paintings_entries)),
        "boxes": one("boxes.txt", "text", b"1 2 30 40\n5 5 5 5\n", lambda p: lookups._union(p, np.array([70, 70]))),
        "million": one("revisitop1m.txt", "text", b"a.jpg\nb.jpg\n", below(lookups.million_list)),
        "weights.pth": one("w.pth", "torch", zip_file(torched, [DATA]), torch, torched),
        "old weights.pth": one("w.pth", "old torch", legacy_file(torched, [DATA]), torch, torched),
        "safetensors": one("w.safetensors", "safetensors", weights, read_weights),
        "weights index": of_json("model.safetensors.index.json", index, below(open_folder)),
        "weights config": of_json("config.json", config, below(open_folder), beside={"model.safetensors": weights}),
        "retriever config": of_json(
            "config.json", saved, below(read_saved), beside={"model.safetensors": network}, seal=True
        ),
        "retriever": one(
            "model.safetensors",
            "safetensors",
            network,
            below(read_saved),
            beside={"config.json": json_of(saved)},
            seal=True,
        ),
        "stored about": of_json("about.json", about, below(read_descriptors), beside=stored, seal=True),
        "stored array": one(
            "descriptors.npy", "npy", stored["descriptors.npy"], below(read_descriptors), beside=stored, seal=True
        ),
        "archive.tar": one("a.tar", "tar", tar_of([("a.txt", b"x" * 100)]), unpacked),
        "archive.tar.gz": one("a.tar.gz", "tar.gz", tar_of([("a.txt", b"x" * 100)], "gz"), unpacked),
        "stablehlo": one("m.stablehlo", "bytes", b"", StableHLO),
        "request": of_json("body.json", request, served),
    }


# ---- Sound files ---------------------------------------------------------------------------------------------------

DATA = Storage(np.arange(6, dtype="<f4"), "0")
GOOD = {"w": tensor(DATA, (2, 3))}
OWN = {
    "format": "sret_jax",
    "backbone": "resnet18",
    "stage": "c5",
    "layout": "x",
    "whitens": "pooled",
    "source": "x",
    "sha256": "",
}


def json_of(value: Any) -> bytes:
    return json.dumps(value).encode()


def npy_of(x: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, x)
    return stream.getvalue()


def npz_of(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays)
    return stream.getvalue()


def npy_header_of(shape: str, dtype: str = "'<i4'", data: bytes = b"", version: int = 1) -> bytes:
    """A .npy file whose header says whatever is wanted, as Python text."""
    text = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text + data


def objects_of(value: Any, protocol: int = 4) -> bytes:
    return npy_header_of("()", "'|O'", pickled(np.array(value, object), protocol) if isinstance(value, dict) else value)


def pickled(value: Any, protocol: int = 4) -> bytes:
    return pickle.dumps(value, protocol)


def safetensors_of(metadata: dict[str, str], arrays: dict[str, np.ndarray]) -> bytes:
    import safetensors.numpy

    return safetensors.numpy.save(arrays, metadata)


def with_header(header: Any, data: bytes = b"") -> bytes:
    header = header if isinstance(header, bytes) else json_of(header)
    return len(header).to_bytes(8, "little") + header + data


def tar_of(members: list[tuple[str, bytes]], packing: str = "", **fields: Any) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=f"w:{packing}", format=tarfile.GNU_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in fields.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def mask_png() -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    mask = np.zeros((70, 70), np.uint8)
    mask[10:30, 10:40] = 255
    Image.fromarray(mask).save(stream, "PNG")
    return stream.getvalue()


# ---- Hostile ones --------------------------------------------------------------------------------------------------

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


# ---- Running them --------------------------------------------------------------------------------------------------


def write_cases(folder: Path, half: bool, only: str = "") -> list[dict[str, str]]:
    """Writes every file into a folder of its own; `[{loader, case, path}, ...]`."""
    found = []
    sys.setrecursionlimit(100_000)  # for what is nested; the processes that read it keep Python's own
    for n, (name, loader) in enumerate(loaders().items()):
        if only and only != name:
            continue
        cases = [*not_files(), *hostile(loader)]
        if half:
            cases = cases[n % 2 :: 2]
        cases += mutations(loader.sound, 3 if half else 10, SEED + n)
        for i, (case, content) in enumerate([("sound", loader.sound), *cases]):
            place = folder / f"{n}-{i}"
            place.mkdir()
            for other, data in loader.beside.items():
                (place / other).write_bytes(data)
            path = place / loader.file
            path.unlink(missing_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                content(path)
            if loader.seal:
                seal(place)
            found.append({"loader": name, "case": case, "path": str(path)})
    return found


def seal(folder: Path) -> None:
    """A manifest that fits, as who means harm writes one."""
    from sret_jax.storage.artifacts import file_digest

    files = {
        path.name: {"size": path.stat().st_size, "sha256": file_digest(path) if path.stat().st_size < 1 << 28 else ""}
        for path in folder.iterdir()
        if path.is_file()
    }
    (folder / "MANIFEST.json").write_bytes(json_of({"files": files}))


def memory(field: str) -> int:
    """Of this process, bytes: VmRSS now, VmHWM at most since the last reset, VmSize of its addresses."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(f"{field}:"))


def serve_child() -> None:
    """Reads cases as lines of JSON, and answers each with what became of it."""
    from sret_jax.errors import UserError

    known = loaders()
    ready: set[str] = set()
    os.chdir(os.environ["HOSTILE_PLACE"])  # the mark is left where the process stands
    most = memory("VmSize") + ADDRESSES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    for line in sys.stdin:
        case = json.loads(line)
        loader = known[case["loader"]]
        if case["loader"] not in ready and case["case"] != "sound":  # what it imports is not the file's
            ready.add(case["loader"])
            with tempfile.TemporaryDirectory() as place:
                warm(loader, Path(place))
        Path("/proc/self/clear_refs").write_text("5")
        before, start = memory("VmRSS"), time.process_time()
        try:
            loader.call(Path(case["path"]))
            outcome, text = "read", ""
        except UserError as error:
            text = str(error)
            outcome = "refused" if "\n" not in text and len(text) < 5000 else "not one line"
        except Exception as error:
            if type(error).__name__ == "Refused":  # by the server, with a status
                outcome, text = "refused", str(error)
            else:
                outcome, text = "traceback", traceback.format_exc()[-1500:]
        answer = {"outcome": outcome, "text": text[:1500], "seconds": time.process_time() - start}
        answer["bytes"] = max(0, memory("VmHWM") - before)
        print(json.dumps(answer), flush=True)


def warm(loader: Loader, place: Path) -> None:
    for name, data in {**loader.beside, loader.file: loader.sound}.items():
        (place / name).write_bytes(data)
    if loader.seal:
        seal(place)
    try:
        loader.call(place / loader.file)
    except Exception:
        pass


class Child:
    """A process that loads files, one after the other."""

    def __init__(self, place: Path):
        self.errors = open(place / "stderr.txt", "ab")  # noqa: SIM115 - as long as the process
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=os.environ | {"HOSTILE_PLACE": str(place), "JAX_PLATFORMS": "cpu"},
        )

    def load(self, case: dict[str, str]) -> dict[str, Any]:
        import select

        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json_of(case) + b"\n")
        self.process.stdin.flush()
        if not select.select([self.process.stdout], [], [], PATIENCE)[0]:
            self.end()
            return {"outcome": "hang", "text": "", "seconds": float(PATIENCE), "bytes": 0}
        line = self.process.stdout.readline()
        if not line:
            self.end()
            return {"outcome": "crash", "text": f"exit {self.process.returncode}", "seconds": 0.0, "bytes": 0}
        return dict(json.loads(line))

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.errors.close()


def measure(folder: Path, half: bool, only: str = "", show: bool = False) -> list[dict[str, Any]]:
    """Every case with its outcome, seconds and bytes; those that fell short are printed, or all."""
    cases = write_cases(folder, half, only)
    place = folder / "place"
    place.mkdir()
    results, child = [], None
    for case in cases:
        if child is None:
            child = Child(place)
            child.load(cases[0])  # the start of the process is not the file's time
        result = case | child.load(case)
        if child.process.poll() is not None:
            child = None
        result["executed"] = (place / MARK).exists()
        (place / MARK).unlink(missing_ok=True)
        results.append(result)
        if show or fell_short(result):
            size = f"{result['seconds']:.2f} s, {result['bytes'] / 2**20:.0f} MB"
            print(f"{case['loader']}: {case['case']}: {result['outcome']} ({size}) {result['text']}", flush=True)
    if child:
        child.end()
    return results


def table(results: list[dict[str, Any]]) -> tuple[str, int]:
    """In Markdown, and how many files fell short."""
    heads = [
        "loader",
        "files",
        "read",
        "executed",
        "tracebacks",
        f"over {SECONDS:g} s",
        f"over {MEGABYTES} MB",
    ]
    heads += ["slowest, s", "most, MB"]
    names = list(dict.fromkeys(one["loader"] for one in results))
    rows, short = [], 0
    for name in [*names, "all"]:
        own = [one for one in results if name in ("all", one["loader"])]
        counts = [
            sum(one["executed"] for one in own),
            sum(one["outcome"] not in ("read", "refused", "hang") for one in own),
            sum(one["seconds"] > SECONDS for one in own),
            sum(one["bytes"] > MEGABYTES << 20 for one in own),
        ]
        short = sum(counts)
        read = sum(one["outcome"] == "read" for one in own)
        most = [f"{max(one['seconds'] for one in own):.1f}", f"{max(one['bytes'] for one in own) / 2**20:.0f}"]
        rows.append([name, len(own), read, *counts, *most])
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in [heads, ["---"] * len(heads), *rows]]
    return "\n".join(lines), short


def fell_short(one: dict[str, Any]) -> bool:
    bad = one["executed"] or one["outcome"] not in ("read", "refused")
    return bool(bad or one["seconds"] > SECONDS or one["bytes"] > MEGABYTES << 20)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--half", action="store_true", help="every second hostile file, and fewer mutations")
    parser.add_argument("--only", default="", help="one loader")
    parser.add_argument("--show", action="store_true", help="what became of every file")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        serve_child()
        return 0
    folder = Path(tempfile.mkdtemp(prefix="hostile-"))
    try:
        results = measure(folder, given.half, given.only, given.show)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    text, short = table(results)
    print(text)
    return int(short > 0)


if __name__ == "__main__":
    sys.exit(main())
