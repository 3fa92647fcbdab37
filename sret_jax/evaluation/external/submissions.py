"""Rankings and marks in the files that other people's evaluators read and write."""

import csv
import io
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from sret_jax.datasets.tables import read_csv
from sret_jax.errors import UserError

# Of a file of ranks: a million photographs for every query of ROxford5k, in 64 bits, thirty times.
MOST_BYTES = 16 << 30


def ranks_file(rankings: Int[np.ndarray, "q k"]) -> bytes:
    """`ranks` as revisitop's evaluator takes them: .npy, int32 [k q], a column per query, best first."""
    data = io.BytesIO()
    np.save(data, np.ascontiguousarray(rankings.T.astype(np.int32)))
    return data.getvalue()


def matching_file(polygons: Mapping[tuple[int, int], Int[np.ndarray, "_ 2"]]) -> bytes:
    """What a method marks as pixel retrieval's evaluator takes it: .npy of a dict, read again by `external/marks.py`.

    Args:
      polygons: (x, y) by (query, photo), numbers in the benchmark's order; without any point where nothing was found.
        That evaluator stops at a relevant pair which is missing.
    """
    named: dict[str, Any] = {
        f"qimlist_{query}_imlist_{photo}": points.astype(np.int32) if len(points) else []
        for (query, photo), points in polygons.items()
    }
    data = io.BytesIO()
    np.save(data, np.array(named, object), allow_pickle=True)
    return data.getvalue()


def read_ranks(path: str | Path, queries: int, photos: int) -> Int[np.ndarray, "q k"]:
    """Inverse of `ranks_file`, for whatever ranked the photos of a benchmark.

    Args:
      path: .npy, integers [k q]; a number from `photos` on is a distractor, -1 is none.
      queries: q of the benchmark.
      photos: of the benchmark, without distractors.

    Raises:
      UserError: names what does not fit. Nothing in the file is executed.
    """
    try:
        if not Path(path).is_file() or os.path.getsize(path) > MOST_BYTES:
            raise UserError(f"{path}: no such file, or larger than {MOST_BYTES >> 30} GiB; give a .npy file of ranks")
        ranks = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: not a .npy file of integers ({error})") from None
    if ranks.ndim != 2 or ranks.dtype.kind not in "iu":
        raise UserError(f"{path}: {ranks.dtype} {list(ranks.shape)}; ranks are integers [photos, {queries} queries]")
    if ranks.shape[1] != queries:
        turned = "; it is turned, save its transpose" if ranks.shape[0] == queries else ""
        raise UserError(f"{path}: {ranks.shape[1]} columns, but the benchmark has {queries} queries{turned}")
    rankings = np.asarray(ranks).T.astype(np.int64)
    if rankings.size and rankings.min() < -1:
        raise UserError(f"{path}: holds {rankings.min()}; photos are numbered from 0, and -1 stands for none")
    known = np.isin(np.arange(photos), rankings)
    if not known.any():
        raise UserError(f"{path}: none of the {photos} photos of the benchmark is ranked; numbers follow its imlist")
    return rankings


def retrieval_csv(queries: Sequence[str], answers: Sequence[Sequence[str]]) -> bytes:
    """The submission of the Google Landmarks retrieval challenge: `id,images`, images separated by spaces."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["id", "images"])
    table.writerows([query, " ".join(found)] for query, found in zip(queries, answers, strict=True))
    return text.getvalue().encode("utf-8", "surrogateescape")


def read_retrieval_csv(path: str | Path, queries: Collection[str]) -> Mapping[str, list[str]]:
    """Inverse of `retrieval_csv`. Raises `UserError` for a query answered twice or not in `queries`."""
    answers: dict[str, list[str]] = {}
    for number, row in enumerate(read_csv(path, ("id", "images")), 2):
        if row["id"] in answers:
            raise UserError(f"{path}, line {number}: query {row['id']!r} is answered twice")
        if row["id"] not in queries:
            raise UserError(
                f"{path}, line {number}: unknown query {row['id']!r}; query names look like {next(iter(queries))!r}"
            )
        answers[row["id"]] = row["images"].split()
    return answers


def is_recognition(path: str | Path) -> bool:
    """Whether a submission answers the recognition challenge (`id,landmarks`) and not the retrieval one."""
    return "landmarks" in next(read_csv(path, ("id",)), {})


def read_recognition_csv(path: str | Path, queries: Collection[str]) -> Mapping[str, tuple[int, float]]:
    """`{query: (landmark, confidence)}` of a recognition submission `id,landmarks`; an empty field is no answer.

    Raises `UserError` for a query answered twice, not in `queries`, or with anything but one landmark and a number.
    """
    answers: dict[str, tuple[int, float]] = {}
    for number, row in enumerate(read_csv(path, ("id", "landmarks")), 2):
        if row["id"] in answers:
            raise UserError(f"{path}, line {number}: query {row['id']!r} is answered twice")
        if row["id"] not in queries:
            raise UserError(
                f"{path}, line {number}: unknown query {row['id']!r}; query names look like {next(iter(queries))!r}"
            )
        if row["landmarks"].strip():
            try:
                landmark, confidence = row["landmarks"].split()
                answers[row["id"]] = int(landmark), float(confidence)
            except ValueError:
                raise UserError(
                    f"{path}, line {number}: {row['landmarks']!r} is not a landmark number and a confidence"
                ) from None
    return answers
