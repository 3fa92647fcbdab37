"""The training tuples of retrieval-SfM-120k and -30k: photographs of 3D models, and which of them match.

    <root>/retrieval-SfM-120k.pkl      {"train": {...}, "val": {...}}, as its authors distribute it
    <root>/ims/54/32/10/...543210      the photographs, below folders named by the end of their ids

Of each split: "cids", the photographs' ids; "cluster", the 3D model of each; "qidxs" and "pidxs", the positions of the
query and of the positive of every pair.

Reference: F. Radenovic et al., Fine-tuning CNN Image Retrieval with No Human Annotation, PAMI 2019, section 4.
"""

import dataclasses
import logging
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sret_jax.data.folders import FolderEntry, content_key
from sret_jax.data.lists import Builder, ListedPhotos, Unusable
from sret_jax.data.photo_set import PhotoSet
from sret_jax.data.prepared import open_prepared, prepared
from sret_jax.datasets.ground_truth import read_plain_pickle
from sret_jax.errors import UserError
from sret_jax.storage.artifacts import file_digest, fingerprint

log = logging.getLogger(__name__)
COLUMNS = ("cids", "cluster", "qidxs", "pidxs")


def prepare_sfm(root: str | Path, cache_dir: str | Path, *, split: str, builder: Builder = ListedPhotos) -> PhotoSet:
    """The photographs of one split, read and checked once and kept in `cache_dir`; instances are the 3D models.

    Raises `UserError` when the list is missing or malformed, or no pair is left of the photographs that are there.
    """
    root = Path(root)
    lists = sorted(root.glob("retrieval-SfM-*.pkl"))
    if len(lists) != 1:
        raise UserError(
            f"config.data.root={str(root)!r}: {len(lists)} files retrieval-SfM-*.pkl, there must be one beside ims/"
        )
    ids, clusters, queries, positives = _columns(lists[0], split)
    found = [
        FolderEntry(cid, str(root / "ims" / cid[-2:] / cid[-4:-2] / cid[-6:-4] / cid), cluster)
        for cid, cluster in zip(ids, clusters, strict=True)
    ]
    key = fingerprint(split, file_digest(lists[0]), content_key(root, found, True))
    folder = Path(cache_dir) / "sfm" / f"{split}-{key}"
    name = f"{lists[0].stem}:{split}"
    try:
        prepared(folder, partial(builder, name, found, False))
    except Unusable as error:
        raise UserError(
            f"{name}: none of {len(error.photos)} photographs can be read; complete {root / 'ims'}"
        ) from None
    photos = open_prepared([folder], name)
    if photos.skipped:
        file, reason = photos.skipped[0]
        log.warning("%s: %d photographs skipped, the first %s: %s", photos.name, len(photos.skipped), file, reason)
    row = {name: row for row, name in enumerate(photos.names)}
    rows = np.array([row.get(cid, -1) for cid in ids])
    pairs = np.stack([rows[queries], rows[positives]], axis=1)
    pairs = pairs[(pairs >= 0).all(1)]
    if not len(pairs):
        raise UserError(f"{photos.name}: of no pair both photographs can be read; complete {root / 'ims'}")
    return dataclasses.replace(photos, pairs=pairs)


def prepare_sfm_splits(root: Path, cache_dir: str | Path, builder: Builder = ListedPhotos) -> dict[str, PhotoSet]:
    """What `prepare_sfm` gives, of each split."""
    return {split: prepare_sfm(root, cache_dir, split=split, builder=builder) for split in ("train", "val")}


def _columns(path: Path, split: str) -> tuple[list[str], list[str], list[int], list[int]]:
    """Ids, models, queries and positives of a split, checked: the file is not trusted."""
    table = read_plain_pickle(path)
    if not isinstance(table, dict) or not isinstance(table.get(split), dict):
        known = ", ".join(sorted(table)) if isinstance(table, dict) else "it is not a dict"
        raise UserError(f"{path}: no split {split!r} (config.data.split); known: {known}")
    for name in COLUMNS:
        if not isinstance(table[split].get(name), list):
            raise UserError(f"{path}: split {split!r} has no list {name!r}; fetch it again from its authors")
    ids, clusters, queries, positives = (table[split][name] for name in COLUMNS)
    for cid in ids:
        if not isinstance(cid, str) or len(cid) < 6 or not cid.replace("-", "").replace("_", "").isalnum():
            raise UserError(f"{path}: {cid!r} is no id of a photograph (letters and digits, six or more)")
    checks = {
        "an id is there twice": len(set(ids)) < len(ids),
        '"cids" and "cluster" differ in length': len(clusters) != len(ids),
        '"qidxs" and "pidxs" differ in length': len(queries) != len(positives),
        "a pair has no position of a photograph": not all(_is_index(x, len(ids)) for x in queries + positives),
        "a model is no number": not all(_is_index(x, 2**63) for x in clusters),
    }
    for what, wrong in checks.items():
        if wrong:
            raise UserError(f"{path}: split {split!r}: {what}; fetch it again from its authors")
    return ids, [str(cluster) for cluster in clusters], queries, positives


def _is_index(value: Any, end: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < end
