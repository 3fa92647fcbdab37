"""The controls see no neighbours, or wrong ones, and otherwise do what they stand in for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sret_jax.config import ModelConfig, RefinementConfig, SmoothingConfig
from sret_jax.models.controls import PositionLayer, PositionWeight, Shuffled, shuffled_order
from sret_jax.models.descriptor import build_network
from sret_jax.models.propagation import SpanRefinement
from sret_jax.models.smoothing import LearnableSmoothing

X = np.abs(np.random.default_rng(0).normal(size=(2, 5, 6, 12))).astype(np.float32)
MASK = np.ones((2, 5, 6), bool)
MASK[1, 3:] = False
X *= MASK[..., None]


def filled(module, seed=1):
    """Variables in which no layer is at rest any more."""
    variables = jax.jit(module.init)(jax.random.key(0), X, MASK)
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape).astype(np.float32), variables)


@pytest.mark.parametrize("module", [PositionLayer(8), PositionWeight(8)])
def test_a_position_alone_starts_as_the_identity_and_never_sees_its_neighbours(module):
    apply = jax.jit(module.apply)
    start, _ = apply(jax.jit(module.init)(jax.random.key(0), X, MASK), X, MASK)
    np.testing.assert_allclose(start, X, atol=1e-6)
    variables = filled(module)
    out, _ = apply(variables, X, MASK)
    other = X.copy()
    other[:, 2, 3] += 1
    changed, _ = apply(variables, other, MASK)
    moved = np.abs(np.asarray(changed) - np.asarray(out)).max(-1) > 1e-6
    assert moved[:, 2, 3].all() and moved.sum() == 2 and np.abs(np.asarray(out) - X).max() > 0.01


def test_a_weight_multiplies_its_position():
    variables = filled(PositionWeight(8))
    out, seen = jax.jit(PositionWeight(8).apply)(variables, X, MASK)
    np.testing.assert_allclose(out, X * np.asarray(seen["weight"])[..., None], rtol=1e-5)
    assert (np.asarray(seen["weight"]) >= 0).all() and (np.asarray(seen["weight"]) <= 2).all()


def test_shuffled_smoothing_averages_the_positions_that_the_order_puts_side_by_side():
    layer = LearnableSmoothing(kernel_dim=4, hidden=8, start="average", bandwidth=False, confidence=False)
    module = Shuffled(layer)
    out, _ = jax.jit(module.apply)(jax.jit(module.init)(jax.random.key(0), X, MASK), X, MASK)
    order = shuffled_order(30)
    place = {int(position): divmod(i, 6) for i, position in enumerate(order)}
    for photo in range(2):
        for position in range(30):
            if not MASK[photo].ravel()[position]:
                continue
            row, column = place[position]
            near = [p for p, (r, c) in place.items() if max(abs(r - row), abs(c - column)) <= 1]
            near = [p for p in near if MASK[photo].ravel()[p]]
            expected = X[photo].reshape(30, -1)[near].mean(0)
            np.testing.assert_allclose(np.asarray(out)[photo].reshape(30, -1)[position], expected, atol=0.05)


def test_shuffled_positions_change_the_graph_and_not_the_nodes():
    seen = []
    for shuffled in (False, True):
        module = SpanRefinement(nodes=8, neighbours=2, shuffled=shuffled)
        _, graph = jax.jit(module.apply)(filled(module), X, MASK)
        seen.append(jax.tree.map(np.asarray, graph))
    before, after = seen
    np.testing.assert_array_equal(before["nodes"][:, shuffled_order(8)], after["nodes"])
    assert (before["senders"] != after["senders"]).any()
    np.testing.assert_array_equal(before["valid"], after["valid"])


def test_a_config_names_the_control():
    def smoothing(control):
        return build_network(ModelConfig(smoothing=SmoothingConfig(enabled=True, control=control))).smoothing

    kinds = {control: type(smoothing(control)) for control in ("", "layer", "weight", "shuffled")}
    assert kinds == {
        "": LearnableSmoothing,
        "layer": PositionLayer,
        "weight": PositionWeight,
        "shuffled": Shuffled,
    }
    for form in ("span", "free"):
        refinement = RefinementConfig(enabled=True, form=form, control="shuffled")
        assert build_network(ModelConfig(refinement=refinement)).refinement.shuffled
    assert jnp.array_equal(shuffled_order(30), shuffled_order(30))
