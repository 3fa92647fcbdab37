"""The hypergraph of a collection, made on disk in chunks: resumable, by any number of processes at once."""

import contextlib
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from sret_jax.errors import UserError
from sret_jax.reranking.hypergraph import Hypergraph
from sret_jax.storage.artifacts import (
    DamagedError,
    commit_folder,
    fingerprint,
    lock_folder,
    read_sealed,
    verify_folder,
    write_sealed,
)

log = logging.getLogger(__name__)

ABOUT, PAIRS = "HYPERGRAPH.json", "pairs.npz"


class VerifiedPairs(NamedTuple):
    """What spatial verification finds between a photograph and k others.

    inliers  how many points they share
    here     (x, y) of each match in the one photograph, the longest side being 1
    there    (x, y) of the same match in the other
    valid    whether the match is an inlier
    """

    inliers: Int[np.ndarray, "k"]
    here: Float[np.ndarray, "k m 2"]
    there: Float[np.ndarray, "k m 2"]
    valid: Bool[np.ndarray, "k m"]


def build_hypergraph(
    folder: Path,
    neighbours: Int[np.ndarray, "n k"],
    verify: Callable[[int, Int[np.ndarray, "_"]], VerifiedPairs],
    *,
    verification: str,
    fewest: int,
    chunk_rows: int,
) -> bool:
    """Verifies each photograph with its neighbours, and writes what it finds; True once all of it is there.

    Chunk i is the folder `<i>`, with the pairs of the photographs i * chunk_rows onwards. A kill costs the chunk that
    was being made. Several processes may work on one folder: each takes the chunks that are neither made nor being
    made; the one that gets False leaves the rest to the others. A pair that is named from both sides is verified from
    the smaller index only, and counts in both directions.

    Args:
        neighbours: of each photograph, from a search; -1 = none.
        verify: called with a photograph and 1 to k others; `VerifiedPairs` of them, in their order.
        verification: a fingerprint of all that `verify` depends on: the photographs, their features, its settings.
        fewest: inliers that a pair must have to be kept, at least 1.

    Raises:
        UserError: the folder has pairs of other photographs, neighbours or settings.
    """
    folder, n = Path(folder), len(neighbours)
    digest = hashlib.sha256(np.ascontiguousarray(neighbours, np.int64).data).hexdigest()
    chunks = -(-n // chunk_rows)
    about = {
        "fingerprint": fingerprint(verification, digest, neighbours.shape, fewest, chunk_rows),
        "photos": n,
        "chunks": chunks,
    }
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if _read_about(folder) != about:
            raise UserError(f"{folder}: pairs of other photographs or settings; delete it or name another folder")
    except FileNotFoundError:
        write_sealed(folder / ABOUT, about)
    except DamagedError as error:
        log.warning("%s: it is written again", error)  # every chunk says what it belongs to
        write_sealed(folder / ABOUT, about)
    complete = True
    for i in range(chunks):
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(lock_folder(folder / "claims" / _name(i)))
            except UserError:
                complete = False  # another process makes it
                continue
            if _is_sound(folder, i, about):
                continue
            rows = range(i * chunk_rows, min((i + 1) * chunk_rows, n))
            pairs = _verified(rows, neighbours, verify, fewest)
            with commit_folder(folder / _name(i)) as made:
                np.savez(made / PAIRS, allow_pickle=False, of=np.array(_identity(i, about)), **pairs)
    return complete


def read_hypergraph(folder: Path) -> Hypergraph:
    """What `build_hypergraph` has written; the pairs that leave a photograph by falling inliers, equals by index.

    On disk positions are float16: within half a pixel of 1,024.

    Raises:
        UserError: it is not there or not complete.
        DamagedError: a file is not what was written; the text names it.
    """
    folder = Path(folder)
    if not (folder / ABOUT).is_file():
        raise UserError(f"{folder}: no hypergraph there; build it first")
    try:
        about = _read_about(folder)
    except DamagedError as error:
        raise DamagedError(f"{error}; build it again, which keeps the chunks that are whole") from None
    parts = []
    for i in range(about["chunks"]):
        if not (folder / _name(i)).is_dir():
            raise UserError(f"{folder}: chunk {i} of {about['chunks']} is not made yet; run the building to its end")
        parts.append(_read_chunk(folder, i, about))
    a, b, count, here, there = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return assembled(about["photos"], a, b, count, here.astype(np.float32), there.astype(np.float32))


def assembled(
    n: int,
    a: Int[np.ndarray, "p"],
    b: Int[np.ndarray, "p"],
    count: Int[np.ndarray, "p"],
    here: Float[np.ndarray, "m 2"],
    there: Float[np.ndarray, "m 2"],
) -> Hypergraph:
    """The hypergraph of n photographs from each verified pair once: a, b, its number of inliers, and all of these."""
    start = np.cumsum(count) - count
    left, arrived = np.concatenate([a, b]), np.concatenate([b, a])
    count, start = np.tile(count, 2), np.concatenate([start, start + len(here)])
    order = np.lexsort((arrived, -count, left))
    count, start = count[order], start[order]
    inlier_start = np.concatenate([[0], np.cumsum(count)])
    inlier = np.arange(inlier_start[-1]) + np.repeat(start - inlier_start[:-1], count)
    pair_start = np.concatenate([[0], np.cumsum(np.bincount(left, minlength=n))])
    both = np.concatenate([here, there])[inlier], np.concatenate([there, here])[inlier]
    return Hypergraph.of(pair_start, arrived[order], inlier_start, *both)


def _verified(
    rows: range, neighbours: np.ndarray, verify: Callable[[int, np.ndarray], VerifiedPairs], fewest: int
) -> dict[str, np.ndarray]:
    """The pairs of these photographs that have enough inliers, as arrays."""
    pairs, here, there = [], [np.empty((0, 2))], [np.empty((0, 2))]
    for a in rows:
        others = np.unique(neighbours[a][neighbours[a] >= 0])
        named_back = (neighbours[others] == a).any(1)
        others = others[(others > a) | ((others < a) & ~named_back)]
        if not len(others):
            continue
        found = verify(a, others)
        for i in np.flatnonzero(found.inliers >= max(fewest, 1)):
            valid = found.valid[i]
            pairs.append((a, others[i], valid.sum()))
            here.append(found.here[i, valid])
            there.append(found.there[i, valid])
    table = np.array(pairs, np.int32).reshape(-1, 3)
    points = {"here": np.concatenate(here).astype(np.float16), "there": np.concatenate(there).astype(np.float16)}
    return {"a": table[:, 0], "b": table[:, 1], "count": table[:, 2]} | points


def _is_sound(folder: Path, chunk: int, about: dict[str, Any]) -> bool:
    if not (folder / _name(chunk)).exists():
        return False
    try:
        _read_chunk(folder, chunk, about)
    except DamagedError as error:
        log.warning("%s: it is made again", error)
        return False
    return True


def _read_chunk(folder: Path, chunk: int, about: dict[str, Any]) -> list[np.ndarray]:
    """The arrays of a chunk. Raises `DamagedError` where it is not what was written, or is another one's copy."""
    path = folder / _name(chunk)
    verify_folder(path)
    with np.load(path / PAIRS, allow_pickle=False) as arrays:
        if "of" not in arrays or str(arrays["of"]) != _identity(chunk, about):
            raise DamagedError(f"{path}: not chunk {chunk} of these pairs; delete it and build again")
        return [arrays[key] for key in ("a", "b", "count", "here", "there")]


def _identity(chunk: int, about: dict[str, Any]) -> str:
    return f"{about['fingerprint']} {chunk}"


def _read_about(folder: Path) -> dict[str, Any]:
    about = read_sealed(folder / ABOUT)
    kinds = {"fingerprint": str, "photos": int, "chunks": int}
    if about.keys() != kinds.keys() or any(type(about[key]) is not kind for key, kind in kinds.items()):
        raise DamagedError(f"{folder / ABOUT}: unreadable (another form)")
    return about


def _name(chunk: int) -> str:
    return f"{chunk:05d}"
