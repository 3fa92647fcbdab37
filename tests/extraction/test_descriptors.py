"""Descriptors do not depend on batches, buckets, devices or kills, and are never stale."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sret_jax.config import DataConfig
from sret_jax.data.photo_set import PhotoSet
from sret_jax.errors import UserError
from sret_jax.extraction import descriptors as module
from sret_jax.extraction.descriptors import Extraction, Extractor, extract, extraction_fingerprint
from sret_jax.models.whitening import LearnedWhitening, apply_whitening
from sret_jax.storage.row_store import RowStore
from tests.support.networks import NETWORK, VARIABLES
from tests.support.photos import photo_set
from tests.support.runs import extraction_config as config

APPLY = jax.jit(NETWORK.apply)
LEARNED = LearnedWhitening(*(np.random.default_rng(0).normal(size=shape).astype("float32") for shape in (12, (12, 7))))


def extractor(variables=VARIABLES, whitening=None, **settings) -> Extractor:
    return Extractor(NETWORK, variables, config(**settings), whitening)


def extracted(photos: PhotoSet, folder: Path, variables=VARIABLES, whitening=None, **settings) -> Extraction:
    return extract(extractor(variables, whitening, **settings), photos, folder)


def alone(photos: PhotoSet, row: int, scale: float = 1.0) -> np.ndarray:
    """The descriptor of one photo, resized and described without padding, batch or store."""
    from sret_jax.data.resizing import content_size, resize

    image = resize(photos.photo(row), content_size(tuple(photos.sizes[row]), round(64 * scale), 8))
    return np.asarray(APPLY(VARIABLES, image[None], np.ones((1, *image.shape[:2]), bool))[0][0])


def test_every_photo_gets_the_descriptor_it_has_alone(tmp_path):
    photos = photo_set()
    found = extracted(photos, tmp_path / "s")
    assert found.photos == 11 and found.images_per_second > 0
    np.testing.assert_allclose(found.descriptors, [alone(photos, row) for row in range(11)], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found.descriptors, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(("batch_size", "chunk_rows"), [(1, 3), (4, 100), (64, 4)])
def test_batches_and_chunks_do_not_matter(tmp_path, batch_size, chunk_rows):
    photos = photo_set()
    expected = extractor().describe(photos, range(11))
    found = extracted(photos, tmp_path / "s", batch_size=batch_size, chunk_rows=chunk_rows)
    np.testing.assert_allclose(found.descriptors, expected, atol=1e-6)


def test_rows_come_in_the_requested_order():
    photos = photo_set()
    everything = extractor().describe(photos, range(11))
    np.testing.assert_allclose(extractor().describe(photos, [7, 2, 10]), everything[[7, 2, 10]], atol=1e-6)


def test_the_batch_is_split_over_the_devices():
    one = extractor(batch_size=5)
    assert len(jax.local_devices()) == 4 and one.batch_size == 8
    shared, alone = (one._placed({"row": np.zeros(n), "image": np.zeros((n, 2)), "mask": np.zeros(n)}) for n in (8, 1))
    assert {shard.data.shape for shard in shared[0].addressable_shards} == {(2, 2)}
    assert {shard.data.shape for shard in alone[0].addressable_shards} == {(1, 2)}  # one photograph, on each of them


def test_scales_are_averaged(tmp_path):
    photos = photo_set(5)
    found = extracted(photos, tmp_path / "s", scales=(1.0, 0.5)).descriptors
    mean = np.array([alone(photos, row) + alone(photos, row, 0.5) for row in range(5)])
    np.testing.assert_allclose(found, mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-6)


def test_learned_whitening_comes_last(tmp_path):
    photos = photo_set(5)
    found = extracted(photos, tmp_path / "s", whitening=LEARNED).descriptors
    plain = extractor().describe(photos, range(5))
    np.testing.assert_allclose(found, apply_whitening(plain, *LEARNED), atol=1e-6)


def test_a_whitening_of_other_descriptors_is_refused(tmp_path):
    short = LearnedWhitening(np.zeros(3, np.float32), np.eye(3, dtype=np.float32))
    with pytest.raises(UserError, match="learned from descriptors of 3 dimensions, but this network's have 12"):
        extracted(photo_set(), tmp_path / "s", whitening=short)


def test_a_second_run_describes_nothing(tmp_path):
    photos = photo_set()
    first = extracted(photos, tmp_path / "s", chunk_rows=4)
    second = extracted(photos, tmp_path / "s", chunk_rows=4)
    assert second.photos == 0 and second.images_per_second == 0
    np.testing.assert_array_equal(first.descriptors, second.descriptors)


def test_a_set_of_one_chunk_stays_on_disk(tmp_path):
    found = extracted(photo_set(5), tmp_path / "s")
    (chunk,) = found.chunks
    assert isinstance(chunk, np.memmap) and np.shares_memory(found.descriptors, chunk)
    several = extracted(photo_set(5), tmp_path / "t", chunk_rows=2)
    assert [len(chunk) for chunk in several.chunks] == [2, 2, 1]
    np.testing.assert_allclose(several.descriptors, chunk, atol=1e-6)


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(tmp_path, monkeypatch):
    photos = photo_set()
    extracted(photos, tmp_path / "whole", chunk_rows=4)
    write, done = RowStore.write, []

    def fail_after_one(self, chunk, descriptors):
        if done:
            raise KeyboardInterrupt
        done.append(chunk)
        write(self, chunk, descriptors)

    monkeypatch.setattr(RowStore, "write", fail_after_one)
    with pytest.raises(KeyboardInterrupt):
        extracted(photos, tmp_path / "s", chunk_rows=4)
    monkeypatch.setattr(RowStore, "write", write)
    assert extracted(photos, tmp_path / "s", chunk_rows=4).photos == 7
    for path in (tmp_path / "whole").glob("*.*"):
        assert path.read_bytes() == (tmp_path / "s" / path.name).read_bytes()


def test_whatever_a_descriptor_depends_on_is_in_the_fingerprint(monkeypatch):
    photos, settings = photo_set(), config()
    other = jax.tree.map(lambda x: x, VARIABLES)
    other["params"]["pool"]["p"] = other["params"]["pool"]["p"].at[3].add(1e-3)

    def key(network=NETWORK, variables=VARIABLES, photos=photos, settings=settings, whitening=None) -> str:
        return extraction_fingerprint(Extractor(network, variables, settings, whitening), photos)

    found = [
        key(),
        key(network=NETWORK.clone(stage="c5")),
        key(variables=other),
        key(photos=photo_set(seed=1)),
        key(settings=config(scales=(1.0, 0.7))),
        key(settings=replace(settings, data=DataConfig(image_size=72))),
        key(settings=replace(settings, data=replace(settings.data, filter="lanczos"))),
        key(settings=replace(settings, data=replace(settings.data, rounding="down"))),
        key(whitening=LEARNED),
    ]
    for name, version in module.VERSIONS.items():
        monkeypatch.setitem(module.VERSIONS, name, version + 1)
        found.append(key())
    assert len(module.VERSIONS) == 3 and len(set(found)) == len(found)
    monkeypatch.undo()
    assert key() == found[0] == key(settings=replace(settings, data=replace(settings.data, threads=9)))


def test_a_raised_version_describes_everything_again(tmp_path, monkeypatch):
    photos = photo_set(5)
    first = extracted(photos, tmp_path / "s")
    monkeypatch.setitem(module.VERSIONS, "resizing", module.VERSIONS["resizing"] + 1)
    again = extracted(photos, tmp_path / "s")
    assert again.photos == 5 and again.fingerprint != first.fingerprint
    assert extracted(photos, tmp_path / "s").photos == 0


def test_another_network_replaces_the_store(tmp_path):
    photos = photo_set(5)
    extracted(photos, tmp_path / "s")
    other = jax.tree.map(lambda x: x * 1.5 + 0.1, VARIABLES)
    found = extracted(photos, tmp_path / "s", variables=other)
    assert found.photos == 5
    np.testing.assert_array_equal(found.descriptors, extractor(variables=other).describe(photos, range(5)))


def test_a_descriptor_that_is_not_finite_names_the_photo(tmp_path):
    broken = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), VARIABLES)
    with pytest.raises(UserError, match="bridge/0.png: its descriptor is not finite"):
        extracted(photo_set(5), tmp_path / "s", variables=broken)


def test_intermediates_are_of_the_right_photo():
    photos = photo_set()
    seen = extractor().intermediates(photos, [6, 1])
    assert set(seen) == {6, 1}
    for row, values in seen.items():
        h, w = values["photo_mask"].any(1).sum(), values["photo_mask"].any(0).sum()
        assert max(h, w) == 64 and (h > w) == (photos.sizes[row][0] > photos.sizes[row][1])
        inside = values["map"][: h // 8, : w // 8]
        pooled = (np.maximum(inside, 1e-6) ** 3).mean((0, 1)) ** (1 / 3)
        np.testing.assert_allclose(pooled / np.linalg.norm(pooled), alone(photos, row), atol=1e-5)
