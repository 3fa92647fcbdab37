"""Weights that come with the package: what is in the file, and the network that comes back by its name."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict

from sret_jax.config import Config, DataConfig, ExtractConfig, ModelConfig, RefinementConfig, to_dict
from sret_jax.errors import UserError
from sret_jax.evaluation.benchmark import open_benchmark
from sret_jax.metrics.ranking import leave_one_out_map
from sret_jax.models.descriptor import build_network, init_network
from sret_jax.models.weights import shipped
from sret_jax.models.weights.file import read_weights
from sret_jax.models.weights.pretrained import pretrained
from sret_jax.models.weights.shipped import read_shipped, shipped_config, shipped_names, write_shipped
from sret_jax.retriever import Retriever, load
from tests.support.photos import photo_set

NAME, CHANGED = "towers-lite0", ("params", "backbone", "block2", "project", "kernel")
PHOTOS = photo_set(5)
CONFIG = Config(
    seed=4,
    data=DataConfig(image_size=64, bucket_ratios=(), threads=1),
    model=ModelConfig(
        stage="c2",
        refinement=RefinementConfig(enabled=True, nodes=6, neighbours=2),
        whitening_dim=8,
        whitening_init="within",
    ),
    extract=ExtractConfig(batch_size=8),
)


@pytest.fixture(scope="module")
def trained():
    """A retriever whose heads are random, and one of whose kernels is not the installed one."""
    network = build_network(CONFIG.model)
    variables = init_network(network, CONFIG.model, jax.random.key(0))
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        names = tuple(part.key for part in path)
        if names == CHANGED:
            return np.float32(leaf + 0.01 * rng.normal(size=leaf.shape))
        if names[1] == "backbone":
            return np.asarray(leaf)
        return np.float32(rng.uniform(2, 4, leaf.shape) if names[-1] == "p" else rng.normal(size=leaf.shape) / 4)

    return Retriever(network, jax.tree_util.tree_map_with_path(draw, variables), CONFIG)


@pytest.fixture
def folder(trained, tmp_path, monkeypatch):
    """Where its weights are shipped, beside a card."""
    backbone = pretrained("efficientnet_lite0", "auto")
    write_shipped(tmp_path / f"{NAME}.safetensors", trained.variables, backbone, to_dict(CONFIG))
    (tmp_path / f"{NAME}.md").write_text("A card.")
    (tmp_path / f".{NAME}.safetensors.123.tmp").write_bytes(b"of a copy that was broken off")
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", shipped_names())
def test_what_ships_is_small_has_a_card_and_names_no_folder_of_anybody(name):
    file, card = (shipped.FOLDER / f"{name}{end}" for end in (".safetensors", ".md"))
    assert len(file.read_bytes()) < 8 * 2**20
    text = card.read_text()
    assert text.startswith(f"# {name}\n") and "without a licence" in text and "| row |" in text
    config = shipped_config(name)
    assert [config["data"][field] for field in ("root", "splits", "cache_dir")] == ["", "", ""]
    assert config["model"]["weights"] == name and config["model"]["whitening_init"] == "weights"
    x = load(name).describe(PHOTOS)
    assert x.shape == (len(PHOTOS), config["model"]["whitening_dim"])
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, atol=1e-6)


@pytest.mark.slow
def test_what_loads_by_default_finds_more_than_the_backbone_that_it_started_from(tmp_path):
    """On objects drawn by code, which are unlike anything that it was trained on."""
    found = open_benchmark("synthetic", config=Config(), cache=tmp_path)
    plain = Config(model=ModelConfig(whitening=False))
    scores = []
    for retriever in (load(plain), load()):
        x = retriever.describe(found.photos)
        scores.append(leave_one_out_map(x @ x.T, found.photos.labels)["mAP"])
    assert scores[1] > scores[0]


def test_only_what_its_backbone_lacks_is_in_the_file(trained, folder):
    found = safetensors.numpy.load_file(folder / f"{NAME}.safetensors")
    named = flatten_dict(trained.variables, sep=".")
    heads = {name for name in named if name.split(".")[1] in ("pool", "refinement", "whitening")}
    changed = [f"{part}:{'.'.join(CHANGED)}" for part in ("difference", "step")]
    assert set(found) == heads | set(changed) and len(heads) > 10
    for name in heads:
        assert found[name].dtype == np.float16
        np.testing.assert_allclose(found[name], named[name], rtol=1e-3, atol=1e-6)
    difference, step = (found[name] for name in changed)
    assert difference.dtype == np.int8 and step.shape == difference.shape[-1:] and np.abs(difference).max() == 127


def test_without_its_backbone_the_file_is_refused(folder):
    with pytest.raises(UserError, match="no known layout has entries"):
        read_weights(folder / f"{NAME}.safetensors")


def test_what_is_written_comes_back_over_its_backbone(trained, folder):
    assert shipped_names() == [NAME]
    backbone = pretrained("efficientnet_lite0", "auto")
    weights = read_shipped(NAME, backbone)
    assert (weights.backbone, weights.stage, weights.whitens) == ("efficientnet_lite0", "c2", "normalized")
    found, own, installed = (flatten_dict(tree) for tree in (weights.variables, trained.variables, backbone))
    assert set(found) == set(own) | set(installed)
    for names, value in found.items():
        if names[1] == "backbone" and names != CHANGED:
            np.testing.assert_array_equal(value, installed[names])
        elif names != CHANGED:  # a difference: the test below
            np.testing.assert_allclose(value, own[names], rtol=1e-3, atol=1e-6)
    model = dataclasses.replace(CONFIG.model, weights=NAME, whitening_init="weights")
    assert shipped_config(NAME) == to_dict(dataclasses.replace(CONFIG, model=model))


def test_a_difference_is_kept_to_half_a_step_of_its_channel(trained, folder):
    backbone = pretrained("efficientnet_lite0", "auto")
    found = flatten_dict(read_shipped(NAME, backbone).variables)[CHANGED]
    own, before = flatten_dict(trained.variables)[CHANGED], flatten_dict(backbone)[CHANGED]
    largest = np.abs(own - before).max((0, 1, 2))
    assert (np.abs(found - own) <= largest / 254 * 1.001 + 1e-7).all() and np.abs(own - before).max() > 0.02


def test_by_its_name_the_network_describes_as_the_one_that_was_written(trained, folder):
    expected, loaded = trained.describe(PHOTOS), load(NAME)
    described = loaded.describe(PHOTOS)
    assert np.abs(expected[:, None] - expected[None]).max() > 0.05
    np.testing.assert_allclose(described, expected, atol=1e-2)
    np.testing.assert_allclose(np.linalg.norm(described, axis=1), 1, atol=1e-6)
    assert loaded.config.model.weights == NAME and loaded.config.seed == 4
    by_config = load(Config(model=loaded.config.model, data=CONFIG.data, extract=CONFIG.extract))
    np.testing.assert_array_equal(by_config.describe(PHOTOS), described)


def test_it_is_shown_photographs_as_another_config_says_but_stays_the_same_network(folder):
    shipped_as = load(NAME).config
    smaller = dataclasses.replace(shipped_as, data=dataclasses.replace(CONFIG.data, image_size=32))
    assert load(NAME, smaller).config == smaller
    other = dataclasses.replace(smaller, model=dataclasses.replace(shipped_as.model, whitening_dim=16))
    with pytest.raises(UserError, match=f"{NAME}: trained with config.model.whitening_dim=8, not 16"):
        load(NAME, other)
    another = dataclasses.replace(shipped_as.model, backbone="resnet18")
    with pytest.raises(UserError, match=f"{NAME}: weights of efficientnet_lite0; set config.model.backbone="):
        load(Config(model=another))


def test_a_name_that_is_nearly_one_is_told_and_a_folder_is_a_folder(trained, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"no weights or folder 'tower-lite0'; did you mean '{NAME}'?"):
        load("tower-lite0")
    with pytest.raises(UserError, match="nothing-like-it: holds no checkpoint"):
        load("nothing-like-it")
    trained.save("tower-lite0")
    for place in ("tower-lite0", tmp_path / "tower-lite0"):
        assert load(place).fingerprint == trained.fingerprint
    assert load(tmp_path / "tower-lite0").config == CONFIG


def test_a_path_that_is_no_folder_is_taken_for_the_name(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load(Path(NAME)).fingerprint == load(NAME).fingerprint


def test_without_a_folder_of_weights_there_are_no_names(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "nowhere")
    assert shipped_names() == []
    with pytest.raises(UserError, match="holds no checkpoint"):
        load(NAME)


def test_the_config_is_plain_json_in_the_file_itself(folder):
    """So that whoever has the file alone knows what it is."""
    with safetensors.safe_open(folder / f"{NAME}.safetensors", "numpy") as file:
        about = file.metadata()
    assert json.loads(about["config"])["model"]["refinement"]["form"] == "span"
    assert about["backbone"] == "efficientnet_lite0" and about["source"] == f"{NAME}.safetensors"
