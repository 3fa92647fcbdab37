"""What is extracted of a benchmark: descriptors and local features of its queries and its database."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import chain
from pathlib import Path

import numpy as np
from jaxtyping import Float

from sret_jax.config import Config
from sret_jax.config.paths import listed_paths
from sret_jax.data.folders import prepare_folders
from sret_jax.data.photo_set import PhotoSet
from sret_jax.evaluation.benchmark import Benchmark
from sret_jax.evaluation.request import plain_benchmark
from sret_jax.evaluation.timings import Timings
from sret_jax.extraction.descriptors import Extraction, extract_part
from sret_jax.extraction.local_features import (
    FeatureSource,
    StoredLocal,
    local_fingerprint,
    store_local,
    store_local_part,
)
from sret_jax.reranking.answers import PhotoFeatures
from sret_jax.reranking.chain import parse_rerankers, uses_local
from sret_jax.retrieval.asmk_search import Codebook, Words, open_codebook
from sret_jax.retrieval.exact import normalized
from sret_jax.retrieval.stored_words import read_words, store_words, store_words_part, words_of
from sret_jax.retriever import Retriever
from sret_jax.storage.row_store import Part, is_begun, joined
from sret_jax.storage.workdir import Workdir


class Features:
    """What is extracted of a benchmark's queries and database, kept in a workdir, and the time that it takes.

    Attributes:
      queries, database: for re-ranking and localization; one object where the photographs are each other's queries.
      extractions: of the sets of the database that were described.
    """

    def __init__(self, retriever: Retriever, benchmark: Benchmark, place: Workdir, timings: Timings):
        self.retriever, self.benchmark, self.place, self.timings = retriever, benchmark, place, timings
        self.extractions: list[Extraction] = []
        self._sources: dict[str, FeatureSource] = {}
        source = retriever.config.local.source
        self.database = PhotoFeatures(
            lambda: self.unit_descriptors, benchmark.database.regions, partial(self.local, benchmark.sets, source)
        )
        self.queries = self.database
        if (described := benchmark.described_queries) is not None:
            own = partial(self.local, self.query_sets, source)
            self.queries = PhotoFeatures(lambda: self.query_descriptors, described.regions, own)

    @property
    def query_sets(self) -> dict[str, PhotoSet]:
        """The queries by the name of what is stored of them, or the photographs that are each other's."""
        described, benchmark = self.benchmark.described_queries, self.benchmark
        if described is None:
            return {plain_benchmark(benchmark.name): benchmark.photos}
        return {benchmark.query_set: described}

    def describe(self) -> None:
        """Describes the database and the queries, where that has not been done."""
        _ = self.unit_descriptors, self.query_descriptors

    def extract(self) -> Float[np.ndarray, "n d"]:
        """Descriptors of the database as they were extracted; not kept, for those of unit length are."""
        with self.timings("extract"):
            for name, photos in self.benchmark.sets.items():
                self.extractions.append(self._extracted(photos, name))
        return joined([chunk for part in self.extractions for chunk in part.chunks])

    @cached_property
    def unit_descriptors(self) -> Float[np.ndarray, "n d"]:
        return normalized(self.extract(), self.benchmark.database.names)

    @cached_property
    def query_descriptors(self) -> Float[np.ndarray, "q d"]:
        described = self.benchmark.described_queries
        if described is None:
            return self.unit_descriptors
        with self.timings("extract queries"):
            return self._extracted(described, self.benchmark.query_set).descriptors

    def _extracted(self, photos: PhotoSet, name: str) -> Extraction:
        folder = self.place.descriptors(name)
        return self.retriever.extract(photos, folder, self.place.in_shared(folder))

    def describe_part(self, part: Part, local: Sequence[str], descriptors: bool) -> int:
        """Describes one part of the queries and the database, which `extract` and `local` take over.

        Args:
          local: kinds of local features that are found as well.
          descriptors: whether there are to be any.

        Returns:
          How many photographs fall to the part.
        """
        described, config, count = 0, self.retriever.config, 0
        for name, photos in (self.benchmark.sets | self.query_sets).items():
            if descriptors:
                count = extract_part(self.retriever.extractor, photos, self.place.descriptors(name), part)
            for kind in local:
                own = dataclasses.replace(config, local=dataclasses.replace(config.local, source=kind))
                folder = self.place.local_features(name, kind)
                if kind == "head" and name in self._by_words:
                    folder = self.place.visual_words(name)
                    count = store_words_part(self._source(kind), photos, self.codebook, own, folder, part)
                else:
                    count = store_local_part(self._source(kind), photos, own, folder, part)
            described += count
        return described

    def _source(self, kind: str) -> FeatureSource:
        config = self.retriever.config
        if kind not in self._sources:
            config = dataclasses.replace(config, local=dataclasses.replace(config.local, source=kind))
            self._sources[kind] = self.retriever.feature_source(self.benchmark.photos, config)
        return self._sources[kind]

    def local(self, sets: Mapping[str, PhotoSet], kind: str) -> StoredLocal:
        """Local features of photo sets, of a kind that `config.local.source` names."""
        config = self.retriever.config
        config = dataclasses.replace(config, local=dataclasses.replace(config.local, source=kind))
        with self.timings("local features"):
            source = self._source(kind)
            folders = [self.place.local_features(name, kind) for name in sets]
            return StoredLocal(
                [
                    store_local(source, part, config, folder, self.place.in_shared(folder))
                    for part, folder in zip(sets.values(), folders, strict=True)
                ]
            )

    def local_fingerprints(self, kind: str) -> list[str]:
        """Of the local features of each set of the database, whether they are kept or not."""
        return [local_fingerprint(self._source(kind), photos) for photos in self.benchmark.sets.values()]

    @cached_property
    def codebook(self) -> Codebook:
        """ASMK's, the same for all benchmarks of the workdir that have the same photographs to learn it on."""
        config = self.retriever.config
        with self.timings("visual words"):
            photos = codebook_photos(config, self.benchmark, self.place)
            return open_codebook(self.retriever, photos, self.place.codebook)

    @property
    def reads_local(self) -> bool:
        """Whether re-ranking or localization reads local features."""
        config = self.retriever.config
        by_sv = {"sv", "sv+discovery"} & set(config.localize.methods)
        return bool(by_sv) or uses_local(parse_rerankers(config.rerank.stages))

    def words(self) -> Iterator[Words]:
        """What ASMK reads of the database: of sets in `_by_words` stored as that, of others with their features."""
        config, source, parts = self.retriever.config, self._source("head"), []
        for name, photos in self.benchmark.sets.items():
            if name in self._by_words:
                folder = self.place.visual_words(name)
                shared = self.place.in_shared(folder)
                with self.timings("local features"):
                    store = store_words(source, photos, self.codebook, config, folder, shared)
                parts.append(read_words(store))
            else:
                local = self.local({name: photos}, "head")
                parts.append(words_of(local, self.codebook, config.local.chunk_rows, binary=config.search.binary))
        return chain(*parts)

    @cached_property
    def _by_words(self) -> set[str]:
        """The sets of the database of which ASMK stores words and signs, for nothing reads their features afterwards.

        Those that are queries too are not among them: queries have several words for each feature. Nor are those whose
        features are stored already, or real-valued vectors, which are larger than features.
        """
        config = self.retriever.config
        if not config.search.binary or (self.reads_local and config.local.source == "head"):
            return set()
        return {
            name
            for name, photos in self.benchmark.sets.items()
            if name not in self.query_sets and not self._is_kept(name, photos)
        }

    def _is_kept(self, name: str, photos: PhotoSet) -> bool:
        """Whether features of the network's head have been stored, by a run that needed them."""
        folder, key = self.place.local_features(name, "head"), local_fingerprint(self._source("head"), photos)
        places = filter(None, (folder, self.place.in_shared(folder)))
        return any(is_begun(place, photos.names, key) for place in places)


def codebook_photos(config: Config, benchmark: Benchmark, place: Workdir) -> PhotoSet:
    """The photographs of `config.search.codebook`; of the folder that was trained on, the split that was."""
    trained_on = config.data.root if config.data.dataset in ("folder", "photos") else ""
    folder, cache_dir = config.search.codebook or trained_on, config.data.cache_dir or place.data
    if not folder:
        return benchmark.photos
    places = [[Path(one).resolve() for one in listed_paths(several)] for several in (folder, trained_on)]
    if config.data.splits and trained_on and places[0] == places[1]:
        return prepare_folders(folder, cache_dir, splits=config.data.splits, split=config.data.split)
    return prepare_folders(folder, cache_dir, labelled=False)
