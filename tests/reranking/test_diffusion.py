"""Diffusion against a dense solve of the same system, and what it must not do."""

import jax.numpy as jnp
import numpy as np
import pytest

from sret_jax.reranking import diffusion
from sret_jax.reranking.diffusion import affinity_graph, diffuse, neighbourhood, rerank_by_diffusion

D, K, GAMMA, ALPHA = 8, 6, 3.0, 0.99
SOLVER = {"alpha": ALPHA, "tolerance": 1e-6, "most_iterations": 200}


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def collection(seed=0, n=60, q=4):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(5, D))
    x = unit(centres[rng.integers(0, 5, n)] + 0.6 * rng.normal(size=(n, D)))
    x[-1] = -unit(x[:-1].sum(0))  # nobody's neighbour
    return unit(x[:q] + 0.1 * rng.normal(size=(q, D))), x


def dense_in_loops(x):
    """S as a matrix [n n], from the definition."""
    n = len(x)
    cosine = x.astype(np.float64) @ x.T.astype(np.float64)
    nearest = [set(sorted((j for j in range(n) if j != i), key=lambda j: (-cosine[i, j], j))[:K]) for i in range(n)]
    s = np.zeros((n, n))
    for i in range(n):
        for j in nearest[i]:
            if i in nearest[j]:
                s[i, j] = max(cosine[i, j], 0) ** GAMMA
    degree = s.sum(1)
    return np.array([[s[i, j] / np.sqrt(degree[i] * degree[j]) if s[i, j] else 0 for j in range(n)] for i in range(n)])


def as_matrix(graph):
    s = np.zeros((len(graph.weights),) * 2)
    np.add.at(s, (np.arange(len(s))[:, None], graph.neighbours), graph.weights)
    return s


@pytest.mark.parametrize("chunk_rows", [16, 100])
def test_the_graph_equals_the_definition_in_loops(chunk_rows):
    _, x = collection()
    found = as_matrix(affinity_graph(x, k=K, gamma=GAMMA, chunk_rows=chunk_rows))
    expected = dense_in_loops(x)
    assert not expected[-1].any() and (expected.sum(1) > 0).sum() > 50
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(found, found.T, atol=1e-7)


def test_diffusion_equals_a_dense_solve():
    _, x = collection()
    graph = affinity_graph(x, k=K, gamma=GAMMA, chunk_rows=100)
    y = np.zeros((3, len(x)), np.float32)
    y[0, [0, 3, 9]], y[1, -1], y[2, 5] = (0.9, 0.5, 0.2), 0.7, 1e-3
    found = diffuse(graph.neighbours, graph.weights, jnp.asarray(y), **SOLVER)
    expected = np.linalg.solve(np.eye(len(x)) - ALPHA * dense_in_loops(x), y.T.astype(np.float64)).T
    np.testing.assert_allclose(found.f, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max(1).min())
    np.testing.assert_allclose(found.f[1], y[1], atol=1e-7)  # an isolated photograph keeps what it has
    assert (np.asarray(found.residual) < 1e-5).all() and 5 < int(found.iterations) < 200


def test_systems_of_a_batch_do_not_see_each_other():
    _, x = collection()
    graph = affinity_graph(x, k=K, gamma=GAMMA, chunk_rows=100)
    y = np.zeros((3, len(x)), np.float32)
    y[0, 0], y[2, 7] = 1e3, 1e-4
    found = diffuse(graph.neighbours, graph.weights, jnp.asarray(y), **SOLVER)
    expected = np.linalg.solve(np.eye(len(x)) - ALPHA * as_matrix(graph), y.T.astype(np.float64)).T
    for own, right in zip(np.asarray(found.f), expected, strict=True):
        np.testing.assert_allclose(own, right, atol=1e-5 * np.abs(right).max())
    assert not np.asarray(found.f[1]).any() and found.residual[1] == 0


def test_what_has_not_converged_says_so(caplog):
    queries, x = collection()
    graph = affinity_graph(x, k=K, gamma=GAMMA, chunk_rows=100)
    y = jnp.zeros((1, len(x))).at[0, 0].set(1)
    few = diffuse(graph.neighbours, graph.weights, y, ALPHA, 1e-6, 3)
    true = np.linalg.norm(y[0] - (np.eye(len(x)) - ALPHA * as_matrix(graph)) @ np.asarray(few.f[0]))
    assert few.iterations == 3 and few.residual[0] > 1e-3
    np.testing.assert_allclose(few.residual[0], true, rtol=1e-4)
    ids = np.tile(np.arange(10), (len(queries), 1))
    rerank_by_diffusion(queries, x, ids, graph, sources=3, alpha=ALPHA, tolerance=1e-6, most_iterations=3)
    assert "4 of 4 queries not converged after 3 iterations" in caplog.text
    caplog.clear()
    rerank_by_diffusion(queries, x, ids, graph, sources=3, **SOLVER)
    assert not caplog.text


def test_without_walking_the_sources_stay():
    queries, x = collection()
    graph = affinity_graph(x, k=K, gamma=GAMMA, chunk_rows=100)
    ids = np.argsort(-queries @ x.T, axis=1)[:, :20]
    found, f = rerank_by_diffusion(queries, x, ids, graph, sources=5, alpha=0.0, tolerance=1e-6, most_iterations=9)
    np.testing.assert_array_equal(found, ids)
    expected = np.maximum(np.take_along_axis(queries @ x.T, ids[:, :5], 1), 0) ** GAMMA
    np.testing.assert_allclose(f[:, :5], expected, rtol=1e-5)
    assert not f[:, 5:].any()


def test_reranking_equals_a_dense_solve(monkeypatch):
    monkeypatch.setattr(diffusion, "QUERIES_AT_ONCE", 3)  # four queries are a full part and a third of one
    queries, x = collection()
    graph = affinity_graph(x, k=K, gamma=GAMMA, chunk_rows=100)
    ids = np.argsort(-queries @ x.T, axis=1)[:, :30]
    ids[2, 2:], ids[3] = -1, -1
    found, f = rerank_by_diffusion(queries, x, ids, graph, sources=4, **SOLVER)
    inverse = np.linalg.inv(np.eye(len(x)) - ALPHA * dense_in_loops(x))
    for q, row, own, score in zip(queries[:3], ids, found, f, strict=False):
        row = row[row >= 0]
        y = np.zeros(len(x))
        y[row[:4]] = np.maximum(x[row[:4]] @ q, 0) ** GAMMA
        expected = (inverse @ y)[row]
        order = np.argsort(-np.where(expected < 1e-9, 0, expected), kind="stable")
        assert own[: len(row)].tolist() == row[order].tolist()
        np.testing.assert_allclose(score[: len(row)], expected[order], atol=1e-5 * expected.max())
    assert (found[0] != ids[0]).any()
    np.testing.assert_array_equal(np.sort(found, 1), np.sort(ids, 1))
    np.testing.assert_array_equal(found < 0, ids < 0)
    assert (f[found < 0] == -np.inf).all() and not np.isnan(f).any() and (f[:, 1:] <= f[:, :-1]).all()


def test_the_walk_follows_the_manifold():
    """A half circle of photographs and a few others that are nearer to the query than its far end is."""
    angle = np.linspace(0, np.pi, 40)
    arc = np.stack([np.cos(angle), np.sin(angle), 0 * angle], 1)
    others = unit(np.stack([np.full(8, 0.3), np.full(8, -0.1), np.linspace(0.9, 1.1, 8)], 1))
    x = np.concatenate([arc, others]).astype(np.float32)
    query = unit(np.array([[1.0, -0.02, 0.0]]))
    ids = np.argsort(-query @ x.T, axis=1, kind="stable")
    assert (ids[0, :40] >= 40).sum() == 8
    graph = affinity_graph(x, k=4, gamma=GAMMA, chunk_rows=100)
    found, _ = rerank_by_diffusion(query, x, ids, graph, sources=3, **SOLVER)
    assert sorted(found[0, :40].tolist()) == list(range(40))


def test_identical_photographs_and_a_single_one():
    x = np.tile(unit(np.ones((1, D))), (5, 1))
    graph = affinity_graph(x, k=2, gamma=GAMMA, chunk_rows=2)
    found, f = rerank_by_diffusion(x[:1], x, np.arange(5)[None], graph, sources=2, **SOLVER)
    assert np.isfinite(f).all() and sorted(found[0]) == list(range(5))
    graph = affinity_graph(x[:1], k=2, gamma=GAMMA, chunk_rows=2)
    found, f = rerank_by_diffusion(x[:1], x[:1], np.array([[0, -1]]), graph, sources=2, **SOLVER)
    assert found.tolist() == [[0, -1]] and f[0, 0] == pytest.approx(1)


def neighbourhood_in_loops(s, first, most):
    """From the definition, of S as a matrix."""
    chosen = sorted(set(first[:most]))
    edge = list(chosen)
    while edge and len(chosen) < most:
        strength = {}
        for i in edge:
            for j in range(len(s)):
                if s[i, j] > 0 and j not in chosen:
                    strength[j] = strength.get(j, 0) + s[i, j]
        edge = sorted(strength, key=lambda j: (-strength[j], j))[: most - len(chosen)]
        chosen += edge
    return sorted(chosen)


@pytest.mark.parametrize("most", [1, 2, 9, 25, 59])
def test_the_neighbourhood_is_that_of_loops(most):
    _, x = collection()
    graph = affinity_graph(x, k=K, gamma=GAMMA, chunk_rows=100)
    for first in ([4, 9, 4], [17], [59, 3]):  # 59: nobody's neighbour
        expected = neighbourhood_in_loops(as_matrix(graph), first, most)
        assert neighbourhood(graph, np.array(first), most).tolist() == expected


def test_truncated_diffusion_is_the_whole_where_its_neighbourhood_is_all_that_is_reached():
    queries, x = collection()
    graph = affinity_graph(x, k=K, gamma=GAMMA, chunk_rows=100)
    ids = np.argsort(-queries @ x.T, axis=1)
    ids[2, 2:], ids[3] = -1, -1
    whole, f = rerank_by_diffusion(queries, x, ids, graph, sources=4, **SOLVER)
    for photos in (59, 60, 1000):  # one is reached by no walk that did not start there
        found, truncated = rerank_by_diffusion(queries, x, ids, graph, sources=4, photos=photos, **SOLVER)
        np.testing.assert_allclose(truncated, f, atol=2e-5 * f.max())
        for new, old, score in zip(found, whole, f, strict=True):
            moved = np.flatnonzero(new != old)  # only what rounding cannot tell apart
            assert all(np.abs(score[i] - score[list(old).index(new[i])]) <= 2e-5 * f.max() for i in moved)


def test_truncated_diffusion_equals_a_dense_solve_of_the_photographs_left():
    queries, x = collection()
    graph = affinity_graph(x, k=K, gamma=GAMMA, chunk_rows=100)
    ids = np.argsort(-queries @ x.T, axis=1)[:, :40]
    found, f = rerank_by_diffusion(queries, x, ids, graph, sources=4, photos=15, **SOLVER)
    s = as_matrix(graph)
    for q, own, row, scores in zip(queries, ids, found, f, strict=True):
        chosen = neighbourhood_in_loops(s, own[:4].tolist(), 15)
        y = np.array([max(float(x[i] @ q), 0) ** GAMMA if i in own[:4] else 0 for i in chosen])
        right = np.linalg.solve(np.eye(len(chosen)) - ALPHA * s[np.ix_(chosen, chosen)], y)
        expected = np.zeros(len(x))
        expected[chosen] = np.maximum(right, 0)
        np.testing.assert_allclose(scores, expected[row], atol=1e-5 * expected.max())
        assert set(row.tolist()) == set(own.tolist()) and (np.diff(scores) <= 0).all()
        rest = [i for i in row if i not in chosen]
        assert rest == [i for i in own if i not in chosen]  # what is not reached keeps its order, behind the others


def test_truncated_diffusion_that_has_not_converged_says_so(caplog):
    queries, x = collection()
    graph = affinity_graph(x, k=K, gamma=GAMMA, chunk_rows=100)
    ids = np.tile(np.arange(10), (4, 1))
    few = {"alpha": ALPHA, "tolerance": 1e-6, "most_iterations": 2}
    rerank_by_diffusion(queries, x, ids, graph, sources=3, photos=20, **few)
    assert "of 4 queries not converged after 2 iterations" in caplog.text
