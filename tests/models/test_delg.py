"""DELG's local head and losses against torch, and what padding may not change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sret_jax.models.delg import DelgHead, attended_mean, reconstruction_error
from sret_jax.training.delg_loss import attention_loss, delg_loss, init_delg_loss

HEAD = DelgHead(dim=4, hidden=6)


def example(seed=0, c=8):
    rng = np.random.default_rng(seed)
    x = np.maximum(rng.normal(size=(3, 4, 5, c)), 0).astype(np.float32)
    variables = HEAD.init(jax.random.key(seed), jnp.asarray(x), jnp.ones((3, 4, 5), bool))
    # The same in scale, and no longer zeros and ones.
    variables = jax.tree.map(lambda z: z + jnp.asarray(0.1 * rng.random(z.shape), jnp.float32), variables)
    params = init_delg_loss(7, c, jax.random.key(1))
    return jnp.asarray(x), variables, params, jnp.array([2, 0, 6])


def applied(variables, x, mask, train):
    """The head inside the axis over which it averages its statistics."""
    call = jax.vmap(
        lambda x, mask: HEAD.apply(variables, x, mask, train=train, mutable=["batch_stats"]), axis_name="batch"
    )
    (local, seen), updated = jax.jit(call)(x[None], mask[None])
    return jax.tree.map(lambda z: z[0], (local, seen, updated["batch_stats"]))


def in_torch(torch, x, variables, params, labels, train):
    """Features, strengths, loss and the gradients of the loss, from the equations; NHWC throughout."""
    functional = torch.nn.functional
    names = jax.tree.map(lambda z: torch.from_numpy(np.array(z)).requires_grad_(), (variables["params"], params))
    p, loss_params = names
    stats = variables["batch_stats"]["attention"]
    x = torch.from_numpy(np.array(x))
    short = x @ p["reduce"]["kernel"] + p["reduce"]["bias"]
    again = functional.relu(short @ p["expand"]["kernel"] + p["expand"]["bias"])
    hidden = (again @ p["attention"]["kernel"][0, 0]).reshape(-1, HEAD.hidden)
    mean, variance = (torch.from_numpy(np.array(stats[name])) for name in ("mean", "var"))
    scale, bias = p["attention"]["scale"], p["attention"]["bias"]
    hidden = functional.relu(functional.batch_norm(hidden, mean, variance, scale, bias, train, 0.01, 1e-3))
    score = hidden.reshape(*x.shape[:3], -1) @ p["score"]["kernel"] + p["score"]["bias"]
    strength = functional.softplus(score)[..., 0]
    unit = x * torch.rsqrt(torch.clamp((x**2).sum(-1, keepdim=True), min=1e-12))
    attended = (unit * strength[..., None]).mean((1, 2))
    logits = attended @ loss_params["kernel"] + loss_params["bias"]
    loss = functional.cross_entropy(logits, torch.from_numpy(np.array(labels)).long())
    loss = loss + 10 * functional.mse_loss(again, x)
    loss.backward()
    gradients = jax.tree.map(lambda z: z.grad.numpy(), names)
    return functional.normalize(short, dim=-1), strength, loss, gradients


@pytest.mark.parity
@pytest.mark.parametrize("train", [False, True])
def test_head_and_losses_equal_torch(train):
    torch = pytest.importorskip("torch")
    x, variables, params, labels = example()
    mask = jnp.ones(x.shape[:3], bool)

    def loss(trained):
        head, classifier = trained
        local, seen, _ = applied(variables | {"params": head}, x, mask, train)
        return delg_loss(classifier, seen, labels), local

    (value, local), gradients = jax.value_and_grad(loss, has_aux=True)((variables["params"], params))
    features, strength, expected, expected_gradients = in_torch(torch, x, variables, params, labels, train)
    np.testing.assert_allclose(local["features"], features.detach(), atol=1e-5)
    np.testing.assert_allclose(local["strength"], strength.detach(), atol=1e-5)
    np.testing.assert_allclose(value, expected.item(), rtol=1e-5)
    for path, g in jax.tree_util.tree_leaves_with_path(gradients):
        reference = expected_gradients
        for key in path:
            reference = reference[getattr(key, "key", getattr(key, "idx", None))]
        np.testing.assert_allclose(g, reference, atol=1e-5, err_msg=jax.tree_util.keystr(path))


def test_the_head_equals_its_equations_in_loops():
    """Outside of training, on the left half of each photograph."""
    x, variables, *_ = example(1)
    mask = jnp.ones(x.shape[:3], bool).at[:, :, 3:].set(False)
    local, seen, _ = applied(variables, x, mask, False)
    p, stats = jax.tree.map(lambda z: np.asarray(z, np.float64), (variables["params"], variables["batch_stats"]))
    norm, stats = p["attention"], stats["attention"]
    for n, photo in enumerate(np.asarray(x, np.float64)):
        attended, error, places = 0, 0, [(i, j) for i in range(4) for j in range(3)]
        for at in places:
            v = photo[at]
            short = v @ p["reduce"]["kernel"] + p["reduce"]["bias"]
            again = np.maximum(short @ p["expand"]["kernel"] + p["expand"]["bias"], 0)
            hidden = (again @ norm["kernel"][0, 0] - stats["mean"]) / np.sqrt(stats["var"] + 1e-3)
            hidden = np.maximum(hidden * norm["scale"] + norm["bias"], 0)
            strength = np.log1p(np.exp(hidden @ p["score"]["kernel"][:, 0] + p["score"]["bias"][0]))
            np.testing.assert_allclose(local["features"][n][at], short / np.linalg.norm(short), rtol=0, atol=1e-5)
            np.testing.assert_allclose(local["strength"][n][at], strength, rtol=0, atol=1e-5)
            attended = attended + strength * v / max(np.linalg.norm(v), 1e-6)
            error += np.mean((v - again) ** 2)
        np.testing.assert_allclose(seen["attended"][n], attended / len(places), rtol=0, atol=1e-5)
        np.testing.assert_allclose(seen["error"][n], error / len(places), rtol=0, atol=1e-5)


def test_no_gradient_reaches_the_backbone():
    x, variables, params, labels = example()
    mask = jnp.ones(x.shape[:3], bool)
    gradient = jax.grad(lambda x: delg_loss(params, applied(variables, x, mask, True)[1], labels))(x)
    assert not np.asarray(gradient).any()


@pytest.mark.parametrize("train", [False, True])
def test_padding_is_invisible(train):
    x, variables, *_ = example()
    padded = jnp.full((3, 6, 8, 8), 9.0).at[:, :4, :5].set(x)
    mask = jnp.zeros((3, 6, 8), bool).at[:, :4, :5].set(True)
    local, seen, stats = applied(variables, padded, mask, train)
    alone, seen_alone, stats_alone = applied(variables, x, mask[:, :4, :5], train)
    for name in ("features", "strength"):
        np.testing.assert_allclose(local[name][:, :4, :5], alone[name], atol=1e-5)
        assert not np.asarray(local[name])[~np.asarray(mask)].any()
    for ours, expected in zip(*map(jax.tree.leaves, ((seen, stats), (seen_alone, stats_alone))), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_a_photograph_without_positions_counts_as_nothing():
    x, *_ = example()
    nowhere = jnp.zeros(x.shape[:3], bool)
    assert not np.asarray(attended_mean(x, x[..., 0], mask=nowhere)).any()
    assert not np.asarray(reconstruction_error(x, 2 * x, mask=nowhere)).any()


def test_attention_loss_of_equal_logits_is_the_logarithm_of_the_classes():
    loss = attention_loss(jnp.ones((2, 3)), jnp.array([0, 4]), jnp.zeros((3, 5)), jnp.zeros(5))
    np.testing.assert_allclose(loss, np.log(5), rtol=1e-6)


def test_steps_lower_both_losses():
    x, variables, params, labels = example(2)
    mask = jnp.ones(x.shape[:3], bool)

    def loss(trained):
        _, seen, _ = applied(variables | {"params": trained[0]}, x, mask, True)
        return delg_loss(trained[1], seen, labels), seen["error"].mean()

    trained = variables["params"], params
    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (first, first_error), _ = step(trained)
    for _ in range(60):
        (last, last_error), gradient = step(trained)
        trained = jax.tree.map(lambda p, g: p - 0.05 * g, trained, gradient)
    assert last < 0.7 * first and last_error < 0.7 * first_error
    assert last - 10 * last_error < first - 10 * first_error  # the attention's part too
