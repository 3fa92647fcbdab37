"""What ASMK reads of photographs on disk: of each local feature its visual word, and what is aggregated in each word.

Where nothing but ASMK reads the local features of photographs, their words and packed signs are stored instead: 20 kB
of a photograph with 1000 features of 128 channels, which would take 138 kB. Real-valued vectors would take 516 kB.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float32, Int, Shaped

from sret_jax.config import Config
from sret_jax.data.photo_set import PhotoSet
from sret_jax.extraction.local_features import FeatureSource, StoredLocal, local_fingerprint, packed, unpack
from sret_jax.extraction.selection import SelectedFeatures
from sret_jax.retrieval.asmk import aggregate
from sret_jax.retrieval.asmk_search import AT_ONCE, Codebook, Words
from sret_jax.storage.artifacts import fingerprint
from sret_jax.storage.row_store import Part, RowStore, check_finite, fill_part, fill_store


def words_of(local: StoredLocal, codebook: Codebook, chunk_rows: int, *, binary: bool = True) -> Iterator[Words]:
    """Aggregated from stored local features, photograph by photograph in their order.

    Args:
      chunk_rows: photographs of a chunk. Those of two chunks are never aggregated by one call, so that these have the
        same shapes, and come to the same bits, as those of `store_words`.
    """
    for start in range(0, len(local), chunk_rows):
        rows = range(start, min(start + chunk_rows, len(local)))
        yield from _aggregated(local, rows, codebook.centroids, binary)


def store_words(
    source: FeatureSource,
    photos: PhotoSet,
    codebook: Codebook,
    config: Config,
    folder: Path,
    shared: Path | None = None,
) -> RowStore:
    """The words and signs of all photos, kept in `folder` and used again while nothing has changed; their local
    features are not kept. A kill costs one chunk.

    `shared`: as for `fill_store`.

    Raises:
      UserError: as `store_local`.
    """
    key, make = _fingerprint(source, photos, codebook), partial(_records, source, photos, codebook)
    return fill_store(folder, photos.names, key, config.local.chunk_rows, make, shared=shared)


def store_words_part(
    source: FeatureSource, photos: PhotoSet, codebook: Codebook, config: Config, folder: Path, part: Part
) -> int:
    """Finds those of one part of the photographs, which `store_words` takes over; how many photographs these are.

    Raises as `store_words`.
    """
    key, make = _fingerprint(source, photos, codebook), partial(_records, source, photos, codebook)
    return fill_part(folder, photos.names, key, config.local.chunk_rows, make, part)


def read_words(store: RowStore) -> Iterator[Words]:
    """What `store_words` has stored, photograph by photograph in their order."""
    for chunk in store.parts():
        for start in range(0, len(chunk), AT_ONCE):
            some = chunk[start : start + AT_ONCE]
            yield Words(some["words"], some["signs"])


def _fingerprint(source: FeatureSource, photos: PhotoSet, codebook: Codebook) -> str:
    """With the centroids themselves: words learned anew, on another device, need not be the same bits."""
    return fingerprint(local_fingerprint(source, photos), codebook.fingerprint, codebook.digest)


def _records(source: FeatureSource, photos: PhotoSet, codebook: Codebook, rows: range) -> Shaped[np.ndarray, "m"]:
    """Of a range of photos, from their features in 8 bits: the words and signs are those of features that are kept."""
    found = packed(source, photos, rows)
    check_finite(found, [photos.names[row] for row in rows])
    parts = _aggregated(lambda some: unpack(found[some]), range(len(rows)), codebook.centroids, True)
    words, signs = (np.concatenate(part) for part in zip(*parts, strict=True))
    out = np.empty(len(rows), [("words", words.dtype, words.shape[1:]), ("signs", signs.dtype, signs.shape[1:])])
    out["words"], out["signs"] = words, signs
    return out


def _aggregated(
    local: Callable[[Int[np.ndarray, "b"]], SelectedFeatures],
    rows: range,
    centroids: Float32[np.ndarray, "v c"],
    binary: bool,
) -> Iterator[Words]:
    for start in range(rows.start, rows.stop, AT_ONCE):
        own = local(np.arange(start, min(start + AT_ONCE, rows.stop)))
        features, counts, words = jax.device_put((np.asarray(own.features), np.asarray(own.counts), centroids))
        found = aggregate(features, counts, words, binary=binary)
        yield Words(np.asarray(found.words), np.asarray(found.vectors))
