"""The examples of parts of one's own, one of each kind, from a config to results."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sret_jax
from sret_jax.config import LocalizeConfig, RefinementConfig, RerankConfig, SmoothingConfig
from sret_jax.config.own_parts import KINDS
from sret_jax.models.descriptor import build_network, descriptor_length
from sret_jax.training.checkpoint import Checkpoints
from tests.support.commands import REPOSITORY
from tests.support.own_parts import EXAMPLES, forgotten, small_config, use_examples
from tests.support.photos import write_photos

ALL = {
    "backbone": "patches",
    "pool": "strongest",
    "smoothing": SmoothingConfig(enabled=True, form="blend"),
    "refinement": RefinementConfig(enabled=True, form="context"),
    "parts": {"strongest": {"share": 0.3}, "blend": {"window": 5}, "context": {"hidden": 4}, "patches": {"depth": 2}},
}


@pytest.fixture(scope="module", autouse=True)
def registered():
    with forgotten():
        use_examples(*(path.stem for path in EXAMPLES.glob("*.py")))
        yield


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def run(tmp_path_factory, photos):
    """A network of nothing but the examples, trained with their loss."""
    workdir = tmp_path_factory.mktemp("run")
    config = small_config(photos, model=ALL, loss="proxies", parts={"proxies": {"scale": 8.0}})
    return sret_jax.train(config, workdir), workdir


def test_there_is_an_example_of_every_kind():
    registered = [kind for path in EXAMPLES.glob("*.py") for kind in KINDS if f'register("{kind}"' in path.read_text()]
    assert set(registered) == set(KINDS)


def test_the_page_shows_them_as_they_are_and_the_pooling_is_short():
    page = (REPOSITORY / "docs/your-own-parts.md").read_text()
    for path in EXAMPLES.glob("*.py"):
        assert f"```python\n{path.read_text()}```\n" in page, f"copy {path.name} into docs/your-own-parts.md"
    assert len((EXAMPLES / "pooling.py").read_text().splitlines()) <= 25


def test_all_of_them_train_and_every_parameter_moves(run):
    _, workdir = run
    first, last = (Checkpoints(workdir / "checkpoints", 9).folder / step / "arrays" for step in ("2", "3"))
    assert first.is_dir() and last.is_dir()
    config = json.loads((workdir / "config.json").read_text())["config"]
    kinds = ("backbone patches", "loss proxies", "pooling strongest", "refinement context", "smoothing blend")
    assert tuple(sorted(config["sources"])) == kinds
    assert all(origin.endswith(".py") and len(sha) == 64 for origin, sha in map(str.split, config["sources"].values()))

    saved = Checkpoints(workdir / "checkpoints", 9).latest().arrays["state"]["params"]
    assert saved["loss"]["proxies"].shape == (3, 8)
    network = build_network(small_config("", model=ALL).model, train_from="all")
    start = network.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3), jnp.uint8), jnp.ones((1, 64, 64), bool))
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), start["params"], saved["network"])
    assert all(jax.tree.leaves(moved))


@pytest.mark.parametrize("shape", [(64, 48), (32, 64)])
def test_a_padded_photograph_has_the_descriptor_of_the_photograph_alone(run, shape):
    retriever, _ = run
    height, width = shape
    images = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), np.uint8)
    alone, _ = retriever.network.apply(retriever.variables, jnp.array(images), jnp.ones((1, *shape), bool))
    padded = np.zeros((2, 96, 96, 3), np.uint8)
    mask = np.zeros((2, 96, 96), bool)
    padded[0, :height, :width], mask[0, :height, :width], mask[1] = images[0], True, True
    together, _ = retriever.network.apply(retriever.variables, jnp.array(padded), jnp.array(mask))
    np.testing.assert_allclose(together[:1], alone, atol=1e-5)


def test_a_saved_network_is_the_same_to_the_bit(run, photos, tmp_path):
    retriever, workdir = run
    found = sret_jax.open_photos(photos)
    retriever.save(tmp_path / "saved")
    for again in (sret_jax.load(workdir), sret_jax.load(tmp_path / "saved")):
        np.testing.assert_array_equal(again.describe(found), retriever.describe(found))
        assert again.fingerprint == retriever.fingerprint


def test_re_ranker_localizer_and_benchmark_measure_with_it(run, photos, tmp_path):
    retriever, _ = run
    rerank = RerankConfig(stages=("mutual:4",), parts={"mutual": {"weight": 2.0}})
    localize = LocalizeConfig(methods=("strong", "everything"), image_size=64, query_size=64)
    config = dataclasses.replace(retriever.config, rerank=rerank, localize=localize)
    retriever = dataclasses.replace(retriever, config=config)
    masks = tmp_path / "masks"
    plain = dataclasses.replace(config, localize=LocalizeConfig())
    benchmark = sret_jax.open_benchmark("first", photos)
    results = sret_jax.evaluate(dataclasses.replace(retriever, config=plain), benchmark, tmp_path / "first")
    assert results.benchmark == "first" and results.metrics["queries"] == 3 and results.photos == 9
    assert list(results.rerank["stages"]) == ["mutual:4"]
    assert {"benchmark first", "reranker mutual"} & set(results.config["sources"]) == {"reranker mutual"}
    page = (tmp_path / "first/report.html").read_text()
    assert "what the context changes" in page

    write_masks(photos, masks)
    benchmark = sret_jax.open_benchmark("folder", photos, masks=masks, cache=tmp_path / "cache")
    results = sret_jax.evaluate(retriever, benchmark, tmp_path / "folder")
    assert list(results.localization) == ["strong", "everything"]


def write_masks(photos, masks):
    from PIL import Image

    for path in photos.glob("*/*.jpg"):
        target = masks / path.relative_to(photos).with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        half = np.zeros((48, 64), np.uint8)
        half[:, :32] = 255
        Image.fromarray(half).save(target)


def test_the_length_of_a_descriptor_is_what_the_pooling_gives():
    assert descriptor_length(small_config("", model=ALL | {"whitening": False}).model) == 64
