"""The inverted file: for every visual word the photographs that have it, compared on the device by ASMK."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jaxtyping import Array, Float, Float32, Int, Int32, Int64, Shaped

from sret_jax.errors import UserError
from sret_jax.retrieval.asmk import AggregatedFeatures, aggregate, selectivity, similarity
from sret_jax.storage.artifacts import DamagedError, commit_folder, verify_folder, write_array, write_json

STRETCH = 64  # entries of one list that are compared together
STRETCHES = 4096  # of them in one call
QUERIES = 16  # scored together
ABOUT = "INVERTED_FILE.json"


@dataclass(frozen=True, eq=False)
class Part:
    """The lists of some consecutive photographs. Word w has the entries starts[w] to starts[w + 1] - 1.

    starts     [v + 1]
    photos     of each entry, counted from the part's first; ascending in a list
    vectors    of each entry: packed signs [e c/32] or unit vectors [e c]
    words_of   number of words of each photograph
    """

    starts: Int64[np.ndarray, "v1"]
    photos: Int32[np.ndarray, "e"]
    vectors: Shaped[np.ndarray, "e w"]
    words_of: Int32[np.ndarray, "p"]


FIELDS = ("starts", "photos", "vectors", "words_of")


class InvertedFile:
    """An ASMK index of photographs.

    A photograph with C visual words takes C * (c/8 + 4) + 4 bytes, binary: at most 20 kB for 1000 local features of
    128 channels, 20 GB for a million photographs; real-valued vectors take C * (4 c + 4), 26 times as much. Built in a
    folder, all but the last part (65,536 photographs, at most 1.3 GB) lie on disk. On the device lies one part at a
    time, one score per photograph of it and query of a group of 16 (4 MB), and the codebook. A query of 1000 features
    with 5 words each visits the lists of at most 5000 words.

    Attributes:
      names: of the photographs, in order; an index into it is the id that `search` returns.
      centroids: of the visual words, see `codebook.kmeans`.
      binary: whether signs are compared, or unit vectors.
      fingerprint: of what it was built from, by whoever built it.
    """

    def __init__(
        self,
        centroids: Float32[np.ndarray, "v c"],
        *,
        binary: bool = True,
        photos_per_part: int = 65536,
        fingerprint: str = "",
        folder: Path | None = None,
    ):
        """
        Args:
          folder: where the parts are written as they become whole, and mapped into memory from; None keeps them in it.
            `finish` makes it an inverted file that `load` reads.
        """
        self.names: list[str] = []
        self.centroids, self.binary, self.photos_per_part = centroids, binary, photos_per_part
        self.fingerprint, self._folder = fingerprint, folder
        self._parts: list[Part] = []
        self._pending: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # words of each photo, words, vectors

    def __len__(self) -> int:
        return len(self.names)

    @property
    def nbytes(self) -> int:
        """Of the lists and the photographs' word counts; names, codebook and the starts of the lists come on top."""
        self._seal()
        return sum(part.vectors.nbytes + part.photos.nbytes + part.words_of.nbytes for part in self._parts)

    def add(self, x: Float[np.ndarray, "b n c"], count: Int[np.ndarray, "b"], names: list[str]) -> None:
        """Appends photographs, the first `count` of whose local features are used; one word for each feature."""
        if len(x) != len(names):
            raise ValueError(f"{len(x)} photographs with {len(names)} names")
        words, vectors = (np.asarray(z) for z in self._aggregate(x, count, 1))
        self.add_aggregated(words, vectors, names)

    def add_aggregated(
        self, words: Int32[np.ndarray, "b m"], vectors: Shaped[np.ndarray, "b m w"], names: list[str]
    ) -> None:
        """Appends photographs by what `asmk.aggregate` made of them, with one word for each feature."""
        real = words < len(self.centroids)
        self._pending.append((real.sum(1, dtype=np.int32), words[real], vectors[real]))
        self.names += names
        if sum(len(words_of) for words_of, _, _ in self._pending) >= self.photos_per_part:
            self._seal()

    def search(
        self,
        x: Float[np.ndarray, "q n c"],
        count: Int[np.ndarray, "q"],
        k: int,
        *,
        assignments: int = 5,
        alpha: float = 3.0,
        threshold: float = 0.0,
    ) -> tuple[Int64[np.ndarray, "q k"], Float32[np.ndarray, "q k"]]:
        """Ids and scores of the k most similar photographs, best first; of equal ones the first added.

        Args:
          x: local features of the queries; the first `count` of each are used.
          assignments: visual words of each feature.
          alpha, threshold: of the selectivity.
        """
        self._seal()
        if not 1 <= k <= len(self):
            raise UserError(f"k={k}: the inverted file has {len(self)} photographs; ask for 1 to as many")
        slices = [slice(i, i + QUERIES) for i in range(0, len(x), QUERIES)]
        groups = [self._padded(self._aggregate(x[i], count[i], assignments)) for i in slices]
        found: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in groups]
        first = 0
        for part in self._parts:
            vectors, photos, words_of = jax.device_put((part.vectors, part.photos, part.words_of))
            for (words, own), so_far in zip(groups, found, strict=True):
                sums, queries = jnp.zeros((QUERIES, len(part.words_of))), jnp.asarray(own)
                for stretches in _stretches(words, part.starts):
                    sums = _add_scores(sums, vectors, photos, queries, stretches, alpha, threshold)
                counts = (words < len(self.centroids)).sum(1)
                best, rows = (np.asarray(z) for z in _best(sums, words_of, counts, min(k, len(part.words_of))))
                so_far.append((best, rows.astype(np.int64) + first))
            first += len(part.words_of)
        scores, ids = (np.concatenate([np.concatenate(z, 1) for z in zs]) for zs in _transposed(found))
        order = np.argsort(-scores[: len(x)], axis=1, kind="stable")[:, :k]
        return np.take_along_axis(ids[: len(x)], order, 1), np.take_along_axis(scores[: len(x)], order, 1)

    def _aggregate(self, x: np.ndarray, count: np.ndarray, assignments: int) -> AggregatedFeatures:
        x, count, centroids = jax.device_put((x, count, self.centroids))
        return aggregate(x, count, centroids, assignments=assignments, binary=self.binary)

    def _padded(self, group: AggregatedFeatures) -> tuple[np.ndarray, np.ndarray]:
        """Words and vectors on the host, with queries without words up to `QUERIES`."""
        words, vectors = (np.asarray(z) for z in group)
        missing = QUERIES - len(words)
        words = np.pad(words, [(0, missing), (0, 0)], constant_values=len(self.centroids))
        return words, np.pad(vectors, [(0, missing), (0, 0), (0, 0)])

    def _seal(self) -> None:
        """Makes a part of the photographs added since the last one."""
        if not self._pending:
            return
        words_of, words, vectors = (np.concatenate(z) for z in zip(*self._pending, strict=True))
        self._pending = []
        rows = np.concatenate([[0], np.cumsum(words_of, dtype=np.int64)])
        shape = len(words_of), len(self.centroids)
        # From rows of words to columns of photographs: scipy's conversion counts, it does not sort.
        lists = scipy.sparse.csr_array((np.arange(len(words)), words, rows), shape=shape).tocsc()
        starts, photos = lists.indptr.astype(np.int64), lists.indices.astype(np.int32)
        part = Part(starts, photos, vectors[lists.data], words_of)
        if self._folder:
            _write_part(self._folder, len(self._parts), part)
            part = _mapped_part(self._folder, len(self._parts))
        self._parts.append(part)

    def finish(self) -> None:
        """Writes what the folder that it was built in lacks: the last part and what the parts are of.

        What is added later is in memory, as to one that was loaded.
        """
        if not self._folder:
            raise ValueError("built in memory; `save` writes it")
        self._seal()
        self._write_about(self._folder)
        self._folder = None

    def save(self, path: Path) -> None:
        """Writes the index to the folder `path`, whole or not at all."""
        self._seal()
        with commit_folder(Path(path)) as folder:
            for i, part in enumerate(self._parts):
                _write_part(folder, i, part)
            self._write_about(folder)

    def _write_about(self, folder: Path) -> None:
        write_array(folder / "centroids.npy", self.centroids)
        about = {"parts": len(self._parts), "binary": self.binary, "photos_per_part": self.photos_per_part}
        write_json(folder / ABOUT, about | {"fingerprint": self.fingerprint, "names": self.names})

    @classmethod
    def load(cls, path: Path) -> "InvertedFile":
        """The index in the folder `path`; its lists are read from disk when a search needs them.

        Raises:
          UserError: there is none.
          DamagedError: it is not what was written.
        """
        path = Path(path)
        if not path.is_dir():
            raise UserError(f"{path}: no inverted file there; build and save one")
        verify_folder(path)
        try:
            about = json.loads((path / ABOUT).read_bytes())
            centroids = np.load(path / "centroids.npy", allow_pickle=False)
            settings = {name: about[name] for name in ("binary", "photos_per_part", "fingerprint")}
            index = cls(centroids, **settings)
            index.names = about["names"]
            index._parts = [_mapped_part(path, i) for i in range(about["parts"])]
        except (OSError, ValueError, KeyError, TypeError):
            raise DamagedError(f"{path}: not an inverted file; delete it and build it again") from None
        return index


def _write_part(folder: Path, number: int, part: Part) -> None:
    for name in FIELDS:
        write_array(folder / f"{number:05d}.{name}.npy", getattr(part, name))


def _mapped_part(folder: Path, number: int) -> Part:
    files = (folder / f"{number:05d}.{name}.npy" for name in FIELDS)
    return Part(*(np.load(file, mmap_mode="r", allow_pickle=False) for file in files))


def _stretches(words: Int32[np.ndarray, "q m"], starts: Int64[np.ndarray, "v1"]) -> Iterator[Int32[np.ndarray, "4 s"]]:
    """What has to be compared: query, slot of the query, first entry and number of entries of each stretch.

    The list of every word of every query is cut into stretches of at most `STRETCH` entries. The array has always
    `STRETCHES` columns, the last one filled up with stretches of no entries.
    """
    query, slot = np.nonzero(words < len(starts) - 1)
    word = words[query, slot]
    length = starts[word + 1] - starts[word]
    pieces = -(-length // STRETCH)
    before = np.repeat(np.cumsum(pieces) - pieces, pieces)
    offset = STRETCH * (np.arange(pieces.sum()) - before)
    table = np.stack(
        [
            np.repeat(query, pieces),
            np.repeat(slot, pieces),
            np.repeat(starts[word], pieces) + offset,
            np.minimum(np.repeat(length, pieces) - offset, STRETCH),
        ]
    ).astype(np.int32)
    for i in range(0, table.shape[1], STRETCHES):
        piece = table[:, i : i + STRETCHES]
        yield np.pad(piece, [(0, 0), (0, STRETCHES - piece.shape[1])])


@partial(jax.jit, static_argnames=("alpha", "threshold"), donate_argnums=0)
def _add_scores(
    scores: Array, vectors: Array, photos: Array, queries: Array, stretches: Array, alpha: float, threshold: float
) -> Array:
    """scores [q p] plus the selectivities of all entries of the stretches."""
    query, slot, start, length = stretches
    step = jnp.arange(STRETCH)[None]
    entry = start[:, None] + step
    u = similarity(queries[query, slot][:, None], vectors.at[entry].get(mode="clip"))
    value = jnp.where(step < length[:, None], selectivity(u, alpha=alpha, threshold=threshold), 0)
    return scores.at[query[:, None], photos.at[entry].get(mode="clip")].add(value)


@partial(jax.jit, static_argnames="k")
def _best(scores: Array, words_of: Array, words: Array, k: int) -> tuple[Array, Array]:
    """The k largest of scores / sqrt(words of the photograph * words of the query), and where they are."""
    both = jnp.maximum(words_of, 1)[None] * jnp.maximum(words, 1)[:, None]
    best, rows = jax.lax.top_k(scores * jax.lax.rsqrt(both.astype(jnp.float32)), k)
    return best, rows


def _transposed(found: list[list[tuple[Any, Any]]]) -> tuple[list[list[Any]], list[list[Any]]]:
    """Scores and ids apart: each a list over the groups of a list over the parts."""
    scores, ids = ([[pair[i] for pair in parts] for parts in found] for i in range(2))
    return scores, ids
