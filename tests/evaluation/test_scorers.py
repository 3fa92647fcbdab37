"""Which photographs are queries, and what of the answers is kept."""

import io

import numpy as np
import pytest

from sret_jax.datasets.ground_truth import GroundTruth
from sret_jax.errors import UserError
from sret_jax.evaluation.scorers import InstanceScorer, RevisitedScorer, junk_first
from sret_jax.metrics.ranking import average_precision, leave_one_out_map
from sret_jax.reranking.answers import Answers
from tests.support.answers import scored
from tests.support.twins import search_over

LABELS = np.array([0, 0, 1, -1, 2, 1, 1, 2, 3], np.int32)  # instance 3 has one photo, photo 3 no instance
INSTANCES = ["arch", "bridge", "castle", "dome"]
X = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)


@pytest.mark.parametrize("at_once", [2, 256])
def test_leave_one_out_scores_the_full_ranking_and_keeps_its_beginning(at_once):
    ranked = scored(InstanceScorer(LABELS, INSTANCES, keep=3), search_over(X), X, at_once)
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
    ranked = scored(InstanceScorer(np.array([0, 0, 0, 0]), ["arch"], keep=99), search_over(x), x)
    assert ranked.ids.tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]
    assert ranked.metrics["mAP"] == 100


def test_separate_queries():
    queries = np.stack([X[0], X[2], X[4]]) * 2
    scorer = InstanceScorer(LABELS, INSTANCES, np.array([0, -1, 2]), keep=9)
    assert scorer.queries.tolist() == [0, 1, 2] and scorer.scored.tolist() == [0, 2] and scorer.depth == 9
    ranked = scored(scorer, search_over(X), queries)
    assert ranked.ids.shape == (3, 9) and np.isnan(ranked.ap[1])
    assert ranked.metrics["queries"] == 2 and set(ranked.metrics["per_instance"]) == {"arch", "castle"}


def test_a_separate_query_that_is_among_the_photographs_is_no_answer_to_itself():
    own = np.array([[4, 7], [-1, -1], [2, -1]])  # photograph 4 is there twice, as 7
    scorer = InstanceScorer(LABELS, INSTANCES, np.array([2, -1, 1]), own=own)
    ranked = scored(scorer, search_over(X), X[[4, 0, 2]])
    for ids, scores, itself in zip(ranked.ids, ranked.scores, own, strict=True):
        kept = ids[ids >= 0]
        assert set(kept) == set(range(9)) - set(itself) and (ids[len(kept) :] == -1).all()
        assert (np.diff(scores[: len(kept)]) <= 0).all() and (scores[len(kept) :] == -np.inf).all()
    assert np.isnan(ranked.ap[0])  # nothing but itself would be right
    assert 100 * ranked.ap[2] == pytest.approx(ranked.metrics["per_instance"]["bridge"])
    order = [i for i in np.argsort(-(X @ X[2]), kind="stable") if i != 2]
    assert ranked.ap[2] == pytest.approx(average_precision(np.isin(order, [5, 6])))


def test_queries_without_labels_are_only_ranked():
    ranked = scored(InstanceScorer(LABELS, INSTANCES, np.array([-1, -1]), keep=4), search_over(X), X)
    assert ranked.metrics == {} and ranked.ids.shape == (2, 4)


def test_an_approximate_search_that_misses_photos():
    def search(queries, k):
        ids, scores = search_over(X)(queries, k)
        ids[:, 5:], scores[:, 5:] = -1, -np.inf
        return ids, scores

    full = scored(InstanceScorer(LABELS, INSTANCES, keep=8), search_over(X), X)
    cut = scored(InstanceScorer(LABELS, INSTANCES, keep=8), search, X)
    assert cut.metrics["mAP"] < full.metrics["mAP"]
    assert (cut.ids[:, 5:] == -1).all() and (full.ids >= 0).all()


def test_nothing_to_measure():
    with pytest.raises(UserError, match="at least two photos"):
        InstanceScorer(np.array([0, 1]), ["arch", "bridge"], keep=1)


def test_junk_is_removed_before_re_ranking_by_the_compat_protocol():
    """Photograph 0 is easy, 2 is hard, 4 is junk; easy does not count the hard one, and hard not the easy one."""
    rows = [np.array([x], np.int64) for x in (0, 2, 4)]
    truth = GroundTruth(list("abcdef"), ["q"], np.array([[0.0, 0, 9, 9]]), *([x] for x in rows), "", "")
    found = Answers(np.array([0]), np.array([[4, 1, 0, 3, 2, 5]]), -np.arange(6, dtype=np.float32)[None])
    seen = {}

    def rerank(answers: Answers) -> Answers:
        """Puts the second one first."""
        seen[answers.subset] = answers.ids[0].tolist()
        order = [1, 0, *range(2, answers.ids.shape[1])]
        return Answers(answers.rows, answers.ids[:, order], answers.scores, answers.subset)

    scorer = RevisitedScorer(truth, 6, keep=4)
    for answers in junk_first(truth, found):
        assert (np.isneginf(answers.scores) == (answers.ids < 0)).all()
        scorer.add(rerank(answers))
    ranked = scorer.result()
    assert seen == {"easy": [1, 0, 3, 5, -1, -1], "medium": [1, 0, 3, 2, 5, -1], "hard": [1, 3, 2, 5, -1, -1]}
    # easy: 0 1 3 5; medium: 0 1 3 2 5, found at ranks 1 and 4; hard: 3 1 2 5, found at rank 3
    assert ranked.metrics["easy"]["mAP"] == pytest.approx(100)
    assert ranked.metrics["medium"]["mAP"] == pytest.approx(100 * (1 + (1 / 3 + 2 / 4) / 2) / 2)
    assert ranked.metrics["hard"]["mAP"] == pytest.approx(100 * (0 + 1 / 3) / 2)
    assert ranked.ids.tolist() == [[0, 1, 3, 2]]
    rankings = np.load(io.BytesIO(ranked.files["ranks.npy"]))
    assert rankings.T.tolist() == [[0, 1, 3, 2, 5, -1]]

    standard = RevisitedScorer(truth, 6, keep=4)
    standard.add(rerank(found))  # 1 4 0 3 2 5: ranks 2 and 4
    medium = standard.result().metrics["medium"]["mAP"]
    assert medium == pytest.approx(100 * ((0 + 1 / 2) / 2 + (1 / 3 + 2 / 4) / 2) / 2)
