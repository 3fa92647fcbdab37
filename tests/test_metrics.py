"""Hand-worked rankings, and a loop-written twin."""

import numpy as np
import pytest

from sret_jax.errors import UserError
from sret_jax.evaluation.metrics import average_precision, leave_one_out_map, rank, score_rankings, summarize


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
    labels, similarity = rng.integers(-1, 6, 40), rng.normal(size=(40, 40))
    expected = []
    for q in range(40):
        others = sorted((i for i in range(40) if i != q), key=lambda i: (-similarity[q, i], i))
        if labels[q] < 0 or sum(labels[i] == labels[q] for i in others) == 0:
            continue
        found, precisions = 0, []
        for position, i in enumerate(others, 1):
            if labels[i] == labels[q]:
                found += 1
                precisions.append(found / position)
        expected.append(sum(precisions) / len(precisions))
    assert leave_one_out_map(similarity, labels)["mAP"] == pytest.approx(100 * np.mean(expected), abs=1e-9)


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
