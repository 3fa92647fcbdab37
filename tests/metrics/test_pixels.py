"""Pixel retrieval: the published evaluator's numbers, with its flaws, and the strict ones without."""

import cv2
import numpy as np
import pytest

from sret_jax.datasets.ground_truth import read_ground_truth
from sret_jax.datasets.pixel_truth import UNLABELLED
from sret_jax.datasets.polygons import MAX_COORDINATE, polygon
from sret_jax.metrics.pixels import (
    box_iou,
    mask_box,
    mask_iou,
    mean_iou_official,
    mean_iou_strict,
    official_ious,
    official_mask_ious,
    pixel_map_official,
    pixel_map_strict,
)
from sret_jax.metrics.ranking import revisited_map, revisited_sets


def rows(*lists) -> list[np.ndarray]:
    return [np.array(x, np.int64) for x in lists]


RELEVANT, JUNK = rows([0, 1], [2, 3]), rows([], [4])
RANKINGS = np.array([[0, 1, 2, 3, 4], [4, 0, 2, 1, 3]])


def test_by_hand():
    ious = [{0: 0.72, 1: 0.5}, {2: 1.0}]
    # Query 0: photo 0 passes 50 to 70 (five thresholds) and no more; photo 1 passes none, 0.5 is not larger than 0.5.
    # Query 1 without junk: 0 2 1 3; photo 2, at position 1: trapezoid (0/1 + 1/2) / 2 = 1/4.
    official = (5 * (1 + 1 / 4) / 2 + 5 * (1 / 4) / 1) / 10
    strict = (5 * (1 / 2 + 1 / 8) / 2 + 5 * (0 + 1 / 8) / 2) / 10
    assert pixel_map_official(RANKINGS, RELEVANT, JUNK, ious) == pytest.approx(official, abs=1e-12)
    assert pixel_map_strict(RANKINGS, RELEVANT, JUNK, ious) == pytest.approx(strict, abs=1e-12)
    # An unlabelled query still divides the official mean, and is not asked in the strict one.
    assert pixel_map_official(RANKINGS, RELEVANT, JUNK, ious, [0]) == pytest.approx(1 / 8, abs=1e-12)
    assert pixel_map_strict(RANKINGS, RELEVANT, JUNK, ious, [0]) == pytest.approx(1 / 8, abs=1e-12)


def test_localising_less_pays_in_the_official_rules_only():
    everything = [{0: 1.0, 1: 1.0}, {2: 1.0, 3: 1.0}]
    one = [{0: 1.0}, {}]
    assert pixel_map_official(RANKINGS, RELEVANT, JUNK, one) == 1.0
    assert pixel_map_official(RANKINGS, RELEVANT, JUNK, everything) < 1
    assert pixel_map_strict(RANKINGS, RELEVANT, JUNK, one) == pytest.approx(1 / 4)
    assert pixel_map_strict(RANKINGS, RELEVANT, JUNK, one) < pixel_map_strict(RANKINGS, RELEVANT, JUNK, everything)
    assert pixel_map_official(RANKINGS, RELEVANT, JUNK, [{}, {}]) == 0


def test_mean_overlap_by_hand():
    easy, hard = rows([0, 1], [2]), rows([5, 6], [7])
    ious = [{0: 0.5, 5: 0.7}, {7: 1.0}]
    # Official: the easy photos 1 and 2 were not marked and drop out, the hard photo 6 counts 0.
    assert mean_iou_official(ious, easy, hard) == pytest.approx(((0.7 + 0 + 0.5) / 3 / 2 + 1 / 2, (0.35 + 1) / 2))
    assert mean_iou_strict(ious, rows([0, 1, 5, 6], [2, 7])) == pytest.approx((1.2 / 4 + 1 / 2) / 2)
    assert mean_iou_strict(ious, rows([0, 1, 5, 6], [2, 7]), [0]) == pytest.approx(1 / 2)
    assert np.isnan(mean_iou_official(ious, rows([], []), rows([], [7]))[1])


def test_overlaps_by_hand():
    found, true = np.zeros((12, 12), bool), np.zeros((12, 12), bool)
    found[2:6, 2:8], true[4:8, 2:8] = True, True  # 24 pixels each, 12 in both
    assert mask_iou(found, true) == pytest.approx(12 / 36) and mask_iou(found & False, true & False) == 0
    assert mask_box(found).tolist() == [2, 2, 8, 6] and mask_box(found & False) is None
    assert box_iou(mask_box(found), mask_box(true)) == pytest.approx(12 / 36)
    assert box_iou(np.array([0.0, 0, 1, 1]), np.array([5.0, 5, 6, 6])) == 0
    # The largest coordinate is 7: row 7 and column 7 fall off, 4x5 and 3x5 pixels remain, 2x5 in both.
    assert official_mask_ious(found, true) == pytest.approx((10 / 25, 10 / 25))
    assert official_mask_ious(found & False, true) == (0, 0)


def square(left, top, right, bottom) -> np.ndarray:
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])


def test_published_overlaps_by_hand():
    # The rectangles of `test_overlaps_by_hand`, their borders included: on the same canvas the same.
    assert official_ious(square(2, 2, 7, 5), [square(2, 4, 7, 7)]) == (10 / 25, 10 / 25)
    # Shapes are joined; their box is around all of them. The canvas has 9 pixels a side, column 9 falls off.
    two = [square(0, 0, 1, 1), square(8, 0, 9, 1)]  # 4 and 2 pixels of the canvas
    assert official_ious(square(0, 0, 9, 1), two) == (1, 6 / 18)
    # A box that begins at -1 is counted from the last row or column, where it has none; the area is only cut.
    assert official_ious(square(-1, 2, 4, 5), [square(0, 2, 9, 5)]) == (0, 5 * 4 / (9 * 4))
    # One that begins at -3 and ends at 7 of a canvas of 9 has columns 6 and 7.
    assert official_ious(square(-3, 2, 7, 5), [square(5, 2, 9, 5)])[0] == 2 * 4 / (4 * 4)
    assert official_ious(square(20, 20, 30, 30), [square(1, 1, 9, 9)]) == (0, 0)
    assert np.isnan(official_ious(square(5, 5, 5, 5), [square(5, 5, 5, 5)])).all()  # all of it falls off
    assert np.isnan(official_ious(square(-9, -9, -1, -1), [square(-5, -5, 0, 0)])).all()  # no canvas at all


def test_a_polygon_as_far_as_it_may_reach_is_measured():
    far = MAX_COORDINATE
    box, area = official_ious(np.array([[0, 0], [far, 0], [0, 2]]), [square(0, 0, 9, 9)])
    assert box == 10 * 3 / (far * 3 + 100 - 30) and 0 < area < box * 2


def twin_overlaps(found, true) -> tuple[float, float]:
    """The published canvas pixel by pixel: what falls off it, is cut by it, or is counted from its other end."""
    every = [point for shape in true for point in shape]
    side = max(coordinate for point in [*found, *every] for coordinate in point)
    boxes, areas = [], []
    for points, shapes in ((found, [found]), (every, true)):
        columns, rows = ([point[axis] for point in points] for axis in (0, 1))
        canvas = np.zeros((side, side))
        canvas[min(rows) : max(rows) + 1, min(columns) : max(columns) + 1] = 1
        boxes.append({(x, y) for y in range(side) for x in range(side) if canvas[y, x]})
        canvas = np.zeros((side, side))
        for shape in shapes:
            cv2.fillPoly(canvas, [np.array(shape, np.int32)], 255.0)
        areas.append({(x, y) for y in range(side) for x in range(side) if canvas[y, x]})
    return tuple(len(a & b) / len(a | b) if a | b else float("nan") for a, b in (boxes, areas))


def test_published_overlaps_match_a_loop():
    rng = np.random.default_rng(0)
    touched = 0
    for trial in range(200):
        size = rng.integers(20, 60, 2)
        shapes = [rng.uniform(-1, size + 1, (rng.integers(1, 8), 2)) for _ in range(rng.integers(1, 4))]
        if trial % 4 == 0:  # nearly what was drawn
            mark = shapes[0] + rng.integers(-3, 4, shapes[0].shape)
        else:
            mark = rng.uniform(-0.5 * (trial % 2) * size, size * rng.uniform(0.5, 1.5), (rng.integers(1, 10), 2))
        mark, shapes = polygon(mark), [polygon(shape) for shape in shapes]
        ours = official_ious(mark, shapes)
        np.testing.assert_array_equal(ours, twin_overlaps(mark.tolist(), [shape.tolist() for shape in shapes]))
        touched += 0 < ours[0] < 1 and 0 < ours[1] < 1
    assert touched > 60


def twin_map(rankings, relevant, junk, ious, unlabelled, strict: bool) -> float:
    """The definition again, with loops and the precision counted photo by photo."""
    per_threshold = []
    for threshold in np.arange(0.5, 0.96, 0.05).round(2):
        scores, queries = [], 0
        for q in range(len(relevant)):
            right = {photo for photo in relevant[q] if ious[q].get(photo, 0) > threshold}
            if strict:
                if q in unlabelled or not len(relevant[q]):
                    continue
            elif not right and q not in unlabelled:
                continue
            queries += 1
            area, seen, hits = 0.0, 0, 0
            for photo in rankings[q] if q not in unlabelled else []:
                if photo in junk[q] or photo < 0:
                    continue
                if photo in right:
                    area += (hits / seen if seen else 1.0) + (hits + 1) / (seen + 1)
                    hits += 1
                seen += 1
            scores.append(area / 2 / (len(relevant[q]) if strict else len(right) or 1))
        per_threshold.append(sum(scores) / queries if queries else 0.0)
    return sum(per_threshold) / len(per_threshold)


def draw(rng, relevant) -> list[dict[int, float]]:
    grid = np.arange(0, 1.0001, 0.05).round(2)  # on the thresholds exactly, as often as not

    def overlap() -> float:
        return float(grid[rng.integers(len(grid))] if rng.random() < 0.5 else rng.random())

    return [{int(i): overlap() for i in right if rng.random() < 0.8} for right in relevant]


def test_both_match_a_loop():
    rng = np.random.default_rng(0)
    for _ in range(200):
        kinds = rng.choice(4, (6, 15), p=[0.2, 0.2, 0.2, 0.4])
        relevant, junk = ([np.flatnonzero(row == kind) for row in kinds] for kind in (0, 1))
        relevant[0] = relevant[0][:0]
        rankings = np.argsort(rng.random((6, 15)), axis=1)[:, : rng.integers(3, 16)]
        ious, unlabelled = draw(rng, relevant), (2, 3) if rng.random() < 0.5 else ()
        arguments = rankings, relevant, junk, ious, unlabelled
        assert pixel_map_official(*arguments) == pytest.approx(twin_map(*arguments, strict=False), abs=1e-12)
        assert pixel_map_strict(*arguments) == pytest.approx(twin_map(*arguments, strict=True), abs=1e-12)


def twin_means(ious, easy, hard, unlabelled) -> tuple[float, float, float]:
    """(official medium, official hard, strict medium) again, added up photo by photo."""
    medium, only, strict = [], [], []
    for q in range(len(ious)):
        total, hard_total, count, everything = 0.0, 0.0, 0, 0.0
        for photo in hard[q]:
            total += ious[q][photo] if photo in ious[q] else 0
            hard_total += ious[q].get(photo, 0)
            count += 1
        for photo in easy[q]:
            if photo in ious[q]:
                total += ious[q][photo]
                count += 1
        for photo in {*easy[q], *hard[q]}:
            everything += ious[q].get(photo, 0)
        medium.append(total / count if count else float("nan"))
        only.append(hard_total / len(hard[q]) if len(hard[q]) else float("nan"))
        if q not in unlabelled and len(easy[q]) + len(hard[q]):
            strict.append(everything / (len(easy[q]) + len(hard[q])))
    return sum(medium) / len(ious), sum(only) / len(ious), sum(strict) / len(strict) if strict else float("nan")


def test_mean_overlaps_match_a_loop():
    rng, defined = np.random.default_rng(2), np.zeros(3, int)
    for _ in range(200):
        kinds = rng.choice(3, (rng.integers(1, 6), 8), p=[0.35, 0.35, 0.3])
        easy, hard = ([np.flatnonzero(row == kind) for row in kinds] for kind in (0, 1))
        ious = draw(rng, [np.concatenate(pair) for pair in zip(easy, hard, strict=True)])
        unlabelled = (0,) if rng.random() < 0.3 else ()
        relevant = [np.concatenate(pair) for pair in zip(easy, hard, strict=True)]
        ours = *mean_iou_official(ious, easy, hard), mean_iou_strict(ious, relevant, unlabelled)
        np.testing.assert_allclose(ours, twin_means(ious, easy, hard, unlabelled), rtol=0, atol=1e-12)
        defined += np.isfinite(ours)
    assert (defined > 100).all() and (defined < 200).any()


@pytest.mark.photos
@pytest.mark.parametrize("name", ["roxford5k", "rparis6k"])
def test_a_perfect_result_on_the_real_ground_truth(photos, name):
    truth = read_ground_truth(photos / "allsouls" / f"gnd_{name}.pkl")
    found = [np.concatenate([e, h]) for e, h in zip(truth.easy, truth.hard, strict=True)]
    rankings = np.stack([np.concatenate([x, np.setdiff1d(np.arange(len(truth.photos)), x)]) for x in found])
    for medium in (True, False):
        relevant, junk = revisited_sets(truth.easy, truth.hard, truth.junk)["medium" if medium else "hard"]
        ious = [dict.fromkeys(right.tolist(), 1.0) for right in relevant]
        official = pixel_map_official(rankings, relevant, junk, ious, UNLABELLED[name])
        assert official == pytest.approx(68 / 70, abs=1e-12) and round(official, 4) == 0.9714
        assert pixel_map_strict(rankings, relevant, junk, ious, UNLABELLED[name]) == pytest.approx(1, abs=1e-12)
    assert revisited_map(rankings, truth.easy, truth.hard, truth.junk)["medium"]["mAP"] == pytest.approx(100)


@pytest.mark.photos
@pytest.mark.parametrize("name", ["roxford5k", "rparis6k"])
def test_random_results_on_the_real_ground_truth(photos, name):
    truth = read_ground_truth(photos / "allsouls" / f"gnd_{name}.pkl")
    rng = np.random.default_rng(1)
    relevant, junk = revisited_sets(truth.easy, truth.hard, truth.junk)["medium"]
    for trial in range(200):  # two queries at a time, so that the loop stays affordable
        part = slice(trial % 35 * 2, trial % 35 * 2 + 2)
        unlabelled = [q - part.start for q in UNLABELLED[name] if part.start <= q < part.stop]
        rankings = rng.permuted(np.tile(np.arange(len(truth.photos)), (2, 1)), axis=1)[:, :150]
        right, ignored, ious = relevant[part], junk[part], draw(rng, relevant[part])
        sets = [[set(x.tolist()) for x in rows] for rows in (right, ignored)]
        for strict, ours in ((False, pixel_map_official), (True, pixel_map_strict)):
            expected = twin_map(rankings.tolist(), *sets, ious, unlabelled, strict)
            assert ours(rankings, right, ignored, ious, unlabelled) == pytest.approx(expected, abs=1e-12)
