"""Descriptors do not depend on batches, buckets, devices or kills, and are never stale."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sret_jax.config import DataConfig
from sret_jax.data.photo_set import PhotoSet
from sret_jax.errors import UserError
from sret_jax.extraction import descriptors as module
from sret_jax.extraction.descriptors import Extractor, describe, extract, extraction_fingerprint
from sret_jax.models.whitening import apply_whitening
from tests.support.networks import NETWORK, VARIABLES
from tests.support.photos import photo_set
from tests.support.runs import extraction_config as config

APPLY = jax.jit(NETWORK.apply)


def alone(photos: PhotoSet, row: int, scale: float = 1.0) -> np.ndarray:
    """The descriptor of one photo, resized and described without padding, batch or store."""
    from sret_jax.data.resizing import content_size, resize

    image = resize(photos.photo(row), content_size(tuple(photos.sizes[row]), round(64 * scale), 8))
    return np.asarray(APPLY(VARIABLES, image[None], np.ones((1, *image.shape[:2]), bool))[0][0])


def test_every_photo_gets_the_descriptor_it_has_alone(tmp_path):
    photos = photo_set()
    found = extract(NETWORK, VARIABLES, photos, config(), tmp_path / "s")
    assert found.photos == 11 and found.images_per_second > 0
    np.testing.assert_allclose(found.descriptors, [alone(photos, row) for row in range(11)], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found.descriptors, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(("batch_size", "chunk_rows"), [(1, 3), (4, 100), (64, 4)])
def test_batches_and_chunks_do_not_matter(tmp_path, batch_size, chunk_rows):
    photos = photo_set()
    expected = describe(NETWORK, VARIABLES, photos, config(), range(11))
    settings = config(batch_size=batch_size, chunk_rows=chunk_rows)
    found = extract(NETWORK, VARIABLES, photos, settings, tmp_path / "s")
    np.testing.assert_allclose(found.descriptors, expected, atol=1e-6)


def test_rows_come_in_the_requested_order():
    photos = photo_set()
    everything = describe(NETWORK, VARIABLES, photos, config(), range(11))
    np.testing.assert_allclose(
        describe(NETWORK, VARIABLES, photos, config(), [7, 2, 10]), everything[[7, 2, 10]], atol=1e-6
    )


def test_the_batch_is_split_over_the_devices():
    extractor = Extractor(NETWORK, VARIABLES, photo_set(), config(batch_size=5))
    assert len(jax.local_devices()) == 4 and extractor.batch_size == 8
    assert len(jax.device_put(np.zeros((8, 2)), extractor.split).addressable_shards) == 4


def test_scales_are_averaged(tmp_path):
    photos = photo_set(5)
    found = extract(NETWORK, VARIABLES, photos, config(scales=(1.0, 0.5)), tmp_path / "s").descriptors
    mean = np.array([alone(photos, row) + alone(photos, row, 0.5) for row in range(5)])
    np.testing.assert_allclose(found, mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-6)


def test_learned_whitening_comes_last(tmp_path):
    photos, rng = photo_set(5), np.random.default_rng(0)
    learned = rng.normal(size=12), rng.normal(size=(12, 7))
    found = extract(NETWORK, VARIABLES, photos, config(), tmp_path / "s", whitening=learned).descriptors
    plain = describe(NETWORK, VARIABLES, photos, config(), range(5))
    np.testing.assert_allclose(found, apply_whitening(plain, *learned), atol=1e-6)


def test_a_whitening_of_other_descriptors_is_refused(tmp_path):
    with pytest.raises(UserError, match="learned from descriptors of 3 numbers, but this network's have"):
        extract(NETWORK, VARIABLES, photo_set(), config(), tmp_path / "s", whitening=(np.zeros(3), np.eye(3)))


def test_a_second_run_describes_nothing(tmp_path):
    photos = photo_set()
    first = extract(NETWORK, VARIABLES, photos, config(chunk_rows=4), tmp_path / "s")
    second = extract(NETWORK, VARIABLES, photos, config(chunk_rows=4), tmp_path / "s")
    assert second.photos == 0 and second.images_per_second == 0
    np.testing.assert_array_equal(first.descriptors, second.descriptors)


def test_a_set_of_one_chunk_stays_on_disk(tmp_path):
    found = extract(NETWORK, VARIABLES, photo_set(5), config(), tmp_path / "s")
    (chunk,) = found.chunks
    assert isinstance(chunk, np.memmap) and np.shares_memory(found.descriptors, chunk)
    several = extract(NETWORK, VARIABLES, photo_set(5), config(chunk_rows=2), tmp_path / "t")
    assert [len(chunk) for chunk in several.chunks] == [2, 2, 1]
    np.testing.assert_allclose(several.descriptors, chunk, atol=1e-6)


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(tmp_path, monkeypatch):
    photos, settings = photo_set(), config(chunk_rows=4)
    extract(NETWORK, VARIABLES, photos, settings, tmp_path / "whole")
    write, done = module.RowStore.write, []

    def fail_after_one(self, chunk, descriptors):
        if done:
            raise KeyboardInterrupt
        done.append(chunk)
        write(self, chunk, descriptors)

    monkeypatch.setattr(module.RowStore, "write", fail_after_one)
    with pytest.raises(KeyboardInterrupt):
        extract(NETWORK, VARIABLES, photos, settings, tmp_path / "s")
    monkeypatch.setattr(module.RowStore, "write", write)
    assert extract(NETWORK, VARIABLES, photos, settings, tmp_path / "s").photos == 7
    for path in (tmp_path / "whole").glob("*.*"):
        assert path.read_bytes() == (tmp_path / "s" / path.name).read_bytes()


def test_whatever_a_descriptor_depends_on_is_in_the_fingerprint():
    photos, settings = photo_set(), config()
    other = jax.tree.map(lambda x: x, VARIABLES)
    other["params"]["pool"]["p"] = other["params"]["pool"]["p"].at[3].add(1e-3)
    variants = [
        (NETWORK, VARIABLES, photos, settings, None),
        (NETWORK.clone(stage="c5"), VARIABLES, photos, settings, None),
        (NETWORK, other, photos, settings, None),
        (NETWORK, VARIABLES, photo_set(seed=1), settings, None),
        (NETWORK, VARIABLES, photos, config(scales=(1.0, 0.7)), None),
        (NETWORK, VARIABLES, photos, replace(settings, data=DataConfig(image_size=72)), None),
        (NETWORK, VARIABLES, photos, settings, (np.zeros(12), np.eye(12))),
    ]
    assert len({extraction_fingerprint(*variant) for variant in variants}) == len(variants)
    assert extraction_fingerprint(*variants[0]) == extraction_fingerprint(*variants[0])
    free = replace(settings, data=replace(settings.data, threads=9))
    assert extraction_fingerprint(NETWORK, VARIABLES, photos, free) == extraction_fingerprint(*variants[0])


def test_another_network_replaces_the_store(tmp_path):
    photos = photo_set(5)
    extract(NETWORK, VARIABLES, photos, config(), tmp_path / "s")
    other = jax.tree.map(lambda x: x * 1.5 + 0.1, VARIABLES)
    found = extract(NETWORK, other, photos, config(), tmp_path / "s")
    assert found.photos == 5
    np.testing.assert_array_equal(found.descriptors, describe(NETWORK, other, photos, config(), range(5)))


def test_a_descriptor_that_is_not_finite_names_the_photo(tmp_path):
    broken = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), VARIABLES)
    with pytest.raises(UserError, match="bridge/0.png: its descriptor is not finite"):
        extract(NETWORK, broken, photo_set(5), config(), tmp_path / "s")


def test_intermediates_are_of_the_right_photo():
    photos = photo_set()
    seen = Extractor(NETWORK, VARIABLES, photos, config()).intermediates([6, 1])
    assert set(seen) == {6, 1}
    for row, values in seen.items():
        h, w = values["photo_mask"].any(1).sum(), values["photo_mask"].any(0).sum()
        assert max(h, w) == 64 and (h > w) == (photos.sizes[row][0] > photos.sizes[row][1])
        inside = values["map"][: h // 8, : w // 8]
        pooled = (np.maximum(inside, 1e-6) ** 3).mean((0, 1)) ** (1 / 3)
        np.testing.assert_allclose(pooled / np.linalg.norm(pooled), alone(photos, row), atol=1e-5)
