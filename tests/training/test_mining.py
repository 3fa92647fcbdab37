"""Hard negatives are those of the greedy search, and a run that mines resumes to the same bits."""

import dataclasses

import jax
import numpy as np
import pytest

from sret_jax.config import steps_per_epoch
from sret_jax.config.validation import validate
from sret_jax.errors import UserError
from sret_jax.extraction.descriptors import Extractor
from sret_jax.training.checkpoint import Checkpoints
from sret_jax.training.mining import MinedBatches, hard_negatives, mine, random_pairs
from tests.support.photos import make_photos
from tests.support.tiny_training import NETWORK, PHOTOS, Killed, config, start


def greedy(queries, pool, query_labels, pool_labels, count):
    """Down the ranking of each query, skipping instances that it has already, its own first."""
    out = []
    for x, label in zip(queries, query_labels, strict=True):
        seen, chosen = [label], []
        for i in np.argsort(-(pool @ x), kind="stable"):
            if pool_labels[i] not in seen and len(chosen) < count:
                chosen.append(i)
                seen.append(pool_labels[i])
        out.append(chosen)
    return np.array(out)


@pytest.mark.parametrize("seed", range(4))
def test_negatives_are_those_of_the_greedy_search(seed):
    rng = np.random.default_rng(seed)
    pool, queries = (rng.normal(size=(n, 6)).astype(np.float32) for n in (60, 700))
    labels = rng.integers(0, 9, 60), rng.integers(0, 12, 700)  # some queries have none of theirs in the pool
    found = hard_negatives(queries, pool, labels[1], labels[0], 4)
    np.testing.assert_array_equal(found, greedy(queries, pool, labels[1], labels[0], 4))


def test_of_equal_photographs_the_first_in_the_pool_is_taken():
    pool = np.ones((6, 2), np.float32)
    found = hard_negatives(pool[:1], pool, np.array([7]), np.array([3, 1, 3, 1, 7, 7]), 2)
    np.testing.assert_array_equal(found, [[1, 0]])


def test_a_pool_of_too_few_instances_names_the_fields():
    x = np.ones((4, 2), np.float32)
    with pytest.raises(UserError, match=r"negatives=2: the pool shows only 2 instances, 3 are needed.*mining.pool"):
        hard_negatives(x, x, np.zeros(4, int), np.array([0, 0, 1, 1]), 2)


def test_every_query_gets_its_turn_with_another_photograph_of_its_instance():
    rng = np.random.default_rng(0)
    pairs = np.concatenate([random_pairs(PHOTOS, 14, rng) for _ in range(30)])
    labels = PHOTOS.labels[pairs]
    assert (labels[:, 0] == labels[:, 1]).all() and (pairs[:, 0] != pairs[:, 1]).all()
    counts = np.bincount(pairs[:, 0], minlength=len(PHOTOS))
    assert counts[9] == 0 and set(np.delete(counts, 9)) == {30}  # row 9 is the only one of its instance
    assert all(len(set(pairs[pairs[:, 0] == row, 1])) == 3 for row in range(5, 9))
    with pytest.raises(UserError, match="no instance has two photographs"):
        random_pairs(make_photos([1, 1]), 3, rng)


def test_named_pairs_are_used_and_survive_a_selection():
    photos = dataclasses.replace(PHOTOS, pairs=np.array([[0, 2], [5, 7], [8, 5]]))
    found = random_pairs(photos, 6, np.random.default_rng(0))
    assert sorted(map(tuple, found[:3])) == sorted(map(tuple, found[3:])) == [(0, 2), (5, 7), (8, 5)]
    np.testing.assert_array_equal(photos.select([8, 5, 2, 0]).pairs, [[3, 2], [0, 1]])
    assert photos.fingerprint != PHOTOS.fingerprint


def test_an_epoch_is_mined_with_the_descriptors_of_the_network():
    settings, variables = config(), start()
    tuples = mine(settings, NETWORK, variables, PHOTOS, epoch=1)
    assert tuples.shape == (13, 4)
    labels = PHOTOS.labels[tuples]
    assert all(len({a, c, d}) == 3 and a == b for a, b, c, d in labels)
    small = dataclasses.replace(settings, data=dataclasses.replace(settings.data, image_size=24))
    x = Extractor(NETWORK, variables, small).describe(PHOTOS, range(len(PHOTOS)))
    pool = np.unique(tuples[:, 2:])  # what was found is the most similar of what anyone found in the pool
    others = greedy(x[tuples[:, 0]], x[pool], labels[:, 0], PHOTOS.labels[pool], 2)
    np.testing.assert_array_equal(tuples[:, 2:], pool[others])
    np.testing.assert_array_equal(tuples, mine(settings, NETWORK, variables, PHOTOS, epoch=1))
    assert (tuples != mine(settings, NETWORK, variables, PHOTOS, epoch=2)).any()


def test_batches_hold_the_tuples_in_order_and_mining_comes_once_an_epoch():
    settings, mined = config(), []

    def variables():
        mined.append(step)
        return start()

    batches = MinedBatches(settings, NETWORK, PHOTOS)
    for step in range(7):
        batches.start_step(step, variables)
        for part in range(2):
            at = 4 * (step % 3) + 2 * part
            batch = next(batches)
            np.testing.assert_array_equal(batch["row"].reshape(2, 4), batches.tuples[at : at + 2])
    assert steps_per_epoch(settings) == 3 and mined == [0, 3, 6]


@pytest.mark.parametrize(
    ("loss", "save_every", "kills"),
    [("contrastive", 1, (2, 1, 2)), ("solar", 2, (5,))],  # after the steps 2, 3, 5; after 5, of which 4 are saved
)
def test_killed_around_the_start_of_an_epoch_it_ends_with_the_same_bits(tiny, tmp_path, loss, save_every, kills):
    settings = config(loss=loss, save_every=save_every)
    whole = tiny(settings, tmp_path / "whole")
    for steps in kills:
        with pytest.raises(Killed):
            tiny(settings, tmp_path / "killed", steps)
    resumed = tiny(settings, tmp_path / "killed")
    jax.tree.map(np.testing.assert_array_equal, whole, resumed)
    records = [Checkpoints(tmp_path / name / "checkpoints", 20).latest().record for name in ("whole", "killed")]
    assert records[0]["data"] == records[1]["data"] and len(records[0]["data"]["tuples"]) == 13
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(start()), strict=False))


def test_curricularface_goes_on_with_its_moving_average(tiny, tmp_path):
    settings = config(loss="curricularface", margin=0.2, scale=8.0, steps=4, learning_rate=0.01)
    settings.data.sampling, settings.data.instances_per_batch, settings.data.photos_per_instance = "balanced", 4, 2
    whole = tiny(settings, tmp_path / "whole")
    with pytest.raises(Killed):
        tiny(settings, tmp_path / "killed", 2)
    jax.tree.map(np.testing.assert_array_equal, whole, tiny(settings, tmp_path / "killed"))
    saved = Checkpoints(tmp_path / "killed" / "checkpoints", 20).latest().arrays["state"]["loss_state"]["t"]
    assert saved == whole.loss_state["t"] != 0


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda c: setattr(c.train, "loss", "arcface"), "mined tuples have contrastive, triplet, solar"),
        (lambda c: setattr(c.mining, "queries", 3), r"mining.queries=3: fewer than the 4 tuples of a step"),
        (lambda c: setattr(c.train, "negatives", 0), "train.negatives=0: must be a whole number from 1"),
        (lambda c: setattr(c.data, "sampling", "hard"), "data.sampling='hard': choose one of instances, balanced"),
    ],
)
def test_what_cannot_be_mined_names_the_field(change, text):
    settings = config()
    validate(settings)
    change(settings)
    with pytest.raises(UserError, match=text):
        validate(settings)
