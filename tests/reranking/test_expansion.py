"""Query expansion, database augmentation and SuperGlobal's re-ranking against the equations in loops."""

import numpy as np
import pytest

from sret_jax.reranking import expansion, neighbours
from sret_jax.reranking.expansion import augment, expand, rescore, superglobal
from sret_jax.reranking.neighbours import nearest_others
from sret_jax.reranking.ranking import reorder, to_front
from sret_jax.retrieval import exact

D = 16


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def collection(seed=0, q=5, n=40, k=30):
    """Unit descriptors around few centres, and rankings by cosine, the last two with fewer photographs."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(4, D))
    database = unit(centres[rng.integers(0, 4, n)] + 0.7 * rng.normal(size=(n, D)))
    queries = unit(centres[rng.integers(0, 4, q)] + 0.7 * rng.normal(size=(q, D)))
    scores = queries @ database.T
    ids = np.argsort(-scores, axis=1)[:, :k]
    scores = np.take_along_axis(scores, ids, 1)
    for row, kept in ((q - 2, 3), (q - 1, 0)):
        ids[row, kept:], scores[row, kept:] = -1, -np.inf
    return queries, database, ids, scores


def assert_same_photos(new_ids, new_scores, ids):
    np.testing.assert_array_equal(np.sort(new_ids, 1), np.sort(ids, 1))
    np.testing.assert_array_equal(new_ids < 0, ids < 0)
    assert not np.isnan(new_scores).any() and (new_scores[:, 1:] <= new_scores[:, :-1]).all()
    assert (new_scores[new_ids < 0] == -np.inf).all() and np.isfinite(new_scores[new_ids >= 0]).all()


def expand_in_loops(x, neighbours, alpha):
    total = x.astype(np.float64)
    for d in neighbours.astype(np.float64):
        total = total + max(float(x @ d), 0.0) ** alpha * d
    return total / np.linalg.norm(total)


@pytest.mark.parametrize("alpha, top", [(0.0, 3), (3.0, 10), (1.5, 100)])
def test_expansion_equals_the_equation_in_loops(alpha, top):
    queries, database, ids, _ = collection()
    found = expand(queries, database, ids, top=top, alpha=alpha)
    for q, row, own in zip(queries, ids, found, strict=True):
        np.testing.assert_allclose(own, expand_in_loops(q, database[row[row >= 0][:top]], alpha), atol=1e-6)
    np.testing.assert_array_equal(found[-1], queries[-1])


def test_expansion_keeps_what_cancels():
    x = unit(np.ones((1, D)))
    np.testing.assert_array_equal(expand(x, -x, np.array([[0]]), top=1, alpha=0.0), x)
    np.testing.assert_allclose(expand(x, -x, np.array([[0]]), top=1, alpha=3.0), x, atol=1e-6)


def test_average_of_a_query_and_one_photograph_is_halfway():
    x = np.eye(D, dtype=np.float32)
    halfway = expand(x[:1], x, np.array([[1]]), top=1, alpha=0.0)
    np.testing.assert_allclose(halfway[0, :3], [0.5**0.5, 0.5**0.5, 0], atol=1e-6)


@pytest.mark.parametrize("chunk_rows", [7, 40, 64])
def test_nearest_others_are_the_nearest_others(chunk_rows):
    x = collection()[1]
    x[11] = x[5]
    ids, cosines = nearest_others(x, 6, chunk_rows)
    similarity = x.astype(np.float64) @ x.T.astype(np.float64)
    for i, row in enumerate(similarity):
        expected = sorted((j for j in range(len(x)) if j != i), key=lambda j: (-np.float32(row[j]), j))[:6]
        assert ids[i].tolist() == expected
        np.testing.assert_allclose(cosines[i], row[expected], atol=1e-6)
    assert ids[5, 0] == 11 and ids[11, 0] == 5


def test_nearest_others_hold_a_bounded_number_of_scores(monkeypatch):
    x, asked = collection()[1], []
    whole = nearest_others(x, 3, 1 << 17)
    monkeypatch.setattr(exact, "SCORES_AT_ONCE", 5 * len(x))
    monkeypatch.setattr(neighbours, "exact_top_k", lambda q, *rest: asked.append(len(q)) or exact.exact_top_k(q, *rest))
    for part, of_whole in zip(nearest_others(x, 3, len(x)), whole, strict=True):
        np.testing.assert_array_equal(part, of_whole)
    assert max(asked) == 5 and sum(asked) == len(x)


def test_nearest_others_of_equal_and_of_few_photographs():
    ids, cosines = nearest_others(np.tile(unit(np.ones((1, D))), (5, 1)), 2, 3)
    assert ids.tolist() == [[1, 2], [0, 2], [0, 1], [0, 1], [0, 1]]
    ids, cosines = nearest_others(np.eye(2, D, dtype=np.float32), 3, 8)
    assert ids.tolist() == [[1, -1, -1], [0, -1, -1]] and cosines[0].tolist() == [0, -np.inf, -np.inf]


def test_augmentation_equals_the_equation_in_loops():
    database = collection()[1]
    found = augment(database, top=4, alpha=2.0, chunk_rows=9)
    similarity = database @ database.T
    np.fill_diagonal(similarity, -2)
    for i, own in enumerate(found):
        nearest = database[np.argsort(-similarity[i], kind="stable")[:4]]
        np.testing.assert_allclose(own, expand_in_loops(database[i], nearest, 2.0), atol=1e-6)


def test_rescoring_sorts_by_the_new_cosines():
    queries, database, ids, _ = collection()
    other = unit(queries + 0.5)
    new_ids, new_scores = rescore(other, database, ids)
    assert_same_photos(new_ids, new_scores, ids)
    for i, row in enumerate(new_ids):
        row = row[row >= 0]
        np.testing.assert_allclose(new_scores[i, : len(row)], database[row] @ other[i], atol=1e-6)
    assert (new_ids[0] != ids[0]).any()


def superglobal_in_loops(q, x, neighbours, beta):
    """New scores of the photographs x of one ranking."""
    x, q = x.astype(np.float64), q.astype(np.float64)
    refined = []
    for i in range(len(x)):
        others = sorted((j for j in range(len(x)) if j != i), key=lambda j: -(x[i] @ x[j]))[:neighbours]
        total, weights = x[i], 1.0
        for j in others:
            total, weights = total + beta * (x[i] @ x[j]) * x[j], weights + beta * (x[i] @ x[j])
        refined.append(total / weights)
    first = [q @ r for r in refined]
    best = sorted(range(len(x)), key=lambda i: -first[i])[: neighbours + 1]
    maximum = [max(refined[i][c] for i in best) for c in range(D)]
    return np.array([(s + np.dot(maximum, r)) / 2 for s, r in zip(first, refined, strict=True)])


@pytest.mark.parametrize("top", [20, 400])
def test_superglobal_equals_the_equations_in_loops(top, monkeypatch):
    monkeypatch.setattr(expansion, "QUERIES_AT_ONCE", 3)  # the last part is not full
    queries, database, ids, scores = collection()
    new_ids, new_scores = superglobal(queries, database, ids, scores, top=top, neighbours=4, beta=0.15)
    assert_same_photos(new_ids, new_scores, ids)
    for i in range(4):
        front = ids[i, :top][ids[i, :top] >= 0]
        expected = superglobal_in_loops(queries[i], database[front], 4, 0.15)
        order = np.argsort(-expected)
        assert new_ids[i, : len(front)].tolist() == front[order].tolist()
        np.testing.assert_allclose(new_scores[i, : len(front)], expected[order], atol=1e-6)
        assert new_ids[i, len(front) :].tolist() == ids[i, len(front) :].tolist()
    assert (new_ids[0] != ids[0]).any()


def test_superglobal_without_weight_of_neighbours_keeps_the_first():
    """beta = 0, neighbours = 0: x' = x and q* is the best photograph."""
    queries, database, ids, scores = collection()
    new_ids, new_scores = superglobal(queries, database, ids, scores, top=30, neighbours=0, beta=0.0)
    expected = (scores[0] + database[ids[0]] @ database[ids[0, 0]]) / 2
    np.testing.assert_allclose(new_scores[0], np.sort(expected)[::-1], atol=1e-6)


def test_superglobal_of_opposite_and_of_equal_photographs_is_finite():
    x = unit(np.ones((1, D)))
    database = np.concatenate([x, np.tile(-x, (9, 1)), x, x])
    ids = np.array([np.arange(12), np.r_[0, 10, 11, np.full(9, -1)]])
    scores = np.where(ids < 0, -np.inf, database[ids] @ x[0]).astype(np.float32)
    found = superglobal(np.tile(x, (2, 1)), database, ids, scores, top=12, neighbours=9, beta=0.15)
    assert_same_photos(*found, ids)
    assert found[0][1, :3].tolist() == [0, 10, 11]


def test_reordering_leaves_ties_and_what_is_behind():
    ids = np.array([[4, 2, 7, 1, -1], [3, 0, 5, 6, 8]])
    scores = np.array([[0.9, 0.8, 0.7, 0.6, -np.inf], [0.9, 0.8, 0.7, 0.6, 0.5]], np.float32)
    new = np.array([[1.0, 5.0, 1.0], [0.1, 0.2, 0.65]], np.float32)
    new_ids, new_scores = reorder(ids, scores, new)
    assert new_ids.tolist() == [[2, 4, 7, 1, -1], [5, 0, 3, 6, 8]]
    np.testing.assert_allclose(new_scores, [[5, 1, 1, 0.6, -np.inf], [0.65, 0.2, 0.1, 0.1, 0.1]])
    assert reorder(ids[:1], scores[:1], np.full((1, 5), np.nan, np.float32)[:, :0])[0].tolist() == ids[:1].tolist()


def test_to_front():
    ids = np.array([[4, 2, 7, 1, -1], [3, 0, 5, 6, 8], [1, 2, -1, -1, -1]])
    front = [np.array([9, 1, 4]), np.array([], np.int64), np.array([20, 2])]
    assert to_front(ids, front).tolist() == [[1, 4, 2, 7, -1], [3, 0, 5, 6, 8], [2, 1, -1, -1, -1]]


def test_queries_do_not_see_each_other():
    queries, database, ids, scores = collection()
    options = {"top": 20, "neighbours": 4, "beta": 0.15}
    together = superglobal(queries, database, ids, scores, **options)
    alone = superglobal(queries[2:3], database, ids[2:3], scores[2:3], **options)
    np.testing.assert_array_equal(together[0][2:3], alone[0])
    np.testing.assert_allclose(together[1][2:3], alone[1], atol=1e-6)
