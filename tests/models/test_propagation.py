"""Propagation stays in the span of the features: loops, limits, and a layer that equals its twin."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sret_jax.models.graph import build_graph
from sret_jax.models.propagation import SpanRefinement, propagate
from tests.support.graphs import edges_in_loops, feature_map, nodes, trained

# Messages

propagated = jax.jit(propagate)


@cache
def graph():
    return jax.jit(build_graph, static_argnums=4)(*nodes(), 3)


def example(seed=0):
    """Features, weights of the edges of `graph()`, of which some are 0, and gates."""
    rng = np.random.default_rng(seed)
    x = np.float32(rng.normal(size=(2, 9, 4)))
    weight = rng.uniform(0, 1, len(graph().senders)) * (rng.random(len(graph().senders)) < 0.7)
    weight[~np.asarray(graph().edges["valid"])] = 0
    return x, np.float32(weight), np.float32(rng.random((2, 9)))


def propagate_in_loops(x, weight, gate):
    senders, receivers = (np.asarray(z).tolist() for z in (graph().senders, graph().receivers))
    x, out = x.astype(np.float64), x.astype(np.float64)
    for n in range(2):
        for i in range(9):
            edges = [e for e, receiver in enumerate(receivers) if receiver == 9 * n + i and weight[e] > 0]
            if edges:
                mean = sum(weight[e] * x[n, senders[e] - 9 * n] for e in edges) / sum(weight[e] for e in edges)
                out[n, i] = x[n, i] + gate[n, i] * (mean - x[n, i])
    return out


@pytest.mark.parametrize("seed", range(3))
def test_propagate_equals_its_loops(seed):
    x, weight, gate = example(seed)
    np.testing.assert_allclose(propagated(x, weight, gate, graph()), propagate_in_loops(x, weight, gate), atol=1e-5)
    np.testing.assert_allclose(
        propagated(x, 100 * weight, gate, graph()), propagated(x, weight, gate, graph()), atol=1e-5
    )


def test_every_new_feature_lies_among_the_old_ones_of_its_photograph():
    for seed in range(5):
        x, weight, gate = example(seed)
        y = np.asarray(propagated(x, weight, gate, graph()))
        assert (y >= x.min(1, keepdims=True) - 1e-6).all() and (y <= x.max(1, keepdims=True) + 1e-6).all()
        assert (np.asarray(propagated(np.abs(x), weight, gate, graph())) >= 0).all()
        assert np.abs(y - x).max() > 0.1


def test_a_closed_gate_and_a_node_without_an_edge_leave_a_feature_as_it_is():
    x, weight, gate = example()
    np.testing.assert_array_equal(propagated(x, weight, 0 * gate, graph()), x)
    weight[np.asarray(graph().receivers) == 4] = 0
    y = np.asarray(propagated(x, weight, np.ones_like(gate), graph()))
    moved = (y != x).any(-1)
    np.testing.assert_array_equal(y[0, 4], x[0, 4])
    assert moved[1].all() and not moved[0, 6:].any()  # the last three nodes of the first photograph are dead
    gradient = jax.jit(jax.grad(lambda x, w, g: propagate(x, w, g, graph()).sum(), (0, 1, 2)))(x, 0 * weight, gate)
    assert all(np.isfinite(g).all() for g in gradient)


def test_an_open_gate_between_equal_features_changes_nothing():
    x, weight, gate = example()
    same = np.broadcast_to(x[:, :1], x.shape)
    np.testing.assert_allclose(propagated(same, weight, np.ones_like(gate), graph()), same, atol=1e-6)


# The layer


@partial(jax.jit, static_argnums=0)
def applied(layer, variables, x, mask):
    return layer.apply(variables, x, mask)


def layer_in_numpy(params, x, mask, layer):
    """The whole layer for one photo, with a dense adjacency matrix, in float64."""

    def dense(z, name, tree):
        return z @ np.asarray(tree[name]["kernel"], np.float64) + np.asarray(tree[name]["bias"], np.float64)

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    def rms(z):
        return np.sqrt((z**2).mean(1, keepdims=True))

    x, at = x.astype(np.float64), np.argwhere(mask)
    at = at[np.argsort(-np.linalg.norm(x[mask], axis=1), kind="stable")][: layer.nodes]
    feature = before = x[at[:, 0], at[:, 1]]
    extent = (np.argwhere(mask).max(0) - np.argwhere(mask).min(0) + 1).max()
    unit = before / np.linalg.norm(before, axis=1, keepdims=True)
    edges = edges_in_loops(before, at, np.ones(len(at), bool), layer.neighbours, layer.edges)
    for i in range(layer.blocks):
        block, weight = params[f"block_{i}"], np.zeros((len(at), len(at)))
        for r, s in edges:
            relative = (at[s] - at[r]) / extent
            geometry = np.r_[relative, np.linalg.norm(relative), unit[s] @ unit[r]]
            weight[r, s] = np.log1p(
                np.exp(dense(np.maximum(dense(geometry, "geometry", block), 0), "weight", block)[0])
            )
        gate = sigmoid(dense(np.maximum(dense(feature / rms(feature), "reduce", block), 0), "gate", block))
        feature = feature + gate * (weight @ feature / weight.sum(1, keepdims=True) - feature)
    if layer.importance:
        hidden = dense(before / rms(before), "own", params)
        hidden = np.maximum(hidden + dense((feature - before) / rms(before), "context", params), 0)
        feature = 2 * sigmoid(dense(hidden, "importance", params)) * feature
    out = x.copy()
    out[at[:, 0], at[:, 1]] += feature - before
    return out


LAYER = SpanRefinement(blocks=2, nodes=8, neighbours=3, hidden=10)


@pytest.mark.parametrize(
    "fields",
    [{}, {"nodes": 42, "importance": False}, {"blocks": 1, "edges": "space"}, {"blocks": 1, "edges": "similarity"}],
)
def test_the_layer_equals_its_numpy_twin(fields):
    x, mask = feature_map()
    layer = LAYER.clone(**fields)
    variables = trained(layer, x, mask)
    y, _ = applied(layer, variables, x, mask)
    for n in range(2):
        expected = layer_in_numpy(variables["params"], x[n], mask[n], layer)
        np.testing.assert_allclose(y[n], expected, rtol=1e-4, atol=1e-5)


def test_before_training_nodes_move_an_eighth_of_the_way_to_their_neighbours_and_count_alike():
    x, mask = feature_map()
    variables = jax.jit(LAYER.init)(jax.random.key(0), x, mask)
    y, _ = applied(LAYER, variables, x, mask)
    plain = {"params": {name: tree for name, tree in variables["params"].items() if name.startswith("block")}}
    np.testing.assert_allclose(y, applied(LAYER.clone(importance=False), plain, x, mask)[0], atol=1e-6)
    for i in range(2):
        gate = variables["params"][f"block_{i}"]["gate"]
        assert not np.any(gate["kernel"])
        np.testing.assert_allclose(jax.nn.sigmoid(gate["bias"]), 1 / 8, atol=0.01)
    assert (np.asarray(y) >= 0).all() and (np.asarray(y) != x).any(-1).sum() == 16


def test_without_importance_nothing_new_is_made():
    """Channel by channel every node stays among those that there were."""
    x, mask = feature_map()
    layer = LAYER.clone(nodes=42, importance=False)
    y = np.asarray(applied(layer, trained(layer, x, mask), x, mask)[0])
    for n in range(2):
        was, now = x[n][mask[n]], y[n][mask[n]]
        assert (now >= was.min(0) - 1e-5).all() and (now <= was.max(0) + 1e-5).all() and np.abs(now - was).max() > 0.1


def test_padding_and_the_other_photos_are_invisible():
    x, mask = feature_map()
    variables = trained(LAYER, x, mask)
    y, seen = jax.tree.map(np.asarray, applied(LAYER, variables, x, mask))
    y_alone, seen_alone = applied(LAYER, variables, x[:1, :4, :5], np.ones((1, 4, 5), bool))
    np.testing.assert_allclose(y[:1, :4, :5], y_alone, atol=1e-5)
    assert not y[~mask].any()
    for name in ("nodes", "valid", "senders", "receivers", "edge_valid"):
        np.testing.assert_array_equal(seen[name][0], np.asarray(seen_alone[name])[0], err_msg=name)
    other = np.stack([x[0], np.flip(x[1]) * 3])
    np.testing.assert_array_equal(np.asarray(applied(LAYER, variables, other, mask)[0])[0], y[0])


def test_it_is_free_of_the_scale_of_the_map():
    x, mask = feature_map()
    variables = trained(LAYER, x, mask)
    y, scaled = (np.asarray(applied(LAYER, variables, s * x, mask)[0]) for s in (1, 1024))
    np.testing.assert_allclose(scaled, 1024 * y, rtol=1e-4, atol=1e-2)


def test_more_nodes_than_positions_change_nothing():
    x, mask = feature_map()
    layer = LAYER.clone(nodes=42)
    variables = trained(layer, x, mask)
    y, seen = applied(layer, variables, x, mask)
    more, of_more = applied(layer.clone(nodes=60), variables, x, mask)
    np.testing.assert_allclose(more, y, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(seen["valid"]).sum(1), [20, 42])
    np.testing.assert_array_equal(np.asarray(of_more["valid"]).sum(1), [20, 42])


def test_gradients_are_finite_where_the_map_is_dead_and_reach_every_parameter():
    x, mask = feature_map()
    layer = LAYER.clone(nodes=42)
    variables = trained(layer, x, mask)
    gradient = jax.jit(jax.grad(lambda v, x, mask: jnp.sum(layer.apply(v, x, mask)[0] ** 2), (0, 1)))
    for path, g in jax.tree_util.tree_leaves_with_path(gradient(variables, x, mask)):
        assert np.isfinite(g).all() and np.abs(g).max() > 0, jax.tree_util.keystr(path)
    half = x * (np.arange(6) < 2)[None, :, None, None]
    for dead, inside in ((0 * x, mask), (half, mask), (x, mask & [[[False]], [[True]]])):
        assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient(variables, np.float32(dead), inside)))


def test_bfloat16_map_keeps_its_type():
    x, mask = feature_map()
    variables = trained(LAYER, x, mask)
    y, exact = (applied(LAYER, variables, jnp.asarray(x, dtype), mask)[0] for dtype in (jnp.bfloat16, jnp.float32))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(y), exact, atol=0.05)
