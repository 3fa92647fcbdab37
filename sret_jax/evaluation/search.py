"""The search of a benchmark: by global descriptors and a vector index, or by local features and ASMK."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from sret_jax.evaluation.features import Features
from sret_jax.reranking.answers import Answers
from sret_jax.retrieval.asmk_search import AsmkIndex, open_inverted_file
from sret_jax.retrieval.engine import Engine
from sret_jax.retrieval.index import Index, content_fingerprint
from sret_jax.retrieval.served import ServedIndex
from sret_jax.retrieval.servers import open_table, table_name
from sret_jax.storage.artifacts import open_or_build

Search = Callable[[Int[np.ndarray, "q"], int], Answers]  # (rows of queries, answers of each)


def open_search(features: Features) -> tuple[Engine | AsmkIndex, Search]:
    """What `config.search` names, opened or built, and the search by the rows of the queries."""
    by_local_features = features.retriever.config.search.method == "asmk"
    return _asmk(features) if by_local_features else _vector_index(features)


def _vector_index(features: Features) -> tuple[Engine, Search]:
    """An index over the descriptors of the database, and the search by those of the queries."""
    descriptors = features.extract()
    _ = features.benchmark.queries and features.query_descriptors
    local = features.retriever.config.search.engine == "local"
    with features.timings("index"):
        index: Engine = _local_index(features, descriptors) if local else _served_index(features, descriptors)
    features.unit_descriptors = index.descriptors  # what searches and what re-ranks is held once

    def search(rows: Int[np.ndarray, "q"], k: int) -> Answers:
        found = index.search(features.query_descriptors[rows], k)
        return Answers(rows, found.ids, found.scores)

    return index, search


def _local_index(features: Features, descriptors: Float[np.ndarray, "n d"]) -> Index:
    """The one in the workdir, or built and kept there."""
    names, config = features.benchmark.database.names, features.retriever.config.search
    folder = features.place.index(features.benchmark.database_name)

    def build() -> Index:
        index = Index.build(descriptors, names, config)
        index.save(folder)
        return index

    key, shared = content_fingerprint(descriptors, names, config), features.place.in_shared(folder)
    return open_or_build(folder, key, Index.load, build, shared)


def _served_index(features: Features, descriptors: Float[np.ndarray, "n d"]) -> ServedIndex:
    """The one in the server that the config names, in a table for this database and this retriever."""
    config, retriever = features.retriever.config.search, features.retriever.fingerprint
    name = table_name(config.table, retriever[:8], features.benchmark.database_name)
    table = open_table(config.engine, config.server, name)
    return ServedIndex.build(descriptors, features.benchmark.database.names, table, config)


def _asmk(features: Features) -> tuple[AsmkIndex, Search]:
    """An inverted file of the database's local features, and the search by those of the queries."""
    config, benchmark, place = features.retriever.config, features.benchmark, features.place
    codebook, query_local = features.codebook, features.local(features.query_sets, "head")
    with features.timings("index"):
        folder, names = place.inverted_file(benchmark.database_name), benchmark.database.names
        sets = features.local_fingerprints("head")
        file = open_inverted_file(codebook, features.words, sets, names, config.search.binary, folder)
    index = AsmkIndex(file, query_local, config.search.assignments, codebook.photos)

    def search(rows: Int[np.ndarray, "q"], k: int) -> Answers:
        found = index.search(rows, k)
        return Answers(rows, found.ids, found.scores)

    return index, search
