"""What the authors of a benchmark say is to be found: `gnd_*.pkl` of ROxford5k and RParis6k, or the same as JSON.

A pickle can name no Python object here, so nothing in it is called: see `object_pickle`.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from sret_jax.errors import UserError
from sret_jax.storage.files import named, read_file
from sret_jax.storage.foreign import parse_json, short
from sret_jax.storage.object_pickle import read_objects
from sret_jax.storage.plain_pickle import MALFORMED, Refused

MAX_READS = 10_000_000  # parts of one pickle, which bounds its memory; a list of a million photographs has 5 million
FORM = (
    "a pickle or JSON of {'imlist': [photo, ...], 'qimlist': [query, ...], 'gnd': [{'bbx': [left, top, right, bottom], "
    "'easy': [place in imlist, ...], 'hard': [...], 'junk': [...]}, ...]}, of plain lists, dicts, text and numbers"
)
KNOWN = {  # md5 of the published files, each with its benchmark
    "f2b67579f625a587b5b0828dbf2e8eb0": ("roxford5k", "as published in 2018"),
    "2feae0a8257a5c6ca1b31b8eb73c8571": ("rparis6k", "as published in 2018"),
}


def read_plain_pickle(path: str | Path, remedy: str = "fetch it again from its authors") -> Any:
    """The lists, dicts (with text as keys), text and numbers of a pickle; arrays are lists, tuples too.

    Raises `UserError` with the reason and the remedy for anything else: a file that is missing, larger than 64 MiB,
    damaged, or asks for any other Python object. Nothing in the file is executed.
    """
    return _plain(_bytes(path, remedy), path, remedy)


def _bytes(path: str | Path, remedy: str) -> bytes:
    with named(path, remedy):
        return read_file(path)  # from a regular file of bounded size, whatever it holds


def _plain(data: bytes, path: str | Path, remedy: str) -> Any:
    try:
        return read_objects(data, MAX_READS)
    except MALFORMED as error:
        reason = str(error) if isinstance(error, Refused) else f"damaged or not a pickle ({type(error).__name__})"
        raise UserError(f"{path}: refused: {reason}; {remedy}") from None


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """Which photographs answer which query, in the form of Radenović et al. 2018 (Revisiting Oxford and Paris).

    photos    names of the photographs searched, without ending; the indices below point into this list
    queries   names of the query photographs
    boxes     (left, top, right, bottom) of the query object, pixels of the query photograph
    easy, hard, junk   per query: found without doubt; hard to see; not counted either way
    md5       of the file
    version   in words: which published file it is, if it is one
    """

    photos: list[str]
    queries: list[str]
    boxes: Float[np.ndarray, "q 4"]
    easy: list[Int[np.ndarray, "_"]]
    hard: list[Int[np.ndarray, "_"]]
    junk: list[Int[np.ndarray, "_"]]
    md5: str
    version: str


def read_ground_truth(path: str | Path, benchmark: str = "") -> GroundTruth:
    """Reads `gnd_*.pkl`, or a JSON file with the same keys `imlist`, `qimlist` and `gnd`.

    Lists may be tuples or numpy's arrays, and one list may stand in several places; numbers may be numpy's.

    Raises `UserError` naming what does not fit, and what the file should hold: a name listed twice, an index outside of
    the list, a photograph that is both right and wrong for one query; the published file of another benchmark than
    `benchmark`, if that has one.
    """
    published = benchmark in {name for name, _ in KNOWN.values()}
    remedy = f"give gnd_{benchmark}.pkl as its authors publish it, or {FORM}" if published else f"give {FORM}"
    data = _bytes(path, remedy)
    digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
    known, version = KNOWN.get(digest, ("", ""))
    if known and known != benchmark and published:
        raise UserError(f"{path}: the ground truth of {known}, not of {benchmark}; give gnd_{benchmark}.pkl")
    if str(path).endswith(".json"):
        with named(path, remedy):
            value = parse_json(data)
    else:
        value = _plain(data, path, remedy)
    if not isinstance(value, dict) or not {"imlist", "qimlist", "gnd"} <= set(value):
        raise UserError(f"{path}: holds no ground truth; {remedy}")
    photos, queries = (_names(value[key], f"{path}: {key}") for key in ("imlist", "qimlist"))
    entries = value["gnd"]
    if not isinstance(entries, list) or len(entries) != len(queries):
        raise UserError(f"{path}: {len(queries)} queries, but gnd has not as many entries; they must correspond")
    read = [_entry(entry, photos, f"{path}: query {name!r}") for entry, name in zip(entries, queries, strict=True)]
    return GroundTruth(
        photos=photos,
        queries=queries,
        boxes=np.array([entry["bbx"] for entry in read], np.float64).reshape(-1, 4),
        easy=[entry["easy"] for entry in read],
        hard=[entry["hard"] for entry in read],
        junk=[entry["junk"] for entry in read],
        md5=digest,
        version=f"{known} {version}" if known else f"no published version (md5 {digest})",
    )


def _names(value: Any, where: str) -> list[str]:
    if not isinstance(value, list) or not value or not all(type(name) is str and name for name in value):
        raise UserError(f"{where} must be a list of photo names")
    seen: set[str] = set()
    for name in value:
        parts = PurePosixPath(name).parts
        if name in seen:
            raise UserError(f"{where}: {short(name)} is listed twice; every photograph has one place in the list")
        if name.startswith("/") or ".." in parts or not name.isprintable():
            raise UserError(f"{where}: {short(name)} is not a name below the photo folder")
        seen.add(name)
    return value


def _entry(entry: Any, photos: list[str], where: str) -> dict[str, Any]:
    if not isinstance(entry, dict) or not {"bbx", "easy", "hard", "junk"} <= set(entry):
        raise UserError(f"{where}: must be a dict with 'bbx', 'easy', 'hard' and 'junk'")
    box = entry["bbx"]
    if not isinstance(box, list | tuple) or len(box) != 4 or not all(type(x) in (int, float) for x in box):
        raise UserError(f"{where}: bbx must be four numbers: left, top, right, bottom")
    if not (0 <= box[0] < box[2] < 1e6 and 0 <= box[1] < box[3] < 1e6):
        raise UserError(
            f"{where}: bbx {short(list(box))} is not left, top, right, bottom with left < right and top < bottom"
        )
    read: dict[str, Any] = {"bbx": box}
    owner: dict[int, str] = {}
    for kind in ("easy", "hard", "junk"):
        rows = entry[kind]
        if not isinstance(rows, list | tuple) or not all(type(row) is int for row in rows):
            raise UserError(f"{where}: {kind!r} must be a list of indices into imlist")
        for row in rows:
            if not 0 <= row < len(photos):
                raise UserError(f"{where}: {kind!r} holds index {short(row)}, but there are {len(photos)} photographs")
            if row in owner:
                raise UserError(f"{where}: {photos[row]!r} is in {owner[row]!r} and in {kind!r}; it can be in one only")
            owner[row] = kind
        read[kind] = np.array(rows, np.int64)
    return read
