"""One pass of the network gives descriptors and the map of a stage, both as they are when computed apart."""

import jax.numpy as jnp
import numpy as np
import pytest

from sret_jax.config import Config, DataConfig, ExtractConfig, ModelConfig
from sret_jax.data.pipeline import evaluation_batches
from sret_jax.retriever import load
from tests.support.photos import photo_set


@pytest.mark.parametrize("batch_size", [None, 1])
@pytest.mark.parametrize("stage", ["c3", "c2"])
def test_one_pass_gives_descriptors_and_the_directions_of_a_stage(stage, batch_size):
    config = Config(
        data=DataConfig(image_size=64, threads=1),
        model=ModelConfig(weights="none", stage="c3", whitening=False),
        extract=ExtractConfig(batch_size=4),
    )
    extractor, photos = load(config).extractor, photo_set()
    rows = list(range(len(photos)))[:5]
    x, maps = extractor.describe_with_maps(photos, rows, stage, batch_size)
    np.testing.assert_allclose(x, extractor.describe(photos, rows, batch_size), atol=1e-6)
    plain = extractor.network.clone(stage=stage)
    for row, own in zip(rows, maps, strict=True):
        alone = photos.select([row])
        (batch,) = evaluation_batches(
            alone, image_size=64, bucket_ratios=(0.75,), size_multiple=32, batch_size=1, threads=1
        )
        full, mask, _ = plain.apply(
            extractor.variables, jnp.asarray(batch["image"]), jnp.asarray(batch["mask"]), method="feature_map"
        )
        expected = np.asarray(full)[0, : mask[0].any(1).sum(), : mask[0].any(0).sum()]
        assert own.shape == expected.shape and own.dtype == np.int8
        cosine = np.sum(own * expected, -1) / np.maximum(
            np.linalg.norm(own.astype(float), axis=-1) * np.linalg.norm(expected, axis=-1), 1e-9
        )
        assert cosine[np.linalg.norm(expected, axis=-1) > 1e-6].min() > 0.999


def test_one_pass_gives_the_descriptors_of_several_scales_too():
    config = Config(
        data=DataConfig(image_size=64, threads=1),
        model=ModelConfig(weights="none", stage="c2", whitening=False),
        extract=ExtractConfig(batch_size=4, scales=(1.0, 0.5)),
    )
    extractor, photos = load(config).extractor, photo_set()
    x, _ = extractor.describe_with_maps(photos, [2, 0], "c2")
    np.testing.assert_array_equal(x, extractor.describe(photos, [2, 0]))
