"""What reads the files of strangers, each reader with a file that it takes."""

import io
import json
import pickle
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).parents[2]))
from tests.support.archives import tar_of
from tests.support.torch_pickles import Storage, legacy_file, tensor, zip_file

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
        "stablehlo": one("m.stablehlo", "bytes", program_of(lambda images: images + 1), StableHLO),
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


def program_of(function: Callable[[Any], Any]) -> bytes:
    import jax

    return bytes(jax.export.export(jax.jit(function))(jax.ShapeDtypeStruct((2,), np.float32)).serialize())


def mask_png() -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    mask = np.zeros((70, 70), np.uint8)
    mask[10:30, 10:40] = 255
    Image.fromarray(mask).save(stream, "PNG")
    return stream.getvalue()
