"""Matches against loops over all pairs and OpenCV's matcher, and what padding may not change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sret_jax.reranking.matching import LocalFeatures, match

N, SLOTS, C = 24, 30, 8


def photos(seed=0, k=4):
    """A query and k candidates with noisy copies of its features in another order, padded with large numbers."""
    rng = np.random.default_rng(seed)
    true = rng.normal(size=(N, C))
    features = rng.normal(scale=1e3, size=(k, SLOTS, C)).astype(np.float32)
    count = rng.integers(N // 2, SLOTS + 1, k)
    for x, n in zip(features, count, strict=True):
        x[:n] = rng.permutation(np.concatenate([true, true[:6]]))[:n] + 0.5 * rng.normal(size=(n, C))
    position = rng.random((k, SLOTS, 2)).astype(np.float32)
    candidates = LocalFeatures(*map(jnp.asarray, (features, position, count.astype(np.int32))))
    query = np.concatenate([true, np.zeros((3, C))]).astype(np.float32)
    return LocalFeatures(jnp.asarray(query), jnp.zeros((N + 3, 2)), jnp.int32(N)), candidates


def matches_in_loops(query, candidate, ratio, distance, mutual):
    """{row of the query: row of the candidate}."""

    def nearest(x, others):
        away = [float(np.sqrt(np.sum((x - y) ** 2))) for y in others]
        order = np.argsort(away, kind="stable")
        return int(order[0]), away[order[0]], away[order[1]]

    out = {}
    for i, x in enumerate(query):
        j, first, second = nearest(x, candidate)
        if ratio is not None and not first < ratio * second:
            continue
        if distance is not None and first > distance:
            continue
        if mutual and nearest(candidate[j], query)[0] != i:
            continue
        out[i] = j
    return out


def as_dicts(matches):
    return [
        {int(i): int(j) for i, j, ok in zip(*one, strict=True) if ok}
        for one in zip(*map(np.asarray, matches), strict=True)
    ]


def real(x, i=None):
    """Features without padding, in float64."""
    features, count = (x.features, x.counts) if i is None else (x.features[i], x.counts[i])
    return np.asarray(features, np.float64)[: int(count)]


@pytest.mark.parametrize(
    "ratio, distance, mutual", [(None, None, False), (0.8, None, False), (None, 1.3, False), (0.9, 1.5, True)]
)
def test_matches_equal_loops(ratio, distance, mutual):
    query, candidates = photos()
    found = as_dicts(match(query, candidates, ratio=ratio, distance=distance, mutual=mutual))
    expected = [matches_in_loops(real(query), real(candidates, i), ratio, distance, mutual) for i in range(4)]
    assert found == expected
    if (ratio, distance, mutual) != (None, None, False):
        assert all(0 < len(x) < N for x in found)


def test_opencv_finds_the_same():
    cv2 = pytest.importorskip("cv2")
    query, candidates = photos(1)
    ours = as_dicts(match(query, candidates, ratio=0.8, distance=None, mutual=False))
    mutual = as_dicts(match(query, candidates, ratio=None, distance=None, mutual=True))
    for i, (by_ratio, by_both) in enumerate(zip(ours, mutual, strict=True)):
        a, b = (real(*x).astype(np.float32) for x in ((query,), (candidates, i)))
        pairs = cv2.BFMatcher(cv2.NORM_L2).knnMatch(a, b, k=2)
        assert by_ratio == {m.queryIdx: m.trainIdx for m, n in pairs if m.distance < 0.8 * n.distance}
        crossed = cv2.BFMatcher(cv2.NORM_L2, crossCheck=True).match(a, b)
        assert by_both == {m.queryIdx: m.trainIdx for m in crossed} and len(by_both) > 5


def test_mutual_matches_share_no_feature_even_if_features_are_equal():
    x = jnp.tile(jnp.array([[1.0, 0.0], [0.0, 1.0]]), (3, 1))
    one = LocalFeatures(x, jnp.zeros((6, 2)), jnp.int32(6))
    [found] = as_dicts(match(one, jax.tree.map(lambda z: z[None], one), ratio=None, distance=None, mutual=True))
    assert found == {0: 0, 1: 1}
    [none] = as_dicts(match(one, jax.tree.map(lambda z: z[None], one), ratio=0.8, distance=None, mutual=False))
    assert none == {}  # the second nearest is as near


def test_photographs_with_no_or_one_feature():
    query, candidates = photos()
    few = candidates._replace(counts=jnp.array([0, 1, 2, 0], jnp.int32))
    found = as_dicts(match(query, few, ratio=None, distance=None, mutual=False))
    assert [len(x) for x in found] == [0, N, N, 0] and set(found[1].values()) == {0}
    found = as_dicts(match(query, few, ratio=0.8, distance=None, mutual=False))
    assert found[1] == {}  # there is no second nearest to be told from
    nobody = query._replace(counts=jnp.int32(0))
    for mutual in (False, True):
        assert not match(nobody, candidates, ratio=None, distance=None, mutual=mutual).valid.any()


def test_half_precision_is_compared_in_single():
    query, candidates = photos(2)
    half = [x._replace(features=jnp.clip(x.features, -99, 99).astype(jnp.float16)) for x in (query, candidates)]
    single = [x._replace(features=x.features.astype(jnp.float32)) for x in half]
    a, b = (match(*x, ratio=0.8, distance=None, mutual=False) for x in (half, single))
    assert as_dicts(a) == as_dicts(b)
