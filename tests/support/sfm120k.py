"""The published list of training tuples in miniature, with its photographs."""

import copy
import pickle

from tests.support.photo_files import photo_bytes

IDS = [f"a{i:02d}f3{i:02d}b7{i:02d}" for i in range(8)]
TABLE = {
    "cids": IDS,
    "cluster": [4, 4, 4, 11, 11, 2, 2, 30],
    "bbxs": [[0.0, 1.5, 2.0, 3.0] for _ in IDS],
    "qidxs": [0, 1, 3, 5],
    "pidxs": [1, 2, 4, 6],
}


def write(root, table, missing=(), name="retrieval-SfM-120k.pkl"):
    root.mkdir(exist_ok=True)
    (root / name).write_bytes(
        pickle.dumps({"train": table, "val": copy.deepcopy(TABLE) | {"qidxs": [3], "pidxs": [4]}}, protocol=2)
    )
    for i, cid in enumerate(IDS):
        folder = root / "ims" / cid[-2:] / cid[-4:-2] / cid[-6:-4]
        folder.mkdir(parents=True, exist_ok=True)
        if cid not in missing:
            (folder / cid).write_bytes(photo_bytes(quality=60 + i))
    return root
