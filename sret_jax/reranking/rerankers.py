"""The re-rankers by name, each made ready for a database: what can be computed before the first query is.

sv           spatial verification of the first NUMBER: by inliers, then by the score that was
aqe          average query expansion with the first NUMBER
alpha_qe     the same, weighted by cosine^alpha
dba          every photograph searched expanded by its NUMBER nearest
superglobal  SuperGlobal's refinement of the first NUMBER
diffusion    on the graph of the NUMBER nearest of every photograph
hypergraph   propagation through verified pairs of each photograph and its NUMBER nearest, from the dominant
             community of the first 20

"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Array, Int

from sret_jax.config import Config, to_dict
from sret_jax.data.concurrency import run_ahead
from sret_jax.reranking.answers import Candidates, Context, PhotoFeatures, Step
from sret_jax.reranking.community import communities, starting_photo, uncertainty
from sret_jax.reranking.diffusion import affinity_graph, rerank_by_diffusion
from sret_jax.reranking.expansion import augment, expand, rescore, superglobal
from sret_jax.reranking.hypergraph import rerank_by_propagation
from sret_jax.reranking.hypergraph_building import VerifiedPairs, build_hypergraph, read_hypergraph
from sret_jax.reranking.matching import LocalFeatures, Matches, match
from sret_jax.reranking.neighbours import nearest_others
from sret_jax.reranking.spatial_verification import Verification, rerank_by_inliers, verify
from sret_jax.storage.artifacts import fingerprint

SIFT_RATIO = 0.9
VERIFIED_BY = ("transform", "ratio", "distance", "mutual", "trials", "residual", "seed")  # fields of RerankConfig
# The features of a part are read, and its transforms tried by one processor, while products of others take the rest.
PAIRS_AT_ONCE, PARTS_AHEAD = 10, 3
COMMUNITY, CANDIDATES = 20, 100  # photographs whose communities are looked at, and that may take the first's place
TOLERANCE, ITERATIONS = 1e-5, 200  # of diffusion


def _spatial_verification(number: int, context: Context) -> Step:
    _find_local(context)

    def step(candidates: Candidates) -> Candidates:
        inliers = count_inliers(context, candidates.rows, candidates.ids[:, :number])
        trusted = context.config.rerank.trusted
        ids, scores = rerank_by_inliers(candidates.ids, candidates.scores, inliers, trusted=trusted)
        return dataclasses.replace(candidates, ids=ids, scores=scores)

    return step


def _expansion(alpha: float | None, number: int, context: Context) -> Step:
    def step(candidates: Candidates) -> Candidates:
        weight = context.config.rerank.alpha if alpha is None else alpha
        expanded = expand(candidates.queries, candidates.database, candidates.ids, top=number, alpha=weight)
        ids, scores = rescore(expanded, candidates.database, candidates.ids)
        return dataclasses.replace(candidates, queries=expanded, ids=ids, scores=scores)

    return step


def _database_augmentation(number: int, context: Context) -> Step:
    alpha, chunk_rows = context.config.rerank.alpha, context.config.search.chunk_rows
    augmented = augment(context.database.descriptors, top=number, alpha=alpha, chunk_rows=chunk_rows)

    def step(candidates: Candidates) -> Candidates:
        ids, scores = rescore(candidates.queries, augmented, candidates.ids)
        return dataclasses.replace(candidates, database=augmented, ids=ids, scores=scores)

    return step


def _superglobal(number: int, context: Context) -> Step:
    rerank = context.config.rerank

    def step(candidates: Candidates) -> Candidates:
        ids, scores = superglobal(
            candidates.queries,
            candidates.database,
            candidates.ids,
            candidates.scores,
            top=number,
            neighbours=rerank.neighbours,
            beta=rerank.beta,
        )
        return dataclasses.replace(candidates, ids=ids, scores=scores)

    return step


def _diffusion(number: int, context: Context) -> Step:
    settings, descriptors = context.config.rerank, context.database.descriptors
    graph = affinity_graph(
        descriptors,
        k=min(number, len(descriptors) - 1),
        gamma=settings.diffusion_gamma,
        chunk_rows=context.config.search.chunk_rows,
    )

    def step(candidates: Candidates) -> Candidates:
        ids, scores = rerank_by_diffusion(
            candidates.queries,
            candidates.database,
            candidates.ids,
            graph,
            sources=settings.diffusion_queries,
            alpha=settings.diffusion_alpha,
            tolerance=TOLERANCE,
            most_iterations=ITERATIONS,
            photos=settings.diffusion_photos,
        )
        return dataclasses.replace(candidates, ids=ids, scores=scores)

    return step


def _hypergraph(number: int, context: Context) -> Step:
    _find_local(context)
    config, database = context.config, context.database
    most = min(number, len(database.descriptors) - 1)
    neighbours, _ = nearest_others(database.descriptors, most, config.search.chunk_rows)
    settings = {name: value for name, value in to_dict(config.rerank).items() if name in VERIFIED_BY}
    verification = fingerprint(database.local.fingerprint, settings)
    pairs = hashlib.sha256(neighbours.data).hexdigest()
    folder = context.folder / f"hypergraph-{fingerprint(verification, pairs, config.rerank.inliers)[:16]}"
    build_hypergraph(
        folder,
        neighbours,
        lambda a, others: _verified_pairs(database, a, others, config),
        verification=verification,
        fewest=config.rerank.inliers,
        chunk_rows=config.local.chunk_rows,
    )
    graph, compat = read_hypergraph(folder), config.rerank.compat

    def step(candidates: Candidates) -> Candidates:
        groups = [communities(graph, row, compat=compat) for row in candidates.ids[:, :COMMUNITY]]
        uncertain = np.array([uncertainty(group) for group in groups])
        inliers = np.zeros((len(candidates.ids), min(CANDIDATES, candidates.ids.shape[1])), np.int32)
        doubtful = np.flatnonzero(uncertain > 1)
        first = candidates.ids[doubtful, :CANDIDATES]
        inliers[doubtful] = count_inliers(context, candidates.rows[doubtful], first)
        start = starting_photo(candidates.ids, uncertain, inliers)
        ids, scores = rerank_by_propagation(
            graph, candidates.ids, candidates.scores, start, hops=config.rerank.hops, compat=compat
        )
        return dataclasses.replace(candidates, ids=ids, scores=scores, uncertainty=uncertain)

    return step


def _find_local(context: Context) -> None:
    """Now, and not with the first query."""
    _ = context.queries.local, context.database.local


def verify_candidates(query: LocalFeatures, candidates: LocalFeatures, config: Config) -> tuple[Matches, Verification]:
    """Matches of one photograph with others and what one transform explains of them, as `config.rerank` says.

    `query` without and `candidates` with the axis of the photographs.
    """
    settings = config.rerank
    ratio = settings.ratio or (SIFT_RATIO if config.local.source == "sift" else 1.0)
    matches = match(
        query,
        candidates,
        ratio=ratio if ratio < 1 else None,
        distance=settings.distance or None,
        mutual=settings.mutual,
    )
    return matches, verify(
        query.position,
        candidates.position,
        matches,
        kind=settings.transform,
        trials=settings.trials,
        tolerance=settings.residual,
        seed=settings.seed,
    )


def count_inliers(context: Context, rows: Int[np.ndarray, "q"], ids: Int[np.ndarray, "q k"]) -> Int[np.ndarray, "q k"]:
    """Inliers of every query with every photograph of its own; 0 with -1."""
    padded = _whole_parts(ids)
    found = np.zeros(padded.shape, np.int32)

    def begun() -> Iterator[tuple[int, int, Array]]:
        for i, row in enumerate(rows):
            query = LocalFeatures(*(x[0] for x in context.queries.local_features(np.array([row]))))
            for start in range(0, padded.shape[1], PAIRS_AT_ONCE):
                part = context.database.local_features(padded[i, start : start + PAIRS_AT_ONCE])
                yield i, start, verify_candidates(query, part, context.config)[1].inliers

    for i, start, inliers in run_ahead(begun(), PARTS_AHEAD):
        found[i, start : start + PAIRS_AT_ONCE] = inliers
    return np.where(ids < 0, 0, found[:, : ids.shape[1]])


def _verified_pairs(photos: PhotoFeatures, a: int, others: Int[np.ndarray, "k"], config: Config) -> VerifiedPairs:
    query, padded = LocalFeatures(*(x[0] for x in photos.local_features(np.array([a])))), _whole_parts(others)

    def begun() -> Iterator[tuple[LocalFeatures, Matches, Verification]]:
        for start in range(0, len(padded), PAIRS_AT_ONCE):
            part = photos.local_features(padded[start : start + PAIRS_AT_ONCE])
            yield part, *verify_candidates(query, part, config)

    parts = []
    for part, matches, verified in run_ahead(begun(), PARTS_AHEAD):
        here = np.asarray(query.position)[np.asarray(matches.query_row)]
        there = np.take_along_axis(np.asarray(part.position), np.asarray(matches.candidate_row)[..., None], 1)
        parts.append((np.asarray(verified.inliers), here, there, np.asarray(verified.inlying)))
    return VerifiedPairs(*(np.concatenate(x)[: len(others)] for x in zip(*parts, strict=True)))


def _whole_parts(ids: Int[np.ndarray, "*q k"]) -> Int[np.ndarray, "*q m"]:
    """Filled up with -1, so that one shape is compiled."""
    return np.pad(ids, [(0, 0)] * (ids.ndim - 1) + [(0, -ids.shape[-1] % PAIRS_AT_ONCE)], constant_values=-1)


@dataclass(frozen=True)
class Reranker:
    """How a re-ranker is made ready.

    make         (how many of the first answers it concerns, what it works on) -> what re-ranks
    number       that many where the command line does not say
    descriptors  it reads global descriptors
    local        it reads local features
    """

    make: Callable[[int, Context], Step]
    number: int
    descriptors: bool = True
    local: bool = False


# `sret_jax.register` adds to them.
RERANKERS: dict[str, Reranker] = {
    "sv": Reranker(_spatial_verification, 100, descriptors=False, local=True),
    "aqe": Reranker(partial(_expansion, 0.0), 10),
    "alpha_qe": Reranker(partial(_expansion, None), 50),
    "dba": Reranker(_database_augmentation, 10),
    "superglobal": Reranker(_superglobal, 400),
    "diffusion": Reranker(_diffusion, 50),
    "hypergraph": Reranker(_hypergraph, 200, local=True),
}
