"""Hypergraph propagation: from photograph to photograph, as long as the same part of the object stays in view.

Two photographs that verify each other share inliers: points of one and the points of the other that they became. What
the walk may go on from is the region of a photograph that it arrived in, so an object that the query does not show
does not carry it further, however well it is matched.

Reference: An, Huo, Yoon, Hypergraph propagation and community selection for objects retrieval, NeurIPS 2021.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Num

from sret_jax.reranking.ranking import to_front


class Hypergraph(NamedTuple):
    """The verified pairs of n photographs, in both directions, with their inliers.

    pair_start    the pairs that leave photograph a are pair_start[a] to pair_start[a + 1] - 1, in an order that the
                  published procedure follows
    neighbour     the photograph that each pair arrives at
    inlier_start  the inliers of pair i are inlier_start[i] to inlier_start[i + 1] - 1, at least one
    here          of each inlier, (x, y) in the photograph that is left
    there         of the same inlier, (x, y) in the one that is arrived at
    box_here      of each pair, the smallest and the largest (x, y) of its inliers in the one photograph
    box_there     and in the other
    """

    pair_start: Int[np.ndarray, "n+1"]
    neighbour: Int[np.ndarray, "p"]
    inlier_start: Int[np.ndarray, "p+1"]
    here: Num[np.ndarray, "m 2"]
    there: Num[np.ndarray, "m 2"]
    box_here: Num[np.ndarray, "p 2 2"]
    box_there: Num[np.ndarray, "p 2 2"]

    @classmethod
    def of(
        cls,
        pair_start: Int[np.ndarray, "_"],
        neighbour: Int[np.ndarray, "p"],
        inlier_start: Int[np.ndarray, "_"],
        here: Num[np.ndarray, "m 2"],
        there: Num[np.ndarray, "m 2"],
    ) -> "Hypergraph":
        """With the boxes of the pairs."""
        boxes = (_boxes(points, inlier_start[:-1]) for points in (here, there))
        return cls(pair_start, neighbour, inlier_start, here, there, *boxes)

    def neighbours(self, photo: int) -> Int[np.ndarray, "_"]:
        """The photographs that this one was verified with."""
        return self.neighbour[self.pair_start[photo] : self.pair_start[photo + 1]]


def propagate(
    graph: Hypergraph, start: Sequence[int] | Int[np.ndarray, "_"], hops: int, *, compat: bool = False
) -> Int[np.ndarray, "r"]:
    """The photographs that are reached from `start` in at most this many hops, `start` first, then hop by hop.

        region(s) = everything, for s in start
        from a to b go the inliers of the pair whose point in a is within region(a), border included
        b is reached in the first hop that brings any; region(b) = the box around their points in b

    In a hop all photographs of the hop before are left at once, so that their order does not matter; those reached
    come by falling number of inliers that arrived, equals by index. Published with 3 hops.

    `compat` gives the published lists: the first region ends at x = 20,000 and y = 200,000; a point has to be strictly
    within the region and within the box of its pair's inliers, whose outermost ones so are never used; photographs are
    left one after another, and the region of one that is yet to be left grows meanwhile; those reached come in the
    order in which they were.

    Args:
        start: distinct photographs.
    """
    start = np.asarray(start, np.int64)
    return _propagate_in_order(graph, start, hops) if compat else _propagate(graph, start, hops)


def _propagate(graph: Hypergraph, start: np.ndarray, hops: int) -> np.ndarray:
    seen = np.zeros(len(graph.pair_start) - 1, bool)
    seen[start] = True
    listed, leaving = [start], start
    region = np.tile(np.array([[-np.inf], [np.inf]], np.float32), (len(start), 1, 2))
    for _ in range(hops):
        pairs, owner = _joined(graph.pair_start, leaving)
        new = ~seen[graph.neighbour[pairs]]
        pairs, count, box = _arriving(graph, pairs[new], region[owner[new]])
        if not len(pairs):
            break
        target = graph.neighbour[pairs]
        by_target = np.argsort(target, kind="stable")
        reached, first = np.unique(target[by_target], return_index=True)
        order = np.argsort(-np.add.reduceat(count[by_target], first), kind="stable")
        low = np.minimum.reduceat(box[by_target, 0], first)
        high = np.maximum.reduceat(box[by_target, 1], first)
        leaving, region = reached[order].astype(np.int64), np.stack([low, high], axis=1)[order]
        seen[leaving] = True
        listed.append(leaving)
    return np.concatenate(listed)


def _arriving(graph: Hypergraph, pairs: np.ndarray, region: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of pairs [p] left within a region [p 2 2] each: those with inliers in it, how many, and the box of these there.

    Most pairs need no look at their inliers: all of them are in the region, or none.
    """
    box = graph.box_here[pairs]
    apart = (box[:, 0] > region[:, 1]) | (box[:, 1] < region[:, 0])
    outside = (box[:, 0] < region[:, 0]) | (box[:, 1] > region[:, 1])
    whole = pairs[~(outside[:, 0] | outside[:, 1])]
    partly = (outside[:, 0] | outside[:, 1]) & ~(apart[:, 0] | apart[:, 1])
    pairs, region = pairs[partly], region[partly]
    inliers, pair = _joined(graph.inlier_start, pairs)
    counts = graph.inlier_start[pairs + 1] - graph.inlier_start[pairs]
    here = graph.here[inliers]
    inside = (here >= np.repeat(region[:, 0], counts, axis=0)) & (here <= np.repeat(region[:, 1], counts, axis=0))
    inside = inside[:, 0] & inside[:, 1]
    found, first, counts = np.unique(pair[inside], return_index=True, return_counts=True)
    return (
        np.concatenate([whole, pairs[found]]),
        np.concatenate([graph.inlier_start[whole + 1] - graph.inlier_start[whole], counts]),
        np.concatenate([graph.box_there[whole], _boxes(graph.there[inliers[inside]], first)]),
    )


def _boxes(points: np.ndarray, first: np.ndarray) -> np.ndarray:
    """The smallest and the largest (x, y) [g 2 2] of each stretch of points, which begins at `first`."""
    if not len(first):
        return np.zeros((0, 2, 2), points.dtype)
    return np.stack([np.minimum.reduceat(points, first), np.maximum.reduceat(points, first)], axis=1)


def _joined(starts: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is in starts[i] to starts[i + 1] - 1 for each i in rows, joined, and the position in rows of each."""
    counts = starts[rows + 1] - starts[rows]
    owner = np.repeat(np.arange(len(rows)), counts)
    offset = starts[rows] - np.cumsum(counts) + counts
    return np.arange(len(owner)) + offset[owner], owner


def _propagate_in_order(graph: Hypergraph, start: np.ndarray, hops: int) -> np.ndarray:
    """The published procedure, photograph by photograph and pair by pair."""
    regions = {int(photo): (np.zeros(2), np.array([20_000.0, 200_000.0])) for photo in start}
    listed = leaving = [int(photo) for photo in start]
    for _ in range(hops):
        reached = []
        for a in leaving:
            for pair in range(graph.pair_start[a], graph.pair_start[a + 1]):
                b, inliers = int(graph.neighbour[pair]), slice(*graph.inlier_start[pair : pair + 2])
                here, (low, high) = graph.here[inliers], regions[a]
                low, high = np.maximum(low, graph.box_here[pair, 0]), np.minimum(high, graph.box_here[pair, 1])
                there = graph.there[inliers][((here > low) & (here < high)).all(1)]
                if b == a or not len(there):
                    continue
                low, high = there.min(0), there.max(0)
                if b in regions:
                    regions[b] = np.minimum(regions[b][0], low), np.maximum(regions[b][1], high)
                else:
                    regions[b] = low, high
                    reached.append(b)
        listed, leaving = listed + reached, reached
    return np.array(listed, np.int64)


def rerank_by_propagation(
    graph: Hypergraph,
    ids: Int[np.ndarray, "q k"],
    scores: Float[np.ndarray, "q k"],
    start: Int[np.ndarray, "q"],
    *,
    hops: int,
    compat: bool = False,
) -> tuple[Int[np.ndarray, "q k"], Float[np.ndarray, "q k"]]:
    """Each ranking with what `propagate` reaches from its starting photograph in front; the others as they were.

    Args:
        ids: photographs, best first; -1 = none, only at the end.
        start: the photograph that each query starts from, its first one or what community selection says; -1 = none,
            the ranking stays as it is.

    Returns:
        ids, and the scores that came: the order is all that is known, and each place keeps the score that it had.
    """
    front = [propagate(graph, photo[photo >= 0], hops, compat=compat) for photo in start[:, None]]
    return to_front(ids, front), scores
