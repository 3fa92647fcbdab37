"""Descriptors over scales against the published code written out in numpy and torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sret_jax.data.resizing import content_size, place, resize
from sret_jax.extraction.descriptors import Extractor
from sret_jax.extraction.multiscale import pool_scales, resize_input
from sret_jax.models.descriptor import RetrievalNetwork
from sret_jax.models.pooling import GeM
from sret_jax.models.whitening import Whitening
from tests.support.networks import NETWORK, VARIABLES
from tests.support.photos import photo_set
from tests.support.runs import extraction_config as config

RNG = np.random.default_rng(0)
RESIZE = jax.jit(resize_input, static_argnums=(2, 3))
P = np.array(2.5, np.float32)


def scales(positive=False):
    x = RNG.normal(size=(3, 5, 8)).astype(np.float32)
    x = np.abs(x) if positive else x
    return x / np.linalg.norm(x, axis=2, keepdims=True)


def loops(x, combine):
    out = np.array([combine([x[s, i].astype(np.float64) for s in range(len(x))]) for i in range(x.shape[1])])
    return out / np.linalg.norm(out, axis=1, keepdims=True)


@pytest.mark.parametrize("p", [P, np.linspace(1, 6, 8, dtype=np.float32)])
def test_gem_over_scales_is_the_power_mean_with_the_networks_exponents(p):
    x = scales(positive=True)
    expected = loops(x, lambda v: (sum(one**p for one in v) / len(v)) ** (1 / p))
    np.testing.assert_allclose(pool_scales(x, "gem", p), expected, rtol=1e-5)


def test_the_other_poolings_equal_the_published_code():
    x = scales()

    def cubes(v):
        mean = sum(np.sign(one) * np.abs(one) ** 3 for one in v) / len(v)
        return np.sign(mean) * np.abs(mean) ** (1 / 3)

    np.testing.assert_allclose(pool_scales(x, "mean", P), loops(x, sum), atol=1e-6)
    np.testing.assert_allclose(pool_scales(x, "max", P), loops(x, lambda v: np.max(v, 0)), atol=1e-6)
    far = np.abs(loops(x, cubes)) > 0.05  # DIR keeps |v| above 1e-6 before either power
    np.testing.assert_allclose(pool_scales(x, "power3", P)[far], loops(x, cubes)[far], atol=1e-4)


@pytest.mark.parametrize("scale", [2**-0.5, 2**0.5])
def test_what_is_resized_on_the_device_does_not_see_its_padding(scale):
    photo = RNG.integers(0, 256, (40, 24, 3), np.uint8)
    image, mask = (jnp.asarray(x)[None] for x in place(photo, (64, 48)))
    alone = RESIZE(jnp.asarray(photo)[None], jnp.ones((1, 40, 24), bool), scale, 8)
    padded = RESIZE(image.at[0, 40:].set(255), mask, scale, 8)  # whatever stands in the padding
    h, w = int(40 * scale), int(24 * scale)
    for images, masks in (alone, padded):
        assert masks[0, :h, :w].all() and masks.sum() == h * w and not (images * ~masks[..., None]).any()
        assert all(side % 8 == 0 for side in images.shape[1:3])
    np.testing.assert_allclose(padded[0][0, :h, :w], alone[0][0, :h, :w], atol=1e-4)


@pytest.mark.parametrize("pooling", ["mean", "gem"])
def test_of_a_whitened_network_gem_over_scales_is_the_mean(pooling):
    photos = photo_set(3)
    settings = config(scales=(1.0, 0.5), scale_pooling=pooling)
    plain = Extractor(NETWORK, VARIABLES, settings)
    whitened = Extractor(NETWORK.clone(whitening=Whitening(4)), VARIABLES, settings)
    np.testing.assert_array_equal(plain._exponents(), np.full(12, 3.0))
    assert whitened._exponents() == 1
    x = np.stack([Extractor(NETWORK, VARIABLES, config(scales=(s,))).describe(photos, range(3)) for s in (1.0, 0.5)])
    expected = pool_scales(x, pooling, np.full(12, 3, np.float32))
    np.testing.assert_allclose(plain.describe(photos, range(3)), expected, atol=1e-6)
    np.testing.assert_allclose(pool_scales(x, "gem", np.ones((), np.float32)), pool_scales(x, "mean", P), atol=1e-6)


@pytest.mark.parity
def test_resizing_equals_torchs_interpolate_of_the_normalised_tensor():
    torch = pytest.importorskip("torch")
    photo = RNG.integers(0, 256, (2, 40, 56, 3), np.uint8)
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    for scale in (0.5, 0.707, 2**0.5):
        ours, mask = RESIZE(jnp.asarray(photo), jnp.ones(photo.shape[:3], bool), scale, 8)
        normalised = torch.tensor((photo / 255 - mean) / deviation).permute(0, 3, 1, 2)
        theirs = torch.nn.functional.interpolate(normalised, scale_factor=scale, mode="bilinear", align_corners=False)
        h, w = theirs.shape[2:]
        assert (int(mask[0].any(1).sum()), int(mask[0].any(0).sum())) == (h, w)
        np.testing.assert_allclose(
            (np.asarray(ours)[:, :h, :w] / 255 - mean) / deviation, theirs.permute(0, 2, 3, 1).numpy(), atol=2e-5
        )


@pytest.mark.parity
def test_the_whole_way_equals_cirtorchs_extract_ms():
    """A convolution, GeM with one exponent, l2n: at three scales of the normalised tensor, power mean, normalised."""
    torch = pytest.importorskip("torch")
    photos, factors = photo_set(4), (1.0, 2**-0.5, 2**0.5)
    variables = jax.tree.map(lambda x: x, VARIABLES)
    variables["params"]["pool"]["p"] = jnp.full(12, 2.2)
    settings = config(scales=factors, scale_pooling="gem", resized="tensor")
    ours = Extractor(NETWORK, variables, settings).describe(photos, range(4))

    weights = {name: torch.tensor(np.asarray(x)) for name, x in variables["params"]["backbone"]["Conv_0"].items()}
    kernel = weights["kernel"].permute(3, 2, 0, 1)
    for row in range(4):
        photo = resize(photos.photo(row), content_size(tuple(photos.sizes[row]), 64, 8)).copy()
        tensor = torch.tensor(photo).permute(2, 0, 1)[None] / 255
        total = torch.zeros(12)
        for factor in factors:
            x = tensor.clone()
            if factor != 1:
                x = torch.nn.functional.interpolate(tensor, scale_factor=factor, mode="bilinear", align_corners=False)
            h, w = (-(-side // 8) * 8 for side in x.shape[2:])  # what lies beyond is zero, as in a padded convolution
            x = torch.nn.functional.pad(x, (0, w - x.shape[3], 0, h - x.shape[2]))
            x = torch.relu(torch.nn.functional.conv2d(x, kernel, weights["bias"], stride=8))
            v = (x.clamp(min=1e-6) ** 2.2).mean((2, 3)) ** (1 / 2.2)
            total += (v / (v.norm() + 1e-6))[0] ** 2.2
        v = (total / 3) ** (1 / 2.2)
        np.testing.assert_allclose(ours[row], (v / v.norm()).numpy(), atol=1e-5)


def test_no_scale_of_a_network_sees_the_other_photographs_of_its_batch():
    photos = photo_set(5)
    network = RetrievalNetwork(backbone=NETWORK.backbone, pool=GeM(3.0), stage="last", size_multiple=8)
    settings = config(scales=(1.0, 0.7), scale_pooling="max", resized="tensor")
    extractor = Extractor(network, VARIABLES, settings)
    together = extractor.describe(photos, range(5))
    apart = np.concatenate([extractor.describe(photos, [row]) for row in range(5)])
    np.testing.assert_allclose(together, apart, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
