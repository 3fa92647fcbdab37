"""Pixel retrieval: the published evaluator's numbers, with its flaws, and the strict ones without."""

import numpy as np
import pytest

from sret_jax.data.ground_truth import read_ground_truth
from sret_jax.data.pixel_truth import UNLABELLED
from sret_jax.evaluation.metrics import revisited_map, revisited_sets
from sret_jax.evaluation.pixel_metrics import (
    box_iou,
    mask_box,
    mask_iou,
    mean_iou_official,
    mean_iou_strict,
    official_ious,
    pixel_map_official,
    pixel_map_strict,
)


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
    assert official_ious(found, true) == pytest.approx((10 / 25, 10 / 25))
    assert official_ious(found & False, true) == (0, 0)


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
