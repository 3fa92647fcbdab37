"""The losses that train published systems, against their equations as loops and against torch, with gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sret_jax.training import losses
from sret_jax.training.margin_losses import arcface, cosface, curricularface, subcentre_arcface
from sret_jax.training.pair_losses import contrastive, infonce, multi_similarity, triplet
from sret_jax.training.tuple_losses import hardest_tuples, solar, tuple_contrastive, tuple_triplet
from tests.support.descriptors import batch

CLASSES, DIM = 5, 6


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def tuples(seed=0, count=4, negatives=3):
    """Unit vectors whose positives are near and whose negatives lie on both sides of the margins."""
    rng = np.random.default_rng(seed)
    q = unit(rng.normal(size=(count, DIM)))
    p = unit(q + 0.2 * rng.normal(size=q.shape))
    n = unit(q[:, None] + 0.8 * rng.normal(size=(count, negatives, DIM)))
    return [np.float32(x) for x in (q, p, n)]


def contrastive_loops(q, p, n, margin):
    total = 0.0
    for i in range(len(q)):
        total += np.sum((q[i] - p[i] + 1e-6) ** 2) / 2
        for negative in n[i]:
            total += max(0, margin - np.sqrt(np.sum((q[i] - negative + 1e-6) ** 2))) ** 2 / 2
    return total


def triplet_loops(q, p, n, margin):
    total = 0.0
    for i in range(len(q)):
        for negative in n[i]:
            total += max(0, np.sum((q[i] - p[i]) ** 2) - np.sum((q[i] - negative) ** 2) + margin)
    return total


def solar_loops(q, p, n, margin, weight):
    second = 0.0
    for i in range(len(q)):
        for negative in n[i]:
            second += (np.sum((q[i] - negative) ** 2) - np.sum((p[i] - negative) ** 2)) ** 2
    return (triplet_loops(q, p, n, margin) + weight * np.sqrt(second)) / len(q)


@partial(jax.jit, static_argnames=("margin", "weight"))
def of_tuples(q, p, n, margin, weight=10.0):
    return {
        "contrastive": tuple_contrastive(q, p, n, margin=margin),
        "triplet": tuple_triplet(q, p, n, margin=margin),
        "solar": solar(q, p, n, margin=margin, weight=weight),
    }


@pytest.mark.parametrize("seed", range(3))
def test_losses_of_tuples_equal_their_loops(seed):
    rows = tuples(seed)
    wide = [np.asarray(x, np.float64) for x in rows]
    for margin in (0.5, 0.8, 1.25):
        expected = {
            "contrastive": contrastive_loops(*wide, margin),
            "triplet": triplet_loops(*wide, margin),
            "solar": solar_loops(*wide, margin, 10.0),
        }
        for name, ours in of_tuples(*rows, margin).items():
            assert expected[name] > 0
            np.testing.assert_allclose(ours, expected[name], rtol=1e-5, err_msg=name)


def test_where_query_and_positive_coincide_the_gradient_is_finite():
    q, _, n = tuples()
    loss = jax.jit(jax.value_and_grad(partial(solar, margin=1.25, weight=10.0), argnums=1))
    value, gradient = loss(q, q, n)
    assert np.isfinite(value) and np.isfinite(gradient).all()
    np.testing.assert_allclose(value, of_tuples(q, q, n, 1.25, 0.0)["solar"], rtol=1e-6)


hardest = jax.jit(hardest_tuples, static_argnums=2)


def test_on_a_labelled_batch_solar_takes_the_hardest_and_skips_what_has_none():
    x, labels = map(np.array, batch(1, instances=3, photos=3))
    labels[0] = 7  # a photograph alone
    p, n, where = jax.device_get(hardest(x, labels, 4))
    squared = np.sum((x[:, None] - x[None]) ** 2, axis=2)
    for i in range(len(x)):
        same = np.flatnonzero((labels == labels[i]) & (np.arange(len(x)) != i))
        others = np.flatnonzero(labels != labels[i])
        assert where[i].all() == (i != 0) and where[i].any() == (i != 0)
        if i:
            assert p[i] == same[np.argmax(squared[i, same])]
            np.testing.assert_array_equal(n[i], others[np.argsort(squared[i, others])[:4]])
    kept = np.arange(1, len(x))
    config = losses.TrainConfig(loss="solar", margin=1.25, negatives=4)
    ours = jax.jit(lambda x, labels: losses.batch_loss(config, {}, {}, x, labels)[0])(x, labels)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(ours, solar_loops(wide[kept], wide[p[kept]], wide[n[kept]], 1.25, 10.0), rtol=1e-5)


def test_fewer_negatives_than_requested_are_all_taken():
    x, labels = batch(2, instances=2, photos=2)
    _, n, where = jax.device_get(hardest(x, labels, 5))
    assert n.shape == (4, 4) and (where.sum(1) == 2).all()


@pytest.mark.parametrize("loss", ["contrastive", "triplet", "solar"])
def test_mined_tuples_lie_one_after_the_other(loss):
    q, p, n = tuples()
    config = losses.TrainConfig(loss=loss, margin=0.9, negatives=3)
    rows = np.concatenate([q[:, None], p[:, None], n], axis=1).reshape(-1, DIM)
    of_rows = jax.jit(lambda rows, labels: losses.batch_loss(config, {}, {}, rows, labels, tuples=True)[0])
    ours = of_rows(rows, np.zeros(len(rows), np.int32))
    np.testing.assert_allclose(ours, of_tuples(q, p, n, 0.9)[loss], rtol=1e-6)


def test_curricularface_moves_its_average_before_it_is_used():
    x, labels = map(np.asarray, batch(0, instances=CLASSES))
    weights = np.float32(np.random.default_rng(1).normal(size=(CLASSES, DIM)))
    t = 0.3
    loss = jax.jit(partial(curricularface, margin=0.3, scale=8.0))
    ours, moved = loss(x, labels, weights, np.float32(t))
    cos = x.astype(np.float64) @ unit(weights.astype(np.float64)).T
    own = cos[np.arange(len(x)), labels]
    t = 0.01 * own.mean() + 0.99 * t
    total = 0.0
    for i, y in enumerate(labels):
        theta = np.arccos(own[i])
        logits = np.where(cos[i] > np.cos(theta + 0.3), cos[i] * (t + cos[i]), cos[i])
        logits[y] = np.cos(theta + 0.3) if theta + 0.3 < np.pi else own[i] - 0.3 * np.sin(0.3)
        total += np.log(np.exp(8 * logits).sum()) - 8 * logits[y]
    np.testing.assert_allclose(moved, t, rtol=1e-6)
    np.testing.assert_allclose(ours, total / len(x), rtol=1e-5)


def compare(ours, theirs, *arrays, atol=1e-9):
    """Values in float32 to 1e-5; values, and gradients with respect to all arrays, in float64 to `atol`.

    In float32 a gradient of size 100, as SOLAR's has, resolves no 1e-5.
    """
    torch = pytest.importorskip("torch")
    tensors = [torch.tensor(np.asarray(x, np.float64), requires_grad=True) for x in arrays]
    expected = theirs(*tensors)
    expected.backward()
    np.testing.assert_allclose(jax.jit(ours)(*arrays), expected.item(), rtol=1e-5)
    with jax.enable_x64(True):
        wide = [np.asarray(x, np.float64) for x in arrays]
        value, gradients = jax.jit(jax.value_and_grad(ours, argnums=tuple(range(len(arrays)))))(*wide)
    np.testing.assert_allclose(value, expected.item(), rtol=0, atol=atol)
    for gradient, tensor in zip(gradients, tensors, strict=True):
        assert tensor.grad.abs().max() > 1e-3
        np.testing.assert_allclose(gradient, tensor.grad.numpy(), rtol=0, atol=atol)


@pytest.mark.parity
@pytest.mark.parametrize("margin", [0.7, 0.85, 1.25])
def test_losses_of_tuples_equal_the_authors_operations(margin):
    torch = pytest.importorskip("torch")

    def contrastive(q, p, n):
        matches = torch.cat([torch.ones(1), torch.zeros(n.shape[1])]).repeat(len(q))
        others = torch.cat([p[:, None], n], 1).reshape(-1, DIM)
        queries = q.repeat_interleave(1 + n.shape[1], 0)
        d = torch.pow(queries - others + 1e-6, 2).sum(1).sqrt()
        return (0.5 * matches * d**2 + 0.5 * (1 - matches) * torch.clamp(margin - d, min=0) ** 2).sum()

    def distances(q, p, n):
        a, b = (x.repeat_interleave(n.shape[1], 0) for x in (q, p))
        n = n.reshape(-1, DIM)
        return [((x - y) ** 2).sum(1) for x, y in ((a, b), (a, n), (b, n))]

    def triplet(q, p, n):
        positive, negative, _ = distances(q, p, n)
        return torch.clamp(positive - negative + margin, min=0).sum()

    def second_order(q, p, n):
        _, from_query, from_positive = distances(q, p, n)
        return torch.sum((from_query - from_positive) ** 2) ** 0.5

    rows = tuples(3)
    compare(lambda *x: tuple_contrastive(*x, margin=margin), contrastive, *rows)
    compare(lambda *x: tuple_triplet(*x, margin=margin), triplet, *rows)
    both = lambda *x: (triplet(*x) + 10 * second_order(*x)) / len(x[0])  # noqa: E731
    compare(lambda *x: solar(*x, margin=margin, weight=10.0), both, *rows)


@pytest.mark.parity
@pytest.mark.parametrize("t", [0.0, 0.4])
def test_curricularface_equals_the_authors_operations(t):
    torch = pytest.importorskip("torch")
    x, labels = batch(4, instances=CLASSES)
    weights = np.float32(np.random.default_rng(5).normal(size=(CLASSES, DIM)))
    margin, scale = 0.5, 16.0

    def theirs(x, weights):
        cos = (x @ torch.nn.functional.normalize(weights, dim=1).T).clamp(-1, 1)
        target = cos[torch.arange(len(x)), torch.tensor(np.asarray(labels))].view(-1, 1)
        sin = torch.sqrt(1 - target**2)
        pushed = target * np.cos(margin) - sin * np.sin(margin)
        mask = cos > pushed
        final = torch.where(target > np.cos(np.pi - margin), pushed, target - np.sin(np.pi - margin) * margin)
        with torch.no_grad():
            moved = target.mean() * 0.01 + 0.99 * t
        cos = torch.where(mask, cos * (moved + cos), cos)
        y = torch.tensor(np.asarray(labels)).long()
        return torch.nn.functional.cross_entropy(cos.scatter(1, y.view(-1, 1), final) * scale, y)

    compare(
        lambda x, w: curricularface(x, labels, w, jnp.asarray(t), margin=margin, scale=scale)[0], theirs, x, weights
    )


def normalized(x):
    return x / jnp.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parity
@pytest.mark.parametrize("name", ["ArcFaceLoss", "CosFaceLoss", "SubCenterArcFaceLoss"])
def test_margin_losses_equal_pytorch_metric_learning(name):
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("pytorch_metric_learning.losses")
    x, labels = batch(6, instances=CLASSES)
    margin, scale = 0.35, 24.0
    centres = {"sub_centers": 3} if name == "SubCenterArcFaceLoss" else {}
    in_their_unit = margin if name == "CosFaceLoss" else np.rad2deg(margin)
    module = getattr(library, name)(
        num_classes=CLASSES, embedding_size=DIM, margin=in_their_unit, scale=scale, **centres
    )
    shape = (CLASSES, 3, DIM) if centres else (CLASSES, DIM)
    weights = np.float32(np.random.default_rng(7).normal(size=shape))
    function = {"ArcFaceLoss": arcface, "CosFaceLoss": cosface, "SubCenterArcFaceLoss": subcentre_arcface}[name]
    y = torch.tensor(np.asarray(labels)).long()

    def theirs(x, w):
        del module.W
        module.W = w.reshape(-1, DIM).T
        return module(x, y)

    ours = lambda x, w: function(normalized(x), labels, w, margin=margin, scale=scale)  # noqa: E731
    compare(ours, theirs, 1.3 * np.asarray(x), weights)


@pytest.mark.parity
def test_multi_similarity_equals_pytorch_metric_learning_with_its_miner():
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("pytorch_metric_learning.losses")
    miners = pytest.importorskip("pytorch_metric_learning.miners")
    x, labels = batch(8)
    y = torch.tensor(np.asarray(labels)).long()
    loss, miner = library.MultiSimilarityLoss(alpha=2, beta=50, base=0.6), miners.MultiSimilarityMiner(epsilon=0.1)
    compare(lambda x: multi_similarity(normalized(x), labels, base=0.6), lambda x: loss(x, y, miner(x.detach(), y)), x)


@pytest.mark.parity
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_infonce_equals_the_supervised_contrastive_loss_of_pytorch_metric_learning(temperature):
    """Which adds the least float32 to the number of positives."""
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("pytorch_metric_learning.losses")
    x, labels = map(np.array, batch(8))
    labels[0] = 9  # a photograph alone
    loss, y = library.SupConLoss(temperature=temperature), torch.tensor(labels).long()
    ours = lambda x: infonce(normalized(x), jnp.asarray(labels), temperature=temperature)  # noqa: E731
    compare(ours, lambda x: loss(x, y), 1.3 * x)


@pytest.mark.parity
@pytest.mark.parametrize("margin", [0.7, 1.3])
def test_contrastive_of_a_batch_equals_torch(margin):
    torch = pytest.importorskip("torch")
    x, labels = batch(8)
    same = torch.tensor(np.asarray(labels))[:, None] == torch.tensor(np.asarray(labels))

    def theirs(x):
        x = torch.nn.functional.normalize(x)
        i, j = torch.triu_indices(len(x), len(x), 1)
        d, matching = (x[i] - x[j]).norm(dim=1), same[i, j]
        pushed = torch.clamp(margin - d[~matching], min=0)
        return (d[matching] ** 2 / 2).mean() + (pushed[pushed > 0] ** 2 / 2).mean()

    compare(lambda x: contrastive(normalized(x), labels, margin=margin), theirs, 1.3 * np.asarray(x))


@pytest.mark.parity
@pytest.mark.parametrize("margin", [0.2, 0.8])
def test_triplet_of_a_batch_equals_pytorch_metric_learning_with_its_miner(margin):
    """Whose distance has no 1e-6 under the root."""
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("pytorch_metric_learning.losses")
    miners = pytest.importorskip("pytorch_metric_learning.miners")
    reducers = pytest.importorskip("pytorch_metric_learning.reducers")
    x, labels = batch(8)
    y = torch.tensor(np.asarray(labels)).long()
    loss, miner = library.TripletMarginLoss(margin, reducer=reducers.MeanReducer()), miners.BatchHardMiner()
    ours = lambda x: triplet(normalized(x), labels, margin=margin)  # noqa: E731
    compare(ours, lambda x: loss(x, y, miner(x.detach(), y)), 1.3 * np.asarray(x), atol=1e-5)
