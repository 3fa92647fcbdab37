"""Node choice, graph construction and message passing against numpy twins; limits; what padding may not change."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sret_jax.models.graph import SpatialContextRefinement, adjacency, aggregate, build_graph, strongest
from tests.support.graphs import edges_in_loops, feature_map, nodes, trained

# Nodes


chosen = jax.jit(strongest, static_argnums=1)


@pytest.mark.parametrize("k", [1, 5, 20, 42, 60])
def test_strongest_equals_a_stable_sort(k):
    x, mask = feature_map()
    index, valid = map(np.asarray, chosen(x, k, mask))
    assert index.shape == valid.shape == (2, k)
    for n in range(2):
        positions = np.flatnonzero(mask[n])
        norms = np.linalg.norm(x[n].reshape(42, -1)[positions], axis=1)
        expected = positions[np.argsort(-norms, kind="stable")][:k]
        assert valid[n].sum() == len(expected)
        np.testing.assert_array_equal(index[n][valid[n]], expected)
        assert not index[n][~valid[n]].any()


def test_ties_go_to_the_earlier_position_and_masked_ones_are_never_chosen():
    _, mask = feature_map()
    ones = np.ones((2, 6, 7, 3), np.float32)
    index, valid = chosen(ones, 5, mask)
    np.testing.assert_array_equal(index, [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]])
    scores = np.where(mask, -5.0, 100.0).astype(np.float32)
    index, valid = map(np.asarray, chosen(ones, 42, mask, scores))
    np.testing.assert_array_equal(valid.sum(1), [20, 42])
    assert mask.reshape(2, -1)[0][index[0][valid[0]]].all()


def test_an_empty_photo_has_no_node():
    x, mask = feature_map()
    mask[0] = False
    _, valid = chosen(x, 4, mask)
    np.testing.assert_array_equal(np.asarray(valid).any(1), [False, True])


# Edges


built = jax.jit(build_graph, static_argnames=("neighbours", "kinds"))


@pytest.mark.parametrize("neighbours", [1, 3, 8, 50])
def test_edges_equal_the_loops_without_duplicates(neighbours):
    features, at, extent, valid = nodes()
    graph = built(features, at, extent, valid, neighbours)
    slots = 9 * (1 + 2 * min(neighbours, 8))
    assert graph.senders.shape == graph.receivers.shape == (2 * slots,)
    assert graph.edges["geometry"].shape == (2 * slots, 4)
    np.testing.assert_array_equal(graph.n_node, [9, 9])
    np.testing.assert_array_equal(graph.n_edge, [slots, slots])
    pairs = np.stack([graph.receivers, graph.senders], 1).reshape(2, slots, 2) - 9 * np.arange(2)[:, None, None]
    edge = np.asarray(graph.edges["valid"]).reshape(2, slots)
    for n in range(2):
        found = [tuple(map(int, p)) for p in pairs[n][edge[n]]]
        assert len(found) == len(set(found))
        assert set(found) == edges_in_loops(features[n], at[n], valid[n], neighbours)
        assert (pairs[n][~edge[n]][:, 0] == pairs[n][~edge[n]][:, 1]).all()
    assert (np.diff(graph.receivers) >= 0).all()


@pytest.mark.parametrize("kinds", ["space", "similarity"])
def test_edges_of_one_kind(kinds):
    features, at, extent, valid = nodes()
    graph = built(features, at, extent, valid, 3, kinds)
    edge = np.asarray(graph.edges["valid"])
    pairs = np.stack([graph.receivers, graph.senders], 1)[edge]
    for n in range(2):
        found = {(r - 9 * n, s - 9 * n) for r, s in pairs.tolist() if r // 9 == n}
        assert found == edges_in_loops(features[n], at[n], valid[n], 3, kinds)


def test_geometry_of_an_edge():
    features, at, extent, valid = nodes()
    graph = built(features, at, extent, valid, 4)
    features, at = features.reshape(18, -1), at.reshape(18, 2)
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    s, r = np.asarray(graph.senders), np.asarray(graph.receivers)
    relative = (at[s] - at[r]) / extent[r // 9][:, None]
    expected = np.c_[relative, np.linalg.norm(relative, axis=1), np.sum(unit[s] * unit[r], 1)]
    np.testing.assert_allclose(graph.edges["geometry"], expected, atol=1e-6)


def test_a_single_node_has_only_itself():
    features, at, extent, valid = nodes(n=1, dead=0)
    graph = built(features, at, extent, valid, 4)
    np.testing.assert_array_equal(graph.senders, [0, 1])
    assert np.asarray(graph.edges["valid"]).all()


# Messages


def aggregate_densely(values, adjacency):
    """The formula with an n x n matrix A[receiver, sender]."""
    received, sent = adjacency.sum(1), adjacency.sum(0)
    scale = np.sqrt(np.maximum(np.outer(received, sent), 1e-300))
    return (adjacency / scale) @ values


def to_edges(adjacency):
    r, s = np.nonzero(np.ones_like(adjacency))
    return adjacency[r, s].astype(np.float32), s.astype(np.int32), r.astype(np.int32)


aggregated = jax.jit(aggregate)


def test_aggregate_equals_the_dense_matrix():
    rng = np.random.default_rng(0)
    adjacency = rng.uniform(0, 1, (7, 7)) * (rng.random((7, 7)) < 0.5)
    adjacency[3] = adjacency[:, 3] = 0  # a dead node
    values = rng.normal(size=(7, 4))
    out = np.asarray(aggregated(values.astype(np.float32), *to_edges(adjacency)))
    np.testing.assert_allclose(out, aggregate_densely(values, adjacency), atol=1e-6)
    assert not out[3].any()


def test_identity_adjacency_changes_nothing_and_uniform_adjacency_averages():
    values = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    for scale in (0.1, 1.0):
        alone = aggregated(values, *to_edges(scale * np.eye(6)))
        np.testing.assert_allclose(alone, values, rtol=1e-5)
        together = aggregated(values, *to_edges(scale * np.ones((6, 6))))
        np.testing.assert_allclose(together, np.broadcast_to(values.mean(0), (6, 3)), atol=1e-6)


def test_adjacency_has_a_matrix_for_every_photograph_and_adds_up_edges_that_are_there_twice():
    graph = built(*nodes(), 3)
    senders, receivers = (
        np.concatenate([z, z[5:40], z[5:10]]) for z in map(np.asarray, (graph.senders, graph.receivers))
    )
    weight = np.random.default_rng(0).uniform(0.1, 1, len(senders)).astype(np.float32)
    expected = np.zeros((2, 9, 9))
    for w, s, r in zip(weight, senders, receivers, strict=True):
        expected[r // 9, r % 9, s % 9] += w
    graph = graph._replace(senders=jnp.asarray(senders), receivers=jnp.asarray(receivers))
    np.testing.assert_allclose(jax.jit(adjacency, static_argnums=2)(weight, graph, 2), expected, rtol=1e-6)


# The layer


@partial(jax.jit, static_argnums=0)
def initialised(layer, x, mask):
    return layer.init(jax.random.key(0), x, mask)


@partial(jax.jit, static_argnums=0)
def applied(layer, variables, x, mask):
    return layer.apply(variables, x, mask)


def layer_in_numpy(params, x, mask, blocks, count, neighbours):
    """The whole layer (strength "norm") for one photo, with a dense adjacency matrix, in float64."""

    def dense(z, name, tree):
        return z @ np.asarray(tree[name]["kernel"], np.float64) + np.asarray(tree[name]["bias"], np.float64)

    def norm(z, name, tree):
        z = (z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True) + 1e-6)
        return z * np.asarray(tree[name]["scale"]) + np.asarray(tree[name]["bias"])

    x = x.astype(np.float64)
    at = np.argwhere(mask)
    at = at[np.argsort(-np.linalg.norm(x[mask], axis=1), kind="stable")][:count]
    local = x[at[:, 0], at[:, 1]]
    scale = np.sqrt((local**2).mean(1, keepdims=True))
    feature = local / scale
    size = np.argwhere(mask).max(0) - np.argwhere(mask).min(0) + 1
    position = (2 * (at - np.argwhere(mask).min(0)) + 1 - size) / size.max()
    angles = (np.pi * position[..., None] * [0.5, 1, 2, 4]).reshape(len(at), 8)
    waves = np.c_[position, np.sin(angles), np.cos(angles)]
    h = dense(feature, "project", params) + dense(waves, "position", params)
    unit = feature / np.linalg.norm(feature, axis=1, keepdims=True)
    edges = edges_in_loops(feature, at, np.ones(len(at), bool), neighbours)
    for i in range(blocks):
        block = params[f"block_{i}"]
        adjacency = np.zeros((len(at), len(at)))
        for r, s in edges:
            relative = (at[s] - at[r]) / size.max()
            geometry = np.r_[relative, np.linalg.norm(relative), unit[s] @ unit[r]]
            logit = dense(np.maximum(dense(geometry, "geometry", block), 0), "weight", block)[0]
            adjacency[r, s] = 1 / (1 + np.exp(-logit))
        h = h + dense(aggregate_densely(norm(h, "message_norm", block), adjacency), "message", block)
        h = h + dense(np.maximum(dense(norm(h, "norm", block), "expand", block), 0), "reduce", block)
    out = x.copy()
    out[at[:, 0], at[:, 1]] += scale * dense(h, "restore", params)
    return out


@pytest.mark.parametrize("count", [8, 42])
def test_the_layer_equals_its_numpy_twin(count):
    x, mask = feature_map()
    layer = SpatialContextRefinement(blocks=2, width=10, nodes=count, neighbours=3)
    variables = trained(layer, x, mask)
    y, _ = applied(layer, variables, x, mask)
    for n in range(2):
        expected = layer_in_numpy(variables["params"], x[n], mask[n], 2, count, 3)
        np.testing.assert_allclose(y[n], expected, rtol=1e-4, atol=1e-4)


FIELDS = [{}, {"strength": "attention"}, {"rebuild": True}, {"nodes": 60, "neighbours": 70}]


@pytest.mark.parametrize("fields", FIELDS)
def test_before_training_it_is_the_identity_and_can_leave_it(fields):
    x, mask = feature_map()
    layer = SpatialContextRefinement(**({"width": 8, "nodes": 8, "neighbours": 3} | fields))
    variables = initialised(layer, x, mask)
    np.testing.assert_array_equal(applied(layer, variables, x, mask)[0], x)
    gradient = jax.jit(jax.grad(lambda v, x, mask: jnp.sum(layer.apply(v, x, mask)[0] ** 2)))
    assert np.abs(gradient(variables, x, mask)["params"]["restore"]["kernel"]).max() > 1e-3
    for path, g in jax.tree_util.tree_leaves_with_path(gradient(trained(layer, x, mask), x, mask)):
        assert np.isfinite(g).all() and np.abs(g).max() > 0, jax.tree_util.keystr(path)


def test_gradient_of_the_map_is_finite_where_it_is_dead():
    x, mask = feature_map()
    x[1, 2:] = 0
    for strength in ("norm", "attention"):
        layer = SpatialContextRefinement(blocks=1, width=8, nodes=42, neighbours=3, strength=strength)
        variables = trained(layer, x, mask)
        gradient = jax.jit(jax.grad(lambda x, m, v, layer=layer: layer.apply(v, x, m)[0].sum()))
        for m in (mask, mask & [[[False]], [[True]]]):
            assert np.isfinite(gradient(x, m, variables)).all()


@pytest.mark.parametrize("fields", FIELDS)
def test_padding_and_the_other_photos_are_invisible(fields):
    x, mask = feature_map()
    layer = SpatialContextRefinement(**({"width": 8, "nodes": 8, "neighbours": 3} | fields))
    variables = trained(layer, x, mask)
    y, graph = jax.tree.map(np.asarray, applied(layer, variables, x, mask))
    y_alone, graph_alone = applied(layer, variables, x[:1, :4, :5], np.ones((1, 4, 5), bool))
    np.testing.assert_allclose(y[:1, :4, :5], y_alone, atol=1e-5)
    assert not y[~mask].any()
    for name in ("nodes", "valid", "senders", "receivers", "edge_valid"):
        np.testing.assert_array_equal(graph[name][0], np.asarray(graph_alone[name])[0], err_msg=name)
    other = np.stack([x[0], np.flip(x[1]) * 3])
    np.testing.assert_array_equal(np.asarray(applied(layer, variables, other, mask)[0])[0], y[0])


def test_it_is_free_of_the_scale_of_the_map():
    x, mask = feature_map()
    for strength in ("norm", "attention"):
        layer = SpatialContextRefinement(width=8, nodes=8, neighbours=3, strength=strength)
        variables = trained(layer, x, mask)
        y, scaled = (np.asarray(applied(layer, variables, s * x, mask)[0]) for s in (1, 1024))
        np.testing.assert_allclose(scaled, 1024 * y, rtol=1e-4, atol=1e-2)


def test_attention_starts_with_the_choice_of_the_norm():
    x, mask = feature_map()
    chosen = []
    for strength in ("norm", "attention"):
        layer = SpatialContextRefinement(width=8, nodes=8, neighbours=3, strength=strength)
        variables = initialised(layer, x, mask)
        chosen.append(applied(layer, variables, x, mask)[1]["nodes"])
    np.testing.assert_array_equal(*chosen)


def test_the_reported_graph():
    x, mask = feature_map()
    layer = SpatialContextRefinement(width=8, nodes=30, neighbours=3)
    variables = trained(layer, x, mask)
    _, graph = jax.tree.map(np.asarray, applied(layer, variables, x, mask))
    again = applied(layer, variables, x, mask)[1]
    np.testing.assert_array_equal(graph["valid"].sum(1), [20, 30])
    for n in range(2):
        where = graph["nodes"][n][graph["valid"][n]]
        assert mask[n][tuple(where.T)].all() and len(set(map(tuple, where))) == len(where)
    assert graph["senders"].shape == graph["receivers"].shape == graph["edge_valid"].shape == (2, 30 * 7)
    assert graph["senders"].min() >= 0 and graph["senders"].max() < 30
    for name in graph:
        np.testing.assert_array_equal(graph[name], again[name])


def test_bfloat16_map_keeps_its_type():
    x, mask = feature_map()
    layer = SpatialContextRefinement(width=8, nodes=8, neighbours=3, strength="attention")
    variables = trained(layer, x, mask)
    assert applied(layer, variables, x.astype(jnp.bfloat16), mask)[0].dtype == jnp.bfloat16
