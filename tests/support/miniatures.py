"""Every benchmark in miniature, in its authors' own format."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from sret_jax.evaluation.request import PIXEL
from tests.support.photos import write_photo, write_photos

PUBLISHED = ("roxford5k", "rparis6k")  # whose ground truth is a pickle of protocol 2


def write_benchmark(root: Path, name: str = "tiny", queries: int = 2, photos: int = 6, **changes) -> Path:
    """Photographs of one colour per query; photo i shows query i % queries in its upper left quarter."""
    rng = np.random.default_rng(0)
    (root / "jpg").mkdir(parents=True)
    colours = 200 * np.eye(3)[np.arange(queries) % 3]

    def write(photo: str, colour: np.ndarray, size: tuple[int, int]) -> None:
        pixels = rng.integers(0, 40, (*size, 3)).astype(float)
        pixels[: size[0] // 2, : size[1] // 2] += colour
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(root / "jpg" / f"{photo}.jpg", quality=95)

    for q in range(queries):
        write(f"query_{q}", colours[q], (96, 128))
    for i in range(photos):
        write(f"photo_{i}", colours[i % queries], (64, 96))
    entries = []
    for q in range(queries):
        own = list(range(q, photos, queries))
        entries.append({"bbx": [0, 0.4, 64, 47.6], "easy": own[:1], "hard": own[1:2], "junk": own[2:]})
    truth = {
        "imlist": [f"photo_{i}" for i in range(photos)],
        "qimlist": [f"query_{q}" for q in range(queries)],
        "gnd": entries,
    }
    if name in PUBLISHED:
        (root / f"gnd_{name}.pkl").write_bytes(pickle.dumps(truth | changes, 2))
    else:
        (root / f"gnd_{name}.json").write_text(json.dumps(truth | changes))
    return root


def gldv2(root: Path, solution: str = "") -> Path:
    """Six index photographs of three colours, and three queries of which one is ignored."""
    for i in range(6):
        name = f"{i}b{i}def0123456789"
        write_photo(root / f"index/{i}/b/{i}/{name}.jpg", i)
    for q in range(3):
        write_photo(root / f"test/a/{q}/c/a{q}cdef0123456789.jpg", q)
    ids = [f"{i}b{i}def0123456789" for i in range(6)]
    (root / "index.csv").write_text("id,url\n" + "".join(f"{name},http://x\n" for name in ids))
    rows = [
        f"a0cdef0123456789,{ids[0]} {ids[3]},Public",
        f"a1cdef0123456789,{ids[1]} {ids[4]},Private",
        "a2cdef0123456789,None,Ignored",
    ]
    text = solution or "id,images,Usage\n" + "\n".join(rows) + "\n"
    (root / "retrieval_solution_v2.1.csv").write_text(text)
    return root


def ilias(root: Path) -> Path:
    for i, name in enumerate(("bold_bimp_000", "zippy_zoot_999")):
        folder = root / "ilias_core" / name
        write_photo(folder / f"query/Q{i:03}_00.jpg", i, (60, 80))
        (folder / f"query/Q{i:03}_00_bbox.txt").write_text("10 5 20 30\n25 20 40 20\n")
        (folder / f"query/T{i:03}.txt").write_text("a thing")
        for j in range(2 + i):
            write_photo(folder / f"pos/P{i:03}_{j:02}.jpg", i + 3 * j)
            (folder / f"pos/P{i:03}_{j:02}_bbox.txt").write_text("0 0 5 5\n")
    return root


def paintings(root: Path) -> Path:
    for i in range(3):
        write_photo(root / f"db/p_{i}.jpg", i)
    for i in range(4):
        write_photo(root / f"walls/{i}.jpg", i)
    boxed = [
        [("db/p_0.jpg", [0, 0, 9, 9])],
        [("db/p_1.jpg", [1, 1, 5, 5]), ("db/p_0.jpg", [6, 6, 9, 9])],
        [(None, [0] * 4)],
    ]
    entries = [
        {"image": f"walls/{i}.jpg", "objects": [{"painting": p, "box_xyxy": box} for p, box in objects]}
        for i, objects in enumerate([*boxed, []])
    ]
    (root / "ground_truth.json").write_text(json.dumps(entries))
    return root


def million(root: Path) -> Path:
    names = ["00/a.jpg", "00/b.jpg", "f3/c.jpg"]
    for i, name in enumerate(names):
        write_photo(root / "jpg" / name, i)
    write_photo(root / "jpg/00/unlisted.jpg", 9)
    (root / "revisitop1m.txt").write_text("\n".join(names) + "\n")
    return root


def labelled(root: Path, name: str) -> Path:
    """What a photograph shows is in its upper left quarter."""
    write_benchmark(root, name=name)
    (root / "quarter.json").write_text(json.dumps({"shapes": [{"points": [[0, 0], [47, 0], [47, 31], [0, 31]]}]}))
    pairs = {f"{q}_{i}": "quarter.json" for q in range(2) for i in range(q, 6, 2)}
    np.save(root / f"{'oxford' if name == 'roxford5k' else 'paris'}_pair2labelpath.npy", pairs)
    return root


def masked_paintings(root: Path) -> Path:
    """Each mask is all of its photograph."""
    paintings(root)
    entries = json.loads((root / "ground_truth.json").read_text())
    for entry in entries:
        entry["mask"] = entry["image"].replace(".jpg", ".png")
        size = Image.open(root / entry["image"]).size
        Image.new("L", size, 255).save(root / entry["mask"])
    (root / "ground_truth.json").write_text(json.dumps(entries))
    return root


def datasets(root: Path) -> Path:
    """One folder for several benchmarks: a folder of each, by its name; labels of PROxford without its photographs."""
    for name, count in zip(PUBLISHED, (6, 8), strict=True):
        write_benchmark(root / name, name=name, photos=count)
    labelled(root / "labels", "roxford5k")
    (root / "proxford").mkdir()
    for name in ("quarter.json", "oxford_pair2labelpath.npy"):
        (root / "labels" / name).rename(root / "proxford" / name)
    shutil.rmtree(root / "labels")
    for write, name in ((gldv2, "gldv2"), (ilias, "ilias"), (masked_paintings, "paintings"), (million, "revisitop1m")):
        write(root / name)
    return root


MINIATURES = {
    "synthetic": lambda root: None,
    "folder": write_photos,
    "roxford5k": lambda root: write_benchmark(root, name="roxford5k"),
    "rparis6k": lambda root: write_benchmark(root, name="rparis6k"),
    "revisited": lambda root: write_benchmark(root, name="own"),
    "gldv2": gldv2,
    "ilias": ilias,
    "paintings": masked_paintings,
    "proxford": lambda root: labelled(root, "roxford5k"),
    "prparis": lambda root: labelled(root, "rparis6k"),
}


SEARCHED = {
    "folder": 12,
    "roxford5k": 6,
    "rparis6k": 6,
    "revisited": 6,
    "gldv2": 6,
    "ilias": 5,
    "paintings": 4,
} | dict.fromkeys(PIXEL, 6)


QUERIES = {
    "folder": 12,
    "roxford5k": 2,
    "rparis6k": 2,
    "revisited": 2,
    "gldv2": 2,
    "ilias": 2,
    "paintings": 2,
} | dict.fromkeys(PIXEL, 2)
