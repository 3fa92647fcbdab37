"""Hand-worked rankings, and a loop-written twin."""

import numpy as np
import pytest

from sret_jax.datasets.ground_truth import read_ground_truth
from sret_jax.errors import UserError
from sret_jax.metrics.ranking import (
    average_precision,
    gldv2_map_at_100,
    gldv2_micro_ap,
    leave_one_out_map,
    rank,
    recall_at,
    revisited_map,
    score_rankings,
    summarize,
)


def flags(text: str) -> np.ndarray:
    return np.array([c == "1" for c in text])


@pytest.mark.parametrize(
    ("ranking", "expected"),
    [
        ("1", 1.0),
        ("01", 1 / 2),
        ("1100", 1.0),
        ("0011", (1 / 3 + 2 / 4) / 2),
        ("10100", (1 / 1 + 2 / 3) / 2),
        ("011010", (1 / 2 + 2 / 3 + 3 / 5) / 3),
    ],
)
def test_average_precision_by_hand(ranking, expected):
    assert average_precision(flags(ranking)) == pytest.approx(expected, abs=1e-12)


def test_missing_relevant_photos_count_as_never_found():
    assert average_precision(flags("101"), total=4) == pytest.approx((1 + 2 / 3) / 4)
    assert np.isnan(average_precision(flags("000")))


def test_leave_one_out_by_hand():
    # Photos 0 and 1 are instance 0, photos 2 and 3 instance 1, photo 4 is alone, photo 5 has no instance.
    labels = np.array([0, 0, 1, 1, 2, -1])
    similarity = np.array(
        [
            [1.0, 0.9, 0.1, 0.2, 0.3, 0.0],  # 1 4 3 2 5: AP 1
            [0.9, 1.0, 0.95, 0.0, 0.1, 0.2],  # 2 0 ...: AP 1/2
            [0.1, 0.5, 1.0, 0.3, 0.4, 0.2],  # 1 4 3: AP 1/3, the distractor 4 takes a rank
            [0.1, 0.0, 0.2, 1.0, 0.3, 0.4],  # 5 4 2: AP 1/3, the photo without instance takes a rank
            [0.5, 0.5, 0.5, 0.5, 1.0, 0.5],
            [0.5, 0.5, 0.5, 0.5, 0.5, 1.0],
        ]
    )
    scores = leave_one_out_map(similarity, labels)
    assert scores["queries"] == 4
    assert scores["mAP"] == pytest.approx(100 * (1 + 1 / 2 + 1 / 3 + 1 / 3) / 4)
    assert scores["R@1"] == pytest.approx(25)
    assert scores["per_instance"] == {0: pytest.approx(75), 1: pytest.approx(100 / 3)}


def test_leave_one_out_matches_a_loop():
    rng = np.random.default_rng(0)
    for _ in range(200):
        n = int(rng.integers(8, 30))
        labels, similarity = rng.integers(-1, 4, n), rng.integers(0, 6, (n, n)).astype(float)  # ties
        expected = []
        for q in range(n):
            others = sorted((i for i in range(n) if i != q), key=lambda i: (-similarity[q, i], i))
            if labels[q] < 0 or sum(labels[i] == labels[q] for i in others) == 0:
                continue
            found, precisions = 0, []
            for position, i in enumerate(others, 1):
                if labels[i] == labels[q]:
                    found += 1
                    precisions.append(found / position)
            expected.append(sum(precisions) / len(precisions))
        assert leave_one_out_map(similarity, labels)["mAP"] == pytest.approx(100 * np.mean(expected), abs=1e-10)


def test_ties_keep_the_order_of_the_index():
    assert rank(np.array([[0.5, 0.7, 0.5, 0.7]])).tolist() == [[1, 3, 0, 2]]


def test_a_similarity_that_is_not_a_number_is_refused():
    with pytest.raises(UserError, match="query 1 and photo 0"):
        rank(np.array([[1.0, 0.0], [np.nan, 1.0]]))


def test_missing_results_are_skipped():
    rankings = np.array([[1, 2, -1, -1]])
    ap, first = score_rankings(rankings, np.array([7]), np.array([7, 3, 7, 7]), np.array([0]))
    assert ap[0] == pytest.approx((1 / 2) / 2) and not first[0]  # photo 3 was never found
    ap, first = score_rankings(np.array([[-1, -1]]), np.array([0]), np.array([0, 0]))
    assert ap[0] == 0 and not first[0]


def test_separate_queries_do_not_lose_a_photo():
    labels = np.array([0, 0, 1])
    ap, first = score_rankings(np.array([[0, 2, 1], [2, 0, 1], [0, 1, 2]]), np.array([0, 1, 5]), labels)
    assert ap[:2] == pytest.approx([(1 + 2 / 3) / 2, 1.0]) and np.isnan(ap[2]) and first.tolist() == [True, True, False]


def test_nothing_to_measure_is_an_error():
    with pytest.raises(UserError, match="at least two photos"):
        summarize(np.array([np.nan]), np.array([False]), np.array([0]))


def arrays(*lists) -> list[np.ndarray]:
    return [np.array(x, np.int64) for x in lists]


EASY, HARD, JUNK = arrays([0, 1], []), arrays([2], [4]), arrays([3], [])
RANKINGS = np.array([[3, 0, 2, 5, 1, 4], [0, 4, 1, 2, 3, 5]])


def test_revisited_by_hand():
    # Query 0 easy: 3 and 2 do not count, 0 5 1 4: positions 0, 2: (1 + 1)/2 and (1/2 + 2/3)/2, over 2.
    # Query 0 medium: 0 2 5 1 4: positions 0, 1, 3: 1, 1 and (2/3 + 3/4)/2, over 3. Query 1: position 1: (0 + 1/2)/2.
    # Query 0 hard: 2 5 4: position 0. Query 1 has nothing easy.
    scores = revisited_map(RANKINGS, EASY, HARD, JUNK, ks=(1, 2, 10))
    assert scores["easy"]["mAP"] == pytest.approx(100 * (1 + 7 / 12) / 2, abs=1e-12)
    assert scores["medium"]["mAP"] == pytest.approx(100 * ((2 + 17 / 24) / 3 + 1 / 4) / 2, abs=1e-12)
    assert scores["hard"]["mAP"] == pytest.approx(100 * (1 + 1 / 4) / 2, abs=1e-12)
    assert [scores[name]["queries"] for name in scores] == [1, 2, 2]
    assert [scores["easy"][f"mP@{k}"] for k in (1, 2, 10)] == pytest.approx(
        [100, 50, 100 * 2 / 3]
    )  # last right: rank 3
    assert [scores["hard"][f"mP@{k}"] for k in (1, 2, 10)] == pytest.approx([50, 75, 75])  # query 1: rank 2 at most


def test_a_truncated_ranking_finds_less_and_a_set_without_queries_has_no_mean():
    scores = revisited_map(np.array([[3, 2], [0, -1]]), EASY, HARD, JUNK)
    assert scores["easy"] == {"mAP": 0, "mP@1": 0, "mP@5": 0, "mP@10": 0, "queries": 1}
    assert scores["medium"]["mAP"] == pytest.approx(100 * (1 / 3) / 2)
    assert revisited_map(RANKINGS, arrays([], []), HARD, JUNK)["easy"] == {"queries": 0}
    with pytest.raises(UserError, match="query 1 holds photo 4 twice"):
        revisited_map(np.array([[0, 1, 2], [4, 0, 4]]), EASY, HARD, JUNK)


def revisited_twin(ranking, relevant, junk, ks) -> tuple[float, list[float]]:
    """Precision and recall photo by photo, and the area of each trapezoid under them."""
    seen = hits = 0
    area, ranks = 0.0, []
    for photo in ranking:
        if photo in junk or photo < 0:
            continue
        if photo in relevant:
            before = hits / seen if seen else 1.0
            after = (hits + 1) / (seen + 1)
            area += (before + after) / 2 * ((hits + 1) / len(relevant) - hits / len(relevant))
            hits += 1
            ranks.append(seen + 1)
        seen += 1
    precisions = []
    for k in ks:
        k = min(k, max(ranks, default=0))
        precisions.append(sum(r <= k for r in ranks) / k if k else 0.0)
    return area, precisions


def compare_with_twin(rankings, easy, hard, junk, ks=(1, 5, 10)):
    ours = revisited_map(rankings, easy, hard, junk, ks)
    for name in ("easy", "medium", "hard"):
        found = []
        for q, ranking in enumerate(rankings.tolist()):
            e, h, j = ({int(i) for i in x[q]} for x in (easy, hard, junk))
            relevant = {"easy": e, "medium": e | h, "hard": h}[name]
            ignored = j | {"easy": h, "medium": set(), "hard": e}[name]
            if relevant:
                found.append(revisited_twin(ranking, relevant, ignored, ks))
        assert ours[name]["queries"] == len(found)
        if found:
            assert ours[name]["mAP"] == pytest.approx(100 * np.mean([ap for ap, _ in found]), abs=1e-10)
            means = 100 * np.mean([p for _, p in found], axis=0)
            assert [ours[name][f"mP@{k}"] for k in ks] == pytest.approx(means.tolist(), abs=1e-10)


def test_revisited_matches_a_loop():
    rng = np.random.default_rng(0)
    for _ in range(200):
        n = int(rng.integers(4, 30))
        kinds = rng.choice(4, (5, n), p=rng.dirichlet([1, 1, 1, 2]))  # often an empty set
        easy, hard, junk = ([np.flatnonzero(row == kind) for row in kinds] for kind in range(3))
        similarity = rng.integers(0, 4, (5, n + 6)).astype(float)  # ties, and distractors
        rankings = rank(similarity)[:, : rng.integers(1, n + 7)]
        compare_with_twin(rankings, easy, hard, junk)


@pytest.mark.photos
@pytest.mark.parametrize("name", ["roxford5k", "rparis6k"])
def test_revisited_matches_a_loop_on_the_real_ground_truth(photos, name):
    truth = read_ground_truth(photos / "allsouls" / f"gnd_{name}.pkl")
    rng = np.random.default_rng(0)
    n = len(truth.photos) + 300  # distractors
    wanted = np.zeros((70, n))
    for q in range(70):
        wanted[q, truth.easy[q]], wanted[q, truth.hard[q]], wanted[q, truth.junk[q]] = 2, 1, 1
    for trial in range(200):  # five queries at a time, so that the loop stays affordable
        part = slice(trial % 14 * 5, trial % 14 * 5 + 5)
        similarity = wanted[part] * rng.random() * 2 + rng.integers(0, 200, (5, n)) / 200  # ties
        rankings = rank(similarity)[:, : rng.integers(50, 500)]
        compare_with_twin(rankings, truth.easy[part], truth.hard[part], truth.junk[part])


def test_recall_by_hand():
    relevant = arrays([5], [0, 1], [])
    assert recall_at(RANKINGS.repeat(2, 0)[:3], relevant, (1, 2, 4)).tolist() == [0, 0.5, 1]
    assert np.isnan(recall_at(RANKINGS[:1], arrays([]), (1,))).all()


def test_recall_matches_a_loop():
    rng = np.random.default_rng(0)
    for _ in range(200):
        n = int(rng.integers(3, 20))
        relevant = [np.flatnonzero(rng.random(n) < 0.2) for _ in range(5)]
        rankings = rng.permuted(np.tile(np.arange(n), (5, 1)), axis=1)[:, : rng.integers(1, n)]
        for k in (1, 3, 10):
            asked = [q for q in range(5) if len(relevant[q])]
            hits = [any(photo in set(relevant[q].tolist()) for photo in rankings[q].tolist()[:k]) for q in asked]
            expected = sum(hits) / len(hits) if hits else float("nan")
            assert recall_at(rankings, relevant, (k,))[0] == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_a_duplicate_consumes_a_rank_and_an_absent_query_counts_zero():
    solution = {"a": ["x", "y"], "b": ["w"], "c": ["q"]}
    predictions = {"a": ["x", "x", "y"], "b": ["z"]}
    assert gldv2_map_at_100(predictions, solution) == pytest.approx((1 + 2 / 3) / 2 / 3, abs=1e-12)
    assert gldv2_map_at_100({"a": ["z"] * 99 + ["x", "y"]}, {"a": ["x", "y"]}) == pytest.approx(1 / 100 / 2)
    many = [str(i) for i in range(150)]
    assert gldv2_map_at_100({"a": many}, {"a": many}) == 1
    with pytest.raises(UserError, match="query 'd' is answered"):
        gldv2_map_at_100({"d": []}, solution)
    with pytest.raises(UserError, match="nothing to find"):
        gldv2_map_at_100({}, {"a": []})


def test_micro_ap_by_hand():
    solution = {"a": [1], "b": [2, 3], "c": [], "d": [5]}
    predictions = {"a": (1, 0.5), "b": (3, 0.9), "c": (9, 0.7)}  # right, wrong (shows no landmark), right; d is absent
    assert gldv2_micro_ap(predictions, solution) == pytest.approx((1 + 2 / 3) / 3, abs=1e-12)
    tied = {"c": (9, 0.5), "a": (1, 0.5)}  # by name: a first
    assert gldv2_micro_ap(tied, solution) == pytest.approx(1 / 3)
    with pytest.raises(UserError, match="confidence of query 'a' is nan"):
        gldv2_micro_ap({"a": (1, float("nan"))}, solution)


def test_the_landmark_metrics_match_a_loop():
    rng = np.random.default_rng(0)
    for _ in range(200):
        photos = [f"p{i}" for i in range(int(rng.integers(2, 200)))]
        solution = {f"q{q}": list(rng.choice(photos, rng.integers(1, len(photos)), replace=False)) for q in range(5)}
        predictions = {q: list(rng.choice(photos, rng.integers(0, 130))) for q in solution if rng.random() < 0.8}
        total = 0.0
        for q, right in solution.items():
            answers = predictions.get(q, [])[:100]
            hits, ap = 0, 0.0
            for i, answer in enumerate(answers):
                if answer in right and answer not in answers[:i]:
                    hits += 1
                    ap += hits / (i + 1)
            total += ap / min(100, len(right))
        assert gldv2_map_at_100(predictions, solution) == pytest.approx(total / 5, abs=1e-12)

        truth = {f"q{q}": list(rng.choice(6, rng.integers(0, 3), replace=False)) for q in range(30)} | {"q99": [1]}
        given = {q: (int(rng.integers(6)), float(rng.integers(4))) for q in truth if rng.random() < 0.8}
        hits, gap = 0, 0.0
        for i, q in enumerate(sorted(sorted(given), key=lambda q: given[q][1], reverse=True)):
            if given[q][0] in truth[q]:
                hits += 1
                gap += hits / (i + 1)
        gap /= sum(1 for landmarks in truth.values() if len(landmarks))
        assert gldv2_micro_ap(given, truth) == pytest.approx(gap, abs=1e-12)
