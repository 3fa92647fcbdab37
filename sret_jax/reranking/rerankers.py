"""The re-rankings by name, each made ready for a collection: what can be computed before the first query is.

    sv           spatial verification of the first NUMBER: by inliers, then by the score that was
    aqe          average query expansion with the first NUMBER
    alpha_qe     the same, weighted by cosine^alpha
    dba          every photograph searched expanded by its NUMBER nearest
    superglobal  SuperGlobal's refinement of the first NUMBER
    diffusion    on the graph of the NUMBER nearest of every photograph
    hypergraph   propagation through verified pairs of each photograph and its NUMBER nearest, from the dominant
                 community of the first 20

`STAGES[name]` has a function (number, queries, photos, config, folder for what is kept between runs) -> step, and the
number where none is given.
"""

import dataclasses
import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Int

from sret_jax.config import Config, to_dict
from sret_jax.reranking.answers import Answers, Side, Step
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
PAIRS_AT_ONCE = 50
COMMUNITY, CANDIDATES = 20, 100  # photographs whose communities are looked at, and that may take the first's place
TOLERANCE, ITERATIONS = 1e-5, 200  # of diffusion


def _spatial_verification(number: int, queries: Side, photos: Side, config: Config, folder: Path) -> Step:
    _find_local(queries, photos)

    def step(answers: Answers) -> Answers:
        inliers = count_inliers(queries, answers.rows, photos, answers.ids[:, :number], config)
        ids, scores = rerank_by_inliers(answers.ids, answers.scores, inliers, trusted=config.rerank.trusted)
        return dataclasses.replace(answers, ids=ids, scores=scores)

    return step


def _expansion(alpha: float | None, number: int, queries: Side, photos: Side, config: Config, folder: Path) -> Step:
    def step(answers: Answers) -> Answers:
        weight = config.rerank.alpha if alpha is None else alpha
        expanded = expand(answers.queries, answers.database, answers.ids, top=number, alpha=weight)
        ids, scores = rescore(expanded, answers.database, answers.ids)
        return dataclasses.replace(answers, queries=expanded, ids=ids, scores=scores)

    return step


def _database_augmentation(number: int, queries: Side, photos: Side, config: Config, folder: Path) -> Step:
    augmented = augment(photos.descriptors, top=number, alpha=config.rerank.alpha, chunk_rows=config.search.chunk_rows)

    def step(answers: Answers) -> Answers:
        ids, scores = rescore(answers.queries, augmented, answers.ids)
        return dataclasses.replace(answers, database=augmented, ids=ids, scores=scores)

    return step


def _superglobal(number: int, queries: Side, photos: Side, config: Config, folder: Path) -> Step:
    settings = {"top": number, "neighbours": config.rerank.neighbours, "beta": config.rerank.beta}

    def step(answers: Answers) -> Answers:
        ids, scores = superglobal(answers.queries, answers.database, answers.ids, answers.scores, **settings)
        return dataclasses.replace(answers, ids=ids, scores=scores)

    return step


def _diffusion(number: int, queries: Side, photos: Side, config: Config, folder: Path) -> Step:
    settings = config.rerank
    graph = affinity_graph(
        photos.descriptors,
        k=min(number, len(photos.descriptors) - 1),
        gamma=settings.diffusion_gamma,
        chunk_rows=config.search.chunk_rows,
    )

    def step(answers: Answers) -> Answers:
        ids, scores = rerank_by_diffusion(
            answers.queries,
            answers.database,
            answers.ids,
            graph,
            sources=settings.diffusion_queries,
            alpha=settings.diffusion_alpha,
            tolerance=TOLERANCE,
            most_iterations=ITERATIONS,
        )
        return dataclasses.replace(answers, ids=ids, scores=scores)

    return step


def _hypergraph(number: int, queries: Side, photos: Side, config: Config, folder: Path) -> Step:
    _find_local(queries, photos)
    neighbours, _ = nearest_others(
        photos.descriptors, min(number, len(photos.descriptors) - 1), config.search.chunk_rows
    )
    settings = {name: value for name, value in to_dict(config.rerank).items() if name in VERIFIED_BY}
    verification = fingerprint(photos.local.fingerprint, settings)
    pairs = hashlib.sha256(neighbours).hexdigest()
    folder = folder / f"hypergraph-{fingerprint(verification, pairs, config.rerank.inliers)[:16]}"
    build_hypergraph(
        folder,
        neighbours,
        lambda a, others: _verified_pairs(photos, a, others, config),
        verification=verification,
        fewest=config.rerank.inliers,
        chunk_rows=config.local.chunk_rows,
    )
    graph, compat = read_hypergraph(folder), config.rerank.compat

    def step(answers: Answers) -> Answers:
        groups = [communities(graph, row, compat=compat) for row in answers.ids[:, :COMMUNITY]]
        uncertain = np.array([uncertainty(group) for group in groups])
        inliers = np.zeros((len(answers.ids), min(CANDIDATES, answers.ids.shape[1])), np.int32)
        doubtful = np.flatnonzero(uncertain > 1)
        first = answers.ids[doubtful, :CANDIDATES]
        inliers[doubtful] = count_inliers(queries, answers.rows[doubtful], photos, first, config)
        start = starting_photo(answers.ids, uncertain, inliers)
        ids, scores = rerank_by_propagation(
            graph, answers.ids, answers.scores, start, hops=config.rerank.hops, compat=compat
        )
        return dataclasses.replace(answers, ids=ids, scores=scores, uncertainty=uncertain)

    return step


def _find_local(*sides: Side) -> None:
    """Now, and not with the first query."""
    for side in sides:
        _ = side.local


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


def count_inliers(
    queries: Side, rows: Int[np.ndarray, "q"], photos: Side, ids: Int[np.ndarray, "q k"], config: Config
) -> Int[np.ndarray, "q k"]:
    """Inliers of every query with every photograph of its own; 0 with -1. Every new k compiles."""
    found = np.zeros(ids.shape, np.int32)
    for i, (row, own) in enumerate(zip(rows, ids, strict=True)):
        query = LocalFeatures(*(x[0] for x in queries.features(np.array([row]))))
        found[i] = np.where(own < 0, 0, np.asarray(verify_candidates(query, photos.features(own), config)[1].inliers))
    return found


def _verified_pairs(photos: Side, a: int, others: Int[np.ndarray, "k"], config: Config) -> VerifiedPairs:
    k = len(others)
    padded = np.pad(others, (0, -k % PAIRS_AT_ONCE), constant_values=-1)  # one shape, compiled once
    query, candidates = LocalFeatures(*(x[0] for x in photos.features(np.array([a])))), photos.features(padded)
    parts = []
    for start in range(0, len(padded), PAIRS_AT_ONCE):
        part = LocalFeatures(*(x[start : start + PAIRS_AT_ONCE] for x in candidates))
        matches, verified = verify_candidates(query, part, config)
        here = np.asarray(query.position)[np.asarray(matches.query_row)]
        there = np.take_along_axis(np.asarray(part.position), np.asarray(matches.candidate_row)[..., None], 1)
        parts.append((np.asarray(verified.inliers), here, there, np.asarray(verified.inlying)))
    return VerifiedPairs(*(np.concatenate(x)[:k] for x in zip(*parts, strict=True)))


STAGES: dict[str, tuple[Callable[..., Step], int]] = {
    "sv": (_spatial_verification, 100),
    "aqe": (partial(_expansion, 0.0), 10),
    "alpha_qe": (partial(_expansion, None), 50),
    "dba": (_database_augmentation, 10),
    "superglobal": (_superglobal, 400),
    "diffusion": (_diffusion, 50),
    "hypergraph": (_hypergraph, 200),
}
