"""Regional aggregation in loops, and the box in which the query was put."""

import numpy as np

from sret_jax.localization.regions import best_box, region_descriptors, window_boxes, windows


def test_descriptors_are_sums_over_the_box():
    rng = np.random.default_rng(0)
    y = rng.normal(size=(6, 8, 5)).astype(np.float32)
    boxes = np.array([[0, 0, 8, 6], [2, 1, 3, 2], [1, 2, 7, 5], [4, 4, 4, 6]])
    ours = np.asarray(region_descriptors(y, boxes))
    for (left, top, right, bottom), own in zip(boxes[:3], ours, strict=False):
        total = sum(y[i, j] for i in range(top, bottom) for j in range(left, right))
        np.testing.assert_allclose(own, total / np.linalg.norm(total), atol=1e-5)
    assert not ours[3].any()


def test_windows_fill_the_photograph_and_never_its_padding():
    mask = np.zeros((3, 9, 12), bool)
    mask[0], mask[1, :5, :3], mask[2, :1, :1] = True, True, True
    boxes = np.asarray(window_boxes(mask))
    assert boxes.shape == (3, len(windows()), 4)
    for n, (h, w) in enumerate([(9, 12), (5, 3), (1, 1)]):
        left, top, right, bottom = boxes[n].T
        assert (left >= 0).all() and (top >= 0).all() and (right <= w).all() and (bottom <= h).all()
        assert (right > left).all() and (bottom > top).all() and [0, 0, w, h] in boxes[n].tolist()
    edges = np.unique(windows()[:, [0, 2]], axis=0)
    for share in (0.35, 0.5, 0.7):
        starts = edges[np.isclose(edges[:, 1] - edges[:, 0], share)][:, 0]
        assert np.diff(starts).max() <= share / 3 + 1e-9 and starts[0] == 0 and np.isclose(starts[-1], 1 - share)


def test_the_box_that_holds_the_query_wins():
    rng = np.random.default_rng(0)
    thing, wall = rng.normal(size=(4, 5, 16)), rng.normal(size=16)
    x = wall + 0.1 * rng.normal(size=(2, 10, 12, 16))
    x[0, 3:7, 2:7] = thing
    mask = np.ones((2, 10, 12), bool)
    mask[1] = False
    objects = np.array([[[2, 3, 7, 7], [0, 0, 0, 0]], [[0, 0, 0, 0]] * 2])
    proposals = np.concatenate([window_boxes(mask), objects], axis=1)
    box, score = best_box(thing, np.ones((4, 5)), x, mask, np.zeros(16), proposals)
    assert box[0].tolist() == [2, 3, 7, 7] and score[0] > 0.999
    assert score[1] == 0 and np.isfinite(score).all()
    box, least = best_box(thing, np.ones((4, 5)), x, mask, np.zeros(16), window_boxes(mask))
    assert least[0] < score[0]
