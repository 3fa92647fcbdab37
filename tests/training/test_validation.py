"""The network that is kept is one that is better by more than chance on instances it was never trained on."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from sret_jax.config import Config
from sret_jax.errors import UserError
from sret_jax.training import validation
from sret_jax.training.shown import Shown
from sret_jax.training.validation import Validation, averaged, hold_out, kept, refilled
from tests.support.networks import NETWORK
from tests.support.photos import make_photos

COUNTS = [3, 2, 4, 1, 2, 3, 2]  # of the instances' photographs; the fourth has nothing to find


@pytest.fixture
def make(monkeypatch):
    """`make(counts, sources, balance)`: a validation of networks whose variables are descriptors, `{"x": [n d]}`."""
    monkeypatch.setattr(Shown, "describe", lambda self, network, variables: variables["x"])

    def validation_of(counts=COUNTS, sources=None, balance=0.0):
        photos, config = dataclasses.replace(make_photos(counts), sources=sources), Config()
        config.data.source_balance = balance
        return Validation(config, NETWORK, Shown(make_photos([2, 2]), config), Shown(photos, config), {})

    return validation_of


@pytest.fixture
def told(make, monkeypatch):
    """`told(sources)`: as `make`, of instances of two photographs, networks' variables being the APs, `{"x": aps}`."""

    def found(similarity, labels):
        return {"per_instance": dict(enumerate(np.sqrt(np.diag(similarity))[::2]))}

    monkeypatch.setattr(validation, "leave_one_out_map", found)

    class Told(Validation):
        def measure(self, step, aps):
            return super().measure(step, {"x": np.repeat(np.asarray(aps, float), 2)[:, None], "aps": aps})

    def validation_of(count=6, sources=None):
        plain = make([2] * count, sources)
        return Told(plain.config, plain.network, plain.shown, plain.held_out, {})

    return validation_of


def mean_of_sources(x, labels, sources):
    """Precision by precision: averaged over queries, then instances, then sources; in percent."""
    of_source = {}
    for label in set(labels.tolist()) - {-1}:
        own, aps = np.flatnonzero(labels == label), []
        for q in own:
            ranking = sorted((i for i in range(len(x)) if i != q), key=lambda i: (-(x[i] @ x[q]), i))
            ranks = [k for k, i in enumerate(ranking, 1) if labels[i] == label]
            aps += [np.mean([n / k for n, k in enumerate(ranks, 1)])] if ranks else []
        if aps:
            of_source.setdefault(sources[label], []).append(np.mean(aps))
    return 100 * np.mean([np.mean(found) for found in of_source.values()])


@pytest.mark.parametrize("sources", [None, list("aabbbbb"), list("abcbbab")])
def test_with_balance_0_the_score_gives_each_source_the_same_say(make, sources):
    one = make(sources=sources)
    labels = np.array(one.held_out.photos.labels)
    labels[[0, 8]] = -1
    one.held_out = Shown(dataclasses.replace(one.held_out.photos, labels=labels), Config())
    x = np.random.default_rng(0).normal(size=(len(labels), 3))
    score = one.measure(0, {"x": x})
    np.testing.assert_allclose(score, mean_of_sources(x, labels, sources or "a" * 7), rtol=1e-9)
    assert one.curve == [(0, score)] and len(one.start) == len(one.weights) == 6
    measured = [label for label in range(7) if (labels == label).sum() > 1]
    for source in set(sources or "a"):
        own = [
            weight for label, weight in zip(measured, one.weights, strict=True) if (sources or "a" * 7)[label] == source
        ]
        np.testing.assert_allclose(sum(own), 1 / len(set(sources or "a")))
        np.testing.assert_allclose(own, own[0])


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_sources_count_as_they_do_in_training(make, balance):
    weights = make([2] * 5, list("abbbb"), balance).weights
    np.testing.assert_allclose(weights[1:], weights[1])
    np.testing.assert_allclose(weights[1:].sum() / weights[0], 4**balance)
    np.testing.assert_allclose(weights.sum(), 1)


def test_a_better_network_replaces_the_best_one_and_a_worse_one_does_not(told):
    one = told()
    aps = [np.full(6, 50.0), np.full(6, 50) + [4, 5, 6, 4, 5, 6], np.full(6, 53.0), np.full(6, 60.0)]
    expected = [(0, 50.0), (1, 55.0), (1, 53.0), (3, 60.0)]  # the step that is kept, the score
    for step, (now, (best, score)) in enumerate(zip(aps, expected, strict=True)):
        assert one.measure(step, now) == pytest.approx(score)
        assert one.step == best and one.variables["aps"] is aps[best]
        np.testing.assert_allclose(one.best, aps[best])
        np.testing.assert_allclose(one.start, aps[0])
    assert one.curve == [(step, pytest.approx(score)) for step, (_, score) in enumerate(expected)]


def test_a_gain_that_may_be_chance_replaces_nothing(told):
    """The standard error is that of the mean of the instances' differences."""
    start, by_chance = np.array([40.0, 50, 60, 70, 30, 20]), np.array([20.0, -5, -4, -3, -2, 6])
    error = np.std(by_chance, ddof=1) / np.sqrt(6)
    assert 0 < by_chance.mean() < error
    one = told()
    one.measure(0, start)
    one.measure(1, start + by_chance)
    assert one.step == 0
    np.testing.assert_allclose(one._error(start + by_chance), error)
    shifted = by_chance - by_chance.mean()
    one.measure(2, start + shifted + 0.99 * error)
    assert one.step == 0
    one.measure(3, start + shifted + 1.01 * error)
    assert one.step == 3
    one.measure(4, start + shifted + 1.02 * error)  # beside the start, not beside the best one
    assert one.step == 4


def test_of_several_sources_the_error_counts_instances_as_the_score_does(told):
    """Here a source of one instance counts as much as one of five."""
    one = told(sources=list("abbbbb"))
    start = np.full(6, 50.0)
    one.measure(0, start)
    now = start + [12.0, -1, 0, 1, 2, 3]
    gain, shares = 0.5 * 12 + 0.5 * 1, np.array([0.5] + [0.1] * 5)
    error = np.sqrt(sum((share * (d - gain)) ** 2 for share, d in zip(shares, now - start, strict=True)) * 6 / 5)
    assert one.measure(1, now) == pytest.approx(50 + gain)
    np.testing.assert_allclose(one._error(now), error)
    assert one.step == (1 if gain > error else 0)


def test_one_instance_proves_nothing(told):
    one = told(1)
    one.measure(0, [10.0])
    one.measure(1, [100.0])
    assert one.step == 0 and "training did not help" in one.verdict()


def test_measurements_since_the_best_are_counted(told):
    one, counts = told(), []
    one.config.train.patience = 2
    for step, score in ((0, 50.0), (5, 40.0), (10, 60.0), (15, 60.0), (20, 59.0), (25, 61.0)):
        one.measure(step, np.full(6, score))
        counts.append((one.since_best, one.over))
    assert counts == [(0, False), (1, False), (0, False), (1, False), (2, True), (0, False)]
    one.config.train.patience = 0
    one.measure(30, np.full(6, 1.0))
    assert one.since_best == 1 and not one.over


def test_the_verdict_says_what_was_kept_and_why(told):
    one = told()
    one.measure(0, np.full(6, 50.0))
    one.measure(10, np.full(6, 48.0) + [9, -9, 9, -9, 9, -8])
    text = one.verdict()
    assert text.startswith("training did not help: no step beats the start (mAP 50.00 on held-out instances, at best")
    assert "48.17" in text and "the network is kept as it was before training" in text
    one.measure(20, np.full(6, 55.0) + [1, -1, 1, -1, 1, -1])
    assert one.verdict() == "step 20 is kept: mAP 55.00 on held-out instances, +5.00 ± 0.45 over the start"
    one.measure(30, np.full(6, 52.0))
    assert one.verdict().startswith("step 20 is kept")


def test_what_a_checkpoint_holds_brings_it_back(told):
    one, other = told(), told()
    for step in range(3):
        one.measure(step, np.full(6, 50.0 + step))
    arrays = jax.tree.map(np.array, one.arrays() | {"variables": {"params": {"w": np.ones(2)}}})
    other.restore(arrays, json.loads(json.dumps(one.record())))
    assert (other.step, other.curve, other.verdict()) == (one.step, one.curve, one.verdict())
    assert other.variables == {"batch_stats": {}, "params": {"w": pytest.approx(np.ones(2))}}
    for step, score in ((3, 51.5), (4, 70.0)):
        assert one.measure(step, np.full(6, score)) == other.measure(step, np.full(6, score))
        assert one.step == other.step == (2 if step == 3 else 4)


@pytest.mark.parametrize("refit_helps", [True, False])
def test_a_whitening_that_came_with_the_weights_stays_unless_a_new_one_is_better(make, monkeypatch, refit_helps):
    one = make([2] * 6)
    one.config.model.whitening_init, one.config.train.whitening_refit = "weights", "within"
    pairs, mixed = np.repeat(np.eye(6), 2, axis=0), np.random.default_rng(0).normal(size=(12, 6))
    new = pairs if refit_helps else mixed
    monkeypatch.setattr(validation, "whitened_start", lambda *_: {"x": new})
    before, after = {"x": mixed}, {"x": mixed if refit_helps else pairs}
    assert one.measure(0, before) < 100 and one.variables is before  # as it came, whatever a new whitening does
    assert one.measure(1, after) == pytest.approx(100) and one.step == 1
    np.testing.assert_array_equal(one.variables["x"], pairs)


def test_networks_are_measured_with_the_whitening_that_they_will_have(make, monkeypatch):
    calls, one = [], make()

    def whitened(config, variables, shown, kind):
        calls.append((kind, shown))
        return {"x": variables["x"] + 1}

    monkeypatch.setattr(validation, "whitened_start", whitened)
    given = {"x": np.random.default_rng(1).normal(size=(17, 3))}
    assert refilled(one.config, given, one.shown) is given and not calls
    one.config.train.whitening_refit = "within"
    expected = mean_of_sources(given["x"] + 1, one.held_out.photos.labels, "a" * 7)
    np.testing.assert_allclose(one.measure(0, given), expected)
    assert calls == [("within", one.shown)]  # of the photographs that are trained on
    np.testing.assert_array_equal(one.variables["x"], given["x"] + 1)


def test_the_backbone_that_is_kept_lies_between_before_and_after(make, monkeypatch):
    rng = np.random.default_rng(0)
    same = rng.normal(size=5).astype(np.float32)
    before, after = (
        {"params": {"backbone": {"c2": same, "c5": np.float32(c5)}, "pool": {"p": np.float32(p)}}, "batch_stats": {}}
        for c5, p in ((1.0, 3.0), (2.0, 4.0))
    )
    config = Config()
    assert averaged(config, after, before) is after
    config.train.start_share = 0.25
    found = averaged(config, after, before)
    assert found["params"]["backbone"]["c5"] == 1.75 and found["params"]["pool"]["p"] == 4
    np.testing.assert_array_equal(found["params"]["backbone"]["c2"], same)  # to the bit
    assert after["params"]["backbone"]["c5"] == 2
    monkeypatch.setattr(validation, "whitened_start", lambda config, variables, *_: variables | {"filled": True})
    config.train.whitening_refit = "within"
    whole = kept(config, after, before, make().shown)
    assert whole.pop("filled") and jax.tree.all(jax.tree.map(np.array_equal, whole, found))


def held(counts, sources=None, share=0.25, seed=0, unlabelled=()):
    photos = dataclasses.replace(make_photos(counts), sources=sources)
    labels = np.array(photos.labels)
    labels[list(unlabelled)] = -1
    return hold_out(dataclasses.replace(photos, labels=labels), share, seed)


@pytest.mark.parametrize("seed", range(3))
def test_instances_are_held_out_whole_and_those_without_a_pair_stay(seed):
    counts = [2, 1, 3, 4, 1, 2, 2, 5, 3]
    train, out = held(counts, share=0.3, seed=seed, unlabelled=(3, 12))
    assert not set(train.instances) & set(out.instances) and not set(train.names) & set(out.names)
    assert len(train) + len(out) == sum(counts) and len(out.instances) == 2
    assert (np.bincount(out.labels) > 1).all() and (out.labels >= 0).all()
    assert (train.labels == -1).sum() == 2 and {"1", "4"} <= set(train.instances)


def test_of_three_instances_one_is_held_out_however_small_the_share():
    train, out = held([2, 2, 1, 3], share=0.1)
    assert len(out.instances) == 1 and len(train.instances) == 3


def test_what_is_held_out_is_a_matter_of_the_seed():
    drawn = {tuple(held([2] * 12, seed=seed)[1].instances) for seed in (0, 0, 1, 2)}
    assert len(drawn) == 3
    seen = {name for seed in range(40) for name in held([2] * 12, seed=seed)[1].instances}
    assert len(seen) == 12


@pytest.mark.parametrize("seed", range(3))
def test_every_source_gives_its_share(seed):
    sources = ["a"] * 20 + ["b"] * 8 + ["c"] * 2 + ["d"] * 2
    train, out = held([2] * 32, sources, seed=seed)
    assert len(out.instances) == 8
    for source, size in (("a", 20), ("b", 8), ("c", 2), ("d", 2)):
        assert abs(out.sources.count(source) - size / 4) < 1
        assert train.sources.count(source) + out.sources.count(source) == size


@pytest.mark.parametrize(
    ("counts", "share", "text"),
    [
        (
            [2, 1, 3],
            0.1,
            "config.data.held_out=0.1: of 2 instances with two photographs or more that leaves 1 to train",
        ),
        ([2, 2, 1, 3], 0.9, "config.data.held_out=0.9: of 3 .* leaves 0 to train on, .*more objects, or set .*every=0"),
        ([1, 1, 1], 0.5, "of 0 instances with two photographs or more that leaves 0"),
    ],
)
def test_a_share_that_leaves_fewer_than_two_to_train_on_is_refused(counts, share, text):
    with pytest.raises(UserError, match=text):
        held(counts, share=share)
