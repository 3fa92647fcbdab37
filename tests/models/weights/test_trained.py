"""A network that was trained here as the start of another: what is taken, what is made anew, what is refused."""

import dataclasses
import json
import logging
import shutil

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from sret_jax.config import Config, DataConfig, ModelConfig, SmoothingConfig, to_dict
from sret_jax.config.base import WhiteningConfig
from sret_jax.errors import UserError
from sret_jax.models.backbones.vit_specs import SPECS
from sret_jax.models.descriptor import build_network, init_network
from sret_jax.models.weights.file import Weights, write_weights
from sret_jax.models.weights.pretrained import stored_whitening
from sret_jax.models.weights.trained import holds_trained, read_trained
from sret_jax.models.whitening import LearnedWhitening
from sret_jax.retriever import Retriever, load
from sret_jax.storage.checkpoint import write_step
from sret_jax.storage.workdir import Workdir
from sret_jax.training.warm_start import start_folder
from tests.support.photos import make_photos

MODEL = ModelConfig(
    weights="none",
    stage="c1",
    smoothing=SmoothingConfig(enabled=True, kernel_dim=4, hidden=8),
    whitening_dim=8,
    whitening_init="random",
)
LEARNED = LearnedWhitening(np.linspace(0, 1, 8), np.random.default_rng(0).normal(size=(8, 5)))


def config(**model):
    return Config(data=DataConfig(image_size=64, threads=1), model=dataclasses.replace(MODEL, **model))


def init(settings, seed=0):
    network = build_network(settings.model)
    return jax.tree.map(np.asarray, init_network(network, settings.model, jax.random.key(seed)))


@pytest.fixture(scope="module")
def variables():
    """Of a network whose every parameter is its own."""
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: (x + rng.normal(0, 0.1, x.shape)).astype(np.float32), init(config()))


@pytest.fixture(scope="module")
def run(variables, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    state = {"params": {"network": variables["params"], "loss": {}}, "batch_stats": variables["batch_stats"]}
    arrays = {"state": state, "whitening": LEARNED._asdict()}
    write_step(Workdir(workdir).checkpoint(3), arrays, {"step": 3, "config": to_dict(config())})
    return workdir


@pytest.fixture(scope="module")
def saved(variables, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "retriever"
    Retriever(build_network(MODEL), variables, config(), LEARNED).save(folder)
    return folder


def started(source, **model):
    return init(config(**({"weights": str(source), "whitening_init": "weights"} | model)), seed=5)


def same(a, b):
    a, b = flatten_dict(a), flatten_dict(b)
    assert a.keys() == b.keys()
    for name, value in a.items():
        np.testing.assert_array_equal(value, b[name], err_msg=str(name))


@pytest.mark.parametrize("kind", ["workdir", "step", "saved"])
def test_all_of_it_is_taken(run, saved, variables, kind):
    source = {"workdir": run, "step": Workdir(run).checkpoint(3), "saved": saved}[kind]
    assert holds_trained(source)
    same(started(source), variables)
    trained = read_trained(source)
    same(trained.variables, variables)
    np.testing.assert_array_equal(trained.whitening.projection, LEARNED.projection)


def test_what_does_not_fit_is_made_anew_and_said_by_name_in_one_line(run, variables, caplog):
    smoothing = dataclasses.replace(MODEL.smoothing, kernel_dim=6)
    changed = {"smoothing": smoothing, "pool_shared": True, "whitening_init": "random", "whitening_dim": 4}
    with caplog.at_level(logging.WARNING):
        found = started(run, **changed)
    same(found["params"]["backbone"], variables["params"]["backbone"])
    fresh = init(config(**changed), seed=5)
    for module in ("smoothing", "pool", "whitening"):
        same(found["params"][module], fresh["params"][module])
    (line,) = [record.getMessage() for record in caplog.records if str(run) in record.getMessage()]
    assert "taken: backbone; made anew: pool (" in line and "smoothing (" in line
    assert "is [64] in it" not in line and "by the config)" in line and "whitening (as its init says)" in line


def test_modules_that_only_one_of_them_has_are_named(run, variables, caplog):
    with caplog.at_level(logging.WARNING):
        found = started(run, smoothing=SmoothingConfig(), pool="mac", whitening=False)
    assert set(found["params"]) == {"backbone"}
    assert "taken: backbone; left out: pool, smoothing, whitening" in caplog.text
    same(found["params"]["backbone"], variables["params"]["backbone"])


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"backbone": "efficientnet_lite1"}, r"weights of efficientnet_lite0; set config.model.backbone="),
        ({"stage": "c3"}, r"ends at stage 'c1'; set config.model.stage=c1"),
        ({"whitening_dim": 4}, r"whitening.bias has the shape \[8\], but the config needs \[4\].*whitening_dim"),
        ({"l2_pooled": False}, r"its whitening takes the normalized vector; change config.model.l2_pooled"),
    ],
)
def test_what_cannot_fit_names_field_and_remedy(run, changed, message):
    with pytest.raises(UserError, match=message):
        started(run, **changed)


@pytest.mark.parametrize("written", ["local-dir:{}", "~/{}", "local-dir:~/{}"])
def test_it_is_found_however_a_person_writes_where_it_is(run, saved, variables, written, monkeypatch):
    for folder in (run, saved):
        monkeypatch.setenv("HOME", str(folder.parent))
        place = written.format(folder if "~" not in written else folder.name)
        same(started(place), variables)
        settings = config(weights=place)
        np.testing.assert_array_equal(stored_whitening(settings).projection, LEARNED.projection)
        assert start_folder(settings) == folder


def test_one_on_the_hub_is_found_with_what_it_is_checked_by(saved, variables, tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")

    def download(repo, file, revision=None):
        if not (saved / file).is_file():
            kind = hub.errors.EntryNotFoundError
            raise kind.__new__(kind)
        return shutil.copy(saved / file, tmp_path / file)

    monkeypatch.setattr(hub, "hf_hub_download", download)
    same(started("hf-hub:org/towers"), variables)


def test_the_stage_that_counts_is_that_of_the_pooling(tmp_path, monkeypatch):
    """A class token is behind all blocks of a transformer, whatever stage the config names beside it."""
    tiny = SPECS["dinov2_vits14"]._replace(width=24, depth=2, heads=3, grid=4)
    monkeypatch.setitem(SPECS, "dinov2_vits14", tiny)
    fields = {"backbone": "dinov2_vits14", "smoothing": SmoothingConfig(), "whitening": False}

    def trained(name, **model):
        settings = config(**fields, **model)
        Retriever(build_network(settings.model), init(settings), settings).save(tmp_path / name)
        return tmp_path / name

    half = trained("half", stage="c4", pool="gem")
    token = trained("token", stage="c4", pool="class_token")
    last = trained("last", stage="last", pool="gem")
    for source, stage, pool in ((token, "last", "gem"), (last, "c4", "class_token"), (last, "keys", "gem")):
        held = read_trained(source).variables["params"]["backbone"]
        same(started(source, **fields, stage=stage, pool=pool)["params"]["backbone"], held)
    for stage, pool, remedy in (
        ("last", "gem", "set config.model.stage=c4"),
        ("c4", "class_token", "change config.model.pool='class_token'"),
    ):
        with pytest.raises(UserError, match=f"half: ends at stage 'c4'; {remedy}"):
            started(half, **fields, stage=stage, pool=pool)


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, "nothing"), (np.zeros((1, 25), np.float32), r"\[1, 25\]"), (np.zeros((18, 24), np.float32), r"\[18, 24\]")],
)
def test_a_backbone_that_lacks_something_is_named(value, said, tmp_path, monkeypatch):
    """In a file of our own that somebody else wrote; learned positions may be of another square."""
    tiny = SPECS["dinov2_vits14"]._replace(width=24, depth=2, heads=3, grid=4)
    monkeypatch.setitem(SPECS, "dinov2_vits14", tiny)
    fields = {"backbone": "dinov2_vits14", "stage": "last", "smoothing": SmoothingConfig(), "whitening": False}
    variables = init(config(**fields))
    whole = variables["params"]["backbone"]

    def written(name, positions):
        backbone = {key: x for key, x in whole.items() if key != "positions"}
        backbone |= {} if positions is None else {"positions": positions}
        found = variables | {"params": {"backbone": backbone}}
        path = tmp_path / f"{name}.safetensors"
        write_weights(path, Weights(found, "dinov2_vits14", "last", "dinov2", "normalized", "x", ""))
        return path

    started(written("larger", np.zeros((26, 24), np.float32)), **fields)
    with pytest.raises(UserError, match=rf"x.safetensors: positions of dinov2_vits14 is {said} in it, not \[17, 24\]"):
        started(written("x", value), **fields)


def test_a_folder_that_holds_no_checkpoint_is_named(tmp_path):
    Workdir(tmp_path).checkpoints.mkdir()
    with pytest.raises(UserError, match=f"{tmp_path}: holds no checkpoint"):
        started(tmp_path)


def test_other_folders_are_not_taken_for_a_trained_network(tmp_path):
    assert not holds_trained(tmp_path)
    for text in ("", "[1]", json.dumps({"model_type": "vit"})):
        (tmp_path / "config.json").write_text(text)
        assert not holds_trained(tmp_path)


def test_a_config_that_names_it_describes_as_it_does(run, saved):
    photos = make_photos([2, 2])
    settings = config(weights=str(run), whitening_init="weights")
    settings.whitening = WhiteningConfig(kind="weights")
    own = load(run)
    np.testing.assert_array_equal(load(settings).describe(photos), own.describe(photos))
    np.testing.assert_array_equal(load(saved).describe(photos), own.describe(photos))
    settings.whitening.dim = 3
    assert load(settings).describe(photos).shape == (4, 3)


def test_a_learned_whitening_that_it_lacks_names_the_remedy(variables, tmp_path):
    Retriever(build_network(MODEL), variables, config()).save(tmp_path / "plain")
    settings = config(weights=str(tmp_path / "plain"), whitening_init="weights")
    settings.whitening = WhiteningConfig(kind="weights")
    with pytest.raises(
        UserError, match=r'no whitening was learned after its training; set config.whitening.kind="none"'
    ):
        load(settings)
