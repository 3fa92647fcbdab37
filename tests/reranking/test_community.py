"""Communities of the first photographs, the published ones with their quirk, and where to start from."""

import numpy as np
import pytest

from sret_jax.reranking.community import communities, starting_photo, uncertainty
from sret_jax.reranking.hypergraph import Hypergraph


def graph(lists):
    """A hypergraph with these neighbours, without inliers: communities do not look at them."""
    starts, pairs = np.cumsum([0] + [len(row) for row in lists]), sum(lists, [])
    places, boxes = np.zeros((0, 2)), np.zeros((len(pairs), 2, 2))
    return Hypergraph(
        starts, np.array(pairs, np.int64), np.zeros(len(pairs) + 1, np.int64), places, places, boxes, boxes
    )


def random_lists(rng, n, symmetric):
    link = rng.random((n, n)) < rng.uniform(0.02, 0.15)
    if symmetric:
        link |= link.T
    return [rng.permutation(np.flatnonzero(row)).tolist() for row in link]


def published(lists, photos):
    """The published procedure, which takes groups out of the list that it walks through."""
    groups = []
    for rank, photo in enumerate(photos):
        linked = []
        for group in groups:
            if group & set(lists[photo]):
                linked.append(group)
                groups.remove(group)
        joined = {photo}
        for group in linked:
            joined |= group
        if not linked:
            joined |= set(lists[photo]) & set(photos[rank:])
        groups.append(joined)
    return groups


def by_walking(lists, photos):
    """Connected components, by walking over the links in either direction."""
    left, groups = list(photos), []
    while left:
        group, waiting = set(), [left[0]]
        while waiting:
            photo = waiting.pop()
            group.add(photo)
            waiting += [b for b in left if b not in group and (b in lists[photo] or photo in lists[b])]
        left = [photo for photo in left if photo not in group]
        groups.append(group)
    return groups


@pytest.mark.parametrize("symmetric", [True, False])
def test_communities_equal_the_procedures_in_loops(symmetric):
    rng = np.random.default_rng(0)
    differ = 0
    for _ in range(40):
        lists = random_lists(rng, 40, symmetric)
        photos = rng.permutation(40)[:20]
        expected, quirky = by_walking(lists, photos.tolist()), published(lists, photos.tolist())
        assert communities(graph(lists), photos) == expected
        assert communities(graph(lists), photos, compat=True) == quirky
        differ += sorted(map(sorted, expected)) != sorted(map(sorted, quirky))
    assert differ > 5


def test_a_link_between_groups_joins_them_but_not_as_published():
    lists = graph([[2], [3], [0, 4], [1, 4], [2, 3]])  # 0-2, 1-3, 2-4, 3-4
    assert communities(lists, np.arange(5)) == [{0, 1, 2, 3, 4}]
    quirky = communities(lists, np.arange(5), compat=True)
    assert quirky == [{1, 3}, {0, 2, 4}]
    assert uncertainty(quirky) == pytest.approx(0.673, abs=5e-4)
    assert uncertainty([{0, 1, 2, 3, 4}]) == 0


def test_uncertainty_is_the_entropy_of_the_shares():
    assert uncertainty([{i} for i in range(20)]) == pytest.approx(np.log(20))
    assert uncertainty([{0, 1, 2}, {3}]) == pytest.approx(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))
    assert uncertainty([]) == 0


@pytest.mark.parametrize("compat", [True, False])
def test_empty_sets_and_single_photographs(compat):
    lists = graph([[], [2], [1], []])
    assert communities(lists, np.array([3, 2, 1, -1, -1]), compat=compat) == [{3}, {1, 2}]
    assert communities(lists, np.array([2, -1]), compat=compat) == [{2}]
    assert communities(lists, np.array([-1, -1]), compat=compat) == []


def test_the_start_changes_only_for_an_uncertain_query_with_a_poor_first_photograph():
    ids = np.tile(np.array([7, 5, 3, 1]), (6, 1))
    ids[5] = -1
    inliers = np.array([[19, 20, 21, 90], [19, 20, 21, 90], [20, 20, 21, 90], [19, 20, 20, 0], [0, 30, 50, 0], [0] * 4])
    uncertain = np.array([1.01, 1.0, 2.0, 2.0, 2.0, 0.0])
    assert starting_photo(ids, uncertain, inliers).tolist() == [3, 7, 7, 7, 5, -1]
    assert starting_photo(ids, uncertain, inliers[:, :2]).tolist() == [7, 7, 7, 7, 5, -1]
