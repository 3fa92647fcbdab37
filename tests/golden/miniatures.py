"""Benchmarks in miniature, in their authors' formats, and a network of one layer that measures them in no time.

A photograph is an object, a pattern of coloured squares, somewhere before squares of its own. Everything is drawn in
whole numbers and written without loss, so that it is the same on every machine.
"""

import json
import pickle
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from sret_jax.models.descriptor import RetrievalNetwork
from sret_jax.models.local_features import LocalFeatureHead
from sret_jax.models.pooling import GeM

SQUARE, OBJECT = 8, 64  # pixels
CHANNELS, LOCAL = 16, 32  # of the network's map, and of its local features
Box = tuple[int, int, int, int]  # left, top, right, bottom


class Tiny(nn.Module):
    """A backbone of one strided convolution that does not see the padding."""

    @nn.compact
    def __call__(self, images, mask, *, train=False, last_stage="last"):
        x = jnp.where(mask[..., None], images.astype(jnp.float32) / 255, 0)
        x = nn.relu(nn.Conv(CHANNELS, (8, 8), strides=8, padding="VALID", name="conv")(x))
        small = mask[:, ::8, ::8]
        return {"last": (jnp.where(small[..., None], x, 0), small)}


NETWORK = RetrievalNetwork(
    backbone=Tiny(), pool=GeM(3.0), stage="last", size_multiple=8, local=LocalFeatureHead(LOCAL, window=1)
)


def variables() -> dict:
    """Drawn by numpy, so that they are the same with every release of JAX and Flax.

    A channel knows one arrangement of four colours, and some ask for more likeness than others: descriptors of
    different photographs are far apart, so that rounding changes no ranking.
    """
    rng = np.random.default_rng(0)
    quarters = rng.integers(-1000, 1001, (2, 2, 3, CHANNELS)) / 16000
    kernel = np.kron(quarters, np.ones((4, 4, 1, 1)))
    kernel -= kernel.mean((0, 1, 2))
    backbone = {"conv": {"kernel": kernel, "bias": -np.arange(CHANNELS) / 50}}
    local = {"kernel": rng.integers(-1000, 1001, (CHANNELS, LOCAL)) / 4000, "bias": np.zeros(LOCAL)}
    pool = {"p": np.full(CHANNELS, 3)}
    return jax.tree.map(np.float32, {"params": {"backbone": backbone, "local": local, "pool": pool}})


def learned_whitening(dim: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """A mean and a projection."""
    rng = np.random.default_rng(1)
    mean, projection = rng.integers(0, 100, CHANNELS) / 400, rng.integers(-100, 101, (CHANNELS, dim)) / 100
    return mean.astype(np.float32), projection.astype(np.float32)


def draw(shown: int, view: int, size: tuple[int, int] = (96, 128)) -> tuple[np.ndarray, Box]:
    """The photograph `view` of object `shown`, and the object's box."""
    pattern = np.random.default_rng(shown).integers(0, 256, (OBJECT // SQUARE, OBJECT // SQUARE, 3))
    rng = np.random.default_rng([shown, view])
    squares = rng.integers(70, 130, (-(-size[0] // SQUARE), -(-size[1] // SQUARE), 3))
    pixels = np.kron(squares, np.ones((SQUARE, SQUARE, 1), int))[: size[0], : size[1]]
    top, left = (int(rng.integers(0, side - OBJECT + 1)) for side in size)
    light = int(rng.integers(10, 16))
    object_pixels = np.kron(pattern, np.ones((SQUARE, SQUARE, 1), int)) * light // 16
    pixels[top : top + OBJECT, left : left + OBJECT] = object_pixels
    pixels += rng.integers(-9, 10, pixels.shape)
    return np.clip(pixels, 0, 255).astype(np.uint8), (left, top, left + OBJECT, top + OBJECT)


def photograph(path: Path, shown: int, view: int, size: tuple[int, int] = (96, 128)) -> Box:
    """PNG, whatever the file is called. Returns the object's box."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels, box = draw(shown, view, size)
    with path.open("wb") as file:
        Image.fromarray(pixels).save(file, "PNG")
    return box


def mask(path: Path, box: Box, size: tuple[int, int] = (96, 128)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("L", (size[1], size[0]))
    picture.paste(255, box)
    picture.save(path)


def folder(root: Path, instances: int = 3, photos: int = 4, first: int = 0, view: int = 0) -> Path:
    """<instance>/<photo>, every other one upright, and masks beside in <root>-masks."""
    for i in range(instances):
        for j in range(photos):
            size = (128, 96) if j % 2 else (96, 128)
            box = photograph(root / f"tower {i}" / f"{j}.png", first + i, view + j, size)
            mask(root.with_name(root.name + "-masks") / f"tower {i}" / f"{j}.png", box, size)
    return root


def revisited(root: Path, name: str, queries: int = 3, photos: int = 9) -> Path:
    """Photo i shows what query i % queries shows: easy, hard and junk in turns. Polygons as of pixel retrieval."""
    truth: dict = {"imlist": [f"photo_{i}" for i in range(photos)], "qimlist": [], "gnd": []}
    for i in range(photos):
        left, top, right, bottom = photograph(root / "jpg" / f"photo_{i}.jpg", i % queries, i)
        corners = [[left, top], [right - 1, top], [right - 1, bottom - 1], [left, bottom - 1]]
        (root / f"photo_{i}.json").write_text(json.dumps({"shapes": [{"points": corners}]}))
    for q in range(queries):
        truth["qimlist"].append(f"query_{q}")
        left, top, right, bottom = photograph(root / "jpg" / f"query_{q}.jpg", q, 100, (112, 144))
        own = list(range(q, photos, queries))
        entry = {"bbx": [left, top + 0.4, right, bottom - 0.4], "easy": own[::3], "hard": own[1::3], "junk": own[2::3]}
        truth["gnd"].append(entry)
    if name == "own":
        (root / "gnd_own.json").write_text(json.dumps(truth))
    else:
        (root / f"gnd_{name}.pkl").write_bytes(pickle.dumps(truth, 2))
        pairs = {f"{q}_{i}": f"photo_{i}.json" for q in range(queries) for i in range(q, photos, queries)}
        np.save(root / f"{'oxford' if name == 'roxford5k' else 'paris'}_pair2labelpath.npy", pairs)  # type: ignore
    million(root / "revisitop1m")
    return root


def million(root: Path) -> Path:
    """Three distractors, and a file that is not in the list."""
    names = ["00/a.jpg", "00/b.jpg", "f3/c.jpg"]
    for i, name in enumerate((*names, "00/unlisted.jpg")):
        photograph(root / "jpg" / name, 50 + i, i)
    (root / "revisitop1m.txt").write_text("\n".join(names) + "\n")
    return root


def gldv2(root: Path) -> Path:
    """Nine index photographs of three landmarks, and three queries of which one is ignored; recognition beside."""
    names = [f"{i}b{i}def0123456789" for i in range(9)]
    for i, name in enumerate(names):
        photograph(root / f"index/{i}/b/{i}/{name}.jpg", i % 3, i)
    for q in range(3):
        photograph(root / f"test/a/{q}/c/a{q}cdef0123456789.jpg", q, 100)
    (root / "index.csv").write_text("id,url\n" + "".join(f"{name},http://x\n" for name in names))
    answers = [" ".join(names[q::3]) for q in range(2)]
    rows = [f"a0cdef0123456789,{answers[0]},Public", f"a1cdef0123456789,{answers[1]},Private"]
    text = "\n".join(["id,images,Usage", *rows, "a2cdef0123456789,None,Ignored"]) + "\n"
    (root / "retrieval_solution_v2.1.csv").write_text(text)
    text = "id,landmarks,Usage\na,7,Public\nb,8 9,Private\nc,,Public\nd,3,Private\ne,1,Ignored\n"
    (root / "recognition_solution_v2.1.csv").write_text(text)
    million(root / "revisitop1m")
    return root


def ilias(root: Path) -> Path:
    """Queries of two boxes, of which the part is that which holds both."""
    for i, name in enumerate(("bold_bimp_000", "zippy_zoot_999")):
        place = root / "ilias_core" / name
        left, top, _, _ = photograph(place / f"query/Q{i:03}_00.jpg", i, 100)
        (place / f"query/Q{i:03}_00_bbox.txt").write_text(f"{left} {top} 40 30\n{left + 20} {top + 10} 44 54\n")
        (place / f"query/T{i:03}.txt").write_text("a thing")
        for j in range(3 + i):
            photograph(place / f"pos/P{i:03}_{j:02}.jpg", i, j)
            (place / f"pos/P{i:03}_{j:02}_bbox.txt").write_text("0 0 5 5\n")
    return root


def paintings(root: Path) -> Path:
    """Five walls, of which one shows nothing known; two queries of three paintings ask. Masks of all of them."""
    for i in range(3):
        photograph(root / f"db/p_{i}.png", i, 100, (80, 80))
    entries = []
    for i, shown in enumerate((0, 1, 0, None, 1)):
        box = photograph(root / f"walls/{i}.png", 9 if shown is None else shown, i)
        mask(root / f"walls/{i}_mask.png", box)
        objects = [{"painting": None if shown is None else f"db/p_{shown}.png", "box_xyxy": box}]
        entries.append({"image": f"walls/{i}.png", "mask": f"walls/{i}_mask.png", "objects": objects})
    (root / "ground_truth.json").write_text(json.dumps(entries))
    return root


def asked(root: Path) -> Path:
    """A folder, photographs of which nothing is known that ask it, and what of them is asked for."""
    folder(root / "photos")
    mine = root / "mine"
    boxes = {name: photograph(mine / name, i, 100) for i, name in enumerate(("a.png", "b.png", "c.png"))}
    photograph(mine / "d.png", 5, 100)
    mask(root / "c mask.png", boxes["c.png"])
    left, top, right, bottom = boxes["a.png"]
    regions = {"a.png": [(left + right) // 2, (top + bottom) // 2], "b.png": boxes["b.png"], "c.png": "c mask.png"}
    (root / "regions.json").write_text(json.dumps(regions))
    return root


def halves(root: Path) -> Path:
    """A folder and its splits, queries of their own with instances, and others' photographs."""
    folder(root / "photos", photos=3)
    folder(root / "queries", instances=2, photos=1, view=100)
    folder(root / "others", instances=1, photos=2, first=61)
    (root / "splits.json").write_text(json.dumps({"train": ["tower 0"], "test": ["tower 1", "tower 2"]}))
    return root


def uneven(root: Path) -> Path:
    """An object with nine photographs and one with two: where objects are marked, eight go at once and the rest one
    by one."""
    folder(root / "photos", instances=1, photos=9)
    folder(root / "more", instances=1, photos=2, first=1)
    for kind in ("", "-masks"):
        (root / f"more{kind}/tower 0").rename(root / f"photos{kind}/tower 1")
    return root


MINIATURES = {
    "synthetic": lambda root: root,
    "folder": folder,
    "crowd": lambda root: folder(root, instances=4),
    "halves": halves,
    "uneven": uneven,
    "asked": asked,
    "roxford5k": lambda root: revisited(root, "roxford5k"),
    "rparis6k": lambda root: revisited(root, "rparis6k"),
    "revisited": lambda root: revisited(root, "own"),
    "gldv2": gldv2,
    "ilias": ilias,
    "paintings": paintings,
}
