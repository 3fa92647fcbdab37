"""Local features on disk: nearly what was found, found once, and never stale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sret_jax.config import Config, DataConfig, ExtractConfig, LocalSearchConfig
from sret_jax.data.photo_set import with_distractors
from sret_jax.data.pipeline import evaluation_batches
from sret_jax.errors import UserError
from sret_jax.extraction.descriptors import Extractor
from sret_jax.extraction.local_features import (
    StoredLocal,
    as_records,
    feature_dtype,
    open_source,
    pack,
    real_features,
    store_local,
    unpack,
)
from sret_jax.extraction.selection import SelectedFeatures
from sret_jax.models.descriptor import RetrievalNetwork
from sret_jax.models.local_features import LocalFeatureHead
from sret_jax.models.pooling import GeM
from tests.support.networks import NETWORK, VARIABLES
from tests.support.photos import photo_set


def config(source: str, **settings) -> Config:
    local = LocalSearchConfig(source=source, **({"most": 20, "scales": (1.0, 0.5), "chunk_rows": 4} | settings))
    return Config(data=DataConfig(image_size=64, threads=2), extract=ExtractConfig(batch_size=4), local=local)


def opened(photos, settings, network=NETWORK, variables=VARIABLES):
    return open_source(Extractor(network, variables, settings), photos, settings)


def test_numbers_are_kept_to_eight_bits():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(5, 8)).astype(np.float32) * np.array([1, 100, 1e-3, 1, 0], np.float32)[:, None]
    one = SelectedFeatures(features, rng.random(5), rng.random((5, 2)), np.ones(5), np.int32(4))
    back = unpack(pack([one, one]))
    assert (np.abs(back.features[1] - features) <= np.abs(features).max(1, keepdims=True) / 200).all()
    np.testing.assert_allclose(back.position[0], one.position, atol=3e-4)
    assert back.counts.tolist() == [4, 4] and back.features.dtype == np.float32


def test_real_features_are_a_record_without_its_empty_slots():
    rng = np.random.default_rng(0)
    parts = []
    for count in (3, 0, 5):
        real = (np.arange(5) < count)[:, None]
        features, position = rng.normal(size=(5, 8)) * real, rng.random((5, 2)) * real
        parts.append(SelectedFeatures(features, rng.random(5) * real[:, 0], position, real[:, 0], np.int32(count)))
    records = pack(parts)
    kept = [real_features(record) for record in records]
    assert [one.nbytes for one in kept] == [3 * 18, 0, 5 * 18] and kept[0].dtype == feature_dtype(8)
    np.testing.assert_array_equal(as_records(kept, 5), records)


@pytest.mark.parametrize("source", ["sift", "map"])
def test_a_photograph_has_the_features_it_has_alone(tmp_path, source):
    photos = photo_set()
    find = opened(photos, config(source))
    stored = StoredLocal([store_local(find, photos, config(source), tmp_path)])
    assert len(stored) == 11 and stored.nbytes < 11 * 20 * (140 if source == "sift" else 30)
    rows = np.array([7, 2, 7])
    for row, *found in zip(rows, *stored(rows), strict=True):
        ((_, alone),) = find(photos, [int(row)])
        assert found[-1] == alone.counts > 3
        np.testing.assert_allclose(found[0], alone.features, atol=np.abs(alone.features).max() / 200)
        np.testing.assert_allclose(found[2], alone.position, atol=1e-3)
        assert (found[2] >= 0).all() and (found[2] <= 1).all()


def test_they_are_found_once_and_again_for_another_network(tmp_path):
    photos, settings = photo_set(), config("map")

    def times() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.npy")}

    store_local(opened(photos, settings), photos, settings, tmp_path)
    before = times()
    assert len(before) == 3
    store_local(opened(photos, settings), photos, settings, tmp_path)
    assert times() == before
    other = jax.tree.map(lambda x: x * 1.5, VARIABLES)
    store_local(opened(photos, settings, variables=other), photos, settings, tmp_path)
    assert all(times()[name] > before[name] for name in before)


def test_stores_are_read_as_one(tmp_path):
    sets = [photo_set(6, seed=0), photo_set(5, seed=1)]
    find = opened(sets[0], config("sift"))
    stores = [store_local(find, part, config("sift"), tmp_path / str(i)) for i, part in enumerate(sets)]
    both, second = StoredLocal(stores), StoredLocal(stores[1:])
    assert len(both) == 11 == len(with_distractors(sets[0], sets[1:]))
    for ours, expected in zip(both(np.array([10, 6])), second(np.array([4, 0])), strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_a_network_gives_those_of_its_own_head(tmp_path):
    network = RetrievalNetwork(
        backbone=NETWORK.backbone, pool=GeM(3.0), stage="last", size_multiple=8, local=LocalFeatureHead(6)
    )
    images, mask = jnp.zeros((1, 32, 32, 3), jnp.uint8), jnp.ones((1, 32, 32), bool)
    variables = network.init(jax.random.key(1), images, mask)
    photos, settings = photo_set(3), config("head", scales=(1.0,))
    ((_, found),) = open_source(Extractor(network, variables, settings), photos, settings)(photos, [1])
    own = network.apply(variables, *shown(photos, 1))[1]["local"]
    expected = np.asarray(own["features"])[np.asarray(own["mask"])]
    order = np.argsort(-np.asarray(own["strength"])[np.asarray(own["mask"])], kind="stable")[:20]
    np.testing.assert_allclose(found.features[: found.counts], expected[order], atol=1e-4)


def shown(photos, row):
    batch = next(
        evaluation_batches(
            photos, image_size=64, bucket_ratios=(), size_multiple=8, batch_size=1, rows=[row], threads=1
        )
    )
    return jnp.asarray(batch["image"]), jnp.asarray(batch["mask"])


def test_a_source_that_is_not_there_is_named():
    with pytest.raises(UserError, match="config.local.source='surf'; choose one of sift"):
        opened(photo_set(2), config("surf"))
    with pytest.raises(UserError, match="no local features of its own; set config.model.local.enabled"):
        opened(photo_set(2), config("head"))
