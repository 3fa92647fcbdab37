"""Instances of a batch are drawn from their sources as the formula says, and as they always were without one."""

import dataclasses

import numpy as np
import pytest

from sret_jax.config import Config, DataConfig, WhiteningConfig
from sret_jax.config.validation import validate
from sret_jax.data.sampling import PLAN, InstancePlan
from sret_jax.errors import UserError
from tests.support.photos import make_photos

SIZES = {"large": 24, "middle": 6, "small": 2}  # instances of each source
SOURCES = [source for source, count in SIZES.items() for _ in range(count)]
PHOTOS = dataclasses.replace(make_photos([2 + i % 4 for i in range(len(SOURCES))]), sources=SOURCES)


def plan(balance, photos=PHOTOS, p=4, seed=0):
    config = DataConfig(instances_per_batch=p, photos_per_instance=2, source_balance=balance)
    return InstancePlan(photos, config, seed)


def drawn(balance, number, photos=PHOTOS, p=4):
    """The labels of the instances of a batch."""
    labels = photos.labels[plan(balance, photos, p).rows(number)].reshape(p, 2)
    assert (labels[:, 0] == labels[:, 1]).all()
    return labels[:, 0]


def old_rows(photos, p, k, seed, number):
    """The draw as it was before there were sources."""
    rng = np.random.default_rng((seed, PLAN, number))
    groups = [np.flatnonzero(photos.labels == label) for label in range(len(photos.instances))]
    groups = [group for group in groups if len(group) >= 2]
    chosen = rng.choice(len(groups), p, replace=False)
    return np.concatenate([np.resize(rng.permutation(groups[i]), k) for i in chosen])


@pytest.mark.parametrize("sources", [None, SOURCES, ["one"] * len(SOURCES)])
@pytest.mark.parametrize("balance", [1.0, 0.3])
def test_without_balance_or_without_sources_it_is_the_draw_of_old(sources, balance):
    photos = dataclasses.replace(PHOTOS, sources=sources)
    same = balance == 1 or len(set(sources or ())) < 2
    for number in range(5):
        expected = old_rows(photos, 4, 2, 7, number)
        assert same == np.array_equal(plan(balance, photos, seed=7).rows(number), expected)


@pytest.mark.parametrize("balance", [0.0, 0.5, 0.9])
def test_sources_are_drawn_in_proportion_to_a_power_of_their_size(balance):
    batches = 2000
    labels = np.concatenate([drawn(balance, number, p=2) for number in range(batches)])  # two: none is used up
    found = np.array([np.isin(labels, np.flatnonzero(np.array(SOURCES) == s)).mean() for s in SIZES])
    expected = np.array([m**balance for m in SIZES.values()])
    np.testing.assert_allclose(found, expected / expected.sum(), atol=4 * 0.5 / np.sqrt(2 * batches))
    for source, count in SIZES.items():  # within a source every instance alike
        own = np.array([np.sum(labels == label) for label in np.flatnonzero(np.array(SOURCES) == source)])
        assert len(own) == count and np.abs(own - own.mean()).max() < 4.5 * np.sqrt(own.mean())


@pytest.mark.parametrize("balance", [0.0, 0.4, 0.999])
def test_a_batch_holds_distinct_instances(balance):
    for number in range(50):
        assert len(set(drawn(balance, number, p=12))) == 12


def test_a_source_with_fewer_instances_than_its_share_gives_all_and_the_others_the_rest():
    shares = np.zeros(3)
    for number in range(400):
        sources = np.array(SOURCES)[drawn(0.0, number, p=14)]
        counts = [np.sum(sources == source) for source in SIZES]
        assert sum(counts) == 14 and counts[1] <= 6 and counts[2] <= 2
        shares += counts
    shares /= 400
    assert shares[2] > 1.95  # its share would be 14 / 3
    assert shares[1] > 5 and abs(shares.sum() - 14) < 1e-9
    assert sorted(drawn(0.0, 0, p=32)) == list(range(32))  # a batch of all there are


def test_only_instances_that_are_trained_on_count():
    """A source whose instances have one photograph each is never drawn, and does not count."""
    photos = dataclasses.replace(make_photos([2, 2, 1, 1, 2]), sources=["a", "a", "b", "b", "c"])
    labels = np.concatenate([drawn(0.0, number, photos, p=1) for number in range(600)])
    assert set(labels) == {0, 1, 4} and abs(np.mean(labels == 4) - 0.5) < 0.09


def test_the_balance_is_refused_where_it_has_no_meaning():
    for value in (-0.1, 1.5):
        with pytest.raises(UserError, match=f"data.source_balance={value}: must be a number from 0 to 1"):
            validate(Config(data=DataConfig(source_balance=value)))
    with pytest.raises(UserError, match='source_balance=0.5: only data.sampling="instances"'):
        validate(Config(data=DataConfig(source_balance=0.5, sampling="balanced")))
    validate(Config(data=DataConfig(source_balance=0.0)))


def test_an_instance_of_one_photograph_fills_its_slots_with_it():
    photos = make_photos([1, 1, 3, 5])
    config = DataConfig(instances_per_batch=4, photos_per_instance=4, singles=True)
    single = InstancePlan(photos, config, 0)
    assert [len(rows) for rows in single.rows_of] == [1, 1, 3, 5]
    for number in range(20):
        groups = single.rows(number).reshape(4, 4)
        assert sorted(photos.labels[groups[:, 0]]) == [0, 1, 2, 3]
        for own in groups:
            assert len(set(own)) == min(4, np.sum(photos.labels == photos.labels[own[0]]))
    assert InstancePlan(photos, dataclasses.replace(config, singles=False), 0).size == 8
    assert len(InstancePlan(photos, dataclasses.replace(config, singles=False, dataset="photos"), 0).rows_of) == 4


def test_fewer_instances_than_a_batch_has_are_all_in_it():
    photos = make_photos([2, 3, 1])
    plan = InstancePlan(photos, DataConfig(instances_per_batch=5, photos_per_instance=2), 0)
    assert plan.instances == 2 and plan.size == 4
    for number in range(10):
        assert sorted(photos.labels[plan.rows(number)]) == [0, 0, 1, 1]
    for counts, singles, left in [([2, 1], False, 1), ([1], True, 1)]:
        config = DataConfig(instances_per_batch=5, photos_per_instance=2, singles=singles)
        with pytest.raises(UserError, match=f"drawn: training needs at least two instances.*here it has {left}; add"):
            InstancePlan(make_photos(counts), config, 0)


def test_single_photographs_count_for_their_source():
    photos = dataclasses.replace(make_photos([1, 1, 1, 2]), sources=["a", "a", "a", "b"])
    config = DataConfig(instances_per_batch=1, photos_per_instance=2, singles=True, source_balance=0.0)
    labels = np.array([photos.labels[InstancePlan(photos, config, 0).rows(number)[0]] for number in range(600)])
    assert abs(np.mean(labels == 3) - 0.5) < 0.09 and set(labels) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("settings", "whitening", "text"),
    [
        ({"singles": True, "sampling": "balanced"}, "none", "data.singles=True: only data.sampling=.instances"),
        ({"dataset": "photos", "sampling": "random"}, "none", "data.dataset=.photos.: only data.sampling=.instances"),
        ({"dataset": "photos", "splits": "s.json"}, "none", "data.splits='s.json' chooses instances"),
        ({"dataset": "photos"}, "pairs", "whitening.kind=.pairs. learns from two photographs"),
        ({"view_strength": 0.6}, "none", "data.view_strength=0.6: must be a number from 0 to 0.5"),
    ],
)
def test_what_single_photographs_cannot_do_names_the_field(settings, whitening, text):
    with pytest.raises(UserError, match=text):
        validate(Config(data=DataConfig(**settings), whitening=WhiteningConfig(kind=whitening)))
    validate(Config(data=DataConfig(singles=True)))
    validate(Config(data=DataConfig(dataset="photos"), whitening=WhiteningConfig(kind="pca")))
