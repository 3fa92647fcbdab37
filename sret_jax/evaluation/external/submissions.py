"""Rankings and marks in the files that other people's evaluators read and write."""

import csv
import io
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from sret_jax.datasets.tables import csv_columns, numbered_csv
from sret_jax.errors import UserError
from sret_jax.evaluation.external.named import landmark_id, named_lists
from sret_jax.storage.files import Unreadable, named
from sret_jax.storage.foreign import a_number, is_zip, open_npy, read_npz_array, short

log = logging.getLogger(__name__)

# Of a file of ranks: a million photographs for every query of ROxford5k, in 64 bits, thirty times.
MOST_BYTES = 16 << 30
MOST_UNPACKED = 2 << 30  # of an array in a .npz file, which cannot be read in parts


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
      path: .npy, or .npz of one array or of several with one named `ranks`; integers [k q]. A number from `photos` on
        is a distractor, -1 is none.
      queries: q of the benchmark.
      photos: of the benchmark, without distractors.

    Raises:
      UserError: names what does not fit, or that photos are numbered from 1. Nothing in the file is executed.
    """
    with named(path, f"give a .npy file of integers [photos, {queries} queries], or a .npz with one, named 'ranks'"):
        if is_zip(path):
            ranks = read_npz_array(path, MOST_UNPACKED, "iu", 2, "ranks")
        else:
            ranks = open_npy(path, MOST_BYTES, "iu", 2)
    if ranks.shape[1] != queries:
        turned = "; it is turned, save its transpose" if ranks.shape[0] == queries else ""
        raise UserError(f"{path}: {ranks.shape[1]} columns, but the benchmark has {queries} queries{turned}")
    rankings = np.asarray(ranks).T.astype(np.int64)
    if rankings.size and rankings.min() < -1:
        raise UserError(f"{path}: holds {rankings.min()}; photos are numbered from 0, and -1 stands for none")
    known = np.isin(np.arange(photos), rankings)
    if not known.any():
        raise UserError(f"{path}: none of the {photos} photos of the benchmark is ranked; numbers follow its imlist")
    _suspect_numbers_from_1(path, rankings, known)
    _check_once_each(path, rankings, photos)
    return rankings


def _check_once_each(path: str | Path, rankings: Int[np.ndarray, "q k"], photos: int) -> None:
    """Of photos of the benchmark alone: many distractors may share one number."""
    for query, row in enumerate(rankings):
        found, times = np.unique(row[(row >= 0) & (row < photos)], return_counts=True)
        if len(twice := found[times > 1]):
            raise UserError(
                f"{path}: query {query} has photo {twice[0]} twice ({len(twice)} such); every photo has one rank"
            )


def _suspect_numbers_from_1(path: str | Path, rankings: np.ndarray, known: Bool[np.ndarray, "n"]) -> None:
    """Without photo 0 and with a number behind the last one, as of Matlab: a lone distractor would look the same."""
    photos = len(known)
    if known[0] or rankings.max() != photos:
        return
    if known[1:].all():
        raise UserError(
            f"{path}: its numbers are 1 to {photos}, and photos are numbered from 0; subtract 1 and save it again"
        )
    log.warning(
        "%s: no number is 0, and the greatest, %d, is a distractor where photos are numbered from 0; if these are "
        "numbered from 1, subtract 1 and save them again",
        path,
        photos,
    )


def retrieval_csv(queries: Sequence[str], answers: Sequence[Sequence[str]]) -> bytes:
    """The submission of the Google Landmarks retrieval challenge: `id,images`, images separated by spaces."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["id", "images"])
    table.writerows([query, " ".join(found)] for query, found in zip(queries, answers, strict=True))
    return text.getvalue().encode("utf-8", "surrogateescape")


def read_retrieval_csv(path: str | Path, queries: Collection[str]) -> Mapping[str, list[str]]:
    """Inverse of `retrieval_csv`, also of ids with a folder or an ending, and of an evaluation's `rankings.csv`.

    Raises `UserError` for a query answered twice or not in `queries`, as the authors' evaluator does.
    """
    answers: dict[str, list[str]] = {}
    for where, name, found in named_lists(path):
        answers[_new_query(name, answers, queries, where)] = [landmark_id(image) for image in found]
    return answers


def _new_query(name: str, answers: Collection[str], queries: Collection[str], where: str) -> str:
    query = landmark_id(name)
    if query in answers:
        raise UserError(f"{where}: query {query!r} is answered twice")
    if query not in queries:
        raise UserError(f"{where}: unknown query {query!r}; query names look like {min(queries)!r}")
    return query


def is_recognition(path: str | Path) -> bool:
    """Whether a submission answers the recognition challenge (`id,landmarks`) and not the retrieval one."""
    return "landmarks" in csv_columns(path)


def read_recognition_csv(path: str | Path, queries: Collection[str]) -> Mapping[str, tuple[int, float]]:
    """`{query: (landmark, confidence)}` of a recognition submission `id,landmarks`; an empty field is no answer.

    Raises `UserError` for a query answered twice, not in `queries`, or with anything but one landmark and a number.
    """
    answers: dict[str, tuple[int, float]] = {}
    for number, row in numbered_csv(path, ("id", "landmarks")):
        query = _new_query(row["id"], answers, queries, f"{path}, line {number}")
        if row["landmarks"].strip():
            try:
                landmark, confidence = row["landmarks"].split()
                answers[query] = int(landmark), a_number(float(confidence), "the confidence")
            except (ValueError, Unreadable):
                raise UserError(
                    f"{path}, line {number}: {short(row['landmarks'])} is not a landmark number and a confidence"
                ) from None
    return answers
