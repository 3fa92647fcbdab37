import jax
import numpy as np
import pytest

from sret_jax.config import WhiteningConfig
from sret_jax.errors import UserError
from sret_jax.extraction.descriptors import Extractor
from sret_jax.models.descriptor import build_network, init_network
from sret_jax.models.whitening import apply_whitening, pca_whitening
from sret_jax.training import whitening
from sret_jax.training.checkpoint import load_network
from sret_jax.training.loop import prepare_photos, train
from sret_jax.training.shown import Shown
from tests.support import train_driver


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A small config, its photographs, its network and untrained variables."""
    config = train_driver.small_config(tmp_path_factory.mktemp("cache"))
    photos = prepare_photos(config, tmp_path_factory.mktemp("unused"))
    network = build_network(config.model)
    return config, photos, network, init_network(network, config.model, jax.random.key(0))


def test_the_layer_starts_as_pca_whitening_of_the_training_photographs(start):
    config, photos, network, variables = start
    set_up = whitening.whitened_start(config, variables, Shown(photos, config), "pca")
    rows = range(len(photos))
    pooled = Extractor(build_network(config.model, whitening=False), variables, config).describe(photos, rows)
    mean, projection = pca_whitening(pooled, 8, config.model.whitening_shrinkage)
    expected = (pooled - mean) @ projection
    covariance = np.cov(expected.T)
    np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), atol=1e-4)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    described = Extractor(network, set_up, config).describe(photos, rows)
    np.testing.assert_allclose(described, expected, atol=1e-3)
    jax.tree.map(np.testing.assert_array_equal, set_up["params"]["backbone"], variables["params"]["backbone"])


def test_more_outputs_than_components_name_the_field(start):
    config, photos, _, variables = start
    variables = {"params": {"whitening": {"kernel": np.zeros((24, 30)), "bias": np.zeros(30)}}}
    with pytest.raises(UserError, match="config.model.whitening_dim=30: a closed form has only the 24 components"):
        whitening.whitened_start(config, variables, Shown(photos, config), "pca")


def test_pairs_are_of_one_instance_and_grow_with_the_photographs():
    labels = np.array([0] * 30 + [1, 1, -1, -1] + [2])
    queries, positives = whitening.matching_pairs(labels)
    assert (labels[queries] == labels[positives]).all() and (queries != positives).all()
    assert set(labels[queries]) == {0, 1}
    assert len(queries) == 30 * whitening.PARTNERS + 2
    pairs = {tuple(sorted(pair)) for pair in zip(queries.tolist(), positives.tolist(), strict=True)}
    assert len(pairs) == 30 * whitening.PARTNERS + 1  # only the two of instance 1 meet twice


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pca", "pairs"])
def test_a_run_learns_a_whitening_and_hands_it_to_the_evaluation(start, tmp_path, kind):
    config, photos, network, _ = start
    config = train_driver.small_config(config.data.cache_dir)
    config.whitening = WhiteningConfig(kind=kind, dim=5)
    config.eval.untrained, seen = True, []
    train(config, tmp_path, lambda network, tag: seen.append((tag, network)))
    (before, untrained), (after, trained) = seen
    assert (before, after, untrained.whitening) == ("-untrained", "", None)
    assert (untrained.step, trained.step) == (0, train_driver.STEPS)
    loaded, learned = load_network(tmp_path), trained.whitening
    jax.tree.map(np.testing.assert_array_equal, loaded.whitening, learned)
    assert learned.projection.shape == (8, 5)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, trained.variables)
    layers = [one.variables["params"]["whitening"]["kernel"] for one in (untrained, trained)]
    assert np.any(layers[0] != layers[1]) and np.isfinite(layers[0]).all()
    described = Extractor(network, trained.variables, config).describe(photos, range(len(photos)))
    if kind == "pca":
        np.testing.assert_allclose(learned.projection, pca_whitening(described, 5)[1], rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(apply_whitening(described, *learned), axis=1), 1, rtol=1e-5)
