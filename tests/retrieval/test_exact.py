"""Scores have the same bits, whoever found the rows."""

import math

import numpy as np

from sret_jax.retrieval.exact import cosines, normalized


def test_scores_do_not_depend_on_the_company_of_a_row():
    """Also where a sum lies between two numbers of float32, by so little that one in float64 may lose it."""
    x = normalized(np.random.default_rng(1).normal(size=(64, 96)), [""] * 64)
    x[:32] = np.float32(2.0**-60)
    x[:32, :2] = 0.5, 2.0**-25  # the rest makes it more than half way
    queries = np.concatenate([np.ones((1, 96), np.float32), x[40:44]])
    alone = np.stack([cosines(queries, x[i : i + 1], np.zeros((5, 1), np.int64))[:, 0] for i in range(64)], 1)
    assert (alone[0, :32] == np.float32(0.5 + 2.0**-24)).all()
    ids = np.argsort(np.random.default_rng(0).random((5, 64)), axis=1)
    np.testing.assert_array_equal(cosines(queries, x, ids), np.take_along_axis(alone, ids, 1))
    np.testing.assert_array_equal(cosines(queries, x, ids[:, :9]), np.take_along_axis(alone, ids[:, :9], 1))


def test_a_score_is_the_exact_sum_rounded():
    x = normalized(np.random.default_rng(0).normal(size=(30, 40)), [""] * 30)
    x[:, 7] = 0
    x[3] = np.eye(40, dtype=np.float32)[7]  # nothing in common with any other
    found = cosines(x[:6], x, np.tile(np.arange(30), (6, 1)))
    for i in range(6):
        for j in range(30):
            exact = math.fsum(float(a) * float(b) for a, b in zip(x[i], x[j], strict=True))
            assert found[i, j] == np.float32(exact)
