"""What is extracted of a benchmark: descriptors and local features of its queries and its database."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property, partial

import numpy as np
from jaxtyping import Float

from sret_jax.data.photo_set import PhotoSet
from sret_jax.evaluation.benchmark import Benchmark
from sret_jax.evaluation.timings import Timings
from sret_jax.extraction.descriptors import Extraction, extract_part
from sret_jax.extraction.local_features import FeatureSource, StoredLocal, store_local, store_local_part
from sret_jax.reranking.answers import PhotoFeatures
from sret_jax.retrieval.exact import normalized
from sret_jax.retriever import Retriever
from sret_jax.storage.row_store import Part, joined
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
        described = self.benchmark.described_queries
        return self.benchmark.sets if described is None else {self.benchmark.query_set: described}

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
