"""Marks of relevant photographs are compared with what was drawn; what is not marked counts nothing."""

import numpy as np
import pytest

from sret_jax.datasets.pixel_truth import PixelTruth
from sret_jax.evaluation.pixel_protocol import pixel_protocol


def rows(*lists):
    return [np.array(x, np.int64) for x in lists]


def block(size: int) -> np.ndarray:
    """A square of this many pixels a side in the corner of a photograph of 20."""
    out = np.zeros((20, 20), bool)
    out[:size, :size] = True
    return out


# Query 1 is not labelled. Photograph i shows a square of 10 pixels.
TRUTH = PixelTruth(lambda q, i: block(10), rows([0], [0], [3]), rows([1], [], []), rows([2], [], []), (1,))
RANKINGS = np.array([[2, 0, 4, 1, 3], [0, 1, 2, 3, 4], [4, 3, 2, 1, 0]])


def test_a_hand_worked_example():
    sides = {(0, 0): 10, (0, 1): 8, (2, 3): 0}  # all of it, 64 of 100 pixels, nothing
    asked = []

    def locate(query, photos):
        asked.extend((query, photo) for photo in photos)
        return [block(sides[query, photo]) for photo in photos]

    found, ious = pixel_protocol(RANKINGS, TRUTH, locate)
    assert asked == [(0, 0), (0, 1), (2, 3)]
    assert ious == [{0: 1.0, 1: pytest.approx(0.64)}, {}, {}]
    strict = found["strict"]
    assert strict["mIoU"] == strict["box mIoU"] == pytest.approx(100 * (0.82 + 0) / 2)
    assert strict["mIoU hard"] == pytest.approx(64) and strict["CorLoc"] == pytest.approx(200 / 3)
    # Query 0 without junk: 0 first, 1 third. At t = 50, 55, 60 both count: (1 + (1/2 + 2/3) / 2) / 2; then 0 alone, of
    # two. Query 2: nothing.
    both, alone = (1 + (1 / 2 + 2 / 3) / 2) / 2, 1 / 2
    assert strict["mAP@50:5:95"] == pytest.approx(100 * (3 * both + 7 * alone) / 10 / 2)
    # Of hard photographs photograph 1 alone, second when the easy one is out of the way.
    assert strict["mAP@50:5:95 hard"] == pytest.approx(100 * 3 * (0 + 1 / 2) / 2 / 10)
    # As published the query without marks is no query, nor is photograph 1 above its overlap, which is of a canvas of
    # 9 pixels: 64 of 81.
    published = found["official"]
    assert published["mAP@50:5:95"] == pytest.approx(100 * (6 * both + 4 * 1) / 10 / 2)
    assert published["mAP@50:5:95"] > strict["mAP@50:5:95"]
    assert published["mAP@50:5:95 hard"] == pytest.approx(100 * 6 * (0 + 1 / 2) / 2 / 10 / 2)  # query 1 divides it
    assert "mIoU" not in published  # the mean over the marked photographs of a query that has none


def test_a_label_that_lies_beside_its_photograph_overlaps_with_nothing():
    truth = PixelTruth(lambda q, i: block(0), rows([0]), rows([]), rows([]))
    found, ious = pixel_protocol(np.array([[0]]), truth, lambda q, photos: [block(10)])
    assert ious == [{0: 0.0}]
    assert found["strict"]["box mIoU"] == found["official"]["box mIoU"] == 0


def test_the_published_mean_counts_hard_photographs_and_drops_easy_ones():
    truth = PixelTruth(TRUTH.mask, rows([0, 2], [1]), rows([1], [3]), rows([], []))
    sides = {(0, 0): 10, (0, 1): 8, (0, 2): 0, (1, 1): 10, (1, 3): 0}
    found, _ = pixel_protocol(
        np.array([[0, 1, 2, 3]] * 2), truth, lambda q, photos: [block(sides[q, i]) for i in photos]
    )
    overlap = 64 / 81  # of squares of 8 and 10, on a canvas of 9
    assert found["official"]["mIoU"] == pytest.approx(100 * ((overlap + 1) / 2 + (0 + 1) / 2) / 2)
    assert found["official"]["mIoU hard"] == pytest.approx(100 * (overlap + 0) / 2)
    assert found["strict"]["mIoU"] == pytest.approx(100 * ((0.64 + 1 + 0) / 3 + (0 + 1) / 2) / 2)


def test_a_perfect_mark_is_worth_the_ranking():
    truth = PixelTruth(TRUTH.mask, rows([0, 1]), rows([]), rows([]))
    found, _ = pixel_protocol(np.array([[0, 1, 2]]), truth, lambda q, photos: [block(10) for _ in photos])
    assert all(value == pytest.approx(100) for rules in found.values() for value in rules.values())
    assert "mIoU hard" not in found["strict"]


def test_polygons_are_measured_on_the_published_canvas():
    """What no mask shows: a mark beyond its photograph, and labels of a query that is not asked."""
    inside, beyond = np.array([[0, 0], [9, 0], [9, 9], [0, 9]]), np.array([[0, 0], [19, 0], [19, 9], [0, 9]])
    truth = PixelTruth(
        lambda q, i: block(10),
        rows([0], [0]),
        rows([1], [1]),
        rows([], []),
        (1,),
        lambda q, i: [inside] if i < 2 else None,
    )
    outlines = {(0, 0): inside, (0, 1): beyond, (1, 0): np.empty((0, 2), np.int64), (1, 1): inside}
    found, _ = pixel_protocol(
        np.array([[0, 1]] * 2), truth, lambda q, photos: [block(10) for _ in photos], lambda q, i: outlines[q, i]
    )
    share = 100 / 190  # of 10 x 10 and 19 x 10 pixels, the last column cut
    assert found["official"]["mIoU"] == found["official"]["box mIoU"] == pytest.approx(100 * ((1 + share) / 2 + 1) / 2)
    assert found["official"]["mIoU hard"] == pytest.approx(100 * (share + 1) / 2)
    assert found["strict"]["mIoU"] == 100
    masks, _ = pixel_protocol(np.array([[0, 1]] * 2), truth, lambda q, photos: [block(10) for _ in photos])
    assert masks["official"]["mIoU"] == pytest.approx(100 * (1 + 0) / 2)  # without outlines: of the masks
