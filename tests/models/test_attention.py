"""Second-order attention and HOW's: the formulas in loops, the authors' networks in torch, and padding."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sret_jax.models.attention import SOABlock, l2_attention, second_order_attention
from tests.support.twins import attention_in_loops


def example(seed=0, channels=8, sizes=((3, 4), (2, 3))):
    """Garbage outside the photos of a 3 x 4 bucket."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((len(sizes), 3, 4), bool)
    for n, (h, w) in enumerate(sizes):
        mask[n, :h, :w] = True
    return jnp.asarray(rng.normal(size=(len(sizes), 3, 4, channels)), jnp.float32), jnp.asarray(mask)


def random_block(channels=8, k=2, seed=0):
    """A block with a v that is not zero and statistics that are not 0 and 1."""
    block, rng = SOABlock(k), np.random.default_rng(seed)
    x, mask = example(channels=channels)

    def draw(path, leaf):
        low, high = (0.5, 1.5) if path[-1].key in ("scale", "var") else (-0.7, 0.7)
        return jnp.asarray(rng.uniform(low, high, leaf.shape), jnp.float32)

    shapes = jax.eval_shape(block.init, jax.random.key(0), x, mask)
    return block, jax.tree_util.tree_map_with_path(draw, shapes)


def test_second_order_attention_equals_loops():
    x, mask = example()
    f, g, h = x, x[..., ::-1] + 0.3, jnp.sin(x)
    z = jax.jit(second_order_attention)(f, g, h, mask=mask)
    expected = attention_in_loops(f, g, h, mask)
    np.testing.assert_allclose(np.asarray(z)[mask], expected[mask], rtol=1e-5, atol=1e-6)


def test_l2_attention_equals_loops_and_has_a_gradient_at_zero():
    x, _ = example()
    x = x.at[0, 0, 0].set(0)
    strength, there = l2_attention(x), np.asarray(x, np.float64)
    for at in np.ndindex(x.shape[:3]):
        np.testing.assert_allclose(strength[at], np.sqrt(sum(v**2 for v in there[at]) + 1e-10), rtol=1e-5)
    assert np.isfinite(jax.grad(lambda x: l2_attention(x).sum())(x)).all()


def test_the_block_starts_as_the_identity_and_all_of_it_can_leave():
    x, mask = example()
    block = SOABlock(2)
    variables = jax.jit(block.init)(jax.random.key(0), x, mask)

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def loss(params):
        y = block.apply(variables | {"params": params}, x, mask)
        return jnp.sum(jnp.sin(y)), y

    (_, y), gradient = loss(variables["params"])
    np.testing.assert_array_equal(y, jnp.where(mask[..., None], x, 0))
    assert np.any(gradient["v"]["kernel"]) and not np.any(gradient["f"]["kernel"])
    moved = jax.tree.map(lambda p, g: p + 0.1 * g, variables["params"], gradient)
    _, gradient = loss(moved)
    assert all(np.any(gradient[name]["kernel"]) for name in "fghv")


def test_padding_is_invisible():
    x, mask = example()
    block, variables = random_block()
    apply = jax.jit(block.apply)
    padded = apply(variables, x, mask)
    for n, (h, w) in enumerate(((3, 4), (2, 3))):
        alone = apply(variables, x[n : n + 1, :h, :w], jnp.ones((1, h, w), bool))[0]
        assert np.abs(alone - x[n, :h, :w]).max() > 0.1
        np.testing.assert_allclose(padded[n, :h, :w], alone, atol=1e-5)
        assert not np.any(np.asarray(padded[n])[~np.asarray(mask[n])])


def test_a_photo_without_positions_has_a_finite_gradient():
    x, mask = example()
    block, variables = random_block()
    gradient = jax.jit(jax.grad(lambda x: block.apply(variables, x, mask.at[1].set(False)).sum()))(x)
    assert np.isfinite(gradient).all() and not np.any(gradient[1])


def test_batch_statistics_move_only_when_updates_are_on():
    x, mask = example()
    _, variables = random_block()
    for updates in (False, True):
        block = SOABlock(2, update_stats=updates)

        def step(x, mask, block=block):
            return block.apply(variables, x, mask, train=True, mutable=["batch_stats"])[1]["batch_stats"]

        after = jax.pmap(step, "batch")(x[None], mask[None])
        for before, now in zip(jax.tree.leaves(variables["batch_stats"]), jax.tree.leaves(after), strict=True):
            assert np.array_equal(before, now[0]) != updates


@pytest.mark.parity
@pytest.mark.parametrize("k", [4, 2])
def test_the_block_equals_torch(k):
    """Forward, and the gradients of map and kernels. The bias before a BatchNorm is taken off its mean."""
    torch = pytest.importorskip("torch")
    x = example()[0]
    block, variables = random_block(k=k)
    params, stats = variables["params"], variables["batch_stats"]
    m = 8 // k

    def tensor(value, name, axes=None):
        value = np.asarray(value, np.float64)
        value = value.transpose(axes) if axes else value
        leaves[name] = torch.tensor(value.copy(), requires_grad=True)
        return leaves[name]

    leaves = {}
    there = tensor(x, "x", (0, 3, 1, 2))
    bias_before = torch.linspace(-0.5, 0.5, m, dtype=torch.float64)

    def unit(name):
        kernel = tensor(params[name]["kernel"], name, (3, 2, 0, 1))
        y = torch.nn.functional.conv2d(there, kernel, bias_before)
        mean, var = (torch.tensor(np.asarray(stats[name][s], np.float64)) for s in ("mean", "var"))
        scale, bias = (torch.tensor(np.asarray(params[name][s], np.float64)) for s in ("scale", "bias"))
        y = torch.nn.functional.batch_norm(y, mean + bias_before, var, scale, bias, training=False, eps=1e-5)
        return torch.relu(y).flatten(2)

    def plain(x, name):
        kernel = tensor(np.asarray(params[name]["kernel"]).T[..., None, None], name)
        return torch.nn.functional.conv2d(x, kernel, torch.tensor(np.asarray(params[name]["bias"], np.float64)))

    f, g, h = unit("f"), unit("g"), plain(there, "h").flatten(2)
    attention = torch.softmax(m**-0.5 * torch.bmm(f.transpose(1, 2), g), -1)
    z = torch.bmm(attention, h.transpose(1, 2)).transpose(1, 2).reshape(2, m, 3, 4)
    y = plain(z, "v") + there
    y.pow(3).sum().backward()

    full = jnp.ones(x.shape[:3], bool)
    np.testing.assert_allclose(
        jax.jit(block.apply)(variables, x, full), y.detach().numpy().transpose(0, 2, 3, 1), atol=1e-5
    )

    with jax.enable_x64(True):  # sums of the gradient cancel: float32 keeps five digits of some elements, or six
        double = block.clone(dtype=jnp.float64)

        def loss(variables, x):
            return jnp.sum(double.apply(variables, x, full) ** 3)

        to_double = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), (variables, x))
        gradient, dx = jax.device_get(jax.jit(jax.grad(loss, (0, 1)))(*to_double))
        gradient = gradient["params"]
    expected = leaves["x"].grad.numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(dx, expected, rtol=1e-5, atol=1e-6)
    for name in "fghv":
        expected = leaves[name].grad.numpy()
        ours = np.asarray(gradient[name]["kernel"]).reshape(-1, expected.shape[0]).T
        np.testing.assert_allclose(ours, expected[..., 0, 0], rtol=1e-5, atol=1e-6)
