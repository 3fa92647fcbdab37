import dataclasses

import jax
import numpy as np
import pytest

from sret_jax.config import WhiteningConfig
from sret_jax.errors import UserError
from sret_jax.extraction.descriptors import Extractor
from sret_jax.models.descriptor import build_network, init_network
from sret_jax.models.whitening import apply_whitening, pca_whitening, within_whitening
from sret_jax.training import whitening
from sret_jax.training.checkpoint import load_network
from sret_jax.training.loop import learned_start, prepare_photos, train
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


def normalised(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("ridge", [0.0, 0.7])
def test_the_layer_starts_as_whitening_within_instances(start, ridge):
    config, photos, _, variables = start
    model = dataclasses.replace(config.model, whitening_init="within", whitening_ridge=ridge)
    config, rows = dataclasses.replace(config, model=model), range(len(photos))
    set_up = learned_start(config, variables, Shown(photos, config))
    pooled = Extractor(build_network(model, whitening=False), variables, config).describe(photos, rows)
    ridge = ridge or whitening.choose_ridge(pooled, photos.labels)
    mean, projection = within_whitening(pooled, photos.labels, 8, ridge)
    np.testing.assert_allclose(set_up["params"]["whitening"]["kernel"], projection, rtol=1e-5)
    np.testing.assert_allclose(set_up["params"]["whitening"]["bias"], -mean @ projection, rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, set_up["params"]["backbone"], variables["params"]["backbone"])


@pytest.mark.parametrize("ridge", [0.0, 0.7])
def test_a_whitening_within_instances_is_learned_from_the_finished_descriptors(start, ridge):
    config, photos, network, variables = start
    set_up = whitening.whitened_start(config, variables, Shown(photos, config), "pca")
    config = dataclasses.replace(config, whitening=WhiteningConfig(kind="within", dim=5, ridge=ridge))
    learned = whitening.learn_whitening(config, network, set_up, Shown(photos, config))
    described = Extractor(network, set_up, config).describe(photos, range(len(photos)))
    ridge = ridge or whitening.choose_ridge(described, photos.labels)
    mean, projection = within_whitening(described, photos.labels, 5, ridge)
    np.testing.assert_allclose(learned.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(learned.projection, projection, rtol=1e-5)


def instances(count=12, photos=4, channels=10, seed=0, nuisance=0.0, shared=0.0):
    """Unit vectors of instances that differ in the first two channels.

    Args:
        nuisance: how much photographs of an instance differ along the third channel.
        shared: how much they differ in the first two channels.
    """
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(count), photos)
    x = 0.1 * rng.normal(size=(len(labels), channels))
    x[:, :2] += rng.normal(size=(count, 2))[labels] + shared * rng.normal(size=(len(labels), 2))
    x[:, 2] += nuisance * rng.normal(size=len(labels))
    order = rng.permutation(len(labels))
    return normalised(x)[order].astype(np.float32), labels[order].astype(np.int32)


def mean_ap_of_instances(x, labels, queries):
    """Query by query: the precision at every right photograph, averaged over queries and then over instances."""
    found = {}
    for q in queries:
        ranking = sorted((i for i in range(len(x)) if i != q), key=lambda i: -(x[i] @ x[q]))
        right = [labels[i] == labels[q] for i in ranking]
        precisions = [sum(right[: k + 1]) / (k + 1) for k in range(len(right)) if right[k]]
        if precisions:
            found.setdefault(labels[q], []).append(np.mean(precisions))
    return [100 * np.mean(values) for values in found.values()]


def chosen_in_loops(x, labels):
    """All is searched by each fold through the finished whitening, of all dimensions, whose rotation no cosine shows.

    Of the ridges within a standard error of the best one the largest.
    """
    several = [label for label in sorted(set(labels.tolist()) - {-1}) if (labels == label).sum() > 1]
    scores = {}
    for ridge in whitening.RIDGES:
        scores[ridge] = []
        for fold in range(5):
            out = np.isin(labels, several[fold::5])
            learned = within_whitening(x[~out], labels[~out], 0, ridge)
            y = apply_whitening(x.astype(np.float64), *learned)
            scores[ridge] += mean_ap_of_instances(y, labels, np.flatnonzero(out))
    best = max(scores, key=lambda ridge: (round(np.mean(scores[ridge]), 9), ridge))
    chosen = []
    for ridge, found in scores.items():
        loss = [a - b for a, b in zip(scores[best], found, strict=True)]
        if np.mean(loss) <= np.std(loss, ddof=1) / len(loss) ** 0.5 + 1e-9:
            chosen.append(ridge)
    return max(chosen)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("fields", [{"nuisance": 0.3}, {"shared": 0.2}])
def test_the_ridge_is_that_of_the_best_search_among_held_out_instances(seed, fields):
    x, labels = instances(count=8, seed=seed, **fields)
    labels[labels == 3] = -1
    assert whitening.choose_ridge(x, labels) == whitening.choose_ridge(x, labels) == chosen_in_loops(x, labels)


@pytest.mark.parametrize("seed", range(3))
def test_a_direction_in_which_only_photographs_of_an_instance_differ_asks_for_a_small_ridge(seed):
    assert whitening.choose_ridge(*instances(seed=seed, nuisance=3.0)) <= 0.3


@pytest.mark.parametrize("seed", range(3))
def test_where_instances_differ_in_what_their_photographs_differ_in_nothing_is_whitened(seed):
    assert np.isinf(whitening.choose_ridge(*instances(count=30, seed=seed, channels=60, shared=0.3)))


def test_with_nothing_to_compare_the_ridge_is_1():
    x, labels = instances()
    assert whitening.choose_ridge(x, np.where(labels == 0, 0, -1)) == 1
    assert whitening.choose_ridge(x, np.where(labels == 0, 0, 1 + np.arange(len(x)))) == 1


def test_an_instance_whose_photographs_are_all_the_same_is_nothing_to_learn_from():
    x, labels = instances(count=3)
    x[labels == 0] = x[labels == 0][0]
    both = labels != 0
    assert whitening.choose_ridge(x, labels) == whitening.choose_ridge(x[both], labels[both])
    x[labels == 1] = x[labels == 1][0]
    assert whitening.choose_ridge(x, labels) == 1


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
@pytest.mark.parametrize("kind", ["pca", "pairs", "within"])
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
