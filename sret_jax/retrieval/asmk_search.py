"""A collection searched by ASMK: a codebook and an inverted file on disk, searched with stored local features."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int, Int32, Shaped

from sret_jax.data.photo_set import PhotoSet
from sret_jax.errors import UserError
from sret_jax.extraction.local_features import StoredLocal
from sret_jax.retrieval.asmk import BITS
from sret_jax.retrieval.codebook import kmeans
from sret_jax.retrieval.index import SearchResult
from sret_jax.retrieval.inverted_file import InvertedFile
from sret_jax.retriever import Retriever
from sret_jax.storage.artifacts import (
    commit_folder,
    fingerprint,
    open_or_build,
    verify_folder,
    wait_for,
    write_array,
    write_json,
)

log = logging.getLogger(__name__)

WORDS, FEATURES_PER_WORD = 65_536, 39  # as published; and the fewest, below which faiss warns of too few
AT_ONCE = 64  # photographs whose local features are read and aggregated, or searched with, together
ABOUT = "CODEBOOK.json"


class Words(NamedTuple):
    """`asmk.AggregatedFeatures` of photographs, in their order, on the host."""

    words: Int32[np.ndarray, "b m"]
    vectors: Shaped[np.ndarray, "b m w"]


class Codebook(NamedTuple):
    """Visual words, and what they were learned from."""

    centroids: Float32[np.ndarray, "v c"]
    fingerprint: str
    photos: int

    @property
    def digest(self) -> str:
        """Of the words themselves, where `fingerprint` says what they were learned from."""
        return hashlib.sha256(np.ascontiguousarray(self.centroids).data).hexdigest()


class AsmkIndex:
    """ASMK search over photographs, by queries that are named by the rows of their local features.

    Attributes:
      file: the photographs.
    """

    def __init__(self, file: InvertedFile, queries: StoredLocal, assignments: int, learned_on: int):
        """
        Args:
          queries: local features of all queries.
          assignments: visual words of each of them, or all words where there are fewer.
          learned_on: photographs that the words are of.
        """
        self.file, self._queries, self._learned_on = file, queries, learned_on
        self._assignments = min(assignments, len(file.centroids))

    @property
    def description(self) -> str:
        return (
            f"ASMK, {'binary' if self.file.binary else 'real-valued'}, {len(self.file.centroids)} words of "
            f"{self._learned_on} photographs, queries in {self._assignments} words a feature, {len(self.file)} photos "
            f"in {self.file.nbytes / 1e6:.1f} MB"
        )

    @property
    def dim(self) -> int:
        """Dimensions of a local feature."""
        return self.file.centroids.shape[1]

    @property
    def fingerprint(self) -> str:
        return self.file.fingerprint

    def search(self, rows: Int[np.ndarray, "q"], k: int) -> SearchResult:
        """The k most similar photographs to each query, best first; equal ones in the order of the index."""
        found = []
        for start in range(0, len(rows), AT_ONCE):
            own = self._queries(rows[start : start + AT_ONCE])
            features, counts = np.asarray(own.features), np.asarray(own.counts)
            found.append(self.file.search(features, counts, k, assignments=self._assignments))
        ids, scores = (np.concatenate(part) for part in zip(*found, strict=True))
        return SearchResult(ids, scores, self.file.names)


def open_codebook(retriever: Retriever, photos: PhotoSet, folder: Path) -> Codebook:
    """The codebook in `folder` if it is of these photographs, network and settings and sound, else one learned and
    saved there: k-means over the strongest local features of at most `config.search.codebook_photos` photographs,
    evenly spread, at one scale. All of these features are in memory twice, 20 GB of 20,000 photographs with 1,000.
    Of several processes one learns it, and the others wait.

    Raises:
      UserError: the network has no local features, the photographs have fewer than there are words, or the signs of
        a feature do not fill whole integers.
    """
    config, settings = retriever.config, retriever.config.search
    one_scale = replace(config, local=replace(config.local, source="head", scales=(1.0,)))
    source = retriever.feature_source(photos, one_scale)
    key = fingerprint(source.fingerprint, photos.fingerprint, settings.words, settings.codebook_photos)

    def learn() -> Codebook:
        rows = np.unique(
            np.linspace(0, len(photos) - 1, min(settings.codebook_photos, len(photos))).astype(int)
        ).tolist()
        found = dict(source(photos, rows))
        features = np.concatenate([found[row].features[: found[row].counts] for row in rows])
        words = settings.words or min(WORDS, max(1, len(features) // FEATURES_PER_WORD))
        if len(features) < words:
            raise UserError(
                f"config.search.words={words}: {len(rows)} photographs of {photos.name} have {len(features)} local "
                "features; lower it, or give more photographs with config.search.codebook"
            )
        codebook = Codebook(kmeans(features, words), key, len(rows))
        with commit_folder(folder) as built:
            write_array(built / "centroids.npy", codebook.centroids)
            write_json(built / ABOUT, {"fingerprint": key, "photos": len(rows)})
        return codebook

    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(f".{folder.name}.lock"), "w") as lock:
        wait_for(lock, folder)
        codebook = open_or_build(folder, key, _read_codebook, learn)
    if settings.binary and codebook.centroids.shape[1] % BITS:
        raise UserError(
            f"config.search.binary=True: local features have {codebook.centroids.shape[1]} dimensions, but signs are "
            f"packed in multiples of {BITS}; set config.model.local.dim to one, or config.search.binary=False"
        )
    return codebook


def _read_codebook(folder: Path) -> Codebook:
    verify_folder(folder)
    about = json.loads((folder / ABOUT).read_bytes())
    return Codebook(np.load(folder / "centroids.npy", allow_pickle=False), about["fingerprint"], about["photos"])


def open_inverted_file(
    codebook: Codebook,
    photos: Callable[[], Iterable[Words]],
    fingerprints: Sequence[str],
    names: list[str],
    binary: bool,
    folder: Path,
) -> InvertedFile:
    """The inverted file in `folder` if it is of this codebook and these local features and sound, else one built and
    saved there, part by part.

    Args:
      photos: opens what is aggregated of the photographs, in their order; called where there is something to build.
      fingerprints: of the local features of each set of photographs.
    """
    key = fingerprint(codebook.fingerprint, fingerprint(*fingerprints), names, binary)

    def build() -> InvertedFile:
        found = photos()
        with commit_folder(folder) as built:
            file = InvertedFile(codebook.centroids, binary=binary, fingerprint=key, folder=built)
            for words, vectors in found:
                file.add_aggregated(words, vectors, names[len(file) : len(file) + len(words)])
            file.finish()
        return file

    return open_or_build(folder, key, InvertedFile.load, build)
