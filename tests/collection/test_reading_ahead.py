"""The next part of an update is read while one is described, and nothing else changes by that."""

import pytest
from skimage import data

from sret_jax.collection import update as updating
from sret_jax.collection.collection import Collection
from sret_jax.config import Config, DataConfig, ExtractConfig, ModelConfig
from sret_jax.errors import UserError
from sret_jax.retriever import Retriever, load
from tests.support.photos import write_long_ago

CONFIG = Config(
    data=DataConfig(image_size=64, threads=1),
    model=ModelConfig(weights="none", stage="c4", whitening=False),
    extract=ExtractConfig(batch_size=4),
)


@pytest.fixture(scope="module")
def retriever() -> Retriever:
    return load(CONFIG)


def opened(root, retriever) -> Collection:
    collection = Collection.open(root, workdir=root.parent / "kept", retriever=retriever)
    collection._retriever = retriever  # compiled already
    return collection


@pytest.mark.parametrize("size", [1, 2, 128])
def test_a_copy_in_the_next_part_is_known(size, tmp_path, retriever, monkeypatch):
    """It was read before its like was added; it is described again only where both are in one part."""
    monkeypatch.setattr(updating, "AT_ONCE", size)
    photos = [data.chelsea(), data.coffee(), data.chelsea(), data.rocket(), data.rocket(), data.chelsea()]
    for i, pixels in enumerate(photos):
        write_long_ago(tmp_path / f"photos/{i}.jpg", pixels)
    collection = opened(tmp_path / "photos", retriever)
    done = collection.update()
    assert (done.added, done.reused) == ([f"{i}.jpg" for i in range(6)], 0 if size == 128 else 3)
    found = {answer.name: answer.score for answer in collection.search("1.jpg", k=5, mark=False).answers}
    assert found["0.jpg"] == found["2.jpg"] == found["5.jpg"] and found["3.jpg"] == found["4.jpg"]


def test_what_was_described_before_a_failure_stays(tmp_path, retriever, monkeypatch):
    monkeypatch.setattr(updating, "AT_ONCE", 2)
    for i, pixels in enumerate([data.chelsea(), data.coffee(), data.rocket(), data.astronaut()]):
        write_long_ago(tmp_path / f"photos/{i}.jpg", pixels)
    collection, read_photo = opened(tmp_path / "photos", retriever), updating.read_photo

    def gone(file, **how):
        if file.name == "3.jpg":
            raise UserError("the disk is gone")
        return read_photo(file, **how)

    monkeypatch.setattr(updating, "read_photo", gone)
    with pytest.raises(UserError, match="the disk is gone"):
        collection.update()
    monkeypatch.setattr(updating, "read_photo", read_photo)
    assert collection.names == ["0.jpg", "1.jpg"]
    assert collection.update().added == ["2.jpg", "3.jpg"]
