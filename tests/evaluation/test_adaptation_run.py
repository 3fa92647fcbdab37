"""From a folder of instances, or a file of descriptors, to what is used afterwards."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from sret_jax.config import Config, DataConfig, ModelConfig
from sret_jax.config.adaptation import AdaptConfig
from sret_jax.data.opening import open_photos
from sret_jax.errors import UserError
from sret_jax.evaluation import adaptation_run
from sret_jax.evaluation.adaptation_run import adapt_descriptors, adapt_retriever, held_out_rows, read_labels
from sret_jax.models.descriptor import build_network, init_network
from sret_jax.models.whitening import LearnedWhitening, apply_whitening
from sret_jax.retriever import Retriever, load
from sret_jax.training.adaptation import Adaptation
from tests.support.photos import write_photos

SETTINGS = AdaptConfig(dim=3, start="pca", epochs=2, batch_size=8, held_out=0.4)
MODEL = ModelConfig(weights="none", stage="c1", whitening=False)


@pytest.fixture(scope="module")
def retriever():
    network = build_network(MODEL)
    config = Config(data=DataConfig(image_size=64, threads=1), model=MODEL)
    return Retriever(network, init_network(network, MODEL, jax.random.key(0)), config)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("adapted") / "photos", instances=6, photos=3)


def found(layer):
    """An `adapt` that finds this layer, and notes what it was asked."""
    asked = []

    def adapt(train, held_out, settings, before=None):
        asked.append((train, held_out, settings, before))
        best = LearnedWhitening(np.zeros(1), np.zeros((1, 1))) if layer is None else layer
        return Adaptation(best, 50.0, 60.0, 0.5 if layer is None else 10.0, 1.0, 1, [50.0, 60.0])

    return adapt, asked


def test_a_layer_that_is_better_is_the_whitening_of_a_retriever_that_loads(retriever, root, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    layer = LearnedWhitening(rng.normal(size=16).astype(np.float32), rng.normal(size=(16, 3)).astype(np.float32))
    adapt, asked = found(layer)
    monkeypatch.setattr(adaptation_run, "adapt", adapt)
    before = LearnedWhitening(np.zeros(16, np.float32), np.eye(16, dtype=np.float32)[:, :5])
    started = dataclasses.replace(retriever, whitening=before)
    adapted, _ = adapt_retriever(started, str(root), tmp_path, SETTINGS)
    ((train, held_out, settings, to_beat),) = asked
    assert settings == SETTINGS and train.x.shape == (12, 16) and held_out.x.shape == (6, 16)
    np.testing.assert_allclose(to_beat, apply_whitening(held_out.x, *before), atol=1e-6)
    photos = open_photos(root)
    expected = apply_whitening(np.asarray(retriever.describe(photos)), *layer)
    np.testing.assert_allclose(adapted.describe(photos), expected, atol=1e-5)
    np.testing.assert_array_equal(load(tmp_path / "retriever").describe(photos), adapted.describe(photos))
    record = json.loads((tmp_path / "adaptation.json").read_text())
    assert record["kept"] and record["curve"] == [50.0, 60.0] and record["settings"]["dim"] == 3


def test_the_photographs_are_described_once(retriever, root, tmp_path, monkeypatch):
    first = adapt_retriever(retriever, str(root), tmp_path, SETTINGS)[1]
    monkeypatch.setattr(type(retriever.extractor), "describe", None)  # not called again
    again = adapt_retriever(retriever, str(root), tmp_path, SETTINGS)[1]
    assert again.curve == first.curve


def test_a_layer_that_is_not_better_leaves_the_retriever_as_it_is(retriever, root, tmp_path, monkeypatch):
    monkeypatch.setattr(adaptation_run, "adapt", found(None)[0])
    adapted, outcome = adapt_retriever(retriever, str(root), tmp_path, SETTINGS)
    assert adapted is retriever and "does not help" in outcome.verdict()
    assert load(tmp_path / "retriever").whitening is None
    assert json.loads((tmp_path / "adaptation.json").read_text())["kept"] is False


def write_descriptors(folder, dtype=np.float32):
    rng = np.random.default_rng(0)
    own = np.repeat(rng.normal(size=(20, 3)), 5, axis=0)
    x = np.concatenate([own + rng.normal(0, 0.1, own.shape), rng.normal(0, 1.0, (100, 5))], axis=1)
    np.save(folder / "x.npy", x.astype(dtype))
    (folder / "labels.txt").write_text("".join(f"thing {i // 5}\n" for i in range(100)))
    (folder / "names.json").write_text(json.dumps([f"thing {i // 5}/{i}.jpg" for i in range(100)]))
    return folder / "x.npy"


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_a_file_of_descriptors_gives_a_projection(tmp_path, dtype):
    path = write_descriptors(tmp_path, dtype)
    settings = dataclasses.replace(SETTINGS, start="within", epochs=3)
    layer, outcome = adapt_descriptors(path, tmp_path / "out", settings, labels=str(tmp_path / "labels.txt"))
    assert outcome.layer is layer and outcome.gain > 10
    with np.load(tmp_path / "out" / "projection.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["mean"], layer.mean)
        np.testing.assert_array_equal(file["projection"], layer.projection)
    again, _ = adapt_descriptors(path, tmp_path / "named", settings, names=str(tmp_path / "names.json"))
    np.testing.assert_array_equal(again.projection, layer.projection)


def test_a_projection_that_is_not_better_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(adaptation_run, "adapt", found(None)[0])
    path = write_descriptors(tmp_path)
    layer, _ = adapt_descriptors(path, tmp_path / "out", SETTINGS, labels=str(tmp_path / "labels.txt"))
    x = np.load(path)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    np.testing.assert_allclose(apply_whitening(x, *layer), x, atol=1e-6)


def test_labels_are_instances_or_the_folders_of_names(tmp_path):
    (tmp_path / "labels.txt").write_text("b\n\na\n b \n")
    assert read_labels(str(tmp_path / "labels.txt"), "", 4).tolist() == [1, -1, 0, 1]
    (tmp_path / "labels.json").write_text('["b", null, "a", 7]')
    assert read_labels(str(tmp_path / "labels.json"), "", 4).tolist() == [2, -1, 1, 0]
    (tmp_path / "names.txt").write_text("b/1.jpg\nalone.jpg\na/deep/2.jpg\n")
    assert read_labels("", str(tmp_path / "names.txt"), 3).tolist() == [1, -1, 0]


def test_bad_files_are_named(tmp_path):
    path = write_descriptors(tmp_path)
    with pytest.raises(UserError, match="give --labels=FILE, or --names=FILE"):
        adapt_descriptors(path, tmp_path / "out", SETTINGS)
    (tmp_path / "short.txt").write_text("a\nb\n")
    with pytest.raises(UserError, match="short.txt: 2 names of 100 descriptors"):
        adapt_descriptors(path, tmp_path / "out", SETTINGS, labels=str(tmp_path / "short.txt"))
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(UserError, match="objects.npy: .*not numbers along 2 axes"):
        adapt_descriptors(tmp_path / "objects.npy", tmp_path / "out", SETTINGS, labels=str(tmp_path / "short.txt"))
    np.save(tmp_path / "flat.npy", np.zeros(4))
    with pytest.raises(UserError, match="flat.npy: .*not numbers along 2 axes; give a .npy file"):
        adapt_descriptors(tmp_path / "flat.npy", tmp_path / "out", SETTINGS, labels=str(tmp_path / "short.txt"))


def test_a_share_of_the_instances_is_held_out_and_two_stay():
    labels = np.repeat(np.arange(10), 3)
    out = held_out_rows(labels, AdaptConfig(held_out=0.2))
    assert len(np.unique(labels[out])) == 2 and not set(labels[out]) & set(labels[~out])
    np.testing.assert_array_equal(out, held_out_rows(labels, AdaptConfig(held_out=0.2)))
    assert (out != held_out_rows(labels, AdaptConfig(held_out=0.2, seed=1))).any()
    with pytest.raises(UserError, match="of 2 instances with two descriptors or more, 1 held out leave fewer than two"):
        held_out_rows(np.array([0, 0, 1, 1, 2, -1]), AdaptConfig())
