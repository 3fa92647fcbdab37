"""What stored descriptors, local features and maps depend on beside parameters and photographs, and the versions of it.

A stored descriptor is reused while `DECODING_VERSION`, `RESIZING_VERSION`, `NETWORK_VERSION`, `LOCAL_VERSION` and
`MAPS_VERSION` stay as they are. So whoever changes what the code computes has to raise the version:
`SRET_GOLDEN=freeze pytest tests/golden/test_versions.py` then writes the values of the new version.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sret_jax.config import (
    AttentionConfig,
    Config,
    DataConfig,
    ExtractConfig,
    LocalConfig,
    ModelConfig,
    RefinementConfig,
    SmoothingConfig,
)
from sret_jax.data import decoding, resizing
from sret_jax.data.opening import open_photos
from sret_jax.extraction import local_features, maps
from sret_jax.extraction.multiscale import pool_scales, resize_input
from sret_jax.extraction.selection import SelectedFeatures
from sret_jax.models import descriptor
from sret_jax.models.descriptor import RetrievalNetwork, build_network
from sret_jax.models.pooling import GeM
from sret_jax.models.regional_pooling import regional_gem, rmac
from sret_jax.models.whitening import apply_whitening
from sret_jax.retriever import Retriever
from tests.support.networks import Tiny
from tests.support.photo_files import ACCEPTED

FILE = Path(__file__).parent / "frozen_versions.json"
SMALL = jnp.zeros((1, 32, 32, 3), jnp.uint8), jnp.ones((1, 32, 32), bool)
Values = dict[str, list[float]]


def grid(photo: np.ndarray) -> list[float]:
    """Means over 3 x 3 parts of a photograph, and its size."""
    parts = [part.mean() for row in np.array_split(photo, 3) for part in np.array_split(row, 3, axis=1)]
    return [*photo.shape[:2], *map(float, parts)]


def decoded() -> Values:
    values = {name: grid(decoding.decode_photo(data)) for name, (data, _, _) in ACCEPTED.items()}
    large = np.kron(np.arange(64, dtype=np.uint8).reshape(8, 8, 1) * 4, np.ones((40, 50, 3), np.uint8))
    values["reduced while it is decoded"] = grid(decoding.decode_photo(decoding.encode_jpeg(large, 95), 90))
    return values


def resized() -> Values:
    y, x = np.mgrid[:90, :130]
    photo = np.stack([x, 2 * y, (x * y) % 251], -1).astype(np.uint8)
    values = {}
    for longest, multiple in ((64, 32), (97, 1), (260, 8)):
        size = resizing.content_size(photo.shape[:2], longest, multiple)
        shape = resizing.choose_bucket(size, resizing.bucket_shapes(longest, (0.75,), multiple))
        image, mask = resizing.place(resizing.resize(photo, size), shape)
        values[f"{longest} by {multiple}"] = [*grid(image), float(mask.sum())]
    return values


NETWORKS = {
    "smoothing, refinement": ModelConfig(
        weights="none",
        smoothing=SmoothingConfig(enabled=True, start="average"),
        refinement=RefinementConfig(enabled=True, form="free", nodes=6, neighbours=2, width=16),
        whitening_dim=8,
    ),
    "attention, local features": ModelConfig(
        "resnet18",
        weights="none",
        attention=AttentionConfig(stages=("c4",)),
        local=LocalConfig(enabled=True, dim=8),
        pool="how",
        whitening=False,
        l2_added=True,
    ),
}


def drawn(tree: Any) -> Any:
    """Parameters that do not depend on JAX's random numbers; variances are positive."""
    rng = np.random.default_rng(0)

    def leaf(path: Any, shape: Any) -> jax.Array:
        x = rng.normal(size=shape.shape).astype(np.float32) / np.sqrt(max(1, np.prod(shape.shape[:-1])))
        return jnp.asarray(1 + abs(x) if path[-1].key in ("scale", "var", "p") else x)

    return jax.tree_util.tree_map_with_path(leaf, tree)


def computed() -> Values:
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    mask = np.ones((2, 64, 64), bool)
    mask[1, :, 32:] = False
    values = {}
    for name, config in NETWORKS.items():
        network = build_network(config)
        shapes = jax.eval_shape(network.init, jax.random.key(0), images, mask)
        x, _ = jax.jit(network.apply)(drawn(shapes), images, mask)
        values[name] = np.asarray(x)[:, :8].ravel().tolist()
    x, inside = jnp.asarray(rng.random((2, 7, 5, 6), np.float32)), jnp.ones((2, 7, 5), bool)
    values["R-MAC"] = np.ravel(rmac(x, mask=inside)).tolist()
    values["regional GeM"] = np.ravel(regional_gem(x, mask=inside))[:12].tolist()
    scales = rng.normal(size=(3, 2, 4)).astype(np.float32)
    for pooling in ("mean", "max", "power3"):
        values[f"scales: {pooling}"] = np.ravel(pool_scales(scales, pooling, np.ones((), np.float32))).tolist()
    smaller, mask = resize_input(jnp.asarray(images), jnp.asarray(mask), 0.5, 8)
    values["resized input"] = [
        *map(float, smaller.shape),
        float(smaller.mean()),
        float(smaller.std()),
        float(mask.sum()),
    ]
    learned = apply_whitening(scales[0], scales[1, 0], rng.normal(size=(4, 3)).astype(np.float32))
    values["learned whitening"] = np.ravel(learned).tolist()
    return values


def packed() -> Values:
    rng = np.random.default_rng(2)
    one = SelectedFeatures(
        rng.normal(size=(5, 4)).astype(np.float32),
        *(rng.random(shape, np.float32) for shape in ((5,), (5, 2), (5,))),
        np.int32(4),
    )
    out = local_features.unpack(local_features.pack([one]))
    return {name: np.ravel(value).astype(float).tolist() for name, value in zip(out._fields, out, strict=True)}


def stored() -> Values:
    """Maps of a network that returns its input, as they are read from the disk again."""
    rng = np.random.default_rng(3)
    config = Config(data=DataConfig(image_size=32, threads=1), extract=ExtractConfig(batch_size=2))
    photos = open_photos([rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)])
    network = RetrievalNetwork(backbone=Tiny(), pool=GeM(3.0), stage="last", size_multiple=8)
    retriever = Retriever(network, drawn(jax.eval_shape(network.init, jax.random.key(0), *SMALL)), config)
    with tempfile.TemporaryDirectory() as folder:
        x, mask = retriever.maps(photos, folder, 32)(np.array([0]))
    return {"map": np.ravel(x).astype(float).tolist(), "mask": np.ravel(mask).astype(float).tolist()}


PARTS = {
    "decoding": (lambda: decoding.DECODING_VERSION, decoded, 2.0),
    "resizing": (lambda: resizing.RESIZING_VERSION, resized, 0.05),
    "network": (lambda: descriptor.NETWORK_VERSION, computed, 2e-4),
    "maps": (lambda: maps.MAPS_VERSION, stored, 1e-3),
    "local": (lambda: local_features.LOCAL_VERSION, packed, 1e-6),
}


@pytest.mark.parametrize("part", PARTS)
def test_a_change_of_what_is_computed_raises_the_version(part):
    version, compute, tolerance = PARTS[part]
    found = {"version": version(), "values": compute()}
    frozen = json.loads(FILE.read_text()) if FILE.exists() else {}
    if os.environ.get("SRET_GOLDEN") == "freeze" and frozen.get(part, {}).get("version") != found["version"]:
        frozen[part] = found
        FILE.write_text(json.dumps(frozen, indent=1) + "\n")
    assert found["version"] == frozen[part]["version"], f"{part}: freeze the values of the new version"
    before = frozen[part]["values"]
    assert set(found["values"]) >= set(before), f"{part}: {set(before) - set(found['values'])} is gone"
    for name, values in before.items():
        apart = np.abs(np.array(found["values"][name]) - np.array(values)).max()
        assert apart <= tolerance, f"{part}, {name}: {apart:.3g} apart; raise its version, and freeze it"
