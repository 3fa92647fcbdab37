"""HOW's head: the average without the border, the reduction and the strengths equal the authors' operations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sret_jax.models.local_features import LocalFeatureHead
from sret_jax.models.pooling import weighted_sum


@pytest.mark.parity
@pytest.mark.parametrize("size", [(4, 5), (1, 3)])
def test_the_head_of_how_equals_torch(size):
    """Features, strengths, and the gradient of both and of their weighted sum with respect to the map."""
    torch = pytest.importorskip("torch")
    functional, rng = torch.nn.functional, np.random.default_rng(0)
    x = np.maximum(rng.normal(size=(2, *size, 12)), 0).astype(np.float32)
    x[0, 0, 0] = 0  # a strength of 1e-5
    kernel, bias = 0.3 * rng.normal(size=(12, 6)), 0.1 * rng.normal(size=6)
    head, full = LocalFeatureHead(6, 3), jnp.ones((2, *size), bool)
    variables = {"params": {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.asarray(bias, jnp.float32)}}

    def ours(x):
        local = head.apply(variables, x, full, x)
        pooled = weighted_sum(local["features"], local["strength"], full)
        return jnp.sin(pooled).sum() + jnp.sin(local["features"]).sum() + local["strength"].sum(), local

    (value, local), gradient = jax.jit(jax.value_and_grad(ours, has_aux=True))(jnp.asarray(x))
    there = torch.tensor(x.astype(np.float64).transpose(0, 3, 1, 2), requires_grad=True)
    strength = (there.pow(2).sum(1) + 1e-10).sqrt()
    averaged = functional.avg_pool2d(there, 3, 1, 1, count_include_pad=False)
    kernel, bias = (np.asarray(variables["params"][name], np.float64) for name in ("kernel", "bias"))
    features = functional.conv2d(averaged, torch.tensor(kernel.T[..., None, None].copy()), torch.tensor(bias))
    pooled = (features * strength[:, None]).sum((2, 3))
    expected = torch.sin(pooled).sum() + torch.sin(features).sum() + strength.sum()
    expected.backward()
    np.testing.assert_allclose(local["features"], features.detach().movedim(1, 3), rtol=0, atol=1e-5)
    np.testing.assert_allclose(local["strength"], strength.detach(), rtol=0, atol=1e-5)
    np.testing.assert_allclose(value, expected.item(), rtol=1e-5)
    np.testing.assert_allclose(gradient, there.grad.numpy().transpose(0, 2, 3, 1), rtol=0, atol=1e-5)
