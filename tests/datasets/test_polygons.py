"""Masks to polygons and back to the same masks."""

import numpy as np
import pytest
from scipy import ndimage
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial.distance import cdist

from sret_jax.datasets import polygons
from sret_jax.datasets.polygons import MAX_COORDINATE, outline_polygon, polygon, polygon_mask
from sret_jax.storage.files import Unreadable


def blobs(rng) -> np.ndarray:
    """Several parts with holes, islands in them and bays, some at the photograph's border."""
    noise = ndimage.gaussian_filter(rng.normal(size=(45, 60)), rng.choice([1, 2, 3]))
    return noise > rng.choice([-0.03, 0, 0.05])


def test_a_part_with_its_holes_comes_back_exactly():
    rng, holes = np.random.default_rng(0), 0
    for _ in range(100):
        labels, count = ndimage.label(blobs(rng), np.ones((3, 3)))
        for part in range(1, min(count, 4) + 1):
            mask = labels == part
            points = outline_polygon(mask)
            np.testing.assert_array_equal(polygon_mask([points], mask.shape), mask)
            holes += ndimage.label(~np.pad(mask, 1))[1] > 1
    assert holes > 30


def test_parts_are_joined_by_the_shortest_bridges():
    mask = np.zeros((20, 30), bool)
    mask[2:8, 2:8], mask[4:7, 12:17], mask[15:18, 3:6] = True, True, True
    bridges = polygon_mask([outline_polygon(mask)], mask.shape) & ~mask
    assert not (mask & ~polygon_mask([outline_polygon(mask)], mask.shape)).any()
    rows, columns = np.nonzero(bridges)
    assert sorted(zip(rows.tolist(), columns.tolist(), strict=True))[-1][0] == 14  # down to the third, row by row
    assert bridges.sum() == 4 + 7  # columns 8 to 11, rows 8 to 14


def test_no_part_is_lost():
    rng = np.random.default_rng(1)
    for _ in range(50):
        mask = blobs(rng)
        filled = polygon_mask([outline_polygon(mask)], mask.shape)
        assert not (mask & ~filled).any()
        labels, count = ndimage.label(mask, np.ones((3, 3)))
        parts = [np.argwhere(labels == part) for part in range(1, count + 1)]
        gaps = [[cdist(a, b).min() for b in parts] for a in parts]
        assert (filled & ~mask).sum() <= 1.5 * minimum_spanning_tree(np.array(gaps)).sum()  # there and back may differ


def test_crumbs_beyond_the_limit_are_left_out_and_the_largest_part_never_is(monkeypatch):
    mask = np.zeros((20, 40), bool)
    mask[1:11, 1:11], mask[2:6, 20:24], mask[15, 30] = True, True, True
    monkeypatch.setattr(polygons, "MOST_POINTS", 36 + 12)
    filled = polygon_mask([outline_polygon(mask)], mask.shape)
    assert filled[1:11, 1:11].all() and filled[2:6, 20:24].all() and not filled[15, 30]
    monkeypatch.setattr(polygons, "MOST_POINTS", 5)
    assert outline_polygon(mask).tolist() == [[1, 1], [1, 10], [10, 10], [10, 1]]


def test_the_smallest_masks():
    assert outline_polygon(np.zeros((3, 4), bool)).shape == (0, 2)
    one, line = np.zeros((3, 4), bool), np.zeros((3, 4), bool)
    one[2, 3], line[1, :3] = True, True
    assert outline_polygon(one).tolist() == [[3, 2]] and sorted(outline_polygon(line).tolist()) == [[0, 1], [2, 1]]
    for mask in (one, line, ~one, ~line, one | line, np.ones((3, 4), bool)):
        assert not (mask & ~polygon_mask([outline_polygon(mask)], mask.shape)).any()


@pytest.mark.parametrize(
    "points", [[], [[]], [1, 2], [[1, 2, 3]], [[1, 2], [3]], "ab", [[0, MAX_COORDINATE + 1]], [[0, float("nan")]]]
)
def test_what_is_no_polygon(points):
    with pytest.raises((ValueError, TypeError, Unreadable)):
        polygon(points)


def test_coordinates_are_cut_towards_zero():
    assert polygon([[1.9, -1.9], [-0.5, 3]]).tolist() == [[1, -1], [0, 3]]
