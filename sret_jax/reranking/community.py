"""Communities among the first photographs of a ranking: how many objects it shows, and which one to start from.

Reference: An, Huo, Yoon, Hypergraph propagation and community selection for objects retrieval, NeurIPS 2021.
"""

from collections.abc import Collection

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from sret_jax.reranking.hypergraph import Hypergraph


def communities(graph: Hypergraph, photos: Int[np.ndarray, "k"], *, compat: bool = False) -> list[frozenset[int]]:
    """The connected components that verified pairs make of these photographs, each as a set.

    `compat` gives the published sets, which differ: a photograph that links several groups does not join them all,
    because the loop over the groups steps over the one behind each that it takes out; with pairs that are listed in
    one direction only, groups may even overlap.

    Args:
        photos: the first of a ranking, published with 20; -1 = none, not looked at.
    """
    photos = photos[photos >= 0]
    neighbours = [graph.neighbours(photo).tolist() for photo in photos.tolist()]
    if compat:
        return _published_communities([set(row) for row in neighbours], photos.tolist())
    place = {photo: i for i, photo in enumerate(photos.tolist())}
    edges = [(i, place[b]) for i, row in enumerate(neighbours) for b in row if b in place]
    rows, columns = np.array(edges, np.int32).reshape(-1, 2).T
    links = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(len(photos), len(photos)))
    count, label = connected_components(links, directed=False)
    return [frozenset(photos[label == i].tolist()) for i in range(count)]


def _published_communities(neighbours: list[set[int]], photos: list[int]) -> list[frozenset[int]]:
    groups: list[set[int]] = []
    for rank, photo in enumerate(photos):
        near, linked, i = neighbours[rank], [], 0
        while i < len(groups):
            if near & groups[i]:
                linked.append(groups.pop(i))  # and i goes on: the next group has moved to i and is not looked at
            i += 1
        groups.append({photo}.union(*(linked or [near.intersection(photos[rank:])])))
    return [frozenset(group) for group in groups]


def uncertainty(groups: Collection[Collection[int]]) -> float:
    """Entropy of the communities, U = -sum p ln p with p the share of the photographs in each; 0 if there is one."""
    size = np.array([len(group) for group in groups], np.float64)
    share = size / max(size.sum(), 1)
    return float(np.sum(share * np.log(1 / share)))


def starting_photo(
    ids: Int[np.ndarray, "q k"], uncertain: Float[np.ndarray, "q"], inliers: Int[np.ndarray, "q m"]
) -> Int[np.ndarray, "q"]:
    """The photograph from which each query's propagation starts.

    The first of the ranking; but where the uncertainty is above 1 and the first has fewer than 20 inliers with the
    query, the first of those with more than 20, if there is one. Its community is the dominant one.

    Args:
        ids: photographs, best first; -1 = none.
        uncertain: of the communities of the first 20.
        inliers: of the query and the first m photographs, published with 100. Where the uncertainty is at most 1,
            they are not looked at and need not be computed.

    Returns:
        Photographs; -1 for an empty ranking.
    """
    enough = (inliers > 20) & (ids[:, : inliers.shape[1]] >= 0)
    doubtful = (uncertain > 1) & (inliers[:, 0] < 20) & enough.any(1)
    return ids[np.arange(len(ids)), np.where(doubtful, enough.argmax(1), 0)]
