"""A retriever describes photographs the same way wherever it comes from and however they are given, or says why not."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

import sret_jax
from sret_jax.config import Config, DataConfig, ExtractConfig, LocalConfig, LocalSearchConfig, ModelConfig, to_dict
from sret_jax.data.opening import open_photos
from sret_jax.data.regions import described_box
from sret_jax.errors import UserError
from sret_jax.extraction import descriptors as extraction
from sret_jax.models.whitening import LearnedWhitening, apply_whitening
from sret_jax.retrieval.index import Index
from sret_jax.retriever import PARAMETERS, Retriever, load, without_unfilled_layers
from sret_jax.storage.artifacts import MANIFEST, DamagedError, seal_folder
from sret_jax.storage.workdir import Workdir
from sret_jax.training.checkpoint import Checkpoints
from sret_jax.training.step import TrainState
from tests.support.photos import photo_set

PHOTOS = photo_set()
CONFIG = Config(
    data=DataConfig(image_size=64, bucket_ratios=(), threads=1),
    model=ModelConfig(weights="none", stage="c2", whitening_dim=8, whitening_init="random"),
    extract=ExtractConfig(batch_size=8),
)
RNG = np.random.default_rng(0)
LEARNED = LearnedWhitening(*(RNG.normal(size=shape).astype("float32") for shape in ((8,), (8, 5))))


def with_model(**fields) -> Config:
    return replace(CONFIG, model=replace(CONFIG.model, **fields))


@pytest.fixture(scope="module")
def retriever() -> Retriever:
    """With a whitening layer, and a whitening that was learned after training."""
    return replace(load(CONFIG), whitening=LEARNED)


@pytest.fixture(scope="module")
def described(retriever) -> np.ndarray:
    return retriever.describe(PHOTOS)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, retriever) -> Path:
    """Of a run that has trained for four steps."""
    root, variables = tmp_path_factory.mktemp("run"), retriever.variables
    state = TrainState(
        np.int32(4), {"network": variables["params"], "loss": {}}, variables["batch_stats"], {}, np.zeros(2, np.uint32)
    )
    with Checkpoints(Workdir(root).checkpoints, 2) as checkpoints:
        checkpoints.save(2, jax.tree.map(lambda x: x * 2, state), {"config": to_dict(CONFIG)})
        checkpoints.save(4, state, {"config": to_dict(CONFIG)}, retriever.whitening)
    return root


def test_describing_and_extracting_is_the_same(retriever, described, tmp_path):
    assert described.shape == (11, 5) and described.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(described, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(retriever.extract(PHOTOS, tmp_path).descriptors, described, atol=1e-5)
    assert retriever.extract(PHOTOS, str(tmp_path)).photos == 0


def test_a_photograph_alone_and_among_others_is_the_same(retriever, described):
    for row in (0, 3, 10):
        np.testing.assert_allclose(retriever.describe(PHOTOS, [row])[0], described[row], atol=1e-5)
    np.testing.assert_allclose(retriever.describe(PHOTOS, [7, 2, 7]), described[[7, 2, 7]], atol=1e-5)
    np.testing.assert_allclose(retriever.describe(PHOTOS, np.array([9, 1])), described[[9, 1]], atol=1e-5)


def test_a_region_is_described_as_the_photograph_of_it_would_be(retriever, described):
    mask = np.zeros(PHOTOS.sizes[5], bool)
    mask[2:28, 10:56] = True
    parts = []
    for row, region in ((3, (10, 4, 30, 22)), (5, mask)):
        left, top, right, bottom = described_box(region, tuple(PHOTOS.sizes[row].tolist()))
        parts.append(PHOTOS.photo(row)[top:bottom, left:right])
    by_hand = retriever.describe(open_photos(parts))
    assert np.abs(by_hand - described[[3, 5]]).max() > 0.01
    by_row = retriever.describe(PHOTOS, [3, 4, 5], {3: (10, 4, 30, 22), 5: mask})
    np.testing.assert_allclose(by_row, [by_hand[0], described[4], by_hand[1]], atol=1e-5)
    in_line = retriever.describe(PHOTOS, [5, 5, 3], [None, mask, (10, 4, 30, 22)])
    np.testing.assert_allclose(in_line, [described[5], by_hand[1], by_hand[0]], atol=1e-5)


def test_regions_that_do_not_fit_the_photographs_are_refused(retriever):
    with pytest.raises(UserError, match="2 regions for 1 photographs"):
        retriever.describe(PHOTOS, [0], [None, None])
    with pytest.raises(UserError, match=f"'{PHOTOS.names[1]}': query click"):
        retriever.describe(PHOTOS, [1], [(1000, 1000)])


def test_every_whitening_acts_wherever_descriptors_come_from(retriever, described, workdir, tmp_path):
    plain = replace(retriever, whitening=None).describe(PHOTOS)
    assert plain.shape == (11, 8)
    expected = apply_whitening(np.asarray(plain), *LEARNED)
    retriever.save(tmp_path / "saved")
    for one in (retriever, load(workdir), load(tmp_path / "saved")):
        np.testing.assert_allclose(one.describe(PHOTOS), expected, atol=1e-5)
        np.testing.assert_allclose(one.describe(PHOTOS, [4]), expected[4:5], atol=1e-5)
        found = one.extract(PHOTOS, tmp_path / "descriptors")
        np.testing.assert_allclose(found.descriptors, expected, atol=1e-5)
    assert found.photos == 0  # all of them are one retriever


def test_few_photographs_are_described_one_by_one_and_nothing_is_compiled_again(retriever, monkeypatch):
    shapes, apply = [], extraction._apply

    def counted(network, variables, images, masks, scale):
        shapes.append(images.shape[0])
        return apply(network, variables, images, masks, scale)

    monkeypatch.setattr(extraction, "_apply", counted)
    assert retriever.extractor.batch_size == 8
    retriever.describe(PHOTOS, [5])
    retriever.describe(PHOTOS, [2, 3])
    assert shapes == [1, 1, 1]  # a batch of eight for one query would be seven times for nothing
    retriever.describe(PHOTOS)
    assert shapes[3:] == [8, 8]
    compiled = apply._cache_size()
    for rows in ([0], [6, 1], None, range(5)):
        retriever.describe(PHOTOS, rows)
    assert apply._cache_size() == compiled


def test_a_saved_retriever_is_the_same_to_the_bit(retriever, described, tmp_path):
    retriever.save(tmp_path / "there")
    assert {path.name for path in (tmp_path / "there").iterdir()} == {"config.json", "model.safetensors", MANIFEST}
    again = load(str(tmp_path / "there"))
    assert again.config == retriever.config and again.fingerprint == retriever.fingerprint
    np.testing.assert_array_equal(again.describe(PHOTOS), described)
    np.testing.assert_array_equal(again.whitening.projection, LEARNED.projection)
    plain = replace(retriever, whitening=None)
    plain.save(tmp_path / "there")  # replaces it
    again = load(tmp_path / "there")
    assert again.whitening is None and again.fingerprint == plain.fingerprint != retriever.fingerprint
    again.save(tmp_path / "copy")
    for path in (tmp_path / "there").iterdir():
        assert path.read_bytes() == (tmp_path / "copy" / path.name).read_bytes()


def test_a_run_is_loaded_from_its_workdir_or_from_one_step(retriever, workdir):
    newest, named, first = load(workdir), load(str(workdir / "checkpoints/4")), load(workdir / "checkpoints/2")
    assert newest.fingerprint == named.fingerprint == retriever.fingerprint != first.fingerprint
    assert first.whitening is None
    shown = replace(CONFIG, data=replace(CONFIG.data, image_size=32))
    smaller = load(workdir, shown)
    assert smaller.config == shown and smaller.fingerprint != retriever.fingerprint
    assert np.abs(smaller.describe(PHOTOS, [0]) - newest.describe(PHOTOS, [0])).max() > 1e-4
    with pytest.raises(UserError, match=r"trained with config.model.whitening_dim=8, not 16"):
        load(workdir, with_model(whitening_dim=16))


@pytest.mark.parametrize("saved", [True, False])
def test_a_retriever_is_not_loaded_with_another_model_or_impossible_settings(retriever, workdir, tmp_path, saved):
    folder = workdir
    if saved:
        retriever.save(folder := tmp_path / "saved")
    with pytest.raises(UserError, match="trained with config.model.stage='c2', not 'c3'"):
        load(folder, with_model(stage="c3"))
    with pytest.raises(UserError, match="config.search.method='magic': choose one of auto"):
        load(folder, replace(CONFIG, search=replace(CONFIG.search, method="magic")))


def test_a_network_is_described_with_in_another_type_than_it_was_trained_in(retriever, described, workdir, tmp_path):
    retriever.save(tmp_path / "saved")
    for source in (workdir, tmp_path / "saved"):
        half = load(source, with_model(dtype="bfloat16"))
        assert half.fingerprint != retriever.fingerprint
        x = half.describe(PHOTOS)
        assert x.dtype == np.float32
        assert 0 < np.abs(x - described).max() < 0.05


@pytest.mark.parametrize("threads", [-1, 2.5, True])
def test_a_retriever_takes_no_setting_that_cannot_be_used(retriever, tmp_path, threads):
    config = replace(CONFIG, data=replace(CONFIG.data))
    config.data.threads = threads
    for call in (load, lambda own: replace(retriever, config=own), lambda own: sret_jax.train(own, tmp_path / "run")):
        with pytest.raises(UserError, match=f"config.data.threads={threads}: must be a whole number from 1 to 256"):
            call(config)
    assert not (tmp_path / "run").exists()


def test_a_config_of_a_saved_retriever_passes_the_same_rules(retriever, tmp_path):
    retriever.save(tmp_path / "saved")
    about = json.loads((tmp_path / "saved/config.json").read_bytes())
    about["config"]["extract"]["scales"] = [1000]
    (tmp_path / "saved/config.json").write_text(json.dumps(about))
    seal_folder(tmp_path / "saved")
    with pytest.raises(
        UserError, match=r"saved: .*config.extract.scales=\(1000,\): must be a tuple of 1 to 16 numbers"
    ):
        load(tmp_path / "saved")


def test_a_config_is_a_retriever_too(retriever):
    again = load(CONFIG)
    assert again.fingerprint == replace(retriever, whitening=None).fingerprint
    with pytest.raises(UserError, match="config.model.pool='max': choose one of gem"):
        load(with_model(pool="max"))
    plain = load(with_model(pool="mac", whitening=False))  # without anything to train, which only training needs
    assert plain.describe(PHOTOS, [0]).shape == (1, 24)


def test_a_folder_without_a_network_is_named(tmp_path):
    with pytest.raises(UserError, match="holds no checkpoint; train first"):
        load(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("config.json", "changed"),
        ("config.json", "cut"),
        ("config.json", "gone"),
        (PARAMETERS, "changed"),
        (PARAMETERS, "cut"),
        (MANIFEST, "gone"),
    ],
)
def test_a_damaged_folder_is_refused(retriever, tmp_path, name, damage):
    retriever.save(tmp_path / "saved")
    path = tmp_path / "saved" / name
    whole = path.read_bytes()
    half = len(whole) // 2
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(whole[:half] + (bytes([whole[half] ^ 1]) + whole[half + 1 :] if damage == "changed" else b""))
    says = {"gone": f"{name}: missing, but in|no {MANIFEST}, so it was never finished"}
    with pytest.raises(DamagedError, match=says.get(damage, f"{name}: changed since it was written")):
        load(tmp_path / "saved")


@pytest.mark.parametrize(
    ("about", "says"),
    [
        ({"format": "sret_jax retriever 9"}, "written as 'sret_jax retriever 9', this version reads 'sret_jax retr"),
        (
            {"config": {"nothing": 1}},
            r"saved: not a retriever that this version saved \(config: unknown field 'nothing'",
        ),
        (None, "saved/config.json: not JSON .* it is not of a retriever; save it again"),
    ],
)
def test_a_folder_of_another_version_is_refused(retriever, tmp_path, about, says):
    retriever.save(folder := tmp_path / "saved")
    known = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text("[" if about is None else json.dumps(known | about))
    (folder / MANIFEST).unlink()
    seal_folder(folder)
    with pytest.raises(UserError, match=says) as error:
        load(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("saved", [True, False])
def test_queries_of_another_retriever_are_refused(retriever, described, tmp_path, saved):
    index = Index.build(described, PHOTOS.names)
    if saved:
        index.save(tmp_path / "index")
        index = Index.load(tmp_path / "index")
    query = retriever.describe(PHOTOS, [3])
    assert index.search(query, 1).names(0) == [PHOTOS.names[3]]
    assert index.search(np.asarray(query), 1).names(0) == [PHOTOS.names[3]]  # of which nobody knows who made them
    other = replace(retriever, config=replace(CONFIG, data=replace(CONFIG.data, image_size=32)))
    with pytest.raises(UserError, match="queries and database were described by different retrievers"):
        index.search(other.describe(PHOTOS, [3]), 1)
    with pytest.raises(UserError, match="described by different retrievers"):
        index.add(other.describe(PHOTOS, [3]), ["new"])
    stored = Index.build(retriever.extract(PHOTOS, tmp_path / "store").descriptors, PHOTOS.names)
    assert stored.search(query, 1).names(0) == [PHOTOS.names[3]]
    with pytest.raises(UserError, match="described by different retrievers"):
        stored.search(other.describe(PHOTOS, [3]), 1)
    larger = index.add(retriever.describe(PHOTOS, [3]), ["new"])
    with pytest.raises(UserError, match="described by different retrievers"):
        larger.search(other.describe(PHOTOS), 1)


def test_a_whitening_layer_that_was_never_filled_is_refused_with_the_remedy(tmp_path):
    unfilled = load(with_model(whitening_init="pca"))
    says = r"the whitening layer of this network was never filled.*: train it with `sret train`, take it from a "
    says += r'checkpoint \(config.model.whitening_init="weights"\), or leave it out \(config.model.whitening=False\)'
    for describe in (lambda: unfilled.describe(PHOTOS), lambda: unfilled.extract(PHOTOS, tmp_path / "d")):
        with pytest.raises(UserError, match=says):
            describe()
    assert not (tmp_path / "d").exists()
    without = load(without_unfilled_layers(unfilled.config))
    assert without.describe(PHOTOS, [0]).shape == (1, 24)
    from_file = with_model(whitening_init="weights")
    assert without_unfilled_layers(from_file) == from_file


def test_a_reduction_that_was_never_filled_is_refused_where_it_is_used(tmp_path):
    how = LocalConfig(enabled=True, dim=6)
    own = replace(with_model(whitening=False, local=how), local=LocalSearchConfig(source="head", scales=(1.0,), most=9))
    says = r"the reduction of local features .* never filled.*.*config.model.local.enabled=False"
    beside = load(own)
    assert np.isfinite(beside.describe(PHOTOS, [0])).all()  # the descriptor does not go through it
    with pytest.raises(UserError, match=says):
        beside.local_features(PHOTOS, tmp_path)
    found = replace(beside, config=replace(own, local=replace(own.local, source="map"))).local_features(
        PHOTOS, tmp_path / "map"
    )
    assert len(found) == 11 and np.isfinite(found(np.array([0])).features).all()
    with pytest.raises(UserError, match=says):
        load(replace(own, model=replace(own.model, pool="how"))).describe(PHOTOS)


def test_what_is_no_photo_set_is_refused(retriever):
    with pytest.raises(UserError, match=r"describe takes photographs, not list: sret_jax.open_photos"):
        retriever.describe.__wrapped__(retriever, ["a.jpg"])
    with pytest.raises(UserError, match="describe: no photographs"):
        retriever.describe(PHOTOS, [])
