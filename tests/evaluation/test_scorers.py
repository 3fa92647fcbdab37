"""Which photos query which, and what of the answers is kept."""

import numpy as np
import pytest

from sret_jax.datasets.ground_truth import GroundTruth
from sret_jax.errors import UserError
from sret_jax.evaluation import scorers as protocols
from sret_jax.evaluation.metrics import leave_one_out_map
from sret_jax.evaluation.scorers import folder_protocol, query_protocol, revisited_protocol
from tests.support.twins import search_over

LABELS = np.array([0, 0, 1, -1, 2, 1, 1, 2, 3], np.int32)  # instance 3 has one photo, photo 3 no instance
INSTANCES = ["arch", "bridge", "castle", "dome"]
X = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)


def test_leave_one_out_scores_the_full_ranking_and_keeps_its_beginning(monkeypatch):
    monkeypatch.setattr(protocols, "QUERIES_AT_ONCE", 2)
    ranked = folder_protocol(search_over(X), X, LABELS, INSTANCES, keep=3)
    expected = leave_one_out_map(X @ X.T, LABELS)
    assert ranked.metrics["mAP"] == pytest.approx(expected["mAP"])
    assert ranked.metrics["R@1"] == pytest.approx(expected["R@1"])
    named = {INSTANCES[label]: value for label, value in expected["per_instance"].items()}
    assert ranked.metrics["per_instance"] == pytest.approx(named)
    assert ranked.queries.tolist() == [0, 1, 2, 4, 5, 6, 7]
    assert ranked.ids.shape == ranked.scores.shape == (7, 3)
    for query, ids, scores in zip(ranked.queries, ranked.ids, ranked.scores, strict=True):
        order = [i for i in np.argsort(-(X @ X[query]), kind="stable") if i != query]
        assert ids.tolist() == order[:3]
        np.testing.assert_allclose(scores, X[ids] @ X[query], rtol=1e-6)


def test_a_query_is_never_its_own_answer_even_among_copies():
    x = np.ones((4, 3), np.float32)
    ranked = folder_protocol(search_over(x), x, np.array([0, 0, 0, 0]), ["arch"], keep=99)
    assert ranked.ids.tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]
    assert ranked.metrics["mAP"] == 100


def test_separate_queries():
    queries = np.stack([X[0], X[2], X[4]]) * 2
    ranked = query_protocol(search_over(X), queries, np.array([0, -1, 2]), LABELS, INSTANCES, keep=9)
    assert ranked.ids.shape == (3, 9) and np.isnan(ranked.ap[1])
    assert ranked.metrics["queries"] == 2 and set(ranked.metrics["per_instance"]) == {"arch", "castle"}


def test_queries_without_labels_are_only_ranked():
    ranked = query_protocol(search_over(X), X[:2], np.array([-1, -1]), LABELS, INSTANCES, keep=4)
    assert ranked.metrics == {} and ranked.ids.shape == (2, 4)


def test_an_approximate_search_that_misses_photos():
    def search(queries, k):
        ids, scores = search_over(X)(queries, k)
        ids[:, 5:], scores[:, 5:] = -1, -np.inf
        return ids, scores

    full = folder_protocol(search_over(X), X, LABELS, INSTANCES, keep=8)
    cut = folder_protocol(search, X, LABELS, INSTANCES, keep=8)
    assert cut.metrics["mAP"] < full.metrics["mAP"]
    assert (cut.ids[:, 5:] == -1).all()
    assert (full.empty, full.places) == (0, 63) and (cut.empty, cut.places) == (7 * 4, 63)


def test_nothing_to_measure():
    with pytest.raises(UserError, match="at least two photos"):
        folder_protocol(search_over(X[:2]), X[:2], np.array([0, 1]), ["arch", "bridge"], keep=1)


class TwoStages:
    """Finds photographs 4, 1, 0, 3, 2, 5 in this order; its second stage puts the second one first."""

    def __init__(self):
        self.reranked = []

    def __call__(self, rows, k):
        return self.rerank(rows, *self.first(rows, k))

    def first(self, rows, k):
        return np.array([[4, 1, 0, 3, 2, 5]])[:, :k], -np.arange(k, dtype=np.float32)[None]

    def rerank(self, rows, ids, scores):
        self.reranked.append(ids[0].tolist())
        return ids[:, [1, 0, *range(2, ids.shape[1])]], scores


def test_the_compat_protocol_removes_junk_before_reranking():
    """Photograph 0 is easy, 2 is hard, 4 is junk; easy does not count the hard one, and hard not the easy one."""
    rows = [np.array([x], np.int64) for x in (0, 2, 4)]
    truth = GroundTruth(list("abcdef"), ["q"], np.array([[0.0, 0, 9, 9]]), *([x] for x in rows), "", "")
    search = TwoStages()
    ranked, rankings = revisited_protocol(search, np.array([0]), truth, 6, keep=4, junk_first=True)
    seen = dict(zip(("easy", "medium", "hard"), search.reranked, strict=True))
    assert seen == {"easy": [1, 0, 3, 5, -1, -1], "medium": [1, 0, 3, 2, 5, -1], "hard": [1, 3, 2, 5, -1, -1]}
    # easy: 0 1 3 5; medium: 0 1 3 2 5, found at ranks 1 and 4; hard: 3 1 2 5, found at rank 3
    assert ranked.metrics["easy"]["mAP"] == pytest.approx(100)
    assert ranked.metrics["medium"]["mAP"] == pytest.approx(100 * (1 + (1 / 3 + 2 / 4) / 2) / 2)
    assert ranked.metrics["hard"]["mAP"] == pytest.approx(100 * (0 + 1 / 3) / 2)
    assert rankings.tolist() == [[0, 1, 3, 2, 5, -1]] and ranked.ids.tolist() == [[0, 1, 3, 2]]
    assert (ranked.empty, ranked.places) == (0, 6)  # what was taken out had been found

    standard, _ = revisited_protocol(TwoStages(), np.array([0]), truth, 6, keep=4)  # 1 4 0 3 2 5: ranks 2 and 4
    assert standard.metrics["medium"]["mAP"] == pytest.approx(100 * ((0 + 1 / 2) / 2 + (1 / 3 + 2 / 4) / 2) / 2)
