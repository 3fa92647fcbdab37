"""Stages one after the other: what each is given, and that none of them loses or invents a photograph."""

import numpy as np
import pytest
from sret_jax.reranking.search import TwoStageSearch

from sret_jax.config import Config, LocalSearchConfig, RerankConfig, SearchConfig
from sret_jax.errors import UserError
from sret_jax.extraction.local_features import StoredLocal
from sret_jax.extraction.selection import SelectedFeatures
from sret_jax.reranking.answers import Side
from sret_jax.reranking.chain import Chain, parse_stages
from sret_jax.reranking.matching import LocalFeatures
from sret_jax.reranking.rerankers import STAGES, verify_candidates
from sret_jax.retrieval.index import Index

N, SLOTS = 30, 24
CONFIG = Config(
    rerank=RerankConfig(trials=64, inliers=5, ratio=1.0, trusted=0),
    local=LocalSearchConfig(chunk_rows=10),
    search=SearchConfig(),
)


class Local(StoredLocal):
    """Photographs 3 i, 3 i + 1 and 3 i + 2 show the same points, moved; nothing else is alike."""

    fingerprint = "fixed"

    def __init__(self, shift: float):
        rng = np.random.default_rng(0)
        self.points, self.shift = rng.random((N // 3, SLOTS, 2)) / 2, shift
        self.features = rng.normal(size=(N // 3, SLOTS, 16))

    def __call__(self, rows):
        group, own = rows // 3, rows % 3
        position = self.points[group] + 0.1 * own[:, None, None] + self.shift
        full = np.full(len(rows), SLOTS, np.int32)
        blank = np.ones((len(rows), SLOTS), np.float32)
        return SelectedFeatures(
            self.features[group].astype(np.float32), blank, position.astype(np.float32), blank, full
        )


def side(seed: int, noise: float = 1.3) -> Side:
    """Descriptors in which the groups are hardly seen."""
    rng = np.random.default_rng(seed)
    x = np.repeat(np.random.default_rng(9).normal(size=(N // 3, 12)), 3, 0) + noise * rng.normal(size=(N, 12))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return Side(x.astype(np.float32), np.full((N, 2), 100), lambda: Local(0.01 * seed))


def search(stages, queries, photos, tmp_path, k=N):
    names = [f"{i}.jpg" for i in range(N)]
    index = Index.build(photos.descriptors, names, SearchConfig(method="exact"))
    chain = Chain(parse_stages(stages), queries, photos, CONFIG, tmp_path)
    two = TwoStageSearch(index, queries.descriptors, chain)
    return two, chain


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("k", [N, 7, 1])
def test_a_stage_changes_nothing_but_the_order(tmp_path, name, k):
    queries, photos = side(1), side(2)
    two, chain = search([f"{name}:5"], queries, photos, tmp_path)
    rows = np.array([4, 0, 17])
    before, _ = two.first(rows, k)
    ids, scores = two(rows, k)
    np.testing.assert_array_equal(np.sort(ids, 1), np.sort(before, 1))
    assert np.isfinite(scores).all() and (np.diff(scores, axis=1) <= 0).all()
    again, _ = two(rows[::-1], k)
    np.testing.assert_array_equal(again[::-1], ids)  # whoever else asks
    assert chain.seconds[f"{name}:5"]["asked"] == 6


def test_spatial_verification_finds_the_moved_points(tmp_path):
    queries, photos = side(1), side(2)
    two, _ = search(["sv:30"], queries, photos, tmp_path)
    rows = np.arange(N)
    ids, scores = two(rows, N)
    assert (np.sort(ids[:, :3] // 3, 1) == rows[:, None] // 3).all() and (scores[:, :3] == SLOTS).all()
    assert (scores[:, 3] < SLOTS / 2).all()


@pytest.mark.parametrize(("source", "ratio", "found"), [("sift", 0.0, 0), ("map", 0.0, SLOTS), ("map", 0.9, 0)])
def test_the_ratio_test_is_left_out_for_features_of_a_network(source, ratio, found):
    rng = np.random.default_rng(0)
    own = rng.normal(size=(SLOTS // 2, 16)).repeat(2, 0) + 0.01 * rng.normal(size=(SLOTS, 16))  # two of each, nearly
    features, position = own.astype(np.float32), rng.random((SLOTS, 2)).astype(np.float32)
    features[:, 0] = 0
    query = LocalFeatures(features + np.eye(16, dtype=np.float32)[0], position, np.int32(SLOTS))  # as far from both
    photo = LocalFeatures(features[None], position[None] / 2, np.array([SLOTS], np.int32))
    config = Config(rerank=RerankConfig(trials=64, ratio=ratio), local=LocalSearchConfig(source=source))
    assert int(verify_candidates(query, photo, config)[1].inliers[0]) == found


def test_propagation_brings_what_a_neighbour_shows(tmp_path):
    queries, photos = side(1), side(2)
    two, chain = search(["hypergraph:29"], queries, photos, tmp_path)
    rows = np.arange(N)
    first, _ = two.first(rows, N)
    ids, _ = two(rows, N)
    right = first[:, 0] // 3 == rows // 3
    assert right.sum() > 10
    for row in rows[right]:
        assert set(ids[row, :3] // 3) == {row // 3}
    assert set(chain.uncertainty) == set(rows.tolist())


def test_stages_build_on_each_other(tmp_path):
    queries, photos = side(1), side(2)
    rows = np.arange(N)
    chained, _ = search(["dba:3", "aqe:2"], queries, photos, tmp_path)
    alone, _ = search(["aqe:2"], queries, photos, tmp_path)
    verified, _ = search(["sv:10", "aqe:2"], queries, photos, tmp_path)
    results = [two(rows, N)[0] for two in (chained, alone, verified)]
    assert all((a != b).any() for a, b in zip(results, results[1:], strict=False))
    # The expansion of verified answers asks with right ones, which is worth more.
    assert hits(results[2]) > hits(results[1])


def hits(ids) -> int:
    return int((ids[:, :3] // 3 == np.arange(N)[:, None] // 3).sum())


def test_query_expands_by_its_best_answer_and_not_by_itself(tmp_path):
    photos = side(2)
    two, _ = search(["aqe:1"], photos, photos, tmp_path)
    ids, scores = two(np.arange(N), N)
    assert ids[:, 0].tolist() == list(range(N)) and (np.diff(scores, axis=1) <= 0).all()
    x = photos.descriptors
    cosine = x @ x.T - 2 * np.eye(N)
    for row in range(N):  # expanded by its best answer, which is another photograph
        q = x[row] + x[cosine[row].argmax()]
        order = [i for i in np.argsort(-(x @ q), kind="stable") if i != row]
        assert ids[row, 1:].tolist() == order


@pytest.mark.parametrize(
    ("text", "reason"), [("sw", "no stage 'sw'; choose from sv"), ("sv:0", "sv:0"), ("sv:x", "sv:x"), ("aqe:-1", "aqe")]
)
def test_an_unknown_stage_is_named(text, reason):
    with pytest.raises(UserError, match=reason):
        parse_stages([text])


def test_a_stage_is_named_once():
    with pytest.raises(UserError, match="sv:100 twice"):
        parse_stages(["sv", "aqe", "sv:100"])


def test_a_number_can_be_left_out():
    assert [str(stage) for stage in parse_stages(["sv", "aqe:7"])] == ["sv:100", "aqe:7"]
