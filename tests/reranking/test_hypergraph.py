"""Propagation against the published procedure in loops, and a hypergraph that is made on disk in pieces."""

import shutil

import numpy as np
import pytest

from sret_jax.errors import UserError
from sret_jax.reranking.hypergraph import Hypergraph, propagate, rerank_by_propagation
from sret_jax.reranking.hypergraph_building import VerifiedPairs, assembled, build_hypergraph, read_hypergraph
from sret_jax.storage.artifacts import DamagedError, lock_folder


def random_pairs(seed, n=30, degree=5, spread=25):
    """{a: neighbours in any order} and {(a, b): (points in a, points in b)}, some on the borders of each other."""
    rng = np.random.default_rng(seed)
    lists, inliers = {a: [] for a in range(n)}, {}
    for a in range(n):
        for b in rng.choice(n, degree, replace=False).tolist():
            if (a, b) in inliers or (b, a) in inliers:
                continue
            lists[a].append(b)
            size, corner = rng.integers(1, 7), rng.integers(0, spread, (2, 1, 2))
            here, there = corner + rng.integers(0, 12, (2, size, 2))
            inliers[a, b] = here, there
            if a != b and rng.random() < 0.8:
                lists[b].append(a)
                inliers[b, a] = there, here
    for row in lists.values():
        rng.shuffle(row)
    return lists, inliers


def hypergraph(lists, inliers):
    pairs = [(a, b) for a in sorted(lists) for b in lists[a]]
    counts = [len(inliers[pair][0]) for pair in pairs]
    return Hypergraph.of(
        np.cumsum([0] + [len(lists[a]) for a in sorted(lists)]),
        np.array([b for _, b in pairs], np.int64),
        np.cumsum([0] + counts),
        np.concatenate([inliers[pair][0] for pair in pairs]),
        np.concatenate([inliers[pair][1] for pair in pairs]),
    )


def published(lists, inliers, start, hops=3):
    """The published procedure: regions as (left, right, top, bottom)."""
    region = {s: (0, 20000, 0, 200000) for s in start}
    rank, cases = list(start), list(start)
    for _ in range(hops):
        adopted = []
        for a in cases:
            for b in lists[a]:
                if a == b:
                    continue
                here, there = inliers[a, b]
                left, right, top, bottom = region[a]
                left, right = max(left, min(x for x, _ in here)), min(right, max(x for x, _ in here))
                top, bottom = max(top, min(y for _, y in here)), min(bottom, max(y for _, y in here))
                kept = [there[i] for i, (x, y) in enumerate(here) if left < x < right and top < y < bottom]
                if not kept:
                    continue
                xs, ys = [x for x, _ in kept], [y for _, y in kept]
                box = min(xs), max(xs), min(ys), max(ys)
                if b in region:
                    old = region[b]
                    box = min(box[0], old[0]), max(box[1], old[1]), min(box[2], old[2]), max(box[3], old[3])
                else:
                    adopted.append(b)
                region[b] = box
        rank, cases = rank + adopted, adopted
    return rank


def by_sets(lists, inliers, start, hops=3):
    """The default: a hop as a whole, borders included."""
    region, listed = {s: (-1e9, 1e9, -1e9, 1e9) for s in start}, list(start)
    leaving = list(start)
    for _ in range(hops):
        arrived = {}
        for a in leaving:
            left, right, top, bottom = region[a]
            for b in lists[a]:
                for (x, y), there in zip(*inliers[a, b], strict=True):
                    if b not in listed and left <= x <= right and top <= y <= bottom:
                        arrived.setdefault(b, []).append(tuple(there))
        leaving = sorted(arrived, key=lambda b: (-len(arrived[b]), b))
        for b in leaving:
            xs, ys = zip(*arrived[b], strict=True)
            region[b] = min(xs), max(xs), min(ys), max(ys)
        listed += leaving
    return listed


@pytest.mark.parametrize("compat, twin", [(True, published), (False, by_sets)])
def test_propagation_equals_the_procedure_in_loops(compat, twin):
    lengths = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        lists, inliers = random_pairs(seed, degree=int(rng.integers(1, 7)), spread=(8, 25, 60)[seed % 3])
        start = rng.choice(30, rng.integers(1, 4), replace=False).tolist()
        found = propagate(hypergraph(lists, inliers), start, 3, compat=compat).tolist()
        assert found == twin(lists, inliers, start)
        lengths.append(len(found))
    assert min(lengths) < 4 and 5 < np.median(lengths) < 29


def chain(*points, photos):
    """A hypergraph of pairs (a, b, points in a, points in b), in both directions."""
    a, b, here, there = zip(*points, strict=True)
    counts = [len(x) for x in here]
    here, there = (np.concatenate([np.array(x, float) for x in side]) for side in (here, there))
    return assembled(photos, np.array(a), np.array(b), np.array(counts), here, there)


SQUARE = [(1, 1), (1, 3), (3, 1), (3, 3)]


def test_a_walk_goes_on_only_through_the_region_it_came_with():
    """0 and 1 share the square, 1 and 2 something beside it, 1 and 3 a corner of it."""
    beside, corner = [(5, 5), (6, 6)], [(3, 3), (4, 4)]
    graph = chain((0, 1, SQUARE, SQUARE), (1, 2, beside, beside), (1, 3, corner, corner), photos=5)
    assert propagate(graph, [0], 3).tolist() == [0, 1, 3]
    assert propagate(graph, [1], 3).tolist() == [1, 0, 2, 3]
    assert propagate(graph, [0], 1).tolist() == [0, 1] and propagate(graph, [0], 0).tolist() == [0]
    assert propagate(graph, [4], 3).tolist() == [4]
    # Published: all four points of the square are on its border, which is not within it.
    assert propagate(graph, [0], 3, compat=True).tolist() == [0]


def test_the_published_first_region_is_not_square():
    inside, far = [(0.5, 0.5)], [(30_000.0, 1.0)]
    around = [(0.0, 0.0), (40_000.0, 90_000.0)]
    for middle, reached in ((inside, [0, 1]), (far, [0]), ([(1.0, 30_000.0)], [0, 1])):
        graph = chain((0, 1, around + middle, around + middle), photos=2)
        assert propagate(graph, [0], 3, compat=True).tolist() == reached
        assert propagate(graph, [0], 3).tolist() == [0, 1]


def test_photographs_of_a_hop_come_by_shared_inliers():
    graph = chain((0, 1, SQUARE[:1], SQUARE[:1]), (0, 2, SQUARE[:3], SQUARE[:3]), (0, 3, SQUARE, SQUARE), photos=4)
    assert propagate(graph, [0], 1).tolist() == [0, 3, 2, 1]


def test_the_order_of_the_start_changes_nothing_that_is_reached():
    lists, inliers = random_pairs(3)
    graph = hypergraph(lists, inliers)
    assert propagate(graph, [4, 9, 17], 3)[3:].tolist() == propagate(graph, [17, 4, 9], 3)[3:].tolist()


def test_reranking_moves_what_is_reached_to_the_front():
    graph = chain((7, 3, SQUARE, SQUARE), (3, 9, SQUARE, SQUARE), photos=10)
    ids = np.array([[5, 7, 1, 3, 0], [7, 3, 1, -1, -1], [2, 4, 3, -1, -1]])
    scores = np.where(ids < 0, -np.inf, 1 - np.arange(5) / 10).astype(np.float32)
    found, kept = rerank_by_propagation(graph, ids, scores, np.array([7, 3, -1]), hops=3)
    assert found.tolist() == [[7, 3, 5, 1, 0], [3, 7, 1, -1, -1], [2, 4, 3, -1, -1]]
    np.testing.assert_array_equal(kept, scores)


N, K, CHUNK = 11, 4, 3


def neighbour_lists():
    rng = np.random.default_rng(0)
    rows = [rng.permutation([b for b in range(N) if b != a])[:K] for a in range(N)]
    rows[5][:] = -1
    rows[2][-1] = -1
    return np.array(rows)


class Verifier:
    """Pairs verified by rule: (a + b) % 4 inliers of 6 matches, whose positions tell which pair they are of."""

    def __init__(self, most=10**6):
        self.pairs, self.most = [], most

    def __call__(self, a, others):
        if len(self.pairs) + len(others) > self.most:
            raise KeyboardInterrupt
        self.pairs += [frozenset((a, b)) for b in others.tolist()]
        inliers = (a + others) % 4
        place = np.stack([np.full((len(others), 6), a / 16), np.tile(np.arange(6) / 8, (len(others), 1))], axis=2)
        there = place.copy()
        there[..., 0] = others[:, None] / 16
        return VerifiedPairs(inliers, place, there, np.arange(6)[None] >= 6 - inliers[:, None])


def build(folder, verifier, verification="features", fewest=2, neighbours=None):
    neighbours = neighbour_lists() if neighbours is None else neighbours
    options = {"verification": verification, "fewest": fewest, "chunk_rows": CHUNK}
    return build_hypergraph(folder, neighbours, verifier, **options)


def assert_equal(a, b):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


def test_a_hypergraph_has_every_pair_once_in_each_direction(tmp_path):
    verifier = Verifier()
    assert build(tmp_path / "graph", verifier)
    named = {frozenset((a, int(b))) for a, row in enumerate(neighbour_lists()) for b in row if b >= 0}
    assert len(verifier.pairs) == len(named) and set(verifier.pairs) == named
    graph = read_hypergraph(tmp_path / "graph")
    for a in range(N):
        partners = [b for b in range(N) if frozenset((a, b)) in named and (a + b) % 4 >= 2]
        assert graph.neighbours(a).tolist() == sorted(partners, key=lambda b: (-((a + b) % 4), b))
        for pair in range(graph.pair_start[a], graph.pair_start[a + 1]):
            b, inliers = graph.neighbour[pair], slice(*graph.inlier_start[pair : pair + 2])
            matches = [i / 8 for i in range(6 - (a + b) % 4, 6)]
            assert graph.here[inliers].tolist() == [[a / 16, y] for y in matches]
            assert graph.there[inliers].tolist() == [[b / 16, y] for y in matches]
    assert len(graph.neighbour) and graph.here.dtype == np.float32


def test_a_kill_costs_a_chunk(tmp_path):
    build(tmp_path / "whole", Verifier())
    killed = Verifier(most=14)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "killed", killed)
    with pytest.raises(UserError, match="chunk 1 of 4 is not made yet"):
        read_hypergraph(tmp_path / "killed")
    again = Verifier()
    assert build(tmp_path / "killed", again)
    first = [pair for pair in killed.pairs if pair not in again.pairs]
    assert first and len(set(first) | set(again.pairs)) == len(first) + len(again.pairs)
    assert_equal(read_hypergraph(tmp_path / "killed"), read_hypergraph(tmp_path / "whole"))
    nothing = Verifier(most=0)
    assert build(tmp_path / "killed", nothing)


def test_two_processes_share_the_chunks(tmp_path):
    other = Verifier()
    with lock_folder(tmp_path / "graph" / "claims" / "00001"):  # as the process does that is making it
        assert not build(tmp_path / "graph", other)
    own = Verifier()
    assert build(tmp_path / "graph", own)
    assert own.pairs and other.pairs and not set(own.pairs) & set(other.pairs)
    build(tmp_path / "alone", Verifier())
    assert_equal(read_hypergraph(tmp_path / "graph"), read_hypergraph(tmp_path / "alone"))


@pytest.mark.parametrize("change", [{"verification": "other"}, {"fewest": 1}, {"neighbours": neighbour_lists()[::-1]}])
def test_pairs_of_something_else_are_refused(tmp_path, change):
    build(tmp_path, Verifier())
    with pytest.raises(UserError, match="of other photographs or settings"):
        build(tmp_path, Verifier(), **change)


def test_damage_is_refused_and_mended(tmp_path, caplog):
    build(tmp_path, Verifier())
    whole = read_hypergraph(tmp_path)
    file = tmp_path / "00002" / "pairs.npz"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(DamagedError, match="00002/pairs.npz"):
        read_hypergraph(tmp_path)
    assert build(tmp_path, Verifier()) and "it is made again" in caplog.text
    assert_equal(read_hypergraph(tmp_path), whole)
    (tmp_path / "HYPERGRAPH.json").write_text("{")
    with pytest.raises(DamagedError, match="HYPERGRAPH.json: unreadable.*build it again"):
        read_hypergraph(tmp_path)
    assert build(tmp_path, Verifier(most=0)) and "it is written again" in caplog.text
    assert_equal(read_hypergraph(tmp_path), whole)


def test_a_chunk_copied_over_another_is_noticed_and_made_again(tmp_path):
    build(tmp_path / "graph", Verifier())
    build(tmp_path / "other", Verifier(), verification="of others")
    whole = read_hypergraph(tmp_path / "graph")
    for source in ("graph/00001", "other/00002"):
        shutil.rmtree(tmp_path / "graph" / "00002")
        shutil.copytree(tmp_path / source, tmp_path / "graph" / "00002")
        with pytest.raises(DamagedError, match="00002: not chunk 2 of these pairs"):
            read_hypergraph(tmp_path / "graph")
        assert build(tmp_path / "graph", Verifier())
        assert_equal(read_hypergraph(tmp_path / "graph"), whole)


def test_fewer_chunks_than_were_made_are_not_taken_for_all(tmp_path):
    build(tmp_path, Verifier())
    about = (tmp_path / "HYPERGRAPH.json").read_text()
    (tmp_path / "HYPERGRAPH.json").write_text(about.replace('"chunks": 4', '"chunks": 3'))
    with pytest.raises(DamagedError, match="HYPERGRAPH.json: changed since it was written; build it again"):
        read_hypergraph(tmp_path)
    with pytest.raises(UserError, match="no hypergraph there"):
        read_hypergraph(tmp_path / "nowhere")


def test_unverified_photographs_make_an_empty_graph(tmp_path):
    assert build(tmp_path, Verifier(), fewest=7)
    graph = read_hypergraph(tmp_path)
    assert not len(graph.neighbour) and propagate(graph, [3], 3).tolist() == [3]
    assert propagate(graph, [3], 3, compat=True).tolist() == [3]
