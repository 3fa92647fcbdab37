"""Planted transforms found again, counts beside OpenCV's and DELF's procedure, and cases that have no transform."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sret_jax.data.decoding import decode_photo
from sret_jax.data.resizing import resize
from sret_jax.errors import UserError
from sret_jax.extraction.sift import sift
from sret_jax.reranking.matching import LocalFeatures, Matches, match
from sret_jax.reranking.spatial_verification import rerank_by_inliers, verify

M, SLOTS = 200, 230  # matches, and slots for them
NOISE, TOLERANCE = 0.001, 0.01
TRIALS = {"affine": 4_000, "homography": 30_000}  # 90 % outliers ask for so many; one program each for all tests


def transform(kind, rng):
    """Turned, stretched and moved, so that the query stays inside the candidate; a homography also foreshortens."""
    turn, stretch = rng.uniform(-0.6, 0.6), rng.uniform(0.5, 0.9, 2)
    a = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) * stretch
    out = np.eye(3)
    out[:2, :2], out[:2, 2] = a, [0.5, 0.4] - a @ [0.5, 0.375] + rng.uniform(-0.05, 0.05, 2)
    if kind == "homography":
        out[2, :2] = rng.uniform(-0.3, 0.3, 2)
    return out


def apply(t, x):
    u = np.concatenate([x, np.ones_like(x[:, :1])], axis=1) @ np.asarray(t, np.float64).T
    return u[:, :2] / u[:, 2:]


def planted(kind, shares, seed=0):
    """Matches of one query with a candidate for each share of outliers, in an order of their own.

    Returns the arguments of `verify`, the true transforms, and which matches were planted.
    """
    rng = np.random.default_rng(seed)
    source = rng.random((M, 2)) * [1, 0.75]
    rows, true = [], []
    positions, inlying = np.zeros((len(shares), SLOTS, 2)), np.zeros((len(shares), SLOTS), bool)
    for i, share in enumerate(shares):
        t = transform(kind, rng)
        good = rng.random(M) >= share
        target = np.where(good[:, None], apply(t, source) + NOISE * rng.normal(size=(M, 2)), rng.random((M, 2)))
        order = rng.permutation(M)
        positions[i, :M] = target[order]
        rows.append(np.argsort(order))
        true.append(t)
        inlying[i, :M] = good
    query_row = np.tile(np.arange(SLOTS) % M, (len(shares), 1))
    candidate_row = np.pad(np.array(rows), [(0, 0), (0, SLOTS - M)])
    valid = np.tile(np.arange(SLOTS) < M, (len(shares), 1))
    matches = Matches(*(jnp.asarray(x, jnp.int32) for x in (query_row, candidate_row)), jnp.asarray(valid))
    source = jnp.asarray(np.pad(source, [(0, SLOTS - M), (0, 0)]), jnp.float32)
    return (source, jnp.asarray(positions, jnp.float32), matches), true, inlying


def verified(arguments, kind="affine", seed=0):
    found = verify(*arguments, kind=kind, trials=TRIALS[kind], tolerance=TOLERANCE, seed=seed)
    return jax.tree.map(np.asarray, found)


def matched(positions, matches, i):
    """Source and target of the valid matches of candidate i."""
    source, targets = (np.asarray(x, np.float64) for x in positions)
    query_row, candidate_row, valid = (np.asarray(x)[i] for x in matches)
    return source[query_row[valid]], targets[i][candidate_row[valid]]


@pytest.mark.parametrize("kind", ["affine", "homography"])
@pytest.mark.parametrize("shares", [(0.0, 0.5), (0.7, 0.9)])
def test_planted_transforms_are_recovered(kind, shares):
    """Shares of outliers; the corners move by less than the noise permits."""
    arguments, true, inlying = planted(kind, shares)
    found = verified(arguments, kind)
    corners = np.array([(0, 0), (1, 0), (1, 0.75), (0, 0.75)])
    for i, share in enumerate(shares):
        error = np.abs(apply(found.transform[i], corners) - apply(true[i], corners)).max()
        assert error < (0.002 if share < 0.9 else 0.01), share
        ours = np.asarray(found.inlying[i])
        assert (ours & inlying[i]).sum() >= 0.98 * inlying[i].sum()
        # The mask is what the equation says of the transform, and the rest follows from the mask.
        source, target = matched(arguments[:2], arguments[2], i)
        away = np.linalg.norm(apply(found.transform[i], source) - target, axis=1)
        sure = np.abs(away - TOLERANCE) > 1e-5
        np.testing.assert_array_equal(ours[:M][sure], (away <= TOLERANCE)[sure])
        assert found.inliers[i] == ours.sum() and not ours[M:].any()
        inside = target[ours[:M]]
        np.testing.assert_allclose(found.box[i], [*inside.min(0), *inside.max(0)], atol=1e-6)
        mean = np.append(source[ours[:M]].mean(0), 1)
        np.testing.assert_allclose(found.transform[i][2] @ mean, 1, atol=1e-5)
    if kind == "affine":
        np.testing.assert_array_equal(found.transform[:, 2], [[0, 0, 1]] * len(shares))


@pytest.mark.parametrize("kind", ["affine", "homography"])
def test_refinement_is_the_least_squares_of_the_inliers(kind):
    arguments, _, _ = planted(kind, (0.0, 0.5))
    found = verified(arguments, kind)
    for i in range(2):
        source, target = (x[found.inlying[i][:M]] for x in matched(arguments[:2], arguments[2], i))
        ours = np.sum((apply(found.transform[i], source) - target) ** 2)
        if kind == "affine":
            points = np.concatenate([source, np.ones_like(source[:, :1])], axis=1)
            best = np.linalg.lstsq(points, target, rcond=None)[1].sum()
        else:
            optimize = pytest.importorskip("scipy.optimize")
            start = (found.transform[i] / found.transform[i][2, 2]).ravel()[:8].astype(np.float64)

            def away(p, source=source, target=target):
                return (apply(np.append(p, 1).reshape(3, 3), source) - target).ravel()

            best = 2 * optimize.least_squares(away, start, x_scale="jac", xtol=1e-15, ftol=1e-15).cost
        np.testing.assert_allclose(ours, best, rtol=1e-3)


@pytest.mark.parametrize("kind", ["affine", "homography"])
def test_opencv_counts_as_many_inliers(kind):
    cv2 = pytest.importorskip("cv2")
    arguments, _, _ = planted(kind, (0.0, 0.5), seed=1)
    found = verified(arguments, kind)
    for i in range(2):
        source, target = (x * 1000 for x in matched(arguments[:2], arguments[2], i))
        if kind == "affine":
            _, mask = cv2.estimateAffine2D(
                source, target, method=cv2.RANSAC, ransacReprojThreshold=1000 * TOLERANCE, maxIters=5000
            )
        else:
            _, mask = cv2.findHomography(source, target, cv2.USAC_MAGSAC, 1000 * TOLERANCE, maxIters=5000)
        assert mask.sum() >= 80 and abs(int(mask.sum()) - int(found.inliers[i])) <= 3


def test_the_procedure_of_delf_counts_as_many_inliers():
    measure = pytest.importorskip("skimage.measure")
    transforms = pytest.importorskip("skimage.transform")
    spatial = pytest.importorskip("scipy.spatial")
    rng = np.random.default_rng(2)
    (source, targets, matches), _, _ = planted("affine", (0.5, 0.7), seed=2)
    of_query = rng.normal(size=(SLOTS, 16))
    of_query /= np.linalg.norm(of_query, axis=1, keepdims=True)
    of_candidate = np.empty_like(of_query)
    of_candidate[np.asarray(matches.candidate_row[0, :M])] = of_query[:M] + 0.05 * rng.normal(size=(M, 16))
    query = LocalFeatures(jnp.asarray(of_query, jnp.float32), source, jnp.int32(M))
    both = jnp.tile(jnp.asarray(of_candidate, jnp.float32), (2, 1, 1))
    ours = match(
        query, LocalFeatures(both, targets, jnp.array([M, M], jnp.int32)), ratio=None, distance=0.2, mutual=False
    )
    _, row = spatial.cKDTree(of_candidate[:M]).query(of_query[:M], distance_upper_bound=0.2)
    used = row < M
    np.testing.assert_array_equal(ours.valid[0, :M], used)
    np.testing.assert_array_equal(np.asarray(ours.candidate_row[0, :M])[used], row[used])
    assert 100 < used.sum() < M
    _, inlying = measure.ransac(
        (np.asarray(targets[0], np.float64)[row[used]], np.asarray(source[:M], np.float64)[used]),
        transforms.AffineTransform,
        min_samples=3,
        residual_threshold=TOLERANCE,
        max_trials=1000,
        rng=0,
    )
    found = verified((source, targets, ours))
    assert inlying.sum() > 40 and abs(int(found.inliers[0]) - int(inlying.sum())) <= 5


@pytest.mark.parametrize("kind, size", [("affine", 3), ("homography", 4)])
def test_no_sample_of_few_matches_has_more_inliers(kind, size):
    arguments, _, _ = planted(kind, (0.2, 0.3), seed=4)
    few = arguments[2]._replace(valid=jnp.tile(jnp.arange(SLOTS) < 10, (2, 1)))
    found = verified((*arguments[:2], few), kind)
    for i in range(2):
        source, target = matched(arguments[:2], few, i)
        best = 0
        for sample in itertools.combinations(range(10), size):
            rows = []
            for (x, y), (u, v) in zip(source[[*sample]], target[[*sample]], strict=True):
                rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
            rows = np.array(rows)[:, : 2 * size]
            t = np.append(np.linalg.solve(rows, target[[*sample]].ravel()), [0, 0, 1][2 * size - 6 :]).reshape(3, 3)
            best = max(best, int((np.linalg.norm(apply(t, source) - target, axis=1) <= TOLERANCE).sum()))
        assert found.inliers[i] >= best > size


@pytest.mark.parametrize("kind, most", [("affine", 9), ("homography", 12)])
def test_outliers_alone_have_few_inliers(kind, most):
    arguments, _, _ = planted(kind, (1.0, 1.0))
    assert (verified(arguments, kind).inliers <= most).all()


def test_a_result_depends_on_the_pair_and_the_seed_only():
    (source, targets, matches), _, _ = planted("affine", (0.5, 0.9), seed=3)
    both = verified((source, targets, matches))
    swapped = verified((source, targets[::-1], Matches(*(x[::-1] for x in matches))))
    for a, b in zip(both, swapped, strict=True):
        np.testing.assert_array_equal(a, b[::-1])
    without = verified((source, targets, matches._replace(valid=matches.valid.at[1].set(False))))
    for a, b in zip(both, without, strict=True):
        np.testing.assert_array_equal(a[0], b[0])
    spread = np.r_[0:99, M:SLOTS, 99:M]  # where the unused slots are does not matter, either
    moved = verified((source, targets, Matches(*(x[:, spread] for x in matches))))
    np.testing.assert_array_equal(moved.inliers, both.inliers)
    np.testing.assert_array_equal(moved.inlying, both.inlying[:, spread])


@pytest.mark.parametrize("kind", ["affine", "homography"])
def test_where_there_is_no_transform(kind):
    (source, targets, matches), _, _ = planted(kind, (0.0, 0.0))
    line = jnp.stack([source[:, 0], 0.5 * source[:, 0]], axis=1)
    point = jnp.full_like(line, 0.4)
    nothing = jnp.zeros((2, SLOTS), bool)
    for valid, seen, here in [
        (nothing, targets, source),
        (matches.valid & (jnp.arange(SLOTS) < 2)[None], targets, source),
        (matches.valid, jnp.stack([line, point]), source),
        (matches.valid, targets, line),
        (matches.valid, targets, point),
        (matches.valid, jnp.stack([line, point]), point),
    ]:
        found = verified((here, seen, matches._replace(valid=valid)), kind)
        assert not found.inliers.any() and not found.inlying.any() and not found.box.any()
        np.testing.assert_array_equal(found.transform, [np.eye(3)] * 2)


@pytest.mark.parametrize("kind", ["affine", "homography"])
def test_a_mirror_image_is_another_thing(kind):
    """Only the matches near some line agree."""
    (source, targets, matches), _, _ = planted(kind, (0.0, 0.0))
    found = verified((source, targets * jnp.array([-1.0, 1.0])[None, None], matches), kind)
    assert (found.inliers < 0.1 * M).all()


@pytest.mark.parametrize("kind", ["affine", "homography"])
def test_a_photograph_verifies_itself(kind):
    (source, _, matches), _, _ = planted(kind, (0.0, 0.0))
    itself = matches._replace(candidate_row=matches.query_row)
    found = verified((source, jnp.stack([source, source * 0.5]), itself), kind)
    np.testing.assert_array_equal(found.inliers, [M, M])
    for t, scale in zip(found.transform, (1, 0.5), strict=True):
        np.testing.assert_allclose(t, np.diag([scale, scale, 1]), atol=1e-5)
    np.testing.assert_allclose(found.box[0], [*source[:M].min(0), *source[:M].max(0)], atol=1e-6)


def test_a_feature_of_the_candidate_is_counted_once():
    """All matches go to three points: as many inliers, however many matches there are."""
    (source, targets, matches), _, _ = planted("affine", (0.0, 0.0))
    three = matches._replace(candidate_row=jnp.tile(jnp.arange(SLOTS, dtype=jnp.int32) % 3, (2, 1)))
    found = verified((source, targets, three))
    assert (found.inliers <= 3).all() and (found.inlying.sum(1) >= found.inliers).all()


def test_an_unknown_kind_names_those_there_are():
    arguments, _, _ = planted("affine", (0.0, 0.0))
    with pytest.raises(UserError, match="'projective'; take one of affine, homography"):
        verify(*arguments, kind="projective", trials=10, tolerance=TOLERANCE, seed=0)


def test_rankings_by_inliers():
    ids = np.array([[7, 3, 5, 1, 9], [2, 4, 6, -1, -1]])
    scores = np.array([[0.9, 0.8, 0.7, 0.6, 0.5], [0.9, 0.8, 0.7, -np.inf, -np.inf]], np.float32)
    inliers = np.array([[4, 30, 4, 0], [0, 0, 12, 99]], np.int32)
    new_ids, new_scores = rerank_by_inliers(ids, scores, inliers, trusted=0)
    np.testing.assert_array_equal(new_ids, [[3, 7, 5, 1, 9], [6, 2, 4, -1, -1]])
    np.testing.assert_array_equal(new_scores, [[30, 4, 4, 0, 0], [12, 0, 0, -np.inf, -np.inf]])
    new_ids, new_scores = rerank_by_inliers(ids, scores, inliers[:, ::-1], trusted=13)
    np.testing.assert_array_equal(new_ids, [[5, 7, 3, 1, 9], [2, 4, 6, -1, -1]])  # 30 inliers, and 99 of nothing
    np.testing.assert_array_equal(new_scores[0], [30, 0, 0, 0, 0])


@pytest.mark.photos
def test_real_photographs_of_one_building(photos):
    """Pairs that share a facade, and the same photographs of different buildings."""
    cv2 = pytest.importorskip("cv2")
    names = {"avignon__opera": (36, 31), "marseille__longchamp": (11, 2), "marseille__la_major": (14, 11)}
    most, seen = 500, []
    for place, pair in names.items():
        for number in pair:
            photo = decode_photo((photos / f"provence/images/{place}/{number:08}.jpg").read_bytes())
            h, w = photo.shape[:2]
            seen.append(sift(resize(photo, (h * 512 // max(h, w), w * 512 // max(h, w))), most))
    features, position = (
        jnp.stack([jnp.pad(z, [(0, most - len(z)), (0, 0)]) for z in x])
        for x in ([s.features for s in seen], [s.position for s in seen])
    )
    every = LocalFeatures(features, position, jnp.array([len(s.features) for s in seen], jnp.int32))
    for i in range(0, 6, 2):
        query = jax.tree.map(lambda z, i=i: z[i], every)
        matches = match(query, every, ratio=0.8, distance=None, mutual=True)
        found = verify(query.position, every.position, matches, kind="affine", trials=1000, tolerance=0.01, seed=0)
        others = [j for j in range(6) if j not in (i, i + 1)]
        assert found.inliers[i] == query.counts and found.inliers[i + 1] > 30 > 3 * int(
            found.inliers[np.array(others)].max()
        )
        source, target = matched((query.position, every.position), matches, i + 1)
        _, mask = cv2.estimateAffine2D(source * 1e3, target * 1e3, ransacReprojThreshold=10, maxIters=5000)
        assert 0.95 * mask.sum() <= found.inliers[i + 1] <= 1.3 * mask.sum()
