"""Re-rankers one after the other: what each is given, and that none of them loses or invents a photograph."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from sret_jax.config import Config, LocalSearchConfig, RerankConfig, SearchConfig
from sret_jax.errors import UserError
from sret_jax.extraction.local_features import StoredLocal
from sret_jax.extraction.selection import SelectedFeatures
from sret_jax.reranking.answers import Answers, Context, PhotoFeatures
from sret_jax.reranking.chain import Chain, parse_rerankers, uses_descriptors
from sret_jax.reranking.matching import LocalFeatures
from sret_jax.reranking.rerankers import RERANKERS, verify_candidates
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


def features(seed: int, noise: float = 1.3) -> PhotoFeatures:
    """Descriptors in which the groups are hardly seen."""
    rng = np.random.default_rng(seed)
    x = np.repeat(np.random.default_rng(9).normal(size=(N // 3, 12)), 3, 0) + noise * rng.normal(size=(N, 12))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return PhotoFeatures(lambda: x.astype(np.float32), np.full((N, 2), 100), lambda: Local(0.01 * seed))


def search(queries: PhotoFeatures, photos: PhotoFeatures) -> Callable[[np.ndarray, int], Answers]:
    names = [f"{i}.jpg" for i in range(N)]
    index = Index.build(photos.descriptors, names, SearchConfig(method="exact"))

    def answer(rows: np.ndarray, k: int = N) -> Answers:
        found = index.search(queries.descriptors[rows], k)
        return Answers(rows, found.ids, found.scores)

    return answer


def open_chain(names, queries, photos, tmp_path) -> Chain:
    return Chain(parse_rerankers(names), Context(queries, photos, CONFIG, tmp_path))


@pytest.mark.parametrize("name", RERANKERS)
@pytest.mark.parametrize("k", [N, 7, 1])
def test_a_reranker_changes_nothing_but_the_order(tmp_path, name, k):
    queries, photos = features(1), features(2)
    first, chain = search(queries, photos), open_chain([f"{name}:5"], queries, photos, tmp_path)
    rows = np.array([4, 0, 17])
    before = first(rows, k)
    after = chain(before)
    np.testing.assert_array_equal(np.sort(after.ids, 1), np.sort(before.ids, 1))
    assert np.isfinite(after.scores).all() and (np.diff(after.scores, axis=1) <= 0).all()
    again = chain(first(rows[::-1], k))
    np.testing.assert_array_equal(again.ids[::-1], after.ids)  # whatever other queries there are
    assert chain.seconds[f"{name}:5"]["asked"] == 6 and after.rows.tolist() == rows.tolist()


@pytest.mark.parametrize("name", RERANKERS)
def test_what_was_not_found_stays_at_the_end(tmp_path, name):
    """Of photographs that are taken out before re-ranking, or that approximate search has missed."""
    queries, photos = features(1), features(2)
    found = search(queries, photos)(np.array([4, 0, 17]))
    cut = replace(
        found,
        ids=np.where(np.arange(N) < 20, found.ids, -1),
        scores=np.where(np.arange(N) < 20, found.scores, -np.inf),
        subset="hard",
    )
    after = open_chain([f"{name}:5"], queries, photos, tmp_path)(cut)
    assert (after.ids[:, 20:] == -1).all() and after.subset == "hard"
    np.testing.assert_array_equal(np.sort(after.ids[:, :20], 1), np.sort(cut.ids[:, :20], 1))


def test_only_rerankers_of_descriptors_ask_for_them(tmp_path):
    queries, photos = features(1), features(2)
    found = search(queries, photos)(np.arange(3))

    def never():
        raise AssertionError("descriptors were asked for")

    blind = [PhotoFeatures(never, side.sizes, side.open_local) for side in (queries, photos)]
    verified = open_chain(["sv:5"], *blind, tmp_path)(found)
    np.testing.assert_array_equal(verified.ids, open_chain(["sv:5"], queries, photos, tmp_path)(found).ids)
    assert [name for name in RERANKERS if not uses_descriptors(parse_rerankers([name]))] == ["sv"]
    with pytest.raises(AssertionError, match="descriptors were asked for"):
        open_chain(["sv:5", "aqe:2"], *blind, tmp_path)(found)


def test_spatial_verification_finds_the_moved_points(tmp_path):
    queries, photos = features(1), features(2)
    rows = np.arange(N)
    found = open_chain(["sv:30"], queries, photos, tmp_path)(search(queries, photos)(rows))
    ids, scores = found.ids, found.scores
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
    queries, photos = features(1), features(2)
    chain, rows = open_chain(["hypergraph:29"], queries, photos, tmp_path), np.arange(N)
    first = search(queries, photos)(rows)
    ids = chain(first).ids
    right = first.ids[:, 0] // 3 == rows // 3
    assert right.sum() > 10
    for row in rows[right]:
        assert set(ids[row, :3] // 3) == {row // 3}
    assert set(chain.uncertainty) == set(rows.tolist())


def test_rerankers_build_on_each_other(tmp_path):
    queries, photos = features(1), features(2)
    first = search(queries, photos)(np.arange(N))
    chains = (["dba:3", "aqe:2"], ["aqe:2"], ["sv:10", "aqe:2"])
    chained, alone, verified = (open_chain(names, queries, photos, tmp_path)(first).ids for names in chains)
    assert (chained != alone).any() and (alone != verified).any()
    assert hits(verified) > hits(alone)  # expanded with verified answers, which are right


def hits(ids) -> int:
    return int((ids[:, :3] // 3 == np.arange(N)[:, None] // 3).sum())


def test_query_expands_by_its_best_answer_and_not_by_itself(tmp_path):
    photos = features(2)
    found = open_chain(["aqe:1"], photos, photos, tmp_path)(search(photos, photos)(np.arange(N)))
    ids, scores = found.ids, found.scores
    assert ids[:, 0].tolist() == list(range(N)) and (np.diff(scores, axis=1) <= 0).all()
    x = photos.descriptors
    cosine = x @ x.T - 2 * np.eye(N)
    for row in range(N):  # expanded by its best answer, which is another photograph
        q = x[row] + x[cosine[row].argmax()]
        order = [i for i in np.argsort(-(x @ q), kind="stable") if i != row]
        assert ids[row, 1:].tolist() == order


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("sw", "no re-ranker 'sw'; choose one of sv, aqe"),
        ("hyprgraph", "no re-ranker 'hyprgraph'; did you mean 'hypergraph'.* Choose one of sv, "),
        ("sv:0", "sv:0"),
        ("sv:x", "sv:x"),
        ("aqe:-1", "aqe"),
    ],
)
def test_an_unknown_reranker_is_named(text, reason):
    with pytest.raises(UserError, match=reason):
        parse_rerankers([text])


def test_a_reranker_is_named_once():
    with pytest.raises(UserError, match="sv:100 twice"):
        parse_rerankers(["sv", "aqe", "sv:100"])


def test_a_number_can_be_left_out():
    assert [str(one) for one in parse_rerankers(["sv", "aqe:7"])] == ["sv:100", "aqe:7"]
